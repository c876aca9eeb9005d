"""Calibrations: numbers with a sigma, a method, a time, and the state they were measured in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Literal

import msgspec

from .errors import CalibrationError

CalibrationKind = Literal[
    "scan_scale",
    "scan_orthogonality",
    "scan_detector_rotation",
    "scan_detector_flip",
    "pattern_centre",
    "detector_scale",
    "convergence_angle",
    "counts_per_electron",
    "beam_current",
    "energy_dispersion",
    "zero_loss",
    "invols",
    "spring_constant",
    "phase_offset",
    "bias_polarity",
]
Value = float | int | bool | str


class Calibration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One calibration.

    value, sigma: in `units`, one number or one for each component (pattern_centre is (ky, kx) [px]).
    time: ISO 8601 with time zone. valid_for: the state it holds in, such as {"voltage": 200e3}.
    """

    id: str
    kind: CalibrationKind
    value: tuple[float, ...]
    sigma: tuple[float, ...] = ()
    units: str = ""
    method: str = ""
    time: str = ""
    valid_for: dict[str, Value] = {}


class CalibrationSet(msgspec.Struct, frozen=True):
    """The calibrations of an instrument, looked up by kind and state."""

    calibrations: tuple[Calibration, ...] = ()

    def find(self, kind: CalibrationKind, state: Mapping[str, Value] | None = None) -> Calibration | None:
        """Return the newest calibration of `kind` that holds in `state`, or None: shown as "uncalibrated"."""
        fitting = [c for c in self.calibrations if c.kind == kind and _holds(c, state or {})]
        return max(fitting, key=_moment, default=None)

    def require(self, kind: CalibrationKind, who: str, state: Mapping[str, Value] | None = None) -> Calibration:
        """Return the calibration, or raise CalibrationError that names what is missing, and who needs it."""
        found = self.find(kind, state)
        if found is not None:
            return found
        elsewhere = [c for c in self.calibrations if c.kind == kind]
        why = "was measured in another state" if elsewhere else "is absent"
        raise CalibrationError(f"{who} needs the calibration {kind!r}, which {why}", "measure it (probeloop checkup)")

    def replace(self, new: Iterable[Calibration]) -> CalibrationSet:
        """Return the set with `new` added; one of the same id is replaced."""
        kept = {c.id: c for c in self.calibrations} | {c.id: c for c in new}
        return CalibrationSet(tuple(kept.values()))

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids, for a generation to name."""
        return tuple(c.id for c in self.calibrations)


def _moment(calibration: Calibration) -> float:
    """Return when it was measured [s], time zones minded; one that says nothing is the oldest."""
    try:
        when = datetime.fromisoformat(calibration.time)
    except ValueError:
        return -math.inf
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _holds(calibration: Calibration, state: Mapping[str, Value]) -> bool:
    return all(name not in state or state[name] == value for name, value in calibration.valid_for.items())
