"""The surrogate models that are Gaussian processes: deep kernel, principal components, and place alone."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from .calibration import NONE, calibrate
from .folds import split
from .gaussian import Diverged, Kernels, Shape, Singular, cholesky
from .library import pinned
from .reduction import Reduction, components, places
from .surrogate import HeldOut
from .target import Target

Rows = NDArray[np.float64]
LEAST = 3  # observations that a fit needs
MOST = 96  # observations that a member is trained on; it predicts from all
_GENTLY = 0.3  # the pace of an update, whose first steps would else be as wide as those of a beginning
_CHUNK = 512  # candidates at a time
_WAVES = 512  # of a random draw


class GaussianProcess:
    """Members of one shape, trained on different parts of the observations, that predict as a mixture.

    The mixture's mean is the mean over members; its variance is theirs and that of their means. What is fitted as
    noise beyond the observations' own standard errors is what the features do not tell of a place, and belongs to its
    value; where no standard errors are given, it can't be told from noise and counts as such. All sigmas but the
    standard errors are multiplied by what held-out observations ask for, see `calibration`.
    """

    def __init__(self, reduction: Reduction, X_all: Rows, shape: Shape, seed: int = 0, threads: int = 1) -> None:
        self.fault = self.remark = ""
        self.noise = 0.0
        self.calibration, self._threads = NONE, threads
        self._reduction, self._shape = reduction, msgspec.structs.replace(shape, inputs=reduction.width)
        chance = np.random.default_rng(seed)
        typical = chance.choice(len(X_all), min(512, len(X_all)), replace=False)
        self._typical, self._chance = reduction(X_all[typical]), chance
        self._kernels: Kernels | None = None
        self._held: HeldOut | None = None
        self._reduced: tuple[Rows, Any] | None = None
        self._seen: dict[str, Any] = {}

    def fit(self, X: Rows, y: Rows, sigma: Rows, history: Rows | None = None) -> None:
        """Learn from the beginning; a fit that fails is tried once more from another beginning, then `fault` says it.

        X (n, d), y (n,), sigma (n,), history (n, h).
        """
        self._kernels = None
        self._learn(X, y, sigma, history)

    def update(self, X: Rows, y: Rows, sigma: Rows, history: Rows | None = None) -> None:
        """Go on from the last fit; where there is none, or it was faulty, fit."""
        if self._kernels is None or self.fault:
            self.fit(X, y, sigma, history)
        else:
            self._learn(X, y, sigma, history)

    def predict(self, X: Rows) -> tuple[Rows, Rows]:
        """Return mean and standard deviation (N,) of the value itself, in y's units."""
        if self._kernels is None:
            return np.full(len(X), self._target.middle), np.full(len(X), self._target.spread)
        seen = self._look(X)
        mean = seen["mean"].mean(0)
        variance = seen["variance"].mean(0) + seen["mean"].var(0) + self._untold
        return self._target.back(mean), self.calibration(mean) * np.sqrt(variance) * self._target.slope(mean)

    def covariance(self, X: Rows, at: Rows) -> Rows:
        """Return the covariance (N,) of the values at X with that at `at` (d,), in y's units squared."""
        if self._kernels is None:
            return np.zeros(len(X))
        seen, k = self._look(X), self._kernels
        with pinned(self._threads) as torch:
            z = k.features(torch.from_numpy(self._reduction(at[None])))
            column = k.covariance(z, seen["z"])
            v = torch.linalg.solve_triangular(self._factor, k.covariance(self._z, z), upper=False)
            means = (k.mean + torch.bmm(k.covariance(z, self._z), self._alpha))[:, 0, 0].numpy()
            within = (column - torch.bmm(v.mT, seen["v"]))[:, 0].mean(0).numpy()
        middle, there = seen["mean"].mean(0), means.mean(keepdims=True)
        between = ((seen["mean"] - middle) * (means - there)[:, None]).mean(0)
        own = self._untold * (at == X).all(axis=1)
        units = [self._target.slope(each) * self.calibration(each) for each in (middle, there)]
        made: Rows = (within + between + own) * units[0] * units[1]
        return made

    def sample(self, X: Rows, rng: np.random.Generator) -> Rows:
        """Return one draw (N,) of what the values may be together, of one member, in y's units.

        A draw of the prior as a sum of waves, corrected to the observations (Wilson et al., ICML 2020).
        """
        if self._kernels is None:
            return self._target.middle + self._target.spread * rng.normal(size=len(X))
        seen, k = self._look(X), self._kernels
        j, q = int(rng.integers(self._shape.members)), self._shape.outputs
        waves = rng.normal(size=(q, _WAVES))
        if self._shape.kernel == "matern":
            waves /= np.sqrt(rng.chisquare(5.0, _WAVES) / 5.0)
        phase, weights = rng.uniform(0, 2 * np.pi, _WAVES), rng.normal(size=_WAVES)
        strength = np.sqrt(2 * float(k.variance()[j]) / _WAVES)
        with pinned(self._threads) as torch:
            waves = waves / k.length_scales()[j].numpy().reshape(q, 1)
            prior, here = (
                strength
                * torch.cos(z[j] @ torch.from_numpy(waves) + torch.from_numpy(phase))
                @ torch.from_numpy(weights)
                for z in (seen["z"], self._z)
            )
            wear = math.sqrt(float(k.worn(torch.ones(1, 1, 1), torch.ones(1, 1, 1))[j]))
            errors = np.sqrt(k.noises(self._sigma)[j].numpy()) * rng.normal(size=len(here))
            errors += wear * self._history[j].numpy() @ rng.normal(size=self._history.shape[2])
            off = self._y[j] - k.mean[j, 0, 0] - here - torch.from_numpy(errors)
            solved = torch.cholesky_solve(off[:, None], self._factor[j])
            cross = k.member(j).covariance(seen["z"][j : j + 1], self._z[j : j + 1])[0]
            drawn = k.mean[j, 0, 0] + prior + (cross @ solved)[:, 0]
        middle, own = seen["mean"].mean(0), np.sqrt(self._untold) * rng.normal(size=len(X))
        return self._target.back(middle + self.calibration(middle) * (drawn.numpy() + own - middle))

    def held_out(self) -> HeldOut | None:
        """Return how well it predicts what it has not seen, or None where the last fit was faulty."""
        return None if self.fault else self._held

    def _learn(self, X: Rows, y: Rows, sigma: Rows, history: Rows | None) -> None:
        self._target = Target(y)
        self._seen, self._held, self.remark = {}, None, ""
        self.fault = few_or_constant(y, self._target)
        if self.fault:
            self._kernels = None
            return
        errors = np.nan_to_num(np.abs(sigma), nan=0.0, posinf=0.0) / self._target.slope(self._target.forward(y))
        with pinned(self._threads) as torch:
            m = self._shape.members
            self._x = torch.from_numpy(self._reduction(X))
            self._y = torch.from_numpy(self._target.forward(y)).expand(m, -1)
            self._sigma = torch.from_numpy(np.minimum(errors, 10.0)).expand(m, -1)
            past = np.zeros((len(y), 1)) if history is None else history
            self._history = torch.from_numpy(past).expand(m, -1, -1)
            self._parts = split(len(y), m)
            self.fault = self._attempt()
            if self.fault:
                self._kernels = None
                self.fault = self._attempt()
            if self.fault:
                self._kernels = None
                return
            assert self._kernels is not None
            self.remark = self._kernels.at_bound()
            self.noise = float(np.sqrt(np.mean(self._measuring()))) * self._target.spread

    def _attempt(self) -> str:
        """Learn, from the beginning where there are no kernels yet, and condition; return what went wrong."""
        seed = int(self._chance.integers(2**31))
        try:
            steps, pace = self._shape.again, _GENTLY
            if self._kernels is None:
                self._kernels = Kernels(self._shape, seed, self._typical)
                steps, pace = self._shape.steps, 1.0
            x, y, sigma, history = (self._of(each, self._parts.trained(MOST, seed)) for each in self._data())
            self._kernels.learn(x, y, sigma, history, steps, pace)
            k = self._kernels
            self._z = k.features(self._x)
            covariance = k.covariance(self._z, self._z) + k.worn(self._history, self._history)
            self._factor = cholesky(covariance + diagonal(k.noises(self._sigma)))
            self._alpha = (self._y[:, :, None] - k.mean).cholesky_solve(self._factor)
            self._hold_out()
        except Diverged as error:
            return f"the fit diverged: {error}"
        except Singular as error:
            return str(error)
        return ""

    def _data(self) -> tuple[Any, Any, Any, Any]:
        return self._x.expand(self._shape.members, *self._x.shape), self._y, self._sigma, self._history

    @property
    def _nugget(self) -> float:
        """The variance that is fitted besides the standard errors, mean over members."""
        return float((self._kernels.noises(self._sigma) - self._sigma**2).mean()) if self._kernels else 0.0

    @property
    def _untold(self) -> float:
        """The variance of a value that its features do not tell; 0 where it can't be told from noise."""
        return self._nugget if bool((self._sigma > 0).any()) else 0.0

    def _measuring(self) -> Rows:
        """Return the variance (n,) that measuring gives each observation."""
        errors: Rows = self._sigma[0].numpy() ** 2
        return errors + self._nugget - self._untold

    @staticmethod
    def _of(values: Any, rows: NDArray[np.int64]) -> Any:
        """Return rows (m, k) of values (m, n, ...)."""
        return values[np.arange(len(rows))[:, None], rows]

    def _look(self, X: Rows) -> dict[str, Any]:
        """Return what predicting X needs, kept until the next fit: features, means, variances, solved columns."""
        if self._seen.get("X") is X:
            return self._seen
        k = self._kernels
        assert k is not None
        m, n, count = self._shape.members, self._y.shape[1], len(X)
        with pinned(self._threads) as torch:
            reduced = torch.from_numpy(self._reduce_all(X))
            z = k.features(reduced)
            solved = torch.empty(m, n, count, dtype=torch.float64)
            mean, variance = torch.empty(m, count, dtype=torch.float64), torch.empty(m, count, dtype=torch.float64)
            for start in range(0, count, _CHUNK):
                part = slice(start, start + _CHUNK)
                cross = k.covariance(self._z, z[:, part])
                mean[:, part] = k.mean[:, :, 0] + torch.bmm(cross.mT, self._alpha)[:, :, 0]
                solved[:, :, part] = torch.linalg.solve_triangular(self._factor, cross, upper=False)
                variance[:, part] = (k.variance() - (solved[:, :, part] ** 2).sum(1)).clamp_min(1e-10)
        self._seen = {"X": X, "z": z, "v": solved, "mean": mean.numpy(), "variance": variance.numpy()}
        return self._seen

    def _reduce_all(self, X: Rows) -> Rows:
        if self._reduced is None or self._reduced[0] is not X:
            self._reduced = (X, self._reduction(X))
        made: Rows = self._reduced[1]
        return made

    def _hold_out(self) -> None:
        """Score the observations that a member was not trained on, or each alone where there is one member."""
        y = self._y[0].numpy()
        mean, variance = self._alone() if self._shape.members == 1 else self._others()
        known, measuring = np.isfinite(mean), self._measuring()
        own, factors = np.maximum(variance - measuring, 1e-10), np.ones(len(y))
        self.calibration = NONE
        if known.sum() >= LEAST:
            self.calibration, factors[known] = calibrate(y[known], mean[known], own[known], measuring[known])
        variance = factors**2 * own + measuring
        self._held = HeldOut(log_density(y, mean, variance), without_features(y, self._parts))

    def _alone(self) -> tuple[Rows, Rows]:
        """Return mean and variance of each observation given all others (Sundararajan and Keerthi, 2001)."""
        with pinned(self._threads) as torch:
            inverse = torch.cholesky_inverse(self._factor[0]).diagonal()
            mean = self._y[0] - self._alpha[0, :, 0] / inverse
            return mean.numpy(), (1 / inverse).numpy()

    def _others(self) -> tuple[Rows, Rows]:
        """Return mean and variance of each observation by the members that have never seen it."""
        n, k, rows = self._y.shape[1], self._kernels, self._parts.rest
        if rows is None or k is None:
            return np.full(n, np.nan), np.full(n, np.nan)
        with pinned(self._threads) as torch:
            each = (self._z, self._y, k.noises(self._sigma), self._history)
            z, y, noise, history = (self._of(one, rows) for one in each)
            factor = cholesky(k.covariance(z, z) + diagonal(noise) + k.worn(history, history))
            alpha = (y[:, :, None] - k.mean).cholesky_solve(factor)
            cross = k.covariance(z, self._z) + k.worn(history, self._history)
            v = torch.linalg.solve_triangular(factor, cross, upper=False)
            means = (k.mean + torch.bmm(cross.mT, alpha))[:, :, 0].numpy()
            worn = k.worn(self._history, self._history).diagonal(dim1=1, dim2=2)
            variances = (k.variance() + worn - (v * v).sum(1)).clamp_min(1e-10) + k.noises(self._sigma)
        unseen = np.zeros(means.shape)
        for j, held in enumerate(self._parts.held):
            unseen[j, held] = 1.0
        unseen /= unseen.sum(axis=0)
        mean: Rows = (unseen * means).sum(axis=0)
        return mean, (unseen * (variances.numpy() + (means - mean) ** 2)).sum(axis=0)


