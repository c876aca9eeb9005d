"""How far a diffraction pattern is deflected: the distance of its centre of mass from the calibrated centre."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from probeloop.api import CalibrationError, DetectorGeometry, Scalarizer, Settings, StreamSpec, quantity


class DeflectionMagnitude(Scalarizer):
    """Magnitude of the mean deflection [mrad] (centre of mass: Muller-Caspary et al., Ultramicroscopy 178 (2017) 62).

    A magnitude is never below zero: where the deflection is smaller than its noise, it tells the noise.
    """

    units = "mrad"

    class Parameters(Settings):
        """reach: half angle that is summed, 0 = the whole detector. least: counts below which a pattern is empty."""

        reach: Annotated[float, quantity("mrad", ge=0, le=1000)] = 0.0
        least: Annotated[float, quantity("counts", ge=0, le=1e12)] = 100.0

    def scalarize(self, spectrum: NDArray[Any], spec: StreamSpec) -> tuple[float, float, bool]:
        """Return (deflection, sigma, valid) of a pattern (ky, kx) of counts.

        sigma: of the counting, counts_per_electron minded where it is calibrated. Invalid: not finite, negative,
        the same everywhere, or fewer counts than `least`. Raises CalibrationError for what is no pattern, and without
        the centre or the angle per pixel.
        """
        calibrations, p = self.context.calibrations, self.parameters
        geometry = DetectorGeometry.of(spec, calibrations, "deflection_magnitude")
        pattern = np.asarray(spectrum, np.float64)
        if pattern.shape != geometry.shape:
            raise CalibrationError(
                f"a pattern of {pattern.shape} pixels where {geometry.shape} were announced", "look at the camera"
            )
        if not np.isfinite(pattern).all() or pattern.min() < 0:
            return math.nan, math.nan, False
        if p.reach:
            pattern = np.where(geometry.radius() < p.reach * 1e-3, pattern, 0.0)
        total = float(pattern.sum())
        if total < max(p.least, 1e-300) or not np.ptp(pattern):
            return math.nan, math.nan, False
        ky, kx = geometry.angles()
        share = pattern / total
        y, x = float((share * ky).sum()), float((share * kx).sum())
        gain = calibrations.find("counts_per_electron")
        each = (gain.value[0] if gain is not None else 1.0) / total  # variance of the mean of one electron's angle
        dy, dx = ky - y, kx - x
        yy, xx, xy = (float((share * a).sum()) * each for a in (dy * dy, dx * dx, dy * dx))
        size = math.hypot(x, y)
        u, v = (y / size, x / size) if size else (1.0, 0.0)
        sigma = math.sqrt(max(u * u * yy + v * v * xx + 2 * u * v * xy, 0.0))
        return size * 1e3, sigma * 1e3, True
