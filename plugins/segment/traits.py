"""What sums up a frame: numbers that a microscopist would look at, and what goes on inside a network.

`traits` are of the picture and of the predicted walls: how sure members and scales are; what the picture looks like
across its walls, along the lines of the scan and at right angles to each wall (a dark line is not a bright one;
feedback that rings leaves an unlike left and right); how the walls run; the noise away from them; and how the picture
resembles itself some pixels on (a second apex, or a reflected signal, shows all twice: one displacement stands out in
the cepstrum, Bogert, Healy and Tukey 1963). `naturalness` adds how its grain is distributed.
"""

from __future__ import annotations

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

from .naturalness import naturalness

Image = NDArray[np.float32]
Values = NDArray[np.float64]
_ACROSS = 8  # pixels on either side of a wall, along the lines of the scan
_BESIDE = 7  # the same at right angles to the wall
_RING = (4.0, 11.0)  # pixels, between which a picture is compared with itself
_POINTS = 600  # of walls that are looked at, at most
_AWAY = 4.0  # pixels from a wall, from which on there is only noise
_BINS = 6.0  # of a spectrum, over which it is smooth but for what repeats itself


def traits(shown: Image, mean: Image, variance: Image, disagreement: Image) -> Values:
    """Return the numbers (k,) that sum up a frame. shown: as the network sees it; all (ny, nx)."""
    x = shown / np.float32(np.sqrt(float((shown.astype(np.float64) ** 2).mean())) + 1e-9)
    made: Values = np.nan_to_num(np.concatenate([
        _sureness(x, mean, variance, disagreement), _lines(x, mean), _walls(x, mean), _cepstrum(x), naturalness(x),
    ]))  # fmt: skip
    return made


def _sureness(x: Image, mean: Image, variance: Image, disagreement: Image) -> Values:
    weight = mean + np.float32(1e-4)
    total = float(weight.sum())
    doubt, sure = mean * (1 - mean), mean**2
    low, middle, high = np.percentile(x, [1, 50, 99])
    return np.array([
        np.log(float(variance.mean()) / (float(doubt.mean()) + 1e-4) + 1e-4),
        np.log(float((variance * weight).sum()) / total + 1e-5),
        np.log(float((doubt * weight).sum()) / total + 1e-3),
        np.log(float((disagreement * weight).sum()) / total + 1e-3),
        np.log(float(mean.mean()) + 1e-3),
        float((x * sure).sum()) / (float(sure.sum()) + 1e-9),
        float(np.mean(x**3)),
        np.log((high - middle + 0.05) / (middle - low + 0.05)),
    ])  # fmt: skip


def _lines(x: Image, mean: Image) -> Values:
    """Return what a picture is like along and across the lines of the scan."""
    rows = np.abs(np.fft.rfft(x.mean(axis=1) - x.mean())) ** 2
    thin = ndi.gaussian_filter(mean, 1) - ndi.gaussian_filter(mean, 8)
    return np.array([
        np.log(float(rows[1:].max() / (np.median(rows[1:]) + 1e-9)) + 1e-9),
        *(number for axis in (1, 0) for number in _profile(mean**2, x, axis)),
        *(number for axis in (0, 1) for number in _noise(x, axis)),
        *(_alike(x, step, axis) for axis in (0, 1) for step in (1, 3, 6)),
        *_echo(thin),
        *_echo(ndi.gaussian_laplace(x, 1.2)),
    ])  # fmt: skip


def _profile(sure: Image, x: Image, axis: int) -> list[float]:
    """Return how lopsided the mean profile across walls is along an axis, its middle, and its rise beside that."""
    p, seen = np.moveaxis(sure, axis, 1), np.moveaxis(x, axis, 1)
    p = p - p.mean()
    p = p / (np.abs(p).mean() + 1e-9)
    size = seen.shape[1]
    across = np.zeros(2 * _ACROSS + 1)
    for i, step in enumerate(range(-_ACROSS, _ACROSS + 1)):
        if abs(step) < size:
            a, b = p[:, max(0, -step) : size - max(0, step)], seen[:, max(0, step) : size + min(0, step)]
            across[i] = float(np.einsum("ij,ij->", a, b)) / a.size
    right, left = across[_ACROSS + 1 :], across[:_ACROSS][::-1]
    odd, even = (right - left) / 2, (right + left) / 2
    middle = across[_ACROSS]
    return [float(np.log(np.sqrt((odd**2).mean()) + 1e-3)), float(middle), float(even[3] - middle),
            float(even[7] - even[3])]  # fmt: skip


