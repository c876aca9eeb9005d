"""How unlike its training pictures a frame is: one number, calibrated on pictures that were held out.

A frame is summed up in some thirty numbers: how sure the members and the scales are, what the picture looks like
across its walls (a dark line is not a bright one; feedback that rings leaves an unlike left and right), its noise at
two scales, and how it resembles itself some pixels on (a double tip shows all twice). The score is the distance to
the nearest of the held-out pictures of the training generator, after whitening, over the 99th percentile of that
distance among these: above 1 is what one familiar frame in a hundred shows. The nearest, not the mean: familiar
pictures are of several kinds, and between two kinds nothing is familiar.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .weights import Card

Image = NDArray[np.float32]
Values = NDArray[np.float64]
QUANTILE = 0.99
_SHRINK = 3e-4  # is added to the variance of every direction, in units of the numbers' own
_ACROSS = 8  # pixels on either side of a wall
_RING = (4.0, 11.0)  # pixels, between which a picture is compared with itself


def features(shown: Image, mean: Image, variance: Image, disagreement: Image) -> Values:
    """Return the numbers (k,) that sum up a frame. shown: as the network sees it; all (ny, nx)."""
    x = shown.astype(np.float64)
    x = x / (np.sqrt((x**2).mean()) + 1e-9)
    weight = mean.astype(np.float64) + 1e-4
    total = weight.sum()
    doubt = mean * (1 - mean)
    sure = mean.astype(np.float64) ** 2
    low, middle, high = np.percentile(x, [1, 50, 99])
    rows = np.abs(np.fft.rfft(x.mean(axis=1) - x.mean())) ** 2
    thin = ndi.gaussian_filter(mean.astype(np.float64), 1) - ndi.gaussian_filter(mean.astype(np.float64), 8)
    return np.array([
        np.log(variance.mean() / (doubt.mean() + 1e-4) + 1e-4),
        np.log(float((variance * weight).sum() / total) + 1e-5),
        np.log(float((doubt * weight).sum() / total) + 1e-3),
        np.log(float((disagreement * weight).sum() / total) + 1e-3),
        np.log(float(mean.mean()) + 1e-3),
        float((x * sure).sum() / (sure.sum() + 1e-9)),
        float(np.mean(x**3)),
        np.log((high - middle + 0.05) / (middle - low + 0.05)),
        np.log(float(rows[1:].max() / (np.median(rows[1:]) + 1e-9)) + 1e-9),
        *(number for axis in (1, 0) for number in _profile(sure, x, axis)),
        *(number for axis in (0, 1) for number in _noise(x, axis)),
        *(_alike(x, step, axis) for axis in (0, 1) for step in (1, 3, 6)),
        *_echo(thin),
        *_echo(ndi.gaussian_laplace(x, 1.2)),
    ])  # fmt: skip


def _profile(sure: Values, x: Values, axis: int) -> list[float]:
    """Return how lopsided the mean profile across walls is along an axis, its middle, and its rise beside that."""
    p, seen = np.moveaxis(sure, axis, 1), np.moveaxis(x, axis, 1)
    p = p - p.mean()
    p = p / (np.abs(p).mean() + 1e-9)
    size = seen.shape[1]
    across = np.zeros(2 * _ACROSS + 1)
    for i, step in enumerate(range(-_ACROSS, _ACROSS + 1)):
        if abs(step) < size:
            a, b = p[:, max(0, -step) : size - max(0, step)], seen[:, max(0, step) : size + min(0, step)]
            across[i] = (a * b).mean()
    right, left = across[_ACROSS + 1 :], across[:_ACROSS][::-1]
    odd, even = (right - left) / 2, (right + left) / 2
    middle = across[_ACROSS]
    return [float(np.log(np.sqrt((odd**2).mean()) + 1e-3)), float(middle), float(even[3] - middle),
            float(even[7] - even[3])]  # fmt: skip


def _noise(x: Values, axis: int) -> list[float]:
    """Return how the roughness along an axis changes from one pixel to two, and how heavy its tails are."""
    fine, coarse = np.diff(x, 2, axis=axis), np.diff(x[::2, ::2], 2, axis=axis)
    if not fine.size or not coarse.size:
        return [0.0, 0.0]
    ratio = (float(np.median(np.abs(fine))) + 1e-3) / (float(np.median(np.abs(coarse))) + 1e-3)
    tails = float((fine**4).mean() / ((fine**2).mean() ** 2 + 1e-12))
    return [float(np.log(ratio)), float(np.log(tails + 1e-3))]


def _alike(x: Values, step: int, axis: int) -> float:
    """Return the correlation of a picture with itself some pixels on."""
    size = x.shape[axis]
    if size <= step:
        return 0.0
    a, b = np.take(x, range(size - step), axis), np.take(x, range(step, size), axis)
    return float((a * b).mean() / max(np.sqrt((a**2).mean() * (b**2).mean()), 1e-9))


def _echo(x: Values) -> list[float]:
    """Return the largest and the smallest correlation of a picture with itself within the ring."""
    whole = np.fft.irfft2(np.abs(np.fft.rfft2(x)) ** 2, s=x.shape)
    y, along = (np.fft.fftfreq(size) * size for size in x.shape)
    away = np.hypot(y[:, None], along[None, :])
    ring = whole[(away > _RING[0]) & (away < _RING[1])] / (whole[0, 0] + 1e-9)
    return [float(ring.max()), float(ring.min())] if ring.size else [0.0, 0.0]


def fitted(known: Values) -> tuple[Values, Values, Values, float]:
    """Return mean (k,), whitening (k, k), whitened frames (n, k) and limit, of features (n, k) of familiar frames."""
    mean = known.mean(axis=0)
    scale = known.std(axis=0) + 1e-9
    values, vectors = np.linalg.eigh(np.cov(((known - mean) / scale).T))
    whitening = (vectors / np.sqrt(np.maximum(values, 0) + _SHRINK)).T / scale
    white = (known - mean) @ whitening.T
    apart = np.sqrt(np.maximum(((white[:, None] - white[None]) ** 2).sum(axis=-1), 0))
    np.fill_diagonal(apart, np.inf)
    return mean, whitening, white, float(np.quantile(apart.min(axis=1), QUANTILE))


def score(found: Values, card: Card) -> float:
    """Return the frame's score by a card; NaN where the card was not calibrated."""
    if not card.frame_known or len(card.frame_mean) != len(found):
        return float("nan")
    white = np.asarray(card.frame_whitening) @ (found - np.asarray(card.frame_mean))
    nearest = np.sqrt(((np.asarray(card.frame_known) - white) ** 2).sum(axis=1).min())
    return float(nearest / max(card.frame_limit, 1e-9))
