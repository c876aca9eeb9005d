"""The same number for the same object, from picture to picture.

An object takes the number of the earlier one whose places it shares most, where that is enough of the shorter of
both; each number is given once. So of a wall that splits the larger part keeps the number, of two that merge the
larger one's stays. A number is never used again for another object; it is remembered for some scans of its place, so
that a wall which is not seen once, or not yet, or lies outside a closer look, gets it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Array = NDArray[np.float64]

SHARE = 0.3  # of the places of the shorter of two objects that must be shared


@dataclass
class _Known:
    places: Array
    seen: bool = True
    missed: int = 0  # scans of its place without it


class Identities:
    """Numbers of the objects of one kind. memory: scans of its place in which an object may be missing."""

    def __init__(self, memory: int = 2) -> None:
        self.memory = memory
        self._known: dict[int, _Known] = {}
        self._field: tuple[Array, Array] | None = None
        self.given = 0

    def begin(self, low: Sequence[float], high: Sequence[float]) -> None:
        """Another scan begins, from `low` to `high` (x, y) [m]; forget what the last ones did not show."""
        for each in self._known.values():
            if each.seen:
                each.missed = 0
            elif self._field is not None:
                middle = np.median(each.places, axis=0)
                each.missed += bool((middle >= self._field[0]).all() and (middle <= self._field[1]).all())
            each.seen = False
        self._known = {n: each for n, each in self._known.items() if each.missed <= self.memory}
        self._field = np.asarray(low, np.float64), np.asarray(high, np.float64)

    def number(self, objects: Sequence[Array], tolerance: float) -> list[int]:
        """Return a number for each object, given by its places (N, 2) (x, y) [m]; places match within `tolerance`."""
        made = self._matched(objects, tolerance)
        for i, places in enumerate(objects):
            if i not in made:
                self.given += 1
                made[i] = self.given
            self._known[made[i]] = _Known(places)
        return [made[i] for i in range(len(objects))]

    def _matched(self, objects: Sequence[Array], tolerance: float) -> dict[int, int]:
        """Return, for the objects that were known before, their numbers."""
        if not objects or not self._known:
            return {}
        numbers = np.concatenate([np.full(len(each.places), n) for n, each in self._known.items()])
        tree = cKDTree(np.concatenate([each.places for each in self._known.values()]))
        pairs: list[tuple[int, float, int, int]] = []
        for i, places in enumerate(objects):
            away, nearest = tree.query(places, distance_upper_bound=tolerance)
            old, shared = np.unique(numbers[nearest[np.isfinite(away)]], return_counts=True)
            for number, count in zip(old.tolist(), shared.tolist(), strict=True):
                shorter = min(len(places), len(self._known[number].places))
                if count >= SHARE * shorter:
                    pairs.append((-count, float(away[np.isfinite(away)].mean()), number, i))
        made: dict[int, int] = {}
        taken: set[int] = set()
        for _, _, number, i in sorted(pairs):
            if i not in made and number not in taken:
                made[i] = number
                taken.add(number)
        return made
