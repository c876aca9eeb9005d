"""How likely a pixel's label is wrong: by what the members and the scales say of it, and of the pixels around it.

The entropy of the mean says how near a pixel is to the middle, whether the members agree on it or not; their variance
says where they differ, and is small wherever all of them hesitate. A pixel's surroundings say more: whether the label
changes close by, whether a wall goes on or ends here, how much the picture bends. A logistic model of these clues and
of their products is fitted to the errors on held-out pictures of the training generator.

What is learned there holds on such pictures: on strange ones it ranks errors worse than the plain entropy (measured
on `proxies`). So it counts as far as the frame is familiar by its novelty, and the entropy of the mean does the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

from .scores import entropy

Image = NDArray[np.float32]
Values = NDArray[np.float64]
CLUES, MEAN = 11, 5  # how many there are, and which is the mean itself
_LEAST = 1e-4  # probability
_STEPS = 25  # of Newton's method
_RIDGE = 1e-4
_FAR = 6.0  # pixels from a change of label, from which on it does not matter how far
_STRIP, _HALO = 1 << 18, 20  # pixels that are estimated at once; lines around them that they look at
_MOST = 4.0  # deviations from its mean that a clue counts for
_FAMILIAR, _STRANGE = 0.8, 1.05  # novelty of a frame, up to which clues count whole, and from which on not at all
_ROWS = 1 << 14  # pixels
_COUNT = CLUES + CLUES * (CLUES + 1) // 2 + 1


def logit(probability: NDArray[np.floating]) -> Values:
    """Return log(p / (1 - p)), bounded."""
    p = np.clip(probability.astype(np.float64), _LEAST, 1 - _LEAST)
    made: Values = np.log(p / (1 - p))
    return made


def margin(mean: Image, spread: Image, threshold: float) -> Values:
    """Return the distance of `mean` from the threshold in logits, over 1 + `spread`, the deviation in logits."""
    middle = float(np.log(threshold / (1 - threshold)))
    made: Values = np.abs(logit(mean) - middle) / (1.0 + spread)
    return made


def bends(shown: Image) -> Image:
    """Return how much a picture (ny, nx), as the network sees it, bends: the logarithm over what is usual in it."""
    bend = np.abs(ndi.gaussian_laplace(shown, 1.5))
    made: Image = np.log(bend / (float(np.median(bend)) + 1e-6) + 0.1)
    return made


def clues(bend: Image, mean: Image, spread: Image, disagreement: Image, threshold: float) -> Values:
    """Return what is known of every pixel, (CLUES, ny, nx). bend: see `bends`; all (ny, nx)."""
    found = mean >= threshold
    away = margin(mean, spread, threshold)
    unsure = np.exp(-away)
    edge = found ^ ndi.binary_erosion(found) | ~found & ndi.binary_dilation(found)
    to_edge = np.minimum(ndi.distance_transform_edt(~edge), _FAR) if edge.any() else np.full(mean.shape, _FAR)
    return np.stack([
        away,
        unsure,
        np.minimum(spread, 6.0),
        disagreement,
        np.where(found, 1.0, -1.0),
        mean,
        ndi.gaussian_filter(unsure, 1.5),
        ndi.gaussian_filter(unsure, 4.0),
        ndi.maximum_filter(mean, 5),
        np.exp(-to_edge / 1.5),
        bend,
    ]).astype(np.float64)  # fmt: skip


def _centred(known: Values, middle: Values, scale: Values) -> Values:
    made: Values = np.clip((known.reshape(CLUES, -1) - middle[:, None]) / scale[:, None], -_MOST, _MOST)
    return made


def fitted(known: Values, wrong: NDArray[np.bool_]) -> tuple[float, ...]:
    """Return the weights of the model from clues (CLUES, n) and what was wrong (n,)."""
    middle, scale = known.mean(axis=1), known.std(axis=1) + 1e-6
    z = _centred(known, middle, scale)
    terms = np.empty((_COUNT, z.shape[1]))  # filled in place: whole products beside it are three times its memory
    terms[0], terms[1 : CLUES + 1] = 1.0, z
    for row, first, second in zip(terms[CLUES + 1 :], *np.triu_indices(CLUES), strict=True):
        np.multiply(z[first], z[second], out=row)
    learned = logistic(terms.T, wrong)
    plain = logistic(np.stack([np.ones(z.shape[1]), entropy(known[MEAN])], axis=1), wrong)
    return tuple(float(value) for part in (middle, scale, learned, plain) for value in part.astype(np.float32))


def logistic(x: Values, wrong: NDArray[np.bool_], ridge: float = _RIDGE, counts: Values | None = None) -> Values:
    """Return the weights (k,) of a logistic regression of what was wrong (n,) on x (n, k), by Newton's method.

    ridge: half the penalty on each weight's square. counts (n,): of each row, 1 on average; None = all the same.
    """
    y, weights = wrong.astype(np.float64), np.zeros(x.shape[1])
    each = np.ones(len(y)) if counts is None else counts
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        slope = x.T @ (each * (p - y)) / len(y) + ridge * weights
        bend = ridge * np.eye(len(weights))
        for some in range(0, len(y), _ROWS):  # piece by piece: a second x at once is what memory was short of
            part, share = x[some : some + _ROWS], (each * p * (1 - p))[some : some + _ROWS]
            bend += (part * share[:, None]).T @ part / len(y)
        step = np.linalg.solve(bend, slope)
        weights -= step
        if np.abs(step).max() < 1e-6:
            break
    return weights


def estimated(known: Values, weights: Sequence[float], novelty: float = 0.0) -> Image:
    """Return the probability that a pixel's label is wrong from clues (CLUES, ny, nx); NaN where nothing was fitted.

    novelty: of the frame; NaN = unknown, taken for strange.
    """
    if len(weights) != 2 * CLUES + _COUNT + 2:
        return np.full(known.shape[1:], np.nan, np.float32)
    each = np.asarray(weights, np.float64)
    plain = each[-2] + each[-1] * entropy(known[MEAN]).reshape(-1)
    share = float(np.clip((_STRANGE - novelty) / (_STRANGE - _FAMILIAR), 0, 1)) if np.isfinite(novelty) else 0.0
    line = plain
    if share > 0:
        z = _centred(known, each[:CLUES], each[CLUES : 2 * CLUES])
        constant, linear, products = np.split(each[2 * CLUES : -2], [1, 1 + CLUES])
        square = np.zeros((CLUES, CLUES))
        square[np.triu_indices(CLUES)] = products
        line = share * (constant + linear @ z + (z * (square @ z)).sum(axis=0)) + (1 - share) * plain
    made: Image = (1 / (1 + np.exp(-np.clip(line, -30, 30)))).astype(np.float32).reshape(known.shape[1:])
    return made


def of_map(
    shown: Image, mean: Image, spread: Image, disagreement: Image, threshold: float, weights: Sequence[float],
    novelty: float,
) -> Image:  # fmt: skip
    """Return the estimate for a map of any size, (ny, nx), some lines at a time."""
    ny, nx = mean.shape
    lines, made = max(_HALO, _STRIP // nx), np.full(mean.shape, np.nan, np.float32)
    if not weights:
        return made
    bend = bends(shown)
    for top in range(0, ny, lines):
        first, last = max(0, top - _HALO), min(ny, top + lines + _HALO)
        some = slice(first, last)
        known = clues(bend[some], mean[some], spread[some], disagreement[some], threshold)
        kept = slice(top - first, min(ny, top + lines) - first)
        made[top : top + lines] = estimated(known, weights, novelty)[kept]
    return made
