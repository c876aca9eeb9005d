"""Models that predict, from features of a place, what a measurement there will give, and how sure that is.

    model = make("deep_kernel", X_all, seed=1)      # X_all: features of every candidate (N, d)
    model.fit(X, y, sigma)                          # from the beginning
    model.update(X, y, sigma)                       # a few steps on from the last fit, with all observations so far
    mean, sigma = model.predict(X_all)              # in units of y

X (n, d) float64 are rows of the features the model was made with: patches for `deep_kernel` and `pca_gp`, places
(x, y) for `xy_gp`, simple features for `best_feature`. y (n,) are values in any unit, sigma (n,) their standard
errors in it (0 or NaN = unknown). history (n, h) is what earlier measurements may have done to each observation, in
any unit, 0 = nothing: what goes with it is learned, and predictions are those of untouched places. Invalid
observations must be left out by the caller. Everything random follows from `seed`; one thread; the same calls give
the same numbers.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]
Name = Literal["deep_kernel", "pca_gp", "xy_gp", "best_feature"]


class HeldOut(msgspec.Struct, frozen=True):
    """What the model said of each observation without having seen it.

    score: (n,) its log density in nats, of y in the model's own units. constant: (n,) that of a normal distribution
    with mean and deviation of the other observations: what a model without features says. NaN = not held out.
    """

    score: Rows
    constant: Rows


class Surrogate(Protocol):
    """A model of value over features. fault: in words why the last fit is not to be trusted, "" = it is.

    noise: standard deviation of a repeated measurement, in y's units: what sigma says, else as fitted. remark: what a
    reader of the predictions should know of the last fit (a length scale at its bound), "" = nothing.
    """

    fault: str
    remark: str
    noise: float

    def fit(self, X: Rows, y: Rows, sigma: Rows, history: Rows | None = None) -> None:
        """Learn from the beginning. X (n, d), y (n,), sigma (n,). What is wrong with the numbers is a fault."""
        ...

    def update(self, X: Rows, y: Rows, sigma: Rows, history: Rows | None = None) -> None:
        """Go on from the last fit with all observations so far, at a fraction of its cost."""
        ...

    def predict(self, X: Rows) -> tuple[Rows, Rows]:
        """Return mean and standard deviation (N,) of the value without the noise of measuring it, in y's units."""
        ...

    def covariance(self, X: Rows, at: Rows) -> Rows:
        """Return the covariance (N,) of the values at X with that at one row `at` (d,), in y's units squared."""
        ...

    def sample(self, X: Rows, rng: np.random.Generator) -> Rows:
        """Return one draw (N,) of what the values at X may be together, in y's units."""
        ...

    def held_out(self) -> HeldOut | None:
        """Return how well it predicts what it has not seen, for the observations of the last fit, or None."""
        ...


def make(name: Name, X_all: Rows, seed: int = 0, *, members: int = 0, threads: int = 1) -> Surrogate:
    """Return the model called `name` for features X_all (N, d) of every candidate; raises DropInError without torch.

    members: of an ensemble, 0 = the model's own number.
    """
    from . import processes  # they look at this file for what a surrogate is
    from .best_feature import BestImageFeature

    if name == "best_feature":
        return BestImageFeature(X_all, seed)
    own = {"members": members} if members else {}
    kinds: dict[str, Any] = {
        "deep_kernel": processes.DeepKernel,
        "pca_gp": processes.PCAGaussianProcess,
        "xy_gp": processes.PlaceGaussianProcess,
    }
    made: Surrogate = kinds[name](X_all, seed, threads=threads, **own)
    return made
