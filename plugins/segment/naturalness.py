"""How natural a picture is: the statistics by which picture quality is judged without a reference.

A pixel less its local mean over its local deviation is nearly normally distributed in a picture that nothing is
wrong with, and the products of neighbours are nearly symmetrical; blur, grain, compression and wild pixels change the
shapes of these distributions (BRISQUE: Mittal, Moorthy and Bovik, IEEE TIP 21 (2012) 4695; NIQE: Mittal,
Soundararajan and Bovik, IEEE SPL 20 (2013) 209). Shapes are those of generalised Gaussians, found by matching
moments.
"""

from __future__ import annotations

import functools

import numpy as np
import scipy.ndimage as ndi
import scipy.special
from numpy.typing import NDArray

Image = NDArray[np.float32]
Values = NDArray[np.float64]
COUNT = 40
_SIGMA = 7 / 6  # pixels, of the surroundings
_LITTLE = 0.05  # is added to the local deviation
_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
_EDGE = 2  # pixels at the edges that are left out
_LEAST = 16  # pixels a side


def naturalness(x: Image) -> Values:
    """Return the numbers (COUNT,) of a picture (ny, nx) of mean square 1, at two scales; zeros of a small one."""
    if min(x.shape) < _LEAST:
        return np.zeros(COUNT)
    made: list[float] = []
    for _ in range(2):
        mean = ndi.gaussian_filter(x, _SIGMA)
        spread = np.sqrt(np.maximum(ndi.gaussian_filter(x * x, _SIGMA) - mean * mean, 0))
        even = (x - mean) / (spread + _LITTLE)
        made += _symmetrical(even)
        for dy, dx in _NEIGHBOURS:
            other = np.roll(even, (-dy, -dx), (0, 1))
            made += _lopsided((even * other)[_EDGE:-_EDGE, _EDGE:-_EDGE])
        usual = float(spread.mean()) + 1e-9
        made += [np.log(float(spread.std()) / usual + 1e-3), np.log(float(np.median(spread)) / usual + 1e-3)]
        ny, nx = (length // 2 for length in x.shape)
        x = x[: 2 * ny, : 2 * nx].reshape(ny, 2, nx, 2).mean(axis=(1, 3))
    return np.array(made)


@functools.cache
def _ratios() -> tuple[Values, Values]:
    """Return shapes of generalised Gaussians, and the squared mean size over the mean square of each."""
    shape = np.arange(0.2, 8, 0.01)
    gamma = scipy.special.gamma
    return shape, gamma(2 / shape) ** 2 / (gamma(1 / shape) * gamma(3 / shape))


def _shape(ratio: float) -> float:
    shapes, ratios = _ratios()
    return float(shapes[min(int(np.searchsorted(ratios, ratio)), len(shapes) - 1)])


def _symmetrical(x: Image) -> list[float]:
    """Return shape and logarithm of the variance."""
    square = float((x**2).mean()) + 1e-9
    return [_shape(float(np.abs(x).mean()) ** 2 / square), float(np.log(square))]


def _lopsided(x: Image) -> list[float]:
    """Return shape, mean, and the logarithm of the deviation to the left and to the right."""
    left, right = (float(np.sqrt((side**2).mean())) if side.size else 1e-3 for side in (x[x < 0], x[x > 0]))
    lean = left / max(right, 1e-6)
    ratio = float(np.abs(x).mean()) ** 2 / (float((x**2).mean()) + 1e-9)
    shape = _shape(ratio * (lean**3 + 1) * (lean + 1) / (lean**2 + 1) ** 2)
    gamma = scipy.special.gamma
    mean = (right - left) * gamma(2 / shape) / np.sqrt(gamma(1 / shape) * gamma(3 / shape))
    return [shape, float(mean), float(np.log(left + 1e-6)), float(np.log(right + 1e-6))]