def _noise(x: Image, axis: int) -> list[float]:
    """Return how the roughness along an axis changes from one pixel to two, and how heavy its tails are."""
    fine, coarse = np.diff(x, 2, axis=axis), np.diff(x[::2, ::2], 2, axis=axis)
    if not fine.size or not coarse.size:
        return [0.0, 0.0]
    ratio = (float(np.median(np.abs(fine))) + 1e-3) / (float(np.median(np.abs(coarse))) + 1e-3)
    tails = float((fine**4).mean() / ((fine**2).mean() ** 2 + 1e-12))
    return [float(np.log(ratio)), float(np.log(tails + 1e-3))]


def _alike(x: Image, step: int, axis: int) -> float:
    """Return the correlation of a picture with itself some pixels on."""
    size = x.shape[axis]
    if size <= step:
        return 0.0
    a, b = (x[:-step], x[step:]) if axis == 0 else (x[:, :-step], x[:, step:])
    return float((a * b).mean() / max(np.sqrt((a**2).mean() * (b**2).mean()), 1e-9))


def _ring(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    y, along = (np.fft.fftfreq(size) * size for size in shape)
    away = np.hypot(y[:, None], along[None, :])
    made: NDArray[np.bool_] = (away > _RING[0]) & (away < _RING[1])
    return made


def _echo(x: Image) -> list[float]:
    """Return the largest and the smallest correlation of a picture with itself within the ring."""
    whole = np.fft.irfft2(np.abs(np.fft.rfft2(x)) ** 2, s=x.shape)
    ring = whole[_ring(x.shape)] / (whole[0, 0] + 1e-9)
    return [float(ring.max()), float(ring.min())] if ring.size else [0.0, 0.0]


def _cepstrum(x: Image) -> Values:
    """Return how far the highest place of the cepstrum in the ring stands out, its height, and that of the lowest."""
    window = np.hanning(x.shape[0])[:, None] * np.hanning(x.shape[1])[None, :]
    power = np.abs(np.fft.fft2((x - x.mean()) * window)) ** 2 + 1e-9
    smooth = ndi.gaussian_filter(power, _BINS / 2, mode="wrap")
    far = np.hypot(*np.meshgrid(np.fft.fftfreq(x.shape[0]), np.fft.fftfreq(x.shape[1]), indexing="ij")) > 0.4
    floor = float(np.median(power[far])) / np.log(2) if far.any() else 0.0  # the mean of what is exponential
    weight = np.clip(1 - floor / smooth, 0, 1)
    log = np.log(power)
    level = ndi.gaussian_filter(log * weight, _BINS, mode="wrap") / (
        ndi.gaussian_filter(weight, _BINS, mode="wrap") + 1e-6
    )
    found = np.fft.ifft2(weight * (log - level)).real / (weight.mean() + 1e-6)
    ring = found[_ring(x.shape)]
    if not ring.size:
        return np.zeros(3)
    usual = float(np.median(np.abs(ring - np.median(ring)))) + 1e-6
    return np.array([np.log(max(float(ring.max()) / usual, 1e-3)), float(ring.max()), float(ring.min())])


def _walls(x: Image, mean: Image) -> Values:
    """Return what the picture looks like at right angles to its walls, how these run, and the noise off them."""
    soft = ndi.gaussian_filter(mean, 1.0)
    gy, gx = np.gradient(soft)
    (hyy, hyx), (_, hxx) = np.gradient(gy), np.gradient(gx)
    half = 0.5 * np.arctan2(2 * hyx, hxx - hyy) + np.pi / 2  # of the eigenvector that bends down most
    ny, nx = np.sin(half), np.cos(half)
    yy, xx = np.nonzero(soft > 0.3)
    steps = (ny[yy, xx], nx[yy, xx])
    sides = [ndi.map_coordinates(soft, (yy + s * steps[0], xx + s * steps[1]), order=1, mode="nearest")
             for s in (-1, 1)]  # fmt: skip
    crest = (soft[yy, xx] >= sides[0]) & (soft[yy, xx] >= sides[1])
    yy, xx = yy[crest], xx[crest]
    line = np.zeros(x.shape, bool)
    line[yy, xx] = True
    chosen = slice(None, None, max(1, len(yy) // _POINTS))
    across = _perpendicular(x, yy[chosen], xx[chosen], half)
    away = ndi.distance_transform_edt(~line) if len(yy) else np.full(x.shape, np.inf)
    return np.concatenate([across, _course(line, away, half), _off_walls(x, away > _AWAY)])


def _perpendicular(x: Image, yy: NDArray[np.int64], xx: NDArray[np.int64], half: Image) -> Values:
    steps = np.arange(-_BESIDE, _BESIDE + 1)
    if len(yy) < 8:
        return np.zeros(len(steps) + 11)
    angle = half[yy, xx]
    at = (yy[:, None] + np.sin(angle)[:, None] * steps, xx[:, None] + np.cos(angle)[:, None] * steps)
    seen = ndi.map_coordinates(x, at, order=1, mode="nearest")
    left, right = seen[:, 1:4].mean(axis=1), seen[:, -4:-1].mean(axis=1)
    seen = np.where((right < left)[:, None], seen[:, ::-1], seen)  # up to the right
    step = np.abs(right - left)
    dip = seen[:, _BESIDE] - (left + right) / 2
    level = ((left + right) / 2)[:, None]
    mean = (seen - level).mean(axis=0)
    return np.array([*mean, *seen.std(axis=0)[[0, 3, _BESIDE, -4, -1]], *np.percentile(step, [10, 50, 90]),
                     *np.percentile(dip, [10, 50, 90])])  # fmt: skip


def _course(line: NDArray[np.bool_], away: Values, half: Image) -> Values:
    """Return how walls run: which way, how straight over a short and a long way, how many, how far apart."""
    count = int(line.sum())
    if count < 8:
        return np.zeros(12)
    turned = np.where(line, np.exp(2j * half), 0)
    along = turned[line]
    made = [abs(along.mean()), abs((along**2).mean()), np.log(count / line.size)]
    for reach in (2.0, 6.0):
        weight = ndi.gaussian_filter(line.astype(np.float32), reach)[line]
        real, imag = (
            ndi.gaussian_filter(part.astype(np.float32), reach)[line] for part in (turned.real, turned.imag)
        )
        straight = np.hypot(real, imag) / (weight + 1e-6)
        made += [float(straight.mean()), *np.percentile(straight, [5, 25])]
    made += [float(np.log(np.percentile(away, q) + 1)) for q in (50, 80, 97)]
    return np.array(made)


def _off_walls(x: Image, far: NDArray[np.bool_]) -> Values:
    """Return what the noise is like, and the levels, away from walls."""
    rough = x - ndi.gaussian_filter(x, 1.5)
    if far.sum() < 64:
        return np.zeros(14)
    here = rough[far]
    energy = float((here**2).mean()) + 1e-9
    lags = []
    for dy, dx in ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0)):
        a, b = slice(0, x.shape[0] - dy), slice(0, x.shape[1] - dx)
        both = far[a, b] & far[dy:, dx:]
        lags.append(float((rough[a, b] * rough[dy:, dx:])[both].mean()) / energy if both.any() else 0.0)
    level = ndi.uniform_filter(x, 5)[far]
    size = np.abs(here)
    tied = float(np.corrcoef(level, size)[0, 1]) if level.std() > 0 and size.std() > 0 else 0.0
    levels = np.percentile(level, [5, 25, 50, 75, 95])
    return np.array([*lags, np.log(energy), np.log(float((here**4).mean()) / energy**2 + 1e-3), tied,
                     np.log(float(np.median(size)) / np.sqrt(energy) + 1e-3), *levels])  # fmt: skip
