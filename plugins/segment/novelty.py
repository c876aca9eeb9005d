"""How unlike its training pictures a frame is: one number, calibrated on pictures that were held out.

The score is the distance of a frame's `traits` to the nearest of the held-out pictures of the training generator,
after whitening (nearest neighbours: Sun et al., ICML 2022), over the 99th percentile of that distance among these:
above 1 is what one familiar frame in a hundred shows. The nearest, not the mean: familiar pictures are of several
kinds, and between two kinds nothing is familiar. What it was chosen on is in `proxies`.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
QUANTILE = 0.99
_SHRINK = 1e-2  # is added to the variance of every direction, in units of the numbers' own
_MOST = 20.0  # deviations that one number counts for
_STEP = 1 / 16  # of stored coordinates, in whitened deviations


class Familiar(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The familiar pictures that a frame is compared with.

    middle, scale (k,) float32: of the traits. whitening (k, k) float16. known (n, k) int8: whitened traits over
    `_STEP`. limit: the 99th percentile of the distance to the nearest other one.
    """

    middle: bytes
    scale: bytes
    whitening: bytes
    known: bytes
    limit: float


def fitted(known: Values, also: Values | None = None) -> Familiar:
    """Return what the score needs, from traits (n, k) of familiar frames, at least two.

    also (m, k): of frames that count as familiar, too, but say nothing of what is usual.
    """
    middle, scale = known.mean(axis=0), known.std(axis=0) + 1e-6
    z = _centred(known, middle, scale)
    values, vectors = np.linalg.eigh(np.cov(z.T))
    whitening = (vectors / np.sqrt(np.maximum(values, 0) + _SHRINK)).T.astype(np.float16)
    stored = _stored(z, whitening)
    kept = stored if also is None else np.concatenate([stored, _stored(_centred(also, middle, scale), whitening)])
    made = Familiar(middle.astype(np.float32).tobytes(), scale.astype(np.float32).tobytes(), whitening.tobytes(),
                    kept.tobytes(), 1.0)  # fmt: skip
    white = stored.astype(np.float64) * _STEP
    square = (white**2).sum(axis=1)
    apart = square[:, None] + square[None] - 2 * white @ white.T
    np.fill_diagonal(apart, np.inf)
    nearest = np.sqrt(np.maximum(apart.min(axis=1), 0))
    return msgspec.structs.replace(made, limit=float(np.quantile(nearest, QUANTILE)))


def score(found: Values, familiar: Familiar | None) -> float:
    """Return the score of traits (k,); NaN where nothing was calibrated, or on other traits."""
    count = len(found)
    if familiar is None or len(familiar.middle) != 4 * count or len(familiar.whitening) != 2 * count * count:
        return float("nan")
    middle, scale = (np.frombuffer(part, np.float32).astype(np.float64) for part in (familiar.middle, familiar.scale))
    whitening = np.frombuffer(familiar.whitening, np.float16).astype(np.float64).reshape(count, count)
    known = np.frombuffer(familiar.known, np.int8).reshape(-1, count) * _STEP
    white = np.clip(whitening @ _centred(found, middle, scale), -127 * _STEP, 127 * _STEP)
    nearest = np.sqrt(((known - white) ** 2).sum(axis=1).min()) if len(known) else np.inf
    return float(nearest / max(familiar.limit, 1e-9))


def _stored(z: Values, whitening: NDArray[np.float16]) -> NDArray[np.int8]:
    return np.clip(np.round(z @ whitening.astype(np.float64).T / _STEP), -127, 127).astype(np.int8)


def _centred(found: Values, middle: Values, scale: Values) -> Values:
    made: Values = np.clip((found - middle) / scale, -_MOST, _MOST)
    return made
