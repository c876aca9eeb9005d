"""How unlike its training pictures a frame is: one number, calibrated on pictures that were held out.

The score is a local outlier factor (Breunig et al., SIGMOD 2000, in its simple form): the mean distance of a frame's
`traits` to its nearest held-out pictures of the training generator, after whitening, over what that distance is for
these pictures themselves; and this over its 97th percentile among familiar ones: above 1 is what three familiar
frames in a hundred show. Neighbours, not the mean, because familiar pictures are of several kinds, and between two
kinds nothing is familiar; over the neighbours' own distances, because rare kinds lie far apart.

The factor is raised or lowered by where a frame lies along one direction: that which best tells familiar pictures
from the `proxies`, pictures with something wrong (outlier exposure, Hendrycks, Mazeika and Dietterich, ICLR 2019). It
counts less than the factor, since other things go wrong than those; and nothing beside maps that were learned from
later, which are familiar whatever they look like.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from .doubt import logistic

Values = NDArray[np.float64]
QUANTILE = 0.97
NEIGHBOURS = 8  # at least; of many familiar pictures more, see `neighbours`
DIRECTIONS = 96  # of the whitened traits that count, those of the largest variance
_SHRINK = 0.03  # is added to the variance of every direction, in units of the numbers' own
_MOST = 20.0  # deviations that one number counts for
_STEP = 1 / 16  # of stored coordinates, in whitened deviations
_A_NEIGHBOUR = 200  # familiar pictures
_PULL, _MOST_PULL = 0.4, 4.0  # of the direction, against a deviation of the factor's logarithm; deviations along it
_RIDGE = 0.01


class Familiar(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The familiar pictures that a frame is compared with.

    middle, scale (k,) float32: of the traits. whitening (d, k) float16. known (n, d) int8: whitened traits over
    `_STEP`; the last `learned` are of maps that were learned from later. apart (n,) float32: the mean distance of
    each to its neighbours. limit: the 97th percentile of the score. direction (k,) float32: towards what is wrong,
    on traits less `middle` over `scale`, in deviations of familiar pictures, whose mean is at `level`. pull: what a
    deviation along it adds to the factor's logarithm.
    """

    middle: bytes
    scale: bytes
    whitening: bytes
    known: bytes
    apart: bytes
    limit: float
    direction: bytes = b""
    level: float = 0.0
    pull: float = 0.0
    learned: int = 0


def neighbours(count: int) -> int:
    """Return how many neighbours are looked at among `count` familiar pictures.

    The more pictures there are, the more lie next to pure noise; few neighbours would then all be among them.
    """
    return min(max(NEIGHBOURS, count // _A_NEIGHBOUR), count - 1)


def fitted(
    known: Values, also: Values | None = None, wrong: Values | None = None, before: Familiar | None = None
) -> Familiar:
    """Return what the score needs, from traits (n, k) of familiar frames, at least two.

    also (m, k): of frames that count as familiar, too, but say nothing of what is usual. wrong (w, k): of pictures
    with something wrong; where there are none, the direction is that of `before`.
    """
    middle, scale = known.mean(axis=0), known.std(axis=0) + 1e-6
    z = _centred(known, middle, scale)
    values, vectors = np.linalg.eigh(np.cov(z.T))
    kept = np.argsort(values)[::-1][:DIRECTIONS]
    whitening = (vectors[:, kept] / np.sqrt(np.maximum(values[kept], 0) + _SHRINK)).T.astype(np.float16)
    stored = _stored(z, whitening)
    distance = _distances(stored * _STEP, stored * _STEP)
    np.fill_diagonal(distance, np.inf)
    near = np.argsort(distance, axis=1)[:, : neighbours(len(known))]
    apart = np.take_along_axis(distance, near, axis=1).mean(axis=1)
    factor = apart / np.maximum(apart[near].mean(axis=1), 1e-9)
    towards: Values | None = None
    direction, level, pull = np.zeros(0, np.float32), 0.0, 0.0
    if wrong is not None:
        towards = _towards(z, _centred(wrong, middle, scale), whitening)
    elif before is not None and len(before.direction) == 4 * len(middle):
        towards = np.frombuffer(before.direction, np.float32) / np.frombuffer(before.scale, np.float32) * scale
    if towards is not None:
        along = z @ towards
        direction, level = (towards / along.std()).astype(np.float32), float(along.mean() / along.std())
        pull = _PULL * float(np.log(factor).std())
        factor *= np.exp(pull * _pulled(z, direction, level))
    if also is not None:
        stored = np.concatenate([stored, _stored(_centred(also, middle, scale), whitening)])
        apart = np.concatenate([apart, np.full(len(also), np.quantile(apart, QUANTILE))])
    return Familiar(
        middle.astype(np.float32).tobytes(), scale.astype(np.float32).tobytes(), whitening.tobytes(),
        stored.tobytes(), apart.astype(np.float32).tobytes(), float(np.quantile(factor, QUANTILE)),
        direction.tobytes(), level, pull, 0 if also is None else len(also),
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
    z = _centred(found[None], middle, scale)
    distance = _distances(_stored(z, whitening) * _STEP, known)[0]
    usual = len(known) - familiar.learned
    near = np.argsort(distance)[: neighbours(usual)]
    factor = float(distance[near].mean() / max(float(apart[near].mean()), 1e-9))
    direction = np.frombuffer(familiar.direction, np.float32)
    if len(direction) == count:
        pulled = float(_pulled(z, direction, familiar.level)[0])
        factor *= float(np.exp(familiar.pull * pulled * float((near < usual).mean())))
    return factor / max(familiar.limit, 1e-9)


def _towards(z: Values, wrong: Values, whitening: NDArray[np.float16]) -> Values:
    """Return the direction (k,) that tells `wrong` (w, k) from familiar pictures z (n, k), both counting alike."""
    kernel = whitening.astype(np.float64)
    x = np.concatenate([z, wrong]) @ kernel.T
    x = np.concatenate([np.clip(x, -6, 6), np.ones((len(x), 1))], axis=1)
    which = np.arange(len(x)) >= len(z)
    counts = np.where(which, 0.5 / len(wrong), 0.5 / len(z)) * len(x)
    made: Values = logistic(x, which, _RIDGE, counts)[:-1] @ kernel
    return made


def _pulled(z: Values, direction: NDArray[np.floating], level: float) -> Values:
    made: Values = np.clip(z @ direction.astype(np.float64) - level, -_MOST_PULL, _MOST_PULL)
    return made


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
