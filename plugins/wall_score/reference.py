"""Where a piezoresponse scan itself says that a wall is: antiparallel walls, by the phase.

Amplitude and phase come from one lock-in, and a ferroelastic wall need not turn the phase: agreement with them is a
check of consistency, no truth.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

WINDOW = 5  # side of the medians [px]
JUMP = np.deg2rad(120.0)  # of the phase between two medians, at a wall [rad]
AGREED = 0.5  # length of a median phasor: below it is noise
ABOVE = 3.0  # noise floors of the amplitude beside a wall
_NORMAL = 1.4826  # standard deviation over median absolute deviation, for Gaussian noise
_WAYS = ((0, 1), (1, 0), (1, 1), (1, -1))


def noise_floor(amplitude: Array) -> float:
    """Return the noise of an amplitude (ny, nx) in its units: how far pixels are from their 5 x 5 median."""
    return _NORMAL * float(np.median(np.abs(amplitude - _medians(amplitude))))


def antiparallel_walls(amplitude: Array, phase: Array) -> Mask:
    """Return the lines (ny, nx) where the phase [rad] turns by more than 120 degrees, one pixel wide.

    Of every pixel the 5 x 5 medians to both sides are compared, along the rows, the columns and the diagonals; those
    of the phase are taken of its cosine and sine, and count where they agree on a phase (a length above 0.5), which
    noise does not. Both must have an amplitude above three noise floors. The band of such pixels is thinned to its
    middle. Pixels that are not finite are no wall.
    """
    from skimage.morphology import skeletonize

    known = np.isfinite(amplitude) & np.isfinite(phase)
    level = np.where(known, amplitude, 0.0)
    turned = np.where(known, np.exp(1j * np.where(known, phase, 0.0)), 0.0)
    even = _medians(turned.real) + 1j * _medians(turned.imag)
    strong = _medians(level) > ABOVE * noise_floor(level)
    even = np.where(strong & (np.abs(even) > AGREED), even, 0.0)  # of which no angle is taken
    band = np.zeros(level.shape, bool)
    reach = WINDOW // 2 + 1
    for dy, dx in _WAYS:
        before, after = _moved(even, -reach * dy, -reach * dx), _moved(even, reach * dy, reach * dx)
        band |= (np.abs(np.angle(after * before.conj())) > JUMP) & (before != 0) & (after != 0)
    made: Mask = skeletonize(band & known)
    return made


def low_amplitude(amplitude: Array) -> Array:
    """Return how low an amplitude (ny, nx) is: 1 at its 1st percentile, 0 at its 99th; not finite = 0."""
    known = np.isfinite(amplitude)
    if not known.any():
        return np.zeros(amplitude.shape)
    low, high = np.percentile(amplitude[known], (1, 99))
    if not high > low:
        return np.zeros(amplitude.shape)
    return np.where(known, np.clip((high - np.where(known, amplitude, high)) / (high - low), 0.0, 1.0), 0.0)


def _medians(values: Array) -> Array:
    made: Array = ndi.median_filter(values, WINDOW, mode="nearest")
    return made


def _moved(values: NDArray[Any], dy: int, dx: int) -> NDArray[Any]:
    """Return values[y + dy, x + dx], 0 outside."""
    ny, nx = values.shape
    made = np.zeros_like(values)
    y0, y1, x0, x1 = max(0, -dy), min(ny, ny - dy), max(0, -dx), min(nx, nx - dx)
    if y1 > y0 and x1 > x0:
        made[y0:y1, x0:x1] = values[y0 + dy : y1 + dy, x0 + dx : x1 + dx]
    return made