def few_or_constant(y: Rows, target: Target) -> str:
    """Return why values can't be learned from, or ""."""
    if len(y) < LEAST:
        return f"{len(y)} valid observations: a fit needs {LEAST}"
    if not np.isfinite(y).all():
        return "an observation is no finite number"
    if target.is_constant:
        return f"all {len(y)} values are the same: there is nothing to learn yet"
    return ""


def log_density(y: Rows, mean: Rows, variance: Rows) -> Rows:
    """Return the log density (n,) in nats of y under normal distributions."""
    made: Rows = -0.5 * (np.log(2 * np.pi * variance) + (y - mean) ** 2 / variance)
    return made


def without_features(y: Rows, parts: Any) -> Rows:
    """Return the log density of each value by mean and deviation of those that its model was trained on."""
    made = np.full(len(y), np.nan)
    for held in parts.held:
        others = np.setdiff1d(np.arange(len(y)), held)
        if len(others) >= LEAST:
            variance = max(float(y[others].var(ddof=1)), 1e-6) * (1 + 1 / len(others))
            made[held] = log_density(y[held], np.full(len(held), y[others].mean()), np.full(len(held), variance))
    return made


def diagonal(values: Any) -> Any:
    """Return matrices (m, n, n) with these values (m, n) on their diagonals."""
    return values.diag_embed()


