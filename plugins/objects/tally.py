"""Spectra by kind of place: what was measured, refused, failed, and what the scalarizer made of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from probeloop.api import Observation, Result

from .points import KINDS, Point
from .reference import Look


class Tally:
    """Counts as a plan goes on. done: spectra that were taken."""

    def __init__(self) -> None:
        self.done = 0
        self._rows: list[dict[str, Any]] = []
        self._refusals: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._looks: list[dict[str, Any]] = []

    def add(
        self, point: Point, position: tuple[float, float], variance: float | None, result: Result,
        observed: Sequence[Observation],
    ) -> None:  # fmt: skip
        """Count a spectrum at a position (x, y) of the specimen [m]; observed: none where nothing judges it.

        Those behind the first are of earlier spectra, with new values.
        """
        self.done += 1
        for each in observed[1:]:
            for row in self._rows:
                if (row["generation"], row["index"]) == (each.generation, each.index):
                    row |= {"value": each.value if each.valid else None, "valid": each.valid}
                    row |= {"sigma": each.sigma if math.isfinite(each.sigma) else None}
        one = observed[0] if observed else None
        self._rows.append({
            "position": list(position),
            "kind": KINDS[point.kind],
            "object": point.object,
            "probability": point.probability if point.kind < 2 else None,
            "variance": variance,
            "value": one.value if one is not None and one.valid else None,
            "sigma": one.sigma if one is not None and math.isfinite(one.sigma) else None,
            "valid": one.valid if one is not None else None,
            "topic": result.topic,
            "generation": result.generation,
            "index": result.first_index,
        })  # fmt: skip

    def refused(self, reason: str) -> None:
        """Count a point where the gate took no spectrum."""
        self._refusals[reason] += 1

    def failed(self, reason: str) -> None:
        """Count a point where the instrument gave none."""
        self._failures[reason] += 1

    def registered(self, after: int, look: Look) -> None:
        """Keep what a look at the reference told, after so many points."""
        self._looks.append(
            {"after": after, "shift": list(look.shift), "sigma": look.sigma, "peak_ratio": look.peak_ratio}
        )

    def words(self) -> str:
        """Return how far it is, for the operator."""
        kinds = Counter(row["kind"] for row in self._rows)
        told = ", ".join(f"{kinds[kind]} {kind.replace('_', ' ')}" for kind in KINDS if kinds[kind])
        made = f"{self.done} spectr{'um' if self.done == 1 else 'a'}" + (f": {told}" if told else "")
        lost = [f"{sum(each.values())} {word}" for each, word in
                ((self._refusals, "refused"), (self._failures, "failed")) if each]  # fmt: skip
        return ", ".join([made, *lost])

    def summary(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "spectra_measured": self.done,
            "refused": dict(self._refusals),
            "failed": dict(self._failures),
            "registrations": self._looks,
            "by_kind": {kind: made for kind in KINDS if (made := self._of_kind(kind))},
            "spectra": self._rows,
        }

    def _of_kind(self, kind: str) -> dict[str, Any]:
        """Return count, valid ones, mean, standard deviation and error of the mean of the values of one kind."""
        rows = [row for row in self._rows if row["kind"] == kind]
        if not rows:
            return {}
        values = np.array([row["value"] for row in rows if row["value"] is not None], np.float64)
        spread = float(values.std(ddof=1)) if len(values) > 1 else None
        return {
            "n": len(rows),
            "valid": len(values),
            "mean": float(values.mean()) if len(values) else None,
            "deviation": spread,
            "error": spread / math.sqrt(len(values)) if spread is not None else None,
            "probability": _mean([row["probability"] for row in rows]),
            "variance": _mean([row["variance"] for row in rows]),
        }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return float(np.mean(known)) if known else None
