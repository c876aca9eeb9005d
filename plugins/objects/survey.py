"""What a plan is told of a map: how many objects, and the points on them; as numbers, since these are recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from probeloop.api import PlanError

from .find import Grid, NoLines, find
from .points import Point, Sample, apart, choose, coverage, spread

_HEAD = 6
_FIELDS = len(Point._fields)


class Surveyed(msgspec.Struct, frozen=True):
    """walls, junctions: how many. length: of all walls [m]. chosen: points before those too near or too many went.

    coverage: share of the walls' pixels within 3 pixels of a point. points: on the region's own axes, from its
    centre. variance: at each point, () = not asked for. places: of the points (x, y) [m].
    """

    walls: int
    junctions: int
    length: float
    chosen: int
    coverage: float
    points: tuple[Point, ...]
    variance: tuple[float, ...] = ()
    places: tuple[tuple[float, float], ...] = ()

    def words(self) -> str:
        """Return it in a line."""
        return (
            f"{self.walls} wall{'s' * (self.walls != 1)} of {self.length * 1e6:.3g} um in all, "
            f"{self.junctions} junction{'s' * (self.junctions != 1)}"
        )

    def summary(self) -> dict[str, Any]:
        """Return it as plain data, lengths in metres."""
        return {
            "objects": {"walls": self.walls, "junctions": self.junctions, "length": self.length},
            "points_chosen": self.chosen,
            "points_kept": len(self.points),
            "route_coverage": None if np.isnan(self.coverage) else self.coverage,
        }


class Survey(msgspec.Struct, frozen=True):
    """Finds objects and points in a map of probabilities; see Forward for the names.

    shape (ny, nx), step (x, y) [m]: of the map. beside, apart [m]: of points from their wall, from each other at
    least.
    """

    shape: tuple[int, int]
    step: tuple[float, float]
    threshold: float
    shortest: int
    sample: Sample
    stride: int
    beside: float
    most: int
    apart: float

    @property
    def grid(self) -> Grid:
        """The map's pixels on the region's own axes, from its centre."""
        (ny, nx), (dx, dy) = self.shape, self.step
        return Grid((-(nx - 1) / 2 * dx, -(ny - 1) / 2 * dy), self.step)

    def __call__(self, image: Any) -> tuple[float, ...]:
        """Return the numbers that `unpacked` reads; raises PlanError for a map of another shape, or none of lines."""
        values = np.asarray(image, np.float64)
        if values.shape != tuple(self.shape):
            raise PlanError(
                f"the map has {values.shape} pixels, the overview {tuple(self.shape)}",
                "name a topic with one number a pixel",
            )
        try:
            found = find(values, self.grid, self.threshold, self.shortest)
        except NoLines as error:
            raise PlanError(str(error)) from error
        chosen = choose(found, self.grid, self.sample, self.stride, self.beside, self.shape, self.most)
        kept = spread(apart(chosen, self.apart), self.most)
        walls = np.concatenate([np.empty((0, 2)), *(wall.places for wall in found.walls)])
        visited = np.array([(p.x, p.y) for p in kept]).reshape(-1, 2)
        covered = coverage(visited / self.step, walls / self.step)
        head = (
            len(found.walls), len(found.junctions), sum(wall.shape.length for wall in found.walls), len(chosen),
            covered, len(kept),
        )  # fmt: skip
        return tuple(float(v) for v in (*head, *(v for point in kept for v in point)))

    def at(self, points: Sequence[Point]) -> Values:
        """Return what looks up another map at points."""
        grid = self.grid
        pixels = np.rint((np.array([(p.x, p.y) for p in points]) - grid.origin) / grid.step).astype(int)
        ny, nx = self.shape
        inside = np.clip(pixels[:, ::-1], 0, [ny - 1, nx - 1])
        return Values(tuple((inside[:, 0] * nx + inside[:, 1]).tolist()))


class Values(msgspec.Struct, frozen=True):
    """Looks up pixels of a map by their flat numbers."""

    pixels: tuple[int, ...]

    def __call__(self, image: Any) -> tuple[float, ...]:
        """Return the value at each pixel."""
        flat: NDArray[np.float64] = np.asarray(image, np.float64).ravel()
        return tuple(flat[list(self.pixels)].tolist())


def unpacked(values: Sequence[float]) -> Surveyed:
    """Read what `Survey` returned."""
    walls, junctions, length, chosen, covered, n = values[:_HEAD]
    rows = np.asarray(values[_HEAD:], np.float64).reshape(int(n), _FIELDS).tolist()
    points = tuple(Point(x, y, int(kind), int(number), chance) for x, y, kind, number, chance in rows)
    return Surveyed(int(walls), int(junctions), length, int(chosen), covered, points)
