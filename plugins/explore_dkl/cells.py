"""Candidates as cells of a map: which are free, suggested, measured, and what was measured there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from probeloop.api import DropInError, Observation, Position, Region

from .history import history

Rows = NDArray[np.float64]


class Cells:
    """A map of `shape` (ny, nx) whose pixels are the candidates (N, 2) (x, y) [m], N = ny * nx.

    places: (N, 2) (row, column) [pixels]. free: (N,) bool, neither measured nor suggested. A cell that was suggested
    is pending until it is measured, or until one that was suggested after it is: then it was vetoed, or failed.
    Raises DropInError when candidates and shape do not fit each other.
    """

    def __init__(self, candidates: NDArray[np.float64], shape: tuple[int, int]) -> None:
        candidates = np.asarray(candidates, np.float64)
        if len(candidates) != shape[0] * shape[1]:
            raise DropInError(
                f"{len(candidates)} candidates are no map of {shape[0]} x {shape[1]}", "give one candidate a pixel"
            )
        self.candidates, self.shape = candidates, shape
        rows, columns = np.divmod(np.arange(len(candidates)), max(shape[1], 1))
        self.places = np.stack([rows, columns], axis=1).astype(np.float64)
        self.free = np.ones(len(candidates), bool)
        self.cells = np.empty(0, np.int64)
        self.values, self.sigmas = np.empty(0), np.empty(0)
        self.valid = np.empty(0, bool)
        self.last: int | None = None
        self._batch = 0
        self._pending: dict[int, int] = {}
        self._reach = self._step()

    def __len__(self) -> int:
        return len(self.candidates)

    @property
    def pending(self) -> list[int]:
        """Cells that are on their way to be measured, in the order of their suggestion."""
        return list(self._pending)

    @property
    def best(self) -> float:
        """The highest valid value so far; -inf = none."""
        return float(self.values[self.valid].max(initial=-np.inf))

    def cell(self, position: Position) -> int | None:
        """Return the cell nearest to `position` [m], or None when that is more than a pixel away."""
        if not len(self.candidates):
            return None
        squared = np.sum((self.candidates - position) ** 2, axis=1)
        nearest = int(np.argmin(squared))
        return nearest if squared[nearest] <= self._reach**2 else None

    def inside(self, region: Region | None) -> NDArray[np.bool_]:
        """Return which cells (N,) lie in a region, all of them where there is none."""
        return np.ones(len(self), bool) if region is None else region.holds(self.candidates)

    def take(self, cells: Sequence[int]) -> list[Position]:
        """Suggest these cells together: they are pending and free no more. Return their positions [m]."""
        self._batch += 1
        for cell in cells:
            self.free[cell] = False
            self._pending[cell] = self._batch
            self.last = cell
        return [(float(self.candidates[cell, 0]), float(self.candidates[cell, 1])) for cell in cells]

    def tell(self, observation: Observation) -> int | None:
        """Keep an observation, an invalid one too; return its cell, None when it lies off the map."""
        cell = self.cell(observation.position)
        if cell is None:
            return None
        self.free[cell] = False
        if observation.again and len(before := np.flatnonzero(self.cells == cell)):
            self._value(int(before[-1]), observation)
            return cell
        self.last = cell
        batch = self._pending.pop(cell, None)
        if batch is not None:
            self._pending = {each: of for each, of in self._pending.items() if of >= batch}
        self.cells = np.append(self.cells, cell)
        self.values, self.sigmas = np.append(self.values, np.nan), np.append(self.sigmas, np.nan)
        self.valid = np.append(self.valid, False)
        self._value(-1, observation)
        return cell

    def _value(self, row: int, observation: Observation) -> None:
        valid = observation.valid and bool(np.isfinite(observation.value))
        self.values[row] = observation.value if valid else np.nan
        self.sigmas[row], self.valid[row] = observation.sigma, valid

    def learned(self) -> tuple[NDArray[np.int64], Rows, Rows]:
        """Return cells, values and sigmas of the valid observations, in their order."""
        return self.cells[self.valid], self.values[self.valid], self.sigmas[self.valid]

    def history(self, reach: float) -> Rows:
        """Return what was measured near each valid observation before it, see `history`; reach [pixels]."""
        return history(self.places[self.cells], reach)[self.valid]

    def off(self, spacing: float) -> NDArray[np.bool_]:
        """Return which cells (N,) are at least `spacing` [pixels] from every measured or pending one."""
        made = np.ones(len(self), bool)
        if spacing > 0:
            for cell in (*np.unique(self.cells), *self._pending):
                made &= ((self.places - self.places[cell]) ** 2).sum(axis=1) >= spacing**2
        return made

    def _step(self) -> float:
        """Return the distance of two neighbours [m]."""
        if len(self.candidates) < 2:
            return np.inf
        x, y = self.candidates[0]
        others = [i for i in (1, self.shape[1]) if i < len(self.candidates)]
        return max(float(np.hypot(*(self.candidates[i] - (x, y)))) for i in others)
