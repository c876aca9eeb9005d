"""Near focus by ray optics: every pixel of the disc sees the same picture, shifted by grad chi.

This holds for any lens where the picture's features are larger than what diffraction blurs, and for instruments
that are nothing but rays (nionswift-usim). Nothing interferes, so the dark field has no say; the sum of the disc, an
incoherent picture, is sharpest in focus instead (tilt-corrected bright field, Varnavides et al., arXiv 2309.05250).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .disc import Disc
from .estimate import MISSING, Array, Estimate, Spectra, climb, errors, far
from .kernels import shifted

_FREQUENCIES = 200


def rays(data: Spectra, disc: Disc) -> Estimate:
    """Estimate from the shifts between all pixels of the disc, begun where those between neighbours point to.

    data: `spectra(..., of_total=False)`: what all pixels see alike is the picture in focus.
    """
    rough = far(data, disc)
    if np.abs(rough.value).sum() * disc.convergence > data.field / 4:
        return rough  # pixels far apart have too little in common
    best = np.argsort((np.abs(data.values) ** 2).sum(axis=1), kind="stable")[::-1][:_FREQUENCIES]
    fit = _Shifts(data, disc, best)
    unit = data.step / disc.convergence
    value = climb(fit, rough.value, unit / 16)
    each = fit(value)
    significance = float((each.sum() - each.size) / np.sqrt(each.size))
    return Estimate(significance, value, errors(fit, value, unit / 256))


def sharpness(bright: NDArray[Any]) -> tuple[float, float]:
    """Return (value, sigma) of the variance of a picture (ny, nx) over its squared mean, without its white noise.

    The noise is measured in the picture, by the filter of Immerkær, Comput. Vis. Image Underst. 64 (1996) 300, which
    is blind to slopes and straight edges; NaN = missing.
    """
    bright = np.asarray(bright, np.float64)
    good = np.isfinite(bright)
    if good.mean() < 1 - MISSING or not bright[good].mean() > 0 or min(bright.shape) < 3:
        return 0.0, 1.0
    picture = np.where(good, bright / bright[good].mean() - 1, 0.0)
    rows = picture[:-2] - 2 * picture[1:-1] + picture[2:]
    noise = float(np.mean((rows[:, :-2] - 2 * rows[:, 1:-1] + rows[:, 2:]) ** 2)) / 36
    value = max(0.0, float(picture[good].var(ddof=1)) - noise)
    return value, float(np.sqrt((4 * noise * value + 2 * noise**2) / good.sum()))


class _Shifts:
    """Score (log likelihood with the noise of every frequency unknown) of one picture, shifted."""

    def __init__(self, data: Spectra, disc: Disc, frequencies: NDArray[np.int64]) -> None:
        self._values = np.ascontiguousarray(data.values[frequencies])
        self._q = np.stack([data.x[frequencies], data.y[frequencies]])
        self._k = np.stack([disc.kx, disc.ky])

    def __call__(self, value: Array) -> Array:
        out = np.zeros(self._q.shape[1])
        shifted(self._values, self._q, self._k, value, out)
        return out
