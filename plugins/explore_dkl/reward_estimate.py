"""Which model and acquisition will serve best, from the first measurements alone.

After Boley, Luong, Teshuva, Schmidt, Foppa and Scheffler, "From prediction to action" (arXiv:2311.15549): a campaign
is played many times on the measurements that there are, and what it earns is taken for what it will earn on the
specimen. Played on a plain sub-sample that is misleading: it begins with values as good as the best, in a pool of a
few. Their adjusted game (`resampled_game`) begins without the best ones, and its pool is made as large as the
population out of copies, with as few of the best as that will have. On a map the features of every candidate are
known from its image; so the pool can be the candidates themselves, with values that agree with the measurements
(`drawn_game`, the default). `docs/bench_dkl.md` compares the three.

The reward of a round is the best value that the campaign itself has measured up to it; that of a campaign, its mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

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


class Fit(msgspec.Struct, frozen=True):
    """A Gaussian process with an RBF kernel of this length scale, conditioned on values of mean 0 and deviation 1."""

    evidence: float
    scale: float
    factor: Any
    weights: Array

    def kernel(self, a: Array, b: Array) -> Array:
        """Return the kernel (n, m) between rows."""
        made: Array = np.exp(-_square(a, b) / (2 * self.scale**2))
        return made


def _fits(x: Array, z: Array) -> list[Fit]:
    """Return processes on a grid of length scales and noises, for rows x (n, d) and values z (n,)."""
    apart = _square(x, x)
    usual = math.sqrt(float(np.median(apart[np.triu_indices(len(x), 1)])) or 1.0) if len(x) > 1 else 1.0
    made = []
    for scale in usual * np.array([0.15, 0.3, 0.5, 0.8, 1.4]):
        kernel = np.exp(-apart / (2 * scale**2))
        for noise in (0.02, 0.15, 0.5):
            factor = linalg.cho_factor(kernel + (noise**2 + 1e-8) * np.eye(len(x)), lower=True)
            weights = linalg.cho_solve(factor, z)
            evidence = -0.5 * float(z @ weights) - float(np.log(np.diag(factor[0])).sum())
            made.append(Fit(evidence, float(scale), factor, weights))
    return made


def gaussian_process(x: Array, y: Array, at: Array) -> tuple[Array, Array]:
    """Predict by a Gaussian process with an RBF kernel; length scale and noise by their likelihood on a grid.

    Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), algorithm 2.1 and section 5.4.
    """
    middle, unit = float(y.mean()), float(y.std()) or 1.0
    best = max(_fits(x, (y - middle) / unit), key=lambda fit: fit.evidence)
    cross = best.kernel(at, x)
    solved = linalg.solve_triangular(best.factor[0], cross.T, lower=True)
    spread = np.sqrt(np.maximum(1 - (solved**2).sum(axis=0), 1e-10))
    return middle + unit * (cross @ best.weights), unit * spread


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
    x: Array, y: Array, first: NDArray[np.int64], model: Model, acquisition: Acquisition, rounds: int,
    rng: np.random.Generator, most: int = 512,
) -> float:  # fmt: skip
    """Return the reward of a campaign on a population x (N, d), y (N,) that begins knowing the cells `first`.

    most: candidates that are looked at in a round, drawn by chance. Where none is left the last reward stays.
    """
    known = list(dict.fromkeys(int(i) for i in first))
    free = np.ones(len(y), bool)
    free[known] = False
    earned, best = 0.0, -math.inf
    for _ in range(rounds):
        left = np.flatnonzero(free)
        if len(left):
            if len(left) > most:
                left = rng.choice(left, most, replace=False)
            mean, sigma = model(x[known], y[known], x[left])
            chosen = int(left[int(np.argmax(acquisition(mean, sigma, float(y[known].max()), rng)))])
            known.append(chosen)
            free[chosen] = False
            best = max(best, float(y[chosen]))
        earned += best
    return earned / rounds


Game = tuple[Array, Array, NDArray[np.int64]]


def naive_game(x: Array, y: Array, candidates: Array, rng: np.random.Generator) -> Game:
    """Return (x, y, first) of a game on the measurements as they are: as small a part is known as will be of all."""
    first = rng.choice(len(y), max(2, round(len(y) ** 2 / len(candidates))), replace=False)
    return x, y, first


def resampled_game(x: Array, y: Array, candidates: Array, rng: np.random.Generator) -> Game:
    """Return (x, y, first) of the adjusted game of Boley et al.

    The measurements (N of them) are taken for a random sample. Of M candidates a share 1 / (N + 1), on average, is at
    least as good as the best of these. So the game begins with a bootstrap sample of size N without the best one; its
    pool holds that share of copies of it, and copies of what the bootstrap left out besides, all moved some way
    towards a neighbour by chance, M in all.
    """
    order = np.argsort(y)
    rest, top = order[:-1], order[-1:]
    drawn = rng.choice(rest, len(y), replace=True)
    left = np.setdiff1d(rest, drawn)
    good = math.ceil(len(candidates) / (len(y) + 1))
    chosen = np.concatenate([rng.choice(top, good), rng.choice(left, len(candidates) - good)])
    near = np.argsort(_square(x, x), axis=1)[:, 1:4]
    other = near[chosen, rng.integers(0, near.shape[1], len(chosen))]
    moved = x[chosen] + rng.uniform(0, 0.3, (len(chosen), 1)) * (x[other] - x[chosen])
    return np.vstack([x[drawn], moved]), np.concatenate([y[drawn], y[chosen]]), np.arange(len(y))


def drawn_game(x: Array, y: Array, candidates: Array, rng: np.random.Generator, most: int = 512) -> Game:
    """Return (x, y, first) of a game on the candidates themselves, `most` of them, that begins with all measurements.

    Their values are one draw of what a Gaussian process holds possible, given the measurements; its length scale and
    noise are drawn by their likelihood, too.
    """
    at = candidates if len(candidates) <= most else candidates[rng.choice(len(candidates), most, replace=False)]
    middle, unit = float(y.mean()), float(y.std()) or 1.0
    fits = _fits(x, (y - middle) / unit)
    evidence = np.array([fit.evidence for fit in fits])
    share = np.exp(evidence - evidence.max())
    fit = fits[int(rng.choice(len(fits), p=share / share.sum()))]
    cross = fit.kernel(at, x)
    solved = linalg.solve_triangular(fit.factor[0], cross.T, lower=True)
    cover = fit.kernel(at, at) - solved.T @ solved
    values, vectors = np.linalg.eigh(cover)
    draw = cross @ fit.weights + vectors @ (np.sqrt(np.maximum(values, 0.0)) * rng.standard_normal(len(at)))
    return np.vstack([x, at]), np.concatenate([y, middle + unit * draw]), np.arange(len(y))


GAMES: Mapping[str, Callable[[Array, Array, Array, np.random.Generator], Game]] = {
    "drawn": drawn_game, "resampled": resampled_game, "naive": naive_game,
}  # fmt: skip


def estimate(
    x: Array, y: Array, candidates: Array, rounds: int, *, games: int = 20, seed: int = 0, kind: str = "drawn",
    models: Mapping[str, Model] = MODELS, acquisitions: Mapping[str, Acquisition] = ACQUISITIONS,
) -> list[Estimate]:  # fmt: skip
    """Return every pair of model and acquisition, the one expected to earn most first.

    x: (N, d) features of N valid measurements at random places, y: (N,) their values (at least 8, else ValueError).
    candidates: (M, d) features of what is not measured yet. rounds: measurements that are left. kind: of GAMES; every
    pair plays the same ones.
    """
    if len(y) < 8 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError(f"{len(y)} measurements: at least 8, all finite, are needed to tell models apart")
    earned: dict[tuple[str, str], list[float]] = {(m, a): [] for m in models for a in acquisitions}
    for game in range(games):
        xs, ys, first = GAMES[kind](x, y, candidates, np.random.default_rng([seed, game]))
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
