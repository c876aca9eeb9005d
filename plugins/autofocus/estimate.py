"""Defocus and two-fold astigmatism from the bright-field disc of one small scan, with their errors.

Every pixel k of the disc makes an image of its own; that of a thin specimen is, at scan frequency q,
phi(q) [A(k-q) exp(i(chi(k) - chi(k-q))) - A(k+q) exp(-i(chi(k) - chi(k+q)))]. Far from focus the images are shifted
copies, by grad chi / 2 pi (tilt-shift: Lupini, Chi and Jesse, J. Microsc. 263 (2016) 43; Varnavides et al.,
arXiv 2309.05250), found from neighbouring pixels, with a wide basin. Near focus the whole expression is fitted
with phi(q) free (after Rodenburg, McCallum and Nellist, Ultramicroscopy 48 (1993) 304), which needs no
contrast transfer and has no sign ambiguity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .disc import Disc
from .kernels import aligned, explained

Array = NDArray[np.float64]
Score = Callable[[Array], Array]  # (C10, C12a, C12b) [m] -> contributions (Q,)
_WINDOW_OVERLAP = 2.25  # neighbouring frequencies of a Hann window are not independent: its noise bandwidth, squared
MISSING = 0.02


@dataclass(frozen=True)
class Spectra:
    """Scan frequencies of the disc's images.

    values (Q, K) complex64, each image normalised to unit variance per electron. x, y (Q,) [1/m]. step, field: of
    the scan [m].
    """

    values: NDArray[np.complex64]
    x: Array
    y: Array
    step: float
    field: float


@dataclass(frozen=True)
class Estimate:
    """What a scan says. value, sigma: of (C10, C12a, C12b) [m]. significance: in units of what pure noise gives."""

    significance: float
    value: Array
    sigma: Array

    def flat(self) -> tuple[float, ...]:
        """Return it as seven floats."""
        return (self.significance, *map(float, self.value), *map(float, self.sigma))

    @classmethod
    def of(cls, flat: tuple[float, ...]) -> Estimate:
        """Read what `flat` made."""
        return cls(flat[0], np.array(flat[1:4]), np.array(flat[4:7]))


NOTHING = Estimate(0.0, np.zeros(3), np.full(3, 1.0))


def spectra(images: NDArray[Any], step: float) -> Spectra | None:
    """Return the scan frequencies of a map (ny, nx, K) with scan step [m], or None where too much is missing.

    Each pixel is taken as its share of the disc: a beam that flickers drops out, and what all pixels see alike too.
    """
    images = np.asarray(images, np.float64)
    missing = ~np.isfinite(images).all(axis=2)
    if missing.mean() > MISSING or not np.nansum(images) > 0:
        return None
    total = images.sum(axis=2, keepdims=True)
    return transformed(images / np.where(total > 0, total, 1.0) * np.nanmean(total), missing, step)


def transformed(images: Array, missing: NDArray[np.bool_], step: float) -> Spectra:
    """Return the scan frequencies of images (ny, nx, K), as they are; missing (ny, nx): counts for nothing."""
    mean = np.nanmean(images, axis=(0, 1), keepdims=True)
    images = np.where(missing[..., None], 0.0, (images - mean) / np.sqrt(np.maximum(mean, 1e-3)))
    ny, nx = images.shape[:2]
    window = np.hanning(ny + 2)[1:-1, None] * np.hanning(nx + 2)[1:-1]
    window /= np.sqrt((window**2).sum())
    images -= (images * window[..., None]).sum(axis=(0, 1)) / window.sum()
    whole = np.fft.fft2(images * window[..., None], axes=(0, 1))
    y, x = np.broadcast_arrays(np.fft.fftfreq(ny, step)[:, None], np.fft.fftfreq(nx, step)[None, :])
    half = (y > 0) | ((y == 0) & (x > 0))
    half &= np.hypot(x, y) > 1.5 / (min(nx, ny) * step)
    return Spectra(whole[half].astype(np.complex64), x[half], y[half], step, min(ny, nx) * step)


def far(data: Spectra, disc: Disc) -> Estimate:
    """Estimate from the shifts between the images of neighbouring pixels: any defocus whose shifts are a few steps.

    The finer the scan, the steeper the hill and the shorter the reach: a quarter of a scan step between neighbours
    is a step of the search, 25 of them the reach of C10, 5 that of the astigmatism (0.15 nm and 2.35 mrad: 400 nm
    and 80 nm in steps of 16 nm).
    """
    unit = 0.25 * data.step / disc.pitch
    near = _cross_spectra(data, disc, 2)
    most = min(25, int(data.field / 3 / (unit * disc.pitch)))  # more than a third of the field: nothing in common
    c10 = np.arange(-most, most + 1) * unit
    c12 = np.arange(-5, 6) * unit
    grid = np.stack(np.meshgrid(c10, c12, c12, indexing="ij"), axis=-1).reshape(-1, 3)
    scores = np.array([near(each).sum() for each in grid])
    value = climb(near, grid[int(np.argmax(scores))], unit / 2)
    significance = float(near(value).sum())
    wide = _cross_spectra(data, disc, 4)
    value = climb(wide, value, unit / 8)
    return Estimate(significance, value, errors(wide, value, unit / 32))


def close(data: Spectra, disc: Disc, wavelength: float, reach: float = 24e-9, step: float = 4e-9) -> Estimate:
    """Estimate by the fit of the whole interference, for a lens within `reach` [m] of focus."""
    inside = np.hypot(data.x, data.y) * wavelength < 1.7 * disc.convergence
    power = np.where(inside, (np.abs(data.values) ** 2).sum(axis=1), 0.0)
    best = np.argsort(power, kind="stable")[::-1][: min(200, int(inside.sum()))]
    fit = _Interference(data, disc, wavelength, best, slice(None))
    quick = _Interference(data, disc, wavelength, best, slice(None, None, 4))
    c10 = np.arange(-reach, reach + step / 2, step)
    c12 = np.arange(-0.4 * reach, 0.4 * reach + step / 2, step)
    grid = np.stack(np.meshgrid(c10, c12, c12, indexing="ij"), axis=-1).reshape(-1, 3)
    scores = np.array([quick(each).sum() for each in grid])
    value = climb(fit, grid[int(np.argmax(scores))], step / 2)
    each = fit(value)
    significance = float((each.sum() - each.size) / np.sqrt(each.size))
    return Estimate(significance, value, errors(fit, value, 0.1e-9))


def contrast(dark: NDArray[Any], total: NDArray[Any]) -> tuple[float, float]:
    """Return (value, sigma) of the dark field's variance over its squared mean, without the shot noise.

    dark, total (ny, nx): electrons in the annulus and on the whole disc; NaN = missing.
    """
    good = np.isfinite(dark) & np.isfinite(total) & (total > 0)
    if good.mean() < 1 - MISSING or not dark[good].mean() > 0:
        return 0.0, 1.0
    counts = dark[good] / total[good] * total[good].mean()
    mean, number = counts.mean(), counts.size
    signal = max(0.0, counts.var(ddof=1) - mean)
    sigma = np.sqrt((4 * mean * signal + 2 * mean**2) / number)
    return float(signal / mean**2), float(sigma / mean**2)


def _cross_spectra(data: Spectra, disc: Disc, reach: int) -> Score:
    """Score how well pairs of pixels up to `reach` apart line up; pure noise sums to a unit normal."""
    at = {(int(y), int(x)): i for i, (y, x) in enumerate(zip(disc.rows, disc.columns, strict=True))}
    power = np.maximum((np.abs(data.values) ** 2).mean(axis=1), 1e-12)
    pairs, offsets = [], []
    for dy in range(reach + 1):
        for dx in range(-reach, reach + 1):
            if (dy, dx) <= (0, 0) or dy * dy + dx * dx > reach * reach:
                continue
            ours = [(i, at[y + dy, x + dx]) for (y, x), i in at.items() if (y + dy, x + dx) in at]
            first, second = np.array(ours).T
            product = (data.values[:, second] * data.values[:, first].conj()).sum(axis=1)
            pairs.append(product / power / np.sqrt(len(ours)))
            offsets.append((dx * disc.pitch, dy * disc.pitch))
    cross = np.array(pairs)
    cross *= np.sqrt(2 / cross.size)
    re, im, offset = np.ascontiguousarray(cross.real), np.ascontiguousarray(cross.imag), np.array(offsets)

    def score(value: Array) -> Array:
        out = np.zeros(data.x.size)
        aligned(re, im, offset, data.x, data.y, value, out)
        return out

    return score


class _Interference:
    """Score (log likelihood with the noise of every frequency unknown) of the near-focus fit."""

    def __init__(self, data: Spectra, disc: Disc, wavelength: float, frequencies: Any, pixels: slice) -> None:
        self._values = np.ascontiguousarray(data.values[frequencies][:, pixels])
        self._q = np.stack([data.x[frequencies], data.y[frequencies]]) * wavelength
        self._k = np.stack([disc.kx[pixels], disc.ky[pixels]])
        self._convergence, self._scale = disc.convergence, np.pi / wavelength

    def __call__(self, value: Array) -> Array:
        out = np.zeros(self._q.shape[1])
        explained(self._values, self._q, self._k, self._convergence, value * self._scale, out)
        return out


def climb(score: Score, start: Array, step: float) -> Array:
    """Return the top of the hill that `start` is on [m]."""
    simplex = np.vstack([np.zeros(3), np.eye(3)])
    options = {"initial_simplex": start / step + simplex, "xatol": 1e-3, "fatol": 1e-6, "maxfev": 400}
    from scipy.optimize import minimize  # takes a second to import: not at the start of a rig

    found = minimize(lambda v: -score(v * step).sum(), start / step, method="Nelder-Mead", options=options)
    return np.asarray(found.x * step)


def errors(score: Score, value: Array, step: float) -> Array:
    """Return the standard errors at a maximum [m]: the sandwich H^-1 (sum g g') H^-1."""
    middle = score(value)
    unit = np.eye(3) * step
    up, down = [score(value + u) for u in unit], [score(value - u) for u in unit]
    gradient = np.array([(a - b) / (2 * step) for a, b in zip(up, down, strict=True)])
    hessian = np.empty((3, 3))
    for i in range(3):
        hessian[i, i] = (up[i].sum() - 2 * middle.sum() + down[i].sum()) / step**2
        for j in range(i):
            cross = score(value + unit[i] + unit[j]).sum() + score(value - unit[i] - unit[j]).sum()
            cross -= score(value + unit[i] - unit[j]).sum() + score(value - unit[i] + unit[j]).sum()
            hessian[i, j] = hessian[j, i] = cross / (4 * step**2)
    if not np.all(np.linalg.eigvalsh(hessian) < 0):
        return np.full(3, 1.0)
    inverse = np.linalg.inv(hessian)
    covariance = _WINDOW_OVERLAP * inverse @ (gradient @ gradient.T) @ inverse
    return np.asarray(np.sqrt(np.diag(covariance)))
