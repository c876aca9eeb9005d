"""What the operator of the column believes: its calibrations, each as sure as it may be."""

from __future__ import annotations

from typing import Any

from probeloop.api import Calibration

from .misset import sigmas
from .settings import StemSettings

_WHEN = "2026-01-01T00:00:00+00:00"


def calibrations(p: StemSettings, counts_per_electron: float) -> tuple[Calibration, ...]:
    """Return the calibrations that the settings declare; where the column is mis-set (`misset.py`) they are wrong."""
    state: dict[str, float | int | bool | str] = {"voltage": p.voltage * 1e3}
    unsure, half = sigmas(p.mis_set), float(p.pixels // 2)
    scale, alpha, current = p.pixel_angle * 1e-3, p.convergence * 1e-3, p.beam_current * 1e-12

    def known(kind: Any, value: tuple[float, ...], sigma: float, units: str) -> Calibration:
        return Calibration(
            id=f"stem-{kind}", kind=kind, value=value, sigma=(sigma,) * len(value), units=units, method="simulator",
            time=_WHEN, valid_for=state,
        )  # fmt: skip

    return (
        known("pattern_centre", (half, half), unsure["pattern_centre"], "px"),
        known("detector_scale", (scale,), scale * unsure["detector_scale"], "rad/px"),
        known("convergence_angle", (alpha,), alpha * unsure["convergence_angle"], "rad"),
        known("counts_per_electron", (counts_per_electron,), 0.0, "counts/e"),
        known("beam_current", (current,), current * unsure["beam_current"], "A"),
        known("scan_scale", (1.0,), unsure["scan_scale"], ""),
        known("scan_detector_rotation", (0.0,), unsure["scan_detector_rotation"], "rad"),
        known("scan_detector_flip", (1.0,), 0.0, ""),
    )