class DeepKernel(GaussianProcess):
    """Deep kernel learning: a feature network of 64 and 32 units to 4 features, under an exact Gaussian process.

    Liu et al., Nat. Mach. Intell. 4, 341 (2022), with an exact process instead of an interpolated one, a smaller
    network that sees the 16 first principal components of a patch, and strong priors on its weights and the noise:
    without those it knew the observations by heart. members: an ensemble, against the effect of where it began.
    """

    def __init__(
        self, X_all: Rows, seed: int = 0, members: int = 6, threads: int = 1, layers: tuple[int, ...] = (64, 32, 4)
    ) -> None:
        shape = Shape(0, layers, "rbf", members, steps=80, network_rate=0.02, weight_decay=100.0, noise_spread=0.5)
        super().__init__(components(X_all, 16, whiten=0.25), X_all, shape, seed, threads)


class PCAGaussianProcess(GaussianProcess):
    """A Gaussian process, Matern 5/2, on the 8 first principal components of the patches."""

    def __init__(self, X_all: Rows, seed: int = 0, members: int = 1, threads: int = 1, count: int = 8) -> None:
        super().__init__(components(X_all, count), X_all, Shape(0, (), "matern", members), seed, threads)


class PlaceGaussianProcess(GaussianProcess):
    """A Gaussian process, Matern 5/2, on the places (x, y) [any unit] alone: it sees no image."""

    def __init__(self, X_all: Rows, seed: int = 0, members: int = 1, threads: int = 1) -> None:
        super().__init__(places(X_all), X_all, Shape(0, (), "matern", members), seed, threads)
