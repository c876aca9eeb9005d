"""The camera length from the Bragg discs of a known crystal, in the mean pattern of a scan over it.

Averaged over many unit cells the pattern is the sum of discs, each moved by a reciprocal vector g: lambda |g| is a
known angle, so the rims outside the direct disc tell the angle of a pixel. Their directions are known from the
lattice in the scan and the detector's rotation, their radius from the disc in vacuum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .centre import Disc

Array = NDArray[np.float64]
SIGMA = 0.015  # share: what the diffuse background costs, measured on eighteen scans of the simulated column
_REACH, _TRIALS = 0.12, 61
_RINGS = 7


@dataclass(frozen=True)
class Bragg:
    """angle of a pixel [rad], its sigma; contrast: how much better than no discs at all fits, as a share."""

    angle: float
    sigma: float
    contrast: float


def camera_angle(
    pattern: Array, frames: int, disc: Disc, reflections: Array, angle: float, wavelength: float
) -> Bragg | None:
    """Return the angle of a pixel from a mean pattern (ky, kx), or None where no disc is seen.

    reflections (G, 2): true reciprocal vectors (x, y) in the detector's frame [1/m], one of each pair. angle:
    believed [rad/px].
    """
    if not len(reflections) or disc.clipped:
        return None
    y, x = np.meshgrid(*(np.arange(size, dtype=np.float64) for size in pattern.shape), indexing="ij")
    y, x = y - disc.centre[0], x - disc.centre[1]
    r = np.hypot(y, x)
    used = (r > disc.radius + 1) & (r < 2.2 * disc.radius)
    if used.sum() < 60:
        return None
    values = pattern[used]
    weight = 1 / np.sqrt(np.maximum(values, 1 / frames) / frames + (0.02 * values) ** 2)
    x, y, r = x[used], y[used], r[used]
    length = np.hypot(reflections[:, 0], reflections[:, 1])
    star = np.round(length / length.min(), 2)
    rings = np.linspace(disc.radius, 2.3 * disc.radius, _RINGS)
    smooth = [np.maximum(1 - np.abs(r - ring) / (rings[1] - rings[0]), 0) for ring in rings]

    def misfit(trial: float) -> float:
        moved = reflections * wavelength / trial
        columns = list(smooth)
        for each in np.unique(star):
            discs = np.zeros(r.shape)
            for gx, gy in moved[star == each]:
                for sign in (1, -1):
                    rim = (disc.radius - np.hypot(x - sign * gx, y - sign * gy)) / disc.width + 0.5
                    discs += np.clip(rim, 0, 1) ** disc.power
            columns.append(discs)
        return _left(np.array(columns).T, values, weight)

    none = _left(np.array(smooth).T, values, weight)
    trials = angle * np.linspace(1 - _REACH, 1 + _REACH, _TRIALS)
    left = np.array([misfit(trial) for trial in trials])
    i = int(np.argmin(left))
    if i in (0, len(trials) - 1) or not none > 0:
        return None
    a, b, c = left[i - 1 : i + 2]
    step = trials[1] - trials[0]
    found = trials[i] + step * 0.5 * (a - c) / max(a - 2 * b + c, 1e-30)
    contrast = 1 - left[i] / none
    if contrast < 0.2:
        return None
    return Bragg(float(found), SIGMA * float(found), float(contrast))


def _left(design: Array, values: Array, weight: Array) -> float:
    solved, *_ = np.linalg.lstsq(design * weight[:, None], values * weight, rcond=None)
    return float((((design @ solved - values) * weight) ** 2).sum())
