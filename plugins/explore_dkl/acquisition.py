"""How much a measurement at each candidate is worth, from what a model predicts there.

Expected improvement is taken as its logarithm, which stays finite and ordered where the improvement itself underflows
(Ament, Daulton, Eriksson, Balandat and Bakshy, NeurIPS 2023). All others are in units of `scale`, the spread of the
values. A cost is subtracted from either.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

Rows = NDArray[np.float64]
Name = Literal["expected_improvement", "upper_confidence_bound", "maximum_uncertainty", "thompson"]
_FAR = -1e4  # below it, the leading term alone is exact to 1e-8


def log_expected_improvement(mean: Rows, sigma: Rows, best: float, xi: float = 0.0) -> Rows:
    """Return log E[max(f - best - xi, 0)] for normal f; -inf where sigma is 0 and nothing is gained.

    mean, sigma, best, xi: in one unit. Jones, Schonlau and Welch, J. Global Optim. 13, 455 (1998).
    """
    sigma = np.asarray(sigma, np.float64)
    gain = np.asarray(mean, np.float64) - best - xi
    made = np.full(gain.shape, -np.inf)
    sure = sigma <= 0
    made[sure & (gain > 0)] = np.log(gain[sure & (gain > 0)])
    made[~sure] = np.log(sigma[~sure]) + log_h(gain[~sure] / sigma[~sure])
    return made


def log_h(u: Rows) -> Rows:
    """Return log(phi(u) + u Phi(u)), phi and Phi being density and distribution of the standard normal."""
    u = np.asarray(u, np.float64)
    made = np.empty(u.shape)
    near, far = u > -1.0, u <= _FAR
    x = u[near]
    made[near] = np.log(np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi) + x * special.ndtr(x))
    x = u[~near & ~far]
    ratio = x * math.sqrt(math.pi / 2) * special.erfcx(-x / math.sqrt(2))  # u Phi(u) / phi(u), towards -1
    made[~near & ~far] = -(x**2) / 2 - math.log(2 * math.pi) / 2 + np.log1p(ratio)
    x = u[far]
    made[far] = -(x**2) / 2 - math.log(2 * math.pi) / 2 - 2 * np.log(-x)
    return made


def score(name: Name, mean: Rows, sigma: Rows, best: float, scale: float, *, xi: float, beta: float) -> Rows:
    """Return the worth (N,) of every candidate but for Thompson's, whose worth is a draw of the model.

    mean, sigma (N,), best and scale in the unit of the values; xi in units of scale. upper_confidence_bound is
    mean + sqrt(beta) sigma (Srinivas et al., ICML 2010).
    """
    if name == "expected_improvement":
        return log_expected_improvement(mean / scale, sigma / scale, best / scale, xi)
    if name == "upper_confidence_bound":
        return (mean + math.sqrt(beta) * sigma) / scale
    if name == "maximum_uncertainty":
        return sigma / scale
    raise ValueError(name)


def believed(sigma: Rows, covariance: Rows, noise: float, at: int) -> Rows:
    """Return sigma (N,) after a measurement at candidate `at` that gave just what the model predicts there.

    covariance (N,): of every candidate with `at`; noise: of a measurement. With such a measurement a Gaussian
    process keeps its mean: the kriging believer of Ginsbourger, Le Riche and Carraro (2010).
    """
    left = sigma**2 - covariance**2 / max(float(sigma[at]) ** 2 + noise**2, 1e-300)
    made: Rows = np.sqrt(np.maximum(left, 0.0))
    return made


def choose(
    n: int,
    free: NDArray[np.bool_],
    worth: Callable[[list[int]], Rows],
) -> list[int]:
    """Return up to n free candidates, best first; worth(chosen so far) says what each is worth then.

    A worth that is NaN counts as the lowest; equal ones go in order.
    """
    left, chosen = free.copy(), list[int]()
    while len(chosen) < n and left.any():
        scores = np.where(left, np.nan_to_num(worth(chosen), nan=-np.inf, posinf=np.inf, neginf=-np.inf), -np.inf)
        at = int(np.argmax(scores))
        if scores[at] == -np.inf:
            at = int(np.flatnonzero(left)[0])
        left[at] = False
        chosen.append(at)
    return chosen
