"""Where a peak of a loss spectrum lies, such as a plasmon: a Lorentzian on a slope, fitted to its window."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from probeloop.api import Scalarizer, Settings, StreamSpec, quantity

from .energy_loss import counted

Array = NDArray[np.float64]
_SMOOTH = 5  # channels that the weights are smoothed over


class LossPeak(Scalarizer):
    """Energy of a peak [eV]: the centre of a Lorentzian on a straight line.

    The line takes what other losses leave in the window; a peak that is no Lorentzian is placed with the bias of its
    shape, which sigma does not hold.
    """

    units = "eV"

    class Parameters(Settings):
        """low, high: window of the peak. least: height over its own noise, below which the value is invalid."""

        low: Annotated[float, quantity("eV", ge=-100, le=10_000)] = 10.0
        high: Annotated[float, quantity("eV", ge=-100, le=10_000)] = 25.0
        least: Annotated[float, quantity("", ge=0, le=1e6)] = 5.0

        def problems(self) -> Iterable[str]:
            """Yield what is no window."""
            if self.low >= self.high:
                yield "low must be smaller than high"

    def scalarize(self, spectrum: NDArray[Any], spec: StreamSpec) -> tuple[float, float, bool]:
        """Return (energy, sigma, valid) of a spectrum (E,) of counts; sigma: of the counting.

        Invalid: no peak above the noise, one at an end of the window or wider than it, a full detector. Raises
        CalibrationError without an energy axis, or when it does not reach over the window.
        """
        p = self.parameters
        found = counted(spectrum, spec, "loss_peak", p.low, p.high)
        if found is None:
            return math.nan, math.nan, False
        line = found.window(p.low, p.high)
        energy, counts = found.energy[line], found.counts[line]
        if energy.size < 8:
            return math.nan, math.nan, False
        smooth = np.convolve(np.pad(counts, _SMOOTH // 2, mode="edge"), np.ones(_SMOOTH) / _SMOOTH, mode="valid")
        weight = 1 / np.sqrt(np.maximum(smooth, 1.0))
        fit = _fitted(energy, counts, weight, float(energy[np.argmax(smooth)]))
        if fit is None:
            return math.nan, math.nan, False
        centre, width, height, covariance = fit
        sigma, of_height = (math.sqrt(max(found.fano * covariance[i, i], 0.0)) for i in (0, 2))
        step, span = abs(energy[1] - energy[0]), p.high - p.low
        inside = p.low + step < centre < p.high - step and step / 2 < width < span
        return centre, sigma, bool(inside and height > p.least * of_height and sigma < span)


def _fitted(energy: Array, counts: Array, weight: Array, at: float) -> tuple[float, float, float, Array] | None:
    """Return centre, full width [eV], height, and the covariance (5, 5) for counts of variance 1 / weight²."""
    from scipy.optimize import least_squares  # takes a second to import: not at the start of a rig

    step, span, middle = abs(energy[1] - energy[0]), float(np.ptp(energy)), float(energy.mean())
    scale = float(np.ptp(counts)) or 1.0

    def design(p: Array) -> Array:
        u = 2 * (energy - p[0]) / math.exp(p[1])
        made = np.stack([1 / (1 + u**2), np.ones(energy.size), (energy - middle) / span], axis=1)
        return np.asarray(made * weight[:, None])

    def left(p: Array) -> Array:
        a = design(p)
        y = counts / scale * weight
        return np.asarray(y - a @ np.linalg.lstsq(a, y, rcond=None)[0]) * scale

    bounds = ([energy.min() - span / 2, math.log(step / 4)], [energy.max() + span / 2, math.log(3 * span)])
    start = np.array([at, math.log(max(2 * step, span / 4))])
    best = least_squares(left, start, bounds=bounds, x_scale=[step, 1.0], max_nfev=60)
    p, a = best.x, design(best.x)
    if not np.isfinite(best.fun).all():
        return None
    height, _, _ = np.linalg.lstsq(a, counts * weight, rcond=None)[0]
    width = math.exp(p[1])
    u = 2 * (energy - p[0]) / width
    bent = height / (1 + u**2) ** 2 * weight
    slopes = np.stack([bent * 4 * u / width, bent * 2 * u**2], axis=1)
    full = np.concatenate([slopes, a], axis=1)
    return float(p[0]), width, float(height), np.linalg.pinv(full.T @ full, rcond=1e-12)
