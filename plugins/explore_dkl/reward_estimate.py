"""Which model and acquisition will serve best, from the first measurements alone.

After Boley, Luong, Teshuva, Schmidt, Foppa and Scheffler, "From prediction to action" (arXiv:2311.15549): a campaign
is played many times on the measurements that there are, and what it earns (the best value so far, averaged over the
rounds) is taken for what it will earn on the specimen. Played on a plain sub-sample that is misleading: it begins
with values as good as the best, in a pool of a few. The adjusted game begins without the best ones, and its pool is
made as large as the population, with as few of the best as that will have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import linalg, special

Array = NDArray[np.float64]
Acquisition = Callable[[Array, Array, float, np.random.Generator], Array]


class Model(Protocol):
    """Learns values (n,) from features (n, d) and says mean and standard deviation (N,) elsewhere."""

    def __call__(self, x: Array, y: Array, at: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation of the value at `at` (N, d), given x (n, d) and y (n,)."""
        ...


class Estimate(msgspec.Struct, frozen=True):
    """What a pair of model and acquisition is expected to earn: mean over the games, and its 90 % interval."""

    model: str
    acquisition: str
    reward: float
    low: float
    high: float


def gaussian_process(x: Array, y: Array, at: Array) -> tuple[Array, Array]:
    """Predict by a Gaussian process with an RBF kernel; length scale and noise by their likelihood on a grid.

    Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), algorithm 2.1 and section 5.4.
    """
    middle, unit = float(y.mean()), float(y.std()) or 1.0
    z = (y - middle) / unit
    apart = _square(x, x)
    usual = math.sqrt(float(np.median(apart[np.triu_indices(len(x), 1)])) or 1.0) if len(x) > 1 else 1.0
    best: tuple[float, float, tuple[Array, bool], Array] | None = None
    for scale in usual * np.array([0.15, 0.3, 0.5, 0.8, 1.4]):
        kernel = np.exp(-apart / (2 * scale**2))
        for noise in (0.02, 0.15, 0.5):
            factor = linalg.cho_factor(kernel + (noise**2 + 1e-8) * np.eye(len(x)), lower=True)
            weights = linalg.cho_solve(factor, z)
            evidence = -0.5 * float(z @ weights) - float(np.log(np.diag(factor[0])).sum())
            if best is None or evidence > best[0]:
                best = (evidence, float(scale), factor, weights)
    assert best is not None
    _, scale, factor, weights = best
    cross = np.exp(-_square(at, x) / (2 * scale**2))
    solved = linalg.solve_triangular(factor[0], cross.T, lower=True)
    spread = np.sqrt(np.maximum(1 - (solved**2).sum(axis=0), 1e-10))
    return middle + unit * (cross @ weights), unit * spread


def linear(x: Array, y: Array, at: Array) -> tuple[Array, Array]:
    """Predict by Bayesian linear regression, its prior by evidence on a grid (Bishop, PRML (2006), section 3.3)."""
    middle, unit = float(y.mean()), float(y.std()) or 1.0
    z = (y - middle) / unit
    centre, size = x.mean(axis=0), x.std(axis=0) + 1e-9
    design, there = (x - centre) / size, (at - centre) / size
    best: tuple[float, Array, Array, float] | None = None
    for prior in (0.01, 0.1, 1.0):
        for noise in (0.1, 0.3, 0.7):
            cover = noise**2 * np.eye(len(x)) + prior * design @ design.T
            factor = linalg.cho_factor(cover, lower=True)
            evidence = -0.5 * float(z @ linalg.cho_solve(factor, z)) - float(np.log(np.diag(factor[0])).sum())
            if best is None or evidence > best[0]:
                gain = prior * design.T
                weights = gain @ linalg.cho_solve(factor, z)
                left = prior * np.eye(x.shape[1]) - gain @ linalg.cho_solve(factor, gain.T)
                best = (evidence, weights, left, noise)
    assert best is not None
    _, weights, left, _ = best
    variance = np.einsum("nd,de,ne->n", there, left, there)
    return middle + unit * (there @ weights), unit * np.sqrt(np.maximum(variance, 1e-10))


def neighbours(x: Array, y: Array, at: Array) -> tuple[Array, Array]:
    """Predict by the three nearest measurements, weighted by distance; unsure by their scatter and their distance."""
    apart = np.sqrt(_square(at, x))
    k = min(3, len(x))
    nearest = np.argpartition(apart, k - 1, axis=1)[:, :k]
    away = np.take_along_axis(apart, nearest, axis=1)
    weight = 1 / (away + 1e-3 * (float(np.median(apart)) or 1.0))
    weight /= weight.sum(axis=1, keepdims=True)
    mean = (weight * y[nearest]).sum(axis=1)
    scatter = (weight * (y[nearest] - mean[:, None]) ** 2).sum(axis=1)
    far = away.min(axis=1) / (float(np.median(apart)) or 1.0)
    return mean, np.sqrt(scatter + (float(y.std()) * np.minimum(far, 1.0)) ** 2) + 1e-12


def expected_improvement(mean: Array, sigma: Array, best: float, rng: np.random.Generator) -> Array:
    """Return the expected gain over `best` (N,)."""
    del rng
    u = (mean - best) / sigma
    made: Array = sigma * (np.exp(-(u**2) / 2) / math.sqrt(2 * math.pi) + u * special.ndtr(u))
    return made


def upper_bound(mean: Array, sigma: Array, best: float, rng: np.random.Generator) -> Array:
    """Return mean + 2 sigma (N,)."""
    del best, rng
    return mean + 2 * sigma


def exploitation(mean: Array, sigma: Array, best: float, rng: np.random.Generator) -> Array:
    """Return the mean (N,)."""
    del sigma, best, rng
    return mean


