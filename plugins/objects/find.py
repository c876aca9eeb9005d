"""Objects of a map of probabilities: walls and the junctions where they meet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .shape import Shape, shape_of
from .skeleton import Branch, middle_lines, network

Array = NDArray[np.float64]

MOST_COVERED = 0.6  # of the measured field above the threshold: then it is no map of lines


class NoLines(ValueError):
    """The map is none of lines; the message says why and what to do."""


@dataclass(frozen=True)
class Grid:
    """Where pixels are: `origin` (x, y) of pixel [0, 0] and `step` (x, y) [m]."""

    origin: tuple[float, float]
    step: tuple[float, float]

    def places(self, pixels: NDArray[np.int64] | Array) -> Array:
        """Return (x, y) [m] of pixels (N, 2) (row, column)."""
        made: Array = np.asarray(pixels, np.float64)[:, ::-1] * self.step + self.origin
        return made

    @property
    def pixel(self) -> float:
        """The longer side of a pixel [m]."""
        return max(abs(self.step[0]), abs(self.step[1]))


@dataclass(frozen=True)
class Wall:
    """A branch with its shape; places: of its pixels (N, 2) (x, y) [m]; probability: of each, (N,).

    drawn: its pixels (M, 2) (row, column) and those between its ends and the junctions that it meets.
    """

    branch: Branch
    shape: Shape
    places: Array
    probability: Array
    drawn: NDArray[np.int64]


@dataclass(frozen=True)
class Junction:
    """A place (row, column), (x, y) [m], where `degree` ends of walls meet; probability: of its nearest pixel."""

    pixel: tuple[float, float]
    place: tuple[float, float]
    degree: int
    probability: float


@dataclass(frozen=True)
class Objects:
    """What is in a map."""

    walls: tuple[Wall, ...]
    junctions: tuple[Junction, ...]


def find(probability: Array, grid: Grid, threshold: float, shortest: int) -> Objects:
    """Return the objects of a map (ny, nx) of probabilities, NaN = not measured, which is no wall.

    shortest: walls of fewer pixels are left out, and side branches of fewer are pruned first. Raises NoLines when
    more than 60 % of what is measured lies above the threshold.
    """
    known = np.isfinite(probability)
    values = np.where(known, probability, 0.0)
    above = known & (values > threshold)
    covered = above.sum() / max(1, int(known.sum()))
    if known.sum() > 9 and covered > MOST_COVERED:
        raise NoLines(
            f"{covered:.0%} of the map lies above the threshold {threshold:g}: these are no lines; "
            "raise threshold, or look at the map that it is given"
        )
    found = network(middle_lines(above, shortest - 1))
    walls: list[Wall] = []
    degrees = np.zeros(len(found.junctions), int)
    for branch in found.branches:
        whole = [found.junctions[j] for j in branch.joins]
        if len(branch.pixels) < shortest and len(branch.joins) < 2:
            continue
        places = grid.places(branch.pixels)
        path = _joined(branch, grid, whole)
        degrees[list(branch.joins)] += 1
        rows, columns = branch.pixels.T
        drawn = np.concatenate([branch.pixels, *(_between(branch, each) for each in whole)])
        walls.append(Wall(branch, shape_of(path, branch.closed), places, values[rows, columns], drawn))
    junctions = [
        Junction(
            (float(pixel[0]), float(pixel[1])),
            (float(place[0]), float(place[1])),
            int(degree),
            float(values[round(float(pixel[0])), round(float(pixel[1]))]),
        )
        for pixel, place, degree in zip(found.junctions, grid.places(found.junctions), degrees, strict=True)
        if degree > 2
    ]
    return Objects(tuple(walls), tuple(junctions))


def _between(branch: Branch, junction: Array) -> NDArray[np.int64]:
    """Return the pixels (K, 2) on the straight way from the nearer end of a branch to a junction."""
    ends = np.asarray(branch.pixels[[0, -1]], np.float64)
    end = ends[np.argmin(np.abs(ends - junction).max(axis=1))]
    steps = int(np.ceil(np.abs(junction - end).max()))
    way = end + (junction - end) * np.linspace(0, 1, steps + 1)[1:, None]
    made: NDArray[np.int64] = np.rint(way).astype(np.int64)
    return made


def _joined(branch: Branch, grid: Grid, junctions: list[Array]) -> Array:
    """Return the places of a branch with those of the junctions it meets at its ends."""
    pixels = np.asarray(branch.pixels, np.float64)
    for junction in junctions:
        to_first, to_last = (float(np.abs(pixels[i] - junction).max()) for i in (0, -1))
        pixels = np.concatenate([junction[None], pixels] if to_first < to_last else [pixels, junction[None]])
    return grid.places(pixels)
