"""Where to measure next on a map of candidates: in order, at random, or uphill."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from probeloop.api import Context, Observation, Outputs, Policy, Position, Settings


class _Cells(Policy):
    """Candidates as cells of a map; each is suggested once."""

    def __init__(self, parameters: Settings | None = None, context: Context | None = None) -> None:
        super().__init__(parameters, context)
        self._candidates = np.empty((0, 2))
        self._shape = (0, 0)
        self._free = np.empty(0, bool)

    def context_images(self, candidates: NDArray[np.float64], shape: tuple[int, int], images: Outputs) -> None:
        """Begin anew on these candidates (N, 2) (x, y) [m]."""
        self._candidates, self._shape = np.asarray(candidates, np.float64), shape
        self._free = np.ones(len(self._candidates), bool)

    def cell(self, position: Position) -> int:
        """Return the index of the candidate nearest to `position` [m]."""
        return int(np.argmin(np.sum((self._candidates - position) ** 2, axis=1)))

    def inside(self) -> NDArray[np.bool_]:
        """Return which candidates are in the pinned region, (N,); all of them where none is."""
        everywhere = np.ones(len(self._candidates), bool)
        return everywhere if self.pinned is None else self.pinned.holds(self._candidates)

    def tell(self, observations: Sequence[Observation]) -> None:
        """Take measured cells off the list, those that the operator chose too."""
        for each in observations:
            if len(self._candidates):
                self._free[self.cell(each.position)] = False

    def _take(self, cells: Sequence[Any] | NDArray[Any]) -> list[Position]:
        for cell in cells:
            self._free[cell] = False
        return [(float(self._candidates[cell, 0]), float(self._candidates[cell, 1])) for cell in cells]


class Raster(_Cells):
    """Every cell, line by line."""

    def suggest(self, n: int) -> Sequence[Position]:
        """Return the next n cells in the order of the map."""
        return self._take(np.flatnonzero(self._free & self.inside())[:n])


class Random(_Cells):
    """Every cell once, in random order."""

    def context_images(self, candidates: NDArray[np.float64], shape: tuple[int, int], images: Outputs) -> None:
        """Begin anew, with a new order."""
        super().context_images(candidates, shape, images)
        self._order = self.rng.permutation(len(self._candidates))

    def suggest(self, n: int) -> Sequence[Position]:
        """Return the next n cells of the random order."""
        return self._take(self._order[(self._free & self.inside())[self._order]][:n])


class HillClimb(_Cells):
    """Uphill from a random cell with a stride that is halved where no neighbour is higher.

    Pattern search after Hooke and Jeeves, J. ACM 8, 212 (1961), with the eight neighbours of a cell and the first
    improvement; the direction that led up is tried first. At a maximum it starts again elsewhere.
    """

    class Parameters(Settings):
        """stride: first step [cells], 0 = an eighth of the map's shorter side. restarts: after a maximum."""

        stride: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 0
        restarts: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 1_000_000

    _here: int
    _stride: int

    def context_images(self, candidates: NDArray[np.float64], shape: tuple[int, int], images: Outputs) -> None:
        """Begin anew at a random cell."""
        super().context_images(candidates, shape, images)
        self._values = np.full(len(self._candidates), -np.inf)
        self._restarts = self.parameters.restarts
        self._directions = [(0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)]
        self._restart()

    def suggest(self, n: int) -> Sequence[Position]:
        """Return up to n neighbours of the highest cell of this climb; none = at a maximum, no restart left."""
        inside = self.inside()
        while len(self._candidates) and (self._free & inside).any():
            if not inside[self._here]:
                self._restart()
            if self._free[self._here]:
                return self._take([self._here])
            around = [cell for cell in self._neighbours() if inside[cell]]
            todo = [cell for cell in around if self._free[cell]]
            if todo:
                return self._take(todo[:n])
            best = max(around, key=lambda cell: self._values[cell], default=self._here)
            if self._values[best] > self._values[self._here]:
                self._here = best
            elif self._stride > 1:
                self._stride //= 2
            elif self._restarts:
                self._restarts -= 1
                self._restart()
            else:
                break
        return ()

    def tell(self, observations: Sequence[Observation]) -> None:
        """Go where it is higher; an invalid value is nowhere high."""
        super().tell(observations)
        for each in observations:
            if not len(self._candidates):
                return
            cell = self.cell(each.position)
            self._values[cell] = each.value if each.valid else -np.inf
            if self._values[cell] > self._values[self._here] and cell in self._neighbours():
                y, x = divmod(cell, self._shape[1])
                y0, x0 = divmod(self._here, self._shape[1])
                way = (int(np.sign(y - y0)), int(np.sign(x - x0)))
                self._directions.sort(key=lambda direction: direction != way)
                self._here = cell

    def _restart(self) -> None:
        free = np.flatnonzero(self._free & self.inside())
        self._here = int(self.rng.choice(free)) if len(free) else 0
        self._stride = self.parameters.stride or max(1, min(self._shape) // 8)

    def _neighbours(self) -> list[int]:
        ny, nx = self._shape
        y, x = divmod(self._here, nx)
        around = [(y + dy * self._stride, x + dx * self._stride) for dy, dx in self._directions]
        return [cy * nx + cx for cy, cx in around if 0 <= cy < ny and 0 <= cx < nx]
