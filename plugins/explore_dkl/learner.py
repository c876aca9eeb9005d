"""A model that is kept up to date with the observations, with others behind it for when it fails."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .link import LEAST, Link, Record, better, evidence
from .surrogate import Name, Surrogate, make

Rows = NDArray[np.float64]
FALLBACK: Name = "pca_gp"
WORDS = {"deep_kernel": "deep kernel", "pca_gp": "PCA-GP", "xy_gp": "(x, y)-GP", "best_feature": "best image feature"}
_LINK_EVERY = 8  # observations between two looks for a link
_JUDGES = 4  # members of the ensembles that are compared for it where the model itself is alone


class Learner:
    """One of several models, on one set of candidates.

    features: of every candidate by model, (N, d). The first model is asked first; where its fit is faulty the next
    one is, and then nobody: `model` is None and `fault` says why. auto: with two models, the first is only asked
    where its held-out predictions are better than the second's by a paired bound. say: told what an operator should
    know, in words.
    """

    def __init__(
        self,
        features: dict[Name, Rows],
        seed: int,
        say: Callable[[str], None],
        *,
        places: Rows | None = None,
        members: int = 1,
        threads: int = 1,
        refit_every: int = 3,
        auto: bool = False,
    ) -> None:
        self.features, self.refit_every = features, refit_every
        self.model: Surrogate | None = None
        self.name: Name = next(iter(features))
        self.fault = "nothing is measured yet"
        self.link = Link()
        self._members, self._auto, self._say, self._seed, self._threads = members, auto, say, seed, threads
        self._models: dict[Name, Surrogate] = {}
        self._judges = members if members > 1 else _JUDGES
        self._places = places
        self._fitted: dict[Name, int] = {}
        self._history: Rows | None = None
        self.record = Record()
        self._linked = 0
        self._told = ""

    @property
    def X(self) -> Rows:
        """Features (N, d) of every candidate, as the model in use sees them."""
        return self.features[self.name]

    def forget(self) -> None:
        """Begin anew with the next observations: the earlier ones have other values now."""
        self.model, self.fault, self.link = None, "nothing is measured yet", Link()
        self._models.clear()
        self._fitted.clear()
        self._linked = 0
        self.record = Record()

    def learn(self, cells: NDArray[np.int64], y: Rows, sigma: Rows, history: Rows | None = None) -> None:
        """Bring the model up to these valid observations: cells (n,) of the candidates, values y and sigma (n,).

        history: (n, h), what earlier measurements may have done to each.
        """
        self._history = history
        faults: dict[Name, str] = {}
        self.model, self.fault = None, ""
        for name in self.features:
            model = self._brought_up(name, cells, y, sigma)
            if not model.fault:
                self.model, self.name = model, name
                break
            faults[name] = model.fault
        if self.model is None:
            self.fault = _words(faults)
            self._tell(f"{self.fault}: candidates are taken at random")
            return
        if faults:
            self._tell(f"{_words(faults)}: {WORDS[self.name]} is used instead")
        elif self._auto:
            self._prefer_the_second(cells, y, sigma)
        if self.model.remark:
            self._tell(f"{WORDS[self.name]}: {self.model.remark}")
        self._look_for_link(cells, y, sigma)

    def _prefer_the_second(self, cells: NDArray[np.int64], y: Rows, sigma: Rows) -> None:
        """Use the second model unless the first is better by what both say of held-out observations."""
        for name in list(self.features)[1:2]:
            rival = self._brought_up(name, cells, y, sigma)
            if self.model is not None and not rival.fault and not better(self.model.held_out(), rival.held_out()):
                self.model, self.name = rival, name

    def _brought_up(self, name: Name, cells: NDArray[np.int64], y: Rows, sigma: Rows) -> Surrogate:
        """Return a model, fitted anew when it has grown by a third or by refit_every, else updated."""
        if name not in self._models:
            self._models[name] = make(
                name, self.features[name], self._seed, members=self._members, threads=self._threads
            )
        model, before = self._models[name], self._fitted.get(name, 0)
        X = self.features[name][cells]
        if not before or model.fault or len(y) - before >= max(1, min(self.refit_every, before // 3)):
            model.fit(X, y, sigma, self._history)
            self._fitted[name] = len(y)
        else:
            model.update(X, y, sigma, self._history)
        return model

    def _look_for_link(self, cells: NDArray[np.int64], y: Rows, sigma: Rows) -> None:
        if self.model is None or self.name == "xy_gp":
            return
        if len(y) < LEAST or (self._linked and len(y) - self._linked < _LINK_EVERY):
            return
        self._linked = len(y)
        judged, place = self.model, None
        if self._members == 1 and self.name != "best_feature":  # leaving out one at a time flatters a single model
            judged = self._judged(self.name, self.X, cells, y, sigma)
        if self._places is not None:
            place = self._judged("xy_gp", self._places, cells, y, sigma)
        before = self.link
        self.link = evidence(judged.held_out(), place.held_out() if place is not None else None, self.record)
        if self.link.seen != before.seen or before.observations < LEAST:
            self._say(str(self.link))

    def _judged(self, name: Name, X: Rows, cells: NDArray[np.int64], y: Rows, sigma: Rows) -> Surrogate:
        """Return an ensemble of that kind of model, fitted so that each member leaves a part out."""
        made = make(name, X, self._seed, members=self._judges, threads=self._threads)
        made.fit(X[cells], y, sigma, self._history)
        return made

    def _tell(self, words: str) -> None:
        """Say what was not said the last time."""
        if words != self._told:
            self._told = words
            self._say(words)


def _words(faults: dict[Name, str]) -> str:
    """Return the faults of models in words; what is wrong with the observations is said once."""
    if len(set(faults.values())) == 1 and len(faults) > 1:
        return next(iter(faults.values()))
    return "; ".join(f"{WORDS[name]}: {fault}" for name, fault in faults.items())
