"""Policies that learn from what was measured: deep kernel, PCA-GP, (x, y)-GP, best image feature; and a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from probeloop.api import Context, DropInError, Observation, Outputs, Policy, Position, Settings, quantity

from . import acquisition, seeds
from .cells import Cells
from .learner import FALLBACK, Learner
from .library import torch_library
from .link import Link
from .patches import Patches, cut, features
from .reduction import components
from .surrogate import Name
from .target import Target
from .traps import Trap
from .validity import oddness, probability_valid

Rows = NDArray[np.float64]
_FEW = 4  # components in which a rare kind of place is looked for
_MANY = 16  # components by which a place is usual or odd
_KIND, _ODD = 0.7, 0.15  # how far a measurement speaks for its kind [spreads], and for what is as odd [ranks]
_LIKELY = 0.7  # places that are less likely to be valid are left out, as long as there are others


class Learning(Settings):
    """How to learn and choose.

    patch: side of the square that is looked at around a place [pixels]. edges: "mask" suggests no place whose patch
    sticks out of the map, "mirror" does. acquisition: what makes a place worth measuring. xi: improvement that counts
    [spreads of the values]. beta: weight of uncertainty in upper_confidence_bound, mean + sqrt(beta) sigma.
    travel_cost: of a way across the whole map, dose_cost: of a place that others were measured right beside;
    [nats] for expected_improvement, else [spreads of the values]. dose_radius, spacing: how far a measurement
    reaches, about, and how near to one no other is made [pixels]. seed_points: measured before anything is learned.
    seeding: how they are spread. refit_every: at most so many observations between two fits from the beginning.
    ensemble: models side by side. avoid_failures: keep away from where measurements fail. escape: leave when going
    round in circles. threads: of a fit.
    """

    patch: Annotated[int, msgspec.Meta(ge=2, le=64)] = 8
    edges: Literal["mask", "mirror"] = "mirror"
    acquisition: acquisition.Name = "expected_improvement"
    xi: Annotated[float, quantity("", ge=0, le=10)] = 0.01
    beta: Annotated[float, quantity("", ge=0, le=100)] = 2.0
    travel_cost: Annotated[float, quantity("", ge=0, le=1000)] = 0.0
    dose_cost: Annotated[float, quantity("", ge=0, le=1000)] = 0.0
    dose_radius: Annotated[float, quantity("", gt=0, le=1000)] = 2.0
    spacing: Annotated[float, quantity("", ge=0, le=1000)] = 0.0
    seed_points: Annotated[int, msgspec.Meta(ge=3, le=1000)] = 8
    seeding: seeds.Name = "latin_hypercube"
    refit_every: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 3
    ensemble: Annotated[int, msgspec.Meta(ge=1, le=32)] = 6
    avoid_failures: bool = True
    escape: bool = True
    threads: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1


class _Learned(Policy):
    """Seed points, then where the acquisition function of a model is highest.

    notice: what an operator should know, the newest; notices: all of it, in order. Suggests while measurements are
    pending: they count as if they had given what the model predicts.
    """

    Parameters = Learning
    models: tuple[Name, ...] = ()
    auto = False

    def __init__(self, parameters: Settings | None = None, context: Context | None = None) -> None:
        if self.models != ("best_feature",):
            torch_library()  # now, and not when dose has been spent
        super().__init__(parameters, context)
        self.notices: list[str] = []
        self._cells = Cells(np.empty((0, 2)), (0, 0))

    @property
    def link(self) -> Link:
        """What the held-out predictions say of a link between image and value."""
        return self._learner.link

    def context_images(self, candidates: NDArray[np.float64], shape: tuple[int, int], images: Outputs) -> None:
        """Begin anew on these candidates (N, 2) (x, y) [m] and images of the map.

        Raises DropInError for images of another shape, and where there is no torch.
        """
        p = self.parameters
        self._cells, self.notices, self.notice = Cells(candidates, shape), [], ""
        self._trap = Trap(max(2.0, p.patch / 2))
        self._learned = -1
        self._allowed = np.ones(len(self._cells), bool)
        self._latent = self._cells.places
        self._alike = [self._cells.places / p.patch]
        made = self._features(shape, images)
        seed = int(self.rng.integers(2**31))
        self._learner = Learner(
            made, seed, self._say, places=None if "best_feature" in made else self._cells.places,
            members=p.ensemble, threads=p.threads, refit_every=p.refit_every, auto=self.auto and len(made) > 1,
        )  # fmt: skip
        self._maps: dict[str, Rows] = {}
        free = self._allowed
        if not len(self._cells):
            self._seeds: list[int] = []
        elif p.seeding == "class_balanced":
            self._seeds = seeds.class_balanced(p.seed_points, self._latent, free, self.rng)
        else:
            self._seeds = seeds.latin_hypercube(p.seed_points, self._cells.places, free, self.rng)

    def suggest(self, n: int) -> Sequence[Position]:
        """Return up to n candidates to measure next, best first; none = every allowed one is measured."""
        chosen: list[int] = []
        inside = self._cells.inside(self.pinned)
        chosen += [cell for cell in self._seeds if self._cells.free[cell] and inside[cell]][:n]
        self._seeds = [cell for cell in self._seeds if self._cells.free[cell] and cell not in chosen]
        chosen += self._next(n - len(chosen), chosen)
        return self._cells.take(chosen)

    def tell(self, observations: Sequence[Observation]) -> None:
        """Keep what was measured. An invalid one is counted, and never learned from as a value."""
        if any(each.again for each in observations):  # other values: nothing that was learned holds
            self._learned = 0
            self._learner.forget()
            self._trap = Trap(max(2.0, self.parameters.patch / 2))
        for each in observations:
            cell = self._cells.tell(each)
            if cell is not None and self._cells.valid[-1] and not each.again:
                foretold = self._maps.get("prediction")
                self._learner.record.tell(each.value, None if foretold is None else float(foretold[cell]))
            if each.again or cell is None or self._seeds or not self.parameters.escape:
                continue
            values = self._cells.values[self._cells.valid]
            row, column = self._cells.places[cell]
            value, spread = float(self._cells.values[-1]), Target(values).spread
            why = self._trap.tell((float(row), float(column)), value, self._cells.best, spread)
            if why:
                self._say(why)

    def maps(self) -> dict[str, Rows]:
        """Return maps (ny, nx) of "prediction" and "uncertainty" [the value's unit] and "acquisition"; may be empty.

        As of the last suggestion. acquisition: nats for expected_improvement, else spreads of the values; NaN where
        nothing can be suggested.
        """
        return {name: values.reshape(self._cells.shape) for name, values in self._maps.items()}

    def linked(self) -> bool | None:
        """Return whether held-out predictions show a link between image and value."""
        return self.link.seen

    def learn_now(self) -> None:
        """Bring model and maps up to what was measured; `suggest` does so by itself."""
        cells, y, sigma = self._cells.learned()
        if len(y) == self._learned:
            return
        self._learned = len(y)
        self._learner.learn(cells, y, sigma, self._cells.history(self.parameters.dose_radius))
        model = self._learner.model
        if model is not None:
            mean, deviation = model.predict(self._learner.X)
            self._maps = {"prediction": mean, "uncertainty": deviation}

    def _features(self, shape: tuple[int, int], images: Outputs) -> dict[Name, Rows]:
        """Return the features of every candidate by model; sets which are allowed and what classes are made of."""
        p, made = self.parameters, dict[Name, Rows]()
        if "xy_gp" in self.models:
            return {"xy_gp": self._cells.places}
        try:
            patches = cut(images, shape, p.patch)
        except DropInError as error:
            if any(image.shape[:2] != shape for image in images.values()):
                raise
            self._say(f"{error}: only the place is learned from")
            return {"xy_gp": self._cells.places}
        self._allow(patches)
        for name in self.models:
            made[name] = features(images, shape, p.patch)[0] if name == "best_feature" else patches.rows
        return made

    def _allow(self, patches: Patches) -> None:
        if self.parameters.edges == "mask":
            self._allowed = patches.inside
        self._latent = components(patches.rows, _FEW)(patches.rows)
        whole = components(patches.rows, _MANY)(patches.rows)
        self._alike += [self._latent / _KIND, oddness(whole) / _ODD]

    def _next(self, n: int, taken: list[int]) -> list[int]:
        """Return up to n cells by what is learned; at random where nothing is."""
        free = self._cells.free & self._allowed & self._cells.off(self.parameters.spacing)
        free &= self._cells.inside(self.pinned)
        free[taken] = False
        if n <= 0 or not free.any():
            return []
        likely = self._valid()
        free &= likely >= min(_LIKELY, float(np.median(likely[free])))
        self.learn_now()
        if self._learner.model is None:
            return [int(cell) for cell in self.rng.permutation(np.flatnonzero(free))[:n]]
        return acquisition.choose(n, free, self._worth(free, taken, likely))

    def _worth(self, free: NDArray[np.bool_], taken: list[int], likely: Rows) -> Any:
        """Return a function that says what each candidate is worth once some are chosen; likely: to be valid."""
        p, cells, model, X = self.parameters, self._cells, self._learner.model, self._learner.X
        assert model is not None
        mean, start = self._maps["prediction"], self._maps["uncertainty"]
        measured, y, _ = cells.learned()
        scale, best = Target(y).spread, float(mean[measured].max())
        fixed = np.log(likely) - p.dose_cost * self._dose()
        sigma, counted = start, 0
        waiting = [*cells.pending, *taken]

        def worth(chosen: list[int]) -> Rows:
            nonlocal sigma, counted
            every = [*waiting, *chosen]
            for cell in every[counted:]:
                sigma = acquisition.believed(sigma, model.covariance(X, X[cell]), model.noise, cell)
            counted = len(every)
            kind = self._trap.escape or p.acquisition
            if kind == "thompson":
                value = model.sample(X, self.rng) / scale
            else:
                value = acquisition.score(kind, mean, sigma, best, scale, xi=p.xi, beta=p.beta)
            if kind == "expected_improvement" and p.escape:
                why = self._trap.nothing_left(float(np.max(value[free], initial=-np.inf)))
                if why:
                    self._say(why)
                    return worth(chosen)
            last = chosen[-1] if chosen else taken[-1] if taken else cells.last
            made: Rows = value + fixed - p.travel_cost * self._way(last)
            self._maps["acquisition"] = np.where(free, made, np.nan) if not chosen else self._maps["acquisition"]
            return made

        return worth

    def _way(self, last: int | None) -> Rows:
        """Return the way (N,) from the last place to each, in lengths of the map's diagonal."""
        if last is None:
            return np.zeros(len(self._cells))
        off = self._cells.places - self._cells.places[last]
        made: Rows = np.hypot(off[:, 0], off[:, 1]) / max(float(np.hypot(*self._cells.shape)), 1.0)
        return made

    def _dose(self) -> Rows:
        """Return how many measurements reach each candidate (N,), weighted by their distance."""
        made = np.zeros(len(self._cells))
        if self.parameters.dose_cost > 0:
            for cell in (*self._cells.cells, *self._cells.pending):
                squared = ((self._cells.places - self._cells.places[cell]) ** 2).sum(axis=1)
                made += np.exp(-0.5 * squared / self.parameters.dose_radius**2)
        return made

    def _valid(self) -> Rows:
        """Return the probability (N,) that a measurement is valid, by place, by kind of place, and by its oddness."""
        cells = self._cells
        if not self.parameters.avoid_failures:
            return np.ones(len(cells))
        return probability_valid(self._alike, cells.cells, cells.valid)

    def _say(self, words: str) -> None:
        """Keep a notice."""
        self.notice = words
        self.notices.append(words)


class Dkl(_Learned):
    """Where deep kernel learning expects most: an ensemble of feature networks under exact Gaussian processes."""

    models = ("deep_kernel", FALLBACK)


class DklOrPca(_Learned):
    """PCA-GP, and deep kernel learning as soon as it predicts held-out measurements better, by a paired bound."""

    models = ("deep_kernel", FALLBACK)
    auto = True


class PcaGp(_Learned):
    """Where a Gaussian process on principal components of the patches expects most."""

    models = ("pca_gp",)

    class Parameters(Learning):
        """As for dkl, with one model unless asked for more."""

        ensemble: Annotated[int, msgspec.Meta(ge=1, le=32)] = 1


class XyGp(_Learned):
    """Where a Gaussian process on the place alone expects most; it looks at no image."""

    models = ("xy_gp",)

    class Parameters(Learning):
        """As for dkl, with one model unless asked for more."""

        ensemble: Annotated[int, msgspec.Meta(ge=1, le=32)] = 1


class SortByImage(_Learned):
    """In the order of the single image feature that goes best with what was measured so far."""

    models = ("best_feature",)

    class Parameters(Learning):
        """As for dkl, but it never leaves the order of the feature."""

        escape: bool = False


class Grid(Policy):
    """Every cell, each as far as possible from all before it: any first part is nearly a regular grid."""

    def __init__(self, parameters: Settings | None = None, context: Context | None = None) -> None:
        super().__init__(parameters, context)
        self._cells = Cells(np.empty((0, 2)), (0, 0))

    def context_images(self, candidates: NDArray[np.float64], shape: tuple[int, int], images: Outputs) -> None:
        """Begin anew on these candidates (N, 2) (x, y) [m]; the first one to be measured lies in the middle."""
        self._cells = Cells(candidates, shape)
        self._far = np.full(len(self._cells), np.inf)

    def suggest(self, n: int) -> Sequence[Position]:
        """Return the next n cells."""
        chosen: list[int] = []
        inside = self._cells.inside(self.pinned)
        while len(chosen) < n and (self._cells.free & inside).any():
            if np.isinf(self._far).all():
                middle = (np.array(self._cells.shape) - 1) / 2
                away = ((self._cells.places - middle) ** 2).sum(axis=1)
                cell = int(np.where(inside, away, np.inf).argmin())
            else:
                cell = int(np.argmax(np.where(self._cells.free & inside, self._far, -1.0)))
            self._cells.free[cell] = False
            self._near(cell)
            chosen.append(cell)
        return self._cells.take(chosen)

    def tell(self, observations: Sequence[Observation]) -> None:
        """Keep away from what was measured, by the operator too."""
        for each in observations:
            cell = self._cells.tell(each)
            if cell is not None:
                self._near(cell)

    def _near(self, cell: int) -> None:
        distance = ((self._cells.places - self._cells.places[cell]) ** 2).sum(axis=1)
        self._far = np.minimum(self._far, distance)
