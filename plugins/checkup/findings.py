"""What a checkup has found: one row a check, and the calibrations that follow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from probeloop.api import CalibrationSet

Verdict = Literal["holds", "wrong", "found", "passed", "failed", "cannot"]
# beyond this a believed value is wrong, where the measurement is that good: shares, [rad], [px]
TOLERANCE = {"pattern_centre": 0.3, "scan_detector_rotation": 0.0175, "scan_detector_flip": 0.5}
SHARE = 0.01
CURRENT_SHARE = 0.05


class Findings:
    """Rows of a report, and calibrations by kind as plain data. believed: what the instrument goes by."""

    def __init__(self, believed: CalibrationSet) -> None:
        self.believed = believed
        self.rows: list[dict[str, Any]] = []
        self.calibrations: list[dict[str, Any]] = []
        self.values: dict[str, Any] = {}
        self.changed: dict[str, str] = {}  # what is set and not yet put back, in words

    def calibrated(
        self,
        kind: Any,
        value: tuple[float, ...],
        sigma: float,
        units: str,
        method: str,
        state: Mapping[str, Any],
        note: str = "",
    ) -> None:
        """Add a calibration and hold it against the believed one."""
        old = self.believed.find(kind)
        self.calibrations.append(
            {"kind": kind, "value": list(value), "sigma": [sigma] * len(value), "units": units, "method": method,
             "valid_for": dict(state)}
        )  # fmt: skip
        verdict: Verdict = "found"
        if old is not None and len(old.value) == len(value):
            share = CURRENT_SHARE if kind == "beam_current" else SHARE
            allowed = max(TOLERANCE.get(kind, share * abs(value[0])), 2 * sigma)
            verdict = "holds" if max(map(abs, _apart(kind, value, old.value))) <= allowed else "wrong"
        self.row(
            kind.replace("_", " "), verdict, note or method, found=list(value), sigma=sigma, units=units,
            believed=None if old is None else list(old.value),
        )  # fmt: skip

    def row(self, check: str, verdict: Verdict, words: str, **data: Any) -> None:
        """Add a row of the report."""
        self.rows.append({"check": check, "verdict": verdict, "words": words, **data})

    def cannot(self, check: str, why: str) -> None:
        """Say what this instrument, or this run, can't do."""
        self.row(check, "cannot", why)

    def summary(self, ended: str = "") -> dict[str, Any]:
        """Return what the plan returns. ended: why it is over early."""
        wrong = [row["check"] for row in self.rows if row["verdict"] == "wrong"]
        failed = [row["check"] for row in self.rows if row["verdict"] == "failed"]
        done = sum(row["verdict"] not in ("cannot", "failed") for row in self.rows)
        words = [f"{done} checks done"]
        words += [f"other than believed: {', '.join(wrong)}"] if wrong else []
        words += [f"failed: {', '.join(failed)}"] if failed else []
        words += [ended] if ended else []
        words += [f"not put back: {', '.join(f'{name} {how}' for name, how in self.changed.items())}"] * bool(
            self.changed
        )
        return {
            "succeeded": not failed and not ended,
            "message": "; ".join(words),
            "checks": self.rows,
            "calibrations": self.calibrations,
            "not_put_back": dict(self.changed),
            **self.values,
        }


def _apart(kind: str, one: tuple[float, ...], other: tuple[float, ...]) -> list[float]:
    differences = [a - b for a, b in zip(one, other, strict=True)]
    return [math.remainder(each, 2 * math.pi) for each in differences] if "rotation" in kind else differences
