"""Sort by the best single image feature: what one would do without a model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from .folds import split
from .processes import few_or_constant, log_density, without_features
from .surrogate import HeldOut
from .target import Target

Rows = NDArray[np.float64]


class BestImageFeature:
    """A straight line over the one feature whose ranks go best with the values (Spearman's coefficient).

    X are simple features of each place (`patches.features`), each taken by its rank among all candidates, so that
    predicted values are in the order of the feature.
    """

    def __init__(self, X_all: Rows, seed: int = 0) -> None:
        self._sorted = np.sort(X_all, axis=0)
        self.fault = self.remark = ""
        self.noise, self.column = 0.0, 0
        self._line = (0.0, 0.0)
        self._error = 0.0
        self._spread = 1.0
        self._held: HeldOut | None = None

    def fit(self, X: Rows, y: Rows, sigma: Rows, history: Rows | None = None) -> None:
        """Choose the feature, and draw the line. X (n, k), y (n,), sigma (n,)."""
        target = Target(y)
        self._middle, self._spread, self._held = target.middle, target.spread, None
        self.fault = few_or_constant(y, target)
        if self.fault:
            return
        numbers, ranks = target.forward(y), self._ranks(X)
        self.column, _, self._line, self.noise = _best(ranks, numbers)
        self.noise *= target.spread
        self._target = target
        self._n = len(y)
        self._centre, self._width = float(ranks[:, self.column].mean()), float(ranks[:, self.column].std()) or 1.0
        self._hold_out(ranks, numbers)

    def update(self, X: Rows, y: Rows, sigma: Rows, history: Rows | None = None) -> None:
        """Fit: it costs nothing."""
        self.fit(X, y, sigma)

    def predict(self, X: Rows) -> tuple[Rows, Rows]:
        """Return the line and its deviation (N,) over the values about it, in y's units."""
        if self.fault:
            return np.full(len(X), self._middle), np.full(len(X), self._spread)
        ranks = self._ranks(X)[:, self.column]
        mean = self._line[0] + self._line[1] * ranks
        far = 1 + 1 / self._n + (ranks - self._centre) ** 2 / (self._n * self._width**2)
        return self._target.back(mean), self.noise * np.sqrt(far)

    def covariance(self, X: Rows, at: Rows) -> Rows:
        """Return 0 but where it is the same place: the values about the line are independent."""
        same = (at[None] == X).all(axis=1)
        made: Rows = np.where(same, self.predict(X)[1] ** 2, 0.0)
        return made

    def sample(self, X: Rows, rng: np.random.Generator) -> Rows:
        """Return a draw (N,) of the values about the line."""
        mean, sigma = self.predict(X)
        made: Rows = mean + sigma * rng.normal(size=len(X))
        return made

    def held_out(self) -> HeldOut | None:
        """Return how well features and lines chosen from other observations predict each, or None."""
        return None if self.fault else self._held

    def _ranks(self, X: Rows) -> Rows:
        """Return where each feature lies among the candidates', 0 to 1."""
        n = len(self._sorted)
        return np.stack([np.searchsorted(self._sorted[:, i], X[:, i]) / n for i in range(X.shape[1])], axis=1)

    def _hold_out(self, ranks: Rows, numbers: Rows) -> None:
        parts = split(len(numbers), 4)
        score = np.full(len(numbers), np.nan)
        for held in parts.held:
            others = np.setdiff1d(np.arange(len(numbers)), held)
            column, _, line, deviation = _best(ranks[others], numbers[others])
            variance = np.full(len(held), max(deviation, 1e-3) ** 2)
            score[held] = log_density(numbers[held], line[0] + line[1] * ranks[held, column], variance)
        self._held = HeldOut(score, without_features(numbers, parts))


def _best(ranks: Rows, numbers: Rows) -> tuple[int, float, tuple[float, float], float]:
    """Return the column, its rank correlation, the line (offset, slope), and the deviation of the values from it."""
    order = stats.rankdata(numbers)
    strengths = []
    for i in range(ranks.shape[1]):
        own = stats.rankdata(ranks[:, i])
        varies = own.std() > 0 and order.std() > 0
        strengths.append(float(np.corrcoef(own, order)[0, 1]) if varies else 0.0)
    column = int(np.argmax(np.abs(strengths)))
    x = ranks[:, column]
    slope = float(np.cov(x, numbers)[0, 1] / x.var(ddof=1)) if x.std() > 0 else 0.0
    offset = float(numbers.mean() - slope * x.mean())
    left = numbers - offset - slope * x
    return column, strengths[column], (offset, slope), float(np.sqrt((left**2).sum() / max(len(x) - 2, 1)))
