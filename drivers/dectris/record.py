"""What goes into the record beside the frames: the operator's calibrations, and what the DCU says of a series."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from probeloop.api import Calibration

from .settings import DectrisSettings

_LONGEST = 200  # characters of a value
_OF_THE_MESSAGE = ("type", "series_id")


def declared(settings: DectrisSettings) -> tuple[Calibration, ...]:
    """Return the calibrations that the operator declares; what is left out is uncalibrated."""
    given: dict[str, tuple[tuple[float, ...], str]] = {}
    if settings.pixel_angle is not None:
        given["detector_scale"] = ((settings.pixel_angle * 1e-3,), "rad/px")
    if settings.convergence_angle is not None:
        given["convergence_angle"] = ((settings.convergence_angle * 1e-3,), "rad")
    if settings.pattern_centre is not None:
        given["pattern_centre"] = (settings.pattern_centre, "px")
    return tuple(
        Calibration(id=f"dectris-{kind}", kind=kind, value=value, units=units, method="declared by the operator")  # type: ignore[arg-type]
        for kind, (value, units) in given.items()
    )


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plain values of a header, those of its maps as "map.name"; tables and lists are left out.

    >>> flat({"count_time": 0.1, "channels": ["threshold_1"], "threshold_energy": {"threshold_1": 4e3}})
    {'count_time': 0.1, 'threshold_energy.threshold_1': 4000.0}
    """
    values: dict[str, Any] = {}
    for name, value in config.items():
        if name in _OF_THE_MESSAGE:
            continue
        inner = value.items() if isinstance(value, Mapping) else ()
        for key, one in [(str(name), value), *((f"{name}.{below}", each) for below, each in inner)]:
            plain = one.isoformat() if isinstance(one, datetime) else one
            if _is_plain(plain):
                values[key] = plain
    return values


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= _LONGEST
    return isinstance(value, int | float) and math.isfinite(value) and abs(value) < 2**63
