"""Area of a hysteresis loop: the work of switching, up to the calibration of the response.

A fit that failed leaves spikes, and the largest areas in a map are then its worst spectra. So spikes are replaced by
the median of their neighbours first, and a loop that needed many, or still has one, is invalid.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from probeloop.api import CalibrationError, Scalarizer, Settings, StreamSpec, quantity

NEIGHBOURS = 7
NORMAL = 1.4826  # standard deviation over median absolute deviation, for Gaussian noise


class LoopArea(Scalarizer):
    """Signed area of a response loop against bias, with its noise and whether the loop can be believed."""

    class Parameters(Settings):
        """What makes a loop invalid.

        spike: distance from the median of 7 neighbours that is replaced; most_peak: largest magnitude that may
        remain, both in median magnitudes of the loop. most_replaced: share of the steps.
        """

        spike: Annotated[float, quantity("", ge=0.1, le=100.0)] = 1.0
        most_replaced: Annotated[float, quantity("", ge=0.0, le=1.0)] = 6 / 64
        most_peak: Annotated[float, quantity("", ge=1.0, le=1000.0)] = 4.0

    def scalarize(self, spectrum: NDArray[Any], spec: StreamSpec) -> tuple[float, float, bool]:
        """Return (area, sigma, valid) of a loop (E,); of (channels, E) the first counts, of complex the real part.

        area: the integral of R dV around the closed loop [units of R x V], positive when R rises before V does.
        sigma: from the scatter between neighbouring steps. Raises CalibrationError without a bias of every step.
        """
        bias = bias_of(spec)
        loop = np.real(np.asarray(spectrum)).astype(np.float64)
        loop = loop.reshape(-1, loop.shape[-1])[0]
        if len(loop) != len(bias):
            raise CalibrationError(f"a loop of {len(loop)} steps with a bias of {len(bias)}", "check the waveform")
        there = np.isfinite(loop)
        if np.count_nonzero(there) < max(NEIGHBOURS, len(loop) // 2):
            return float("nan"), float("nan"), False
        clean, replaced = without_spikes(np.where(there, loop, np.median(loop[there])), self.parameters.spike)
        replaced |= ~there
        typical = float(np.median(np.abs(clean)))
        valid = bool(
            np.count_nonzero(replaced) <= self.parameters.most_replaced * len(loop)
            and np.abs(clean).max() <= self.parameters.most_peak * typical
        )
        steps = (np.roll(bias, -1) - np.roll(bias, 1)) / 2
        curvature = clean - (np.roll(clean, 1) + np.roll(clean, -1)) / 2
        noise = NORMAL * float(np.median(np.abs(curvature - np.median(curvature)))) / np.sqrt(1.5)
        return float(clean @ steps), noise * float(np.linalg.norm(steps)), valid


def bias_of(spec: StreamSpec) -> NDArray[np.float64]:
    """Return the bias of every step (E,) [V]; raises CalibrationError when the stream doesn't say it."""
    if "bias" in spec.aux:
        return np.asarray(spec.aux["bias"], np.float64)
    axis = spec.sig[-1] if spec.sig else None
    if axis is not None and axis.units == "V" and axis.scale is not None:
        return axis.values()
    raise CalibrationError(
        f"loop_area needs the bias of every step; {spec.name!r} has none", "choose another scalarizer"
    )


def without_spikes(loop: NDArray[np.float64], spike: float) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the closed loop (E,) with spikes replaced by the median of 7 neighbours, and which steps those were."""
    half = NEIGHBOURS // 2
    around = np.lib.stride_tricks.sliding_window_view(np.pad(loop, half, mode="wrap"), NEIGHBOURS)
    median = np.median(around, axis=1)
    away = np.abs(loop - median)
    replaced = away > spike * float(np.median(np.abs(loop)))
    return np.where(replaced, median, loop), replaced
