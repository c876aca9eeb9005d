"""How likely a pixel's label is wrong: how far it is from the threshold, by how far the members are apart.

The entropy of the mean says how near a pixel is to the middle, whether the members agree on it or not; their variance
says where they differ, and is small wherever all of them hesitate. Here the distance of the mean's logit from that of
the threshold is divided by the members' spread in logits, plus one: a distance that no two members agree on is none.
Two numbers that make a probability of it are fitted to the errors on held-out pictures of the training generator.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
_LEAST = 1e-4  # probability
_STEPS = 25  # of Newton's method


def logit(probability: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return log(p / (1 - p)), bounded."""
    p = np.clip(probability.astype(np.float64), _LEAST, 1 - _LEAST)
    made: NDArray[np.float64] = np.log(p / (1 - p))
    return made


def margin(mean: Image, spread: Image, threshold: float) -> NDArray[np.float64]:
    """Return the distance of `mean` from the threshold in logits, over 1 + `spread`, the deviation in logits."""
    middle = float(np.log(threshold / (1 - threshold)))
    made: NDArray[np.float64] = np.abs(logit(mean) - middle) / (1.0 + spread)
    return made


def fitted(distance: NDArray[np.float64], wrong: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the constant and the slope of the logistic estimate from margins (n,) and what was wrong (n,)."""
    x, y = np.column_stack([np.ones(len(distance)), distance]), wrong.astype(np.float64)
    weights = np.zeros(2)
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        slope = x.T @ (p - y) / len(y) + 1e-6 * weights
        bend = (x * (p * (1 - p))[:, None]).T @ x / len(y) + 1e-6 * np.eye(2)
        weights -= np.linalg.solve(bend, slope)
    return float(weights[0]), float(weights[1])


def estimated(mean: Image, spread: Image, threshold: float, weights: Sequence[float]) -> Image:
    """Return the probability that a pixel's label is wrong, like `mean`; NaN where nothing was fitted."""
    if len(weights) != 2:
        return np.full(mean.shape, np.nan, np.float32)
    line = weights[0] + weights[1] * margin(mean, spread, threshold)
    return (1 / (1 + np.exp(-np.clip(line, -30, 30)))).astype(np.float32)
