"""How unlike its training pictures a frame is: one number, calibrated on pictures that were held out.

The score is a local outlier factor (Breunig et al., SIGMOD 2000, in its simple form): the mean distance of a frame's
`traits` to its nearest held-out pictures of the training generator, after whitening, over what that distance is for
these pictures themselves; and this over its 97th percentile among familiar ones: above 1 is what three familiar
frames in a hundred show. Neighbours, not the mean, because familiar pictures are of several kinds, and between two
kinds nothing is familiar; over the neighbours' own distances, because rare kinds lie far apart. What it was chosen on
is in `proxies`.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
QUANTILE = 0.97
NEIGHBOURS = 8
DIRECTIONS = 96  # of the whitened traits that count, those of the largest variance
_SHRINK = 0.03  # is added to the variance of every direction, in units of the numbers' own
_MOST = 20.0  # deviations that one number counts for
_STEP = 1 / 16  # of stored coordinates, in whitened deviations


class Familiar(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The familiar pictures that a frame is compared with.

    middle, scale (k,) float32: of the traits. whitening (d, k) float16. known (n, d) int8: whitened traits over
    `_STEP`. apart (n,) float32: the mean distance of each to its neighbours. limit: the 97th percentile of the
    factor.
    """

    middle: bytes
    scale: bytes
    whitening: bytes
    known: bytes
    apart: bytes
    limit: float


def fitted(known: Values, also: Values | None = None) -> Familiar:
    """Return what the score needs, from traits (n, k) of familiar frames, at least two.

    also (m, k): of frames that count as familiar, too, but say nothing of what is usual.
    """
    middle, scale = known.mean(axis=0), known.std(axis=0) + 1e-6
    z = _centred(known, middle, scale)
    values, vectors = np.linalg.eigh(np.cov(z.T))
    kept = np.argsort(values)[::-1][:DIRECTIONS]
    whitening = (vectors[:, kept] / np.sqrt(np.maximum(values[kept], 0) + _SHRINK)).T.astype(np.float16)
    stored = _stored(z, whitening)
    distance = _distances(stored * _STEP, stored * _STEP)
    np.fill_diagonal(distance, np.inf)
    near = np.argsort(distance, axis=1)[:, : min(NEIGHBOURS, len(known) - 1)]
    apart = np.take_along_axis(distance, near, axis=1).mean(axis=1)
    factor = apart / np.maximum(apart[near].mean(axis=1), 1e-9)
    if also is not None:
        stored = np.concatenate([stored, _stored(_centred(also, middle, scale), whitening)])
        apart = np.concatenate([apart, np.full(len(also), np.quantile(apart, QUANTILE))])
    return Familiar(
        middle.astype(np.float32).tobytes(), scale.astype(np.float32).tobytes(), whitening.tobytes(),
        stored.tobytes(), apart.astype(np.float32).tobytes(), float(np.quantile(factor, QUANTILE)),
    )  # fmt: skip


def score(found: Values, familiar: Familiar | None) -> float:
    """Return the score of traits (k,); NaN where nothing was calibrated, or on other traits."""
    count = len(found)
    if familiar is None or len(familiar.middle) != 4 * count or len(familiar.whitening) % (2 * count):
        return float("nan")
    middle, scale = (np.frombuffer(part, np.float32).astype(np.float64) for part in (familiar.middle, familiar.scale))
    whitening = np.frombuffer(familiar.whitening, np.float16).reshape(-1, count)
    known = np.frombuffer(familiar.known, np.int8).reshape(-1, len(whitening)) * _STEP
    apart = np.frombuffer(familiar.apart, np.float32)
    distance = _distances(_stored(_centred(found[None], middle, scale), whitening) * _STEP, known)[0]
    near = np.argsort(distance)[:NEIGHBOURS]
    return float(distance[near].mean() / max(float(apart[near].mean()), 1e-9) / max(familiar.limit, 1e-9))


def _centred(found: Values, middle: Values, scale: Values) -> Values:
    made: Values = np.clip((found - middle) / scale, -_MOST, _MOST)
    return made


def _stored(z: Values, whitening: NDArray[np.float16]) -> NDArray[np.int8]:
    return np.clip(np.round(z @ whitening.astype(np.float64).T / _STEP), -127, 127).astype(np.int8)


def _distances(ones: NDArray[np.floating], others: NDArray[np.floating]) -> Values:
    """Return the distances (n, m) between points (n, d) and (m, d)."""
    square = (ones**2).sum(axis=1)[:, None] + (others**2).sum(axis=1)[None] - 2 * ones @ others.T
    made: Values = np.sqrt(np.maximum(square, 0))
    return made