def uncertainty(mean: Array, sigma: Array, best: float, rng: np.random.Generator) -> Array:
    """Return sigma (N,)."""
    del mean, best, rng
    return sigma


MODELS: Mapping[str, Model] = {"gaussian_process": gaussian_process, "linear": linear, "neighbours": neighbours}
ACQUISITIONS: Mapping[str, Acquisition] = {
    "expected_improvement": expected_improvement, "upper_bound": upper_bound, "exploitation": exploitation,
    "uncertainty": uncertainty,
}  # fmt: skip


def play(
    x: Array, y: Array, first: Sequence[int] | NDArray[np.int64], model: Model, acquisition: Acquisition, rounds: int,
    rng: np.random.Generator, weak: int = 512,
) -> float:  # fmt: skip
    """Return the mean over the rounds of the best value so far, of a campaign on a population x (N, d), y (N,).

    first: what is measured before it. weak: candidates that are looked at in a round, drawn by chance, 0 = all.
    """
    known = list(dict.fromkeys(int(i) for i in first))
    free = np.ones(len(y), bool)
    free[known] = False
    earned = 0.0
    for _ in range(rounds):
        left = np.flatnonzero(free)
        if not len(left):
            earned += float(y[known].max())
            continue
        if weak and len(left) > weak:
            left = rng.choice(left, weak, replace=False)
        mean, sigma = model(x[known], y[known], x[left])
        worth = acquisition(mean, sigma, float(y[known].max()), rng)
        chosen = int(left[int(np.argmax(worth))])
        known.append(chosen)
        free[chosen] = False
        earned += float(y[known].max())
    return earned / rounds


def naive_game(
    x: Array, y: Array, population: int, rng: np.random.Generator
) -> tuple[Array, Array, NDArray[np.int64]]:
    """Return (x, y, first) of a game on the measurements as they are: as small a part is known as will be of all."""
    first = rng.choice(len(y), max(2, round(len(y) ** 2 / population)), replace=False)
    return x, y, first


def adjusted_game(
    x: Array, y: Array, population: int, rng: np.random.Generator
) -> tuple[Array, Array, NDArray[np.int64]]:
    """Return (x, y, first) of a game as the specimen will play it.

    The measurements (N of them) are taken for a random sample. Of the population a share 1 / (N + 1), on average, is
    at least as good as the best of these. So the game begins with a bootstrap sample of size N without the best tenth;
    its pool holds that share of copies of this tenth, and copies of what the bootstrap left out besides, all moved
    towards a neighbour by chance, up to the size of the population.
    """
    count = len(y)
    order = np.argsort(y)
    held = max(1, round(count / 10))
    rest, top = order[:-held], order[-held:]
    drawn = rng.choice(rest, count, replace=True)
    left = np.setdiff1d(rest, drawn)
    good = max(held, math.ceil(population / (count + 1)))
    xs, ys = [x[drawn]], [y[drawn]]
    for group, number in ((top, good), (left if len(left) else rest, population - good)):
        copies_x, copies_y = _copies(x, y, group, number, rng)
        xs.append(copies_x)
        ys.append(copies_y)
    return np.vstack(xs), np.concatenate(ys), np.arange(count)


def _copies(
    x: Array, y: Array, group: NDArray[np.int64], number: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Return `number` measurements of a group, each on the way to one of its three nearest in the group."""
    chosen = rng.choice(group, number, replace=True)
    if len(group) == 1:
        return x[chosen] + 0.05 * x.std(axis=0) * rng.standard_normal((number, x.shape[1])), y[chosen]
    apart = _square(x[group], x[group])
    np.fill_diagonal(apart, np.inf)
    near = np.argsort(apart, axis=1)[:, : min(3, len(group) - 1)]
    row = np.searchsorted(np.sort(group), chosen)
    ranked = np.argsort(group)[row]
    other = group[near[ranked, rng.integers(0, near.shape[1], number)]]
    by = rng.uniform(0, 0.5, number)
    return x[chosen] + by[:, None] * (x[other] - x[chosen]), y[chosen] + by * (y[other] - y[chosen])


def estimate(
    x: Array, y: Array, population: int, rounds: int, *, games: int = 20, seed: int = 0, adjusted: bool = True,
    models: Mapping[str, Model] = MODELS, acquisitions: Mapping[str, Acquisition] = ACQUISITIONS,
) -> list[Estimate]:  # fmt: skip
    """Return every pair of model and acquisition, the one expected to earn most first.

    x: (N, d) features of N valid measurements at random places, y: (N,) their values (at least 8, else ValueError).
    population: candidates that there are. rounds: measurements that are left. Every pair plays the same games.
    """
    if len(y) < 8 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError(f"{len(y)} measurements: at least 8, all finite, are needed to tell models apart")
    make = adjusted_game if adjusted else naive_game
    earned: dict[tuple[str, str], list[float]] = {(m, a): [] for m in models for a in acquisitions}
    for game in range(games):
        xs, ys, first = make(x, y, population, np.random.default_rng([seed, game]))
        for model, acquisition in earned:
            rng = np.random.default_rng([seed, game, 1])
            earned[model, acquisition].append(
                play(xs, ys, first, models[model], acquisitions[acquisition], rounds, rng)
            )
    made = []
    for (model, acquisition), rewards in earned.items():
        low, high = (float(v) for v in np.percentile(rewards, [5, 95]))
        made.append(Estimate(model, acquisition, float(np.mean(rewards)), low, high))
    return sorted(made, key=lambda each: -each.reward)


def _square(a: Array, b: Array) -> Array:
    """Return the squared distances (n, m) of rows."""
    made: Array = np.maximum((a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T, 0.0)
    return made
