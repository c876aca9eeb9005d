"""Near focus by ray optics: every pixel of the disc sees the same picture, shifted by grad chi.

This holds for any lens where the picture's features are larger than what diffraction blurs, and for instruments
that are nothing but rays (nionswift-usim). Nothing interferes, so the dark field has no say; the sum of the disc, an
incoherent picture, is sharpest in focus instead (tilt-corrected bright field, Varnavides et al., arXiv 2309.05250).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .disc import Disc
from .estimate import MISSING, Array, Estimate, Spectra, climb, errors, far, transformed
from .kernels import shifted

_FEW = 12


def pictures(images: NDArray[Any], step: float, curvature: bool = False) -> Spectra | None:
    """Return the strong scan frequencies of a map (ny, nx, K) with scan step [m], or None where too much is missing.

    Strong: ten times the median power, or three times where that leaves too few. A beam that flickers is the same at
    all frequencies and in all pixels: where the picture is weak, flicker would be taken for a picture in focus.
    curvature: of the images' second differences. Their own spectra are so steep that low frequencies leak through
    the window into all others, and shifts look smaller than they are, by a tenth or more; it costs twice the noise.
    """
    images = np.asarray(images, np.float64)
    missing = ~np.isfinite(images).all(axis=2)
    if missing.mean() > MISSING or not np.nansum(images) > 0 or min(missing.shape) < 5:
        return None
    if curvature:
        inner = images[1:-1, 1:-1]
        curved = 4 * inner - images[:-2, 1:-1] - images[2:, 1:-1] - images[1:-1, :-2] - images[1:-1, 2:]
        missing = ~np.isfinite(curved).all(axis=2)
        images = curved + np.nanmean(images, axis=(0, 1))
    data = transformed(images, missing, step)
    power = (np.abs(data.values) ** 2).sum(axis=1)
    if curvature:
        power /= (4 - 2 * np.cos(2 * np.pi * data.x * step) - 2 * np.cos(2 * np.pi * data.y * step)) ** 2
    for times in (10, 3):
        kept = power > times * np.median(power)
        if kept.sum() >= _FEW:
            return dataclasses.replace(data, values=data.values[kept], x=data.x[kept], y=data.y[kept])
    return data


def rays(data: Spectra, disc: Disc) -> tuple[Estimate, Estimate]:
    """Estimate from the shifts between all pixels of the disc, begun where those between neighbours point to.

    data: of `pictures`, as what all pixels see alike is the picture in focus. Return the neighbours' estimate and the
    fine one.
    """
    rough = far(data, disc)
    if np.abs(rough.value).sum() * disc.convergence > data.field / 2:
        return rough, rough  # pixels far apart have too little in common
    fit = _Shifts(data, disc)
    unit = data.step / disc.convergence
    value = climb(fit, rough.value, unit / 16)
    each = fit(value)
    significance = float((each.sum() - each.size) / np.sqrt(each.size))
    return rough, Estimate(significance, value, errors(fit, value, unit / 256))


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

    def __init__(self, data: Spectra, disc: Disc) -> None:
        self._values = np.ascontiguousarray(data.values)
        self._q = np.stack([data.x, data.y])
        self._k = np.stack([disc.kx, disc.ky])

    def __call__(self, value: Array) -> Array:
        out = np.zeros(self._q.shape[1])
        shifted(self._values, self._q, self._k, value, out)
        return out
