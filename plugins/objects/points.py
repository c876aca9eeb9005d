"""Places on and beside objects, where a forward experiment measures."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from .find import Grid, Objects, Wall
from .shape import tangents

Array = NDArray[np.float64]
Sample = Literal["walls", "junctions", "balanced"]
KINDS = ("junction", "wall", "domain_left", "domain_right")


class Point(NamedTuple):
    """A place to measure: (x, y) [m], a number of KINDS, the number of its wall or junction, the chance there."""

    x: float
    y: float
    kind: int
    object: int
    probability: float


def choose(
    found: Objects, grid: Grid, sample: Sample, stride: int, beside: float, shape: tuple[int, int], most: int
) -> list[Point]:
    """Return the points of a sample, junctions first.

    walls, junctions: junctions, and every `stride`-th pixel of each wall, so that none is further than half a stride
    from one (which of the two is meant is a matter of the order of the way). balanced: the same number on walls and
    to either side, and no more junctions than that, `most` in all, each kind spread over the map; domain_left and
    domain_right lie `beside` [m] a wall (left: towards smaller x, of a horizontal wall towards smaller y), further
    from every wall than half of that, and inside the map of `shape` (ny, nx).
    """
    junctions = [Point(*j.place, 0, i, j.probability) for i, j in enumerate(found.junctions)]
    walls = [point for i, wall in enumerate(found.walls) for point in _along(wall, i, stride)]
    if sample != "balanced":
        return junctions + walls
    domains = _beside(found, grid, stride, beside, shape)
    lines = [each for each in (walls, *([p for p in domains if p.kind == kind] for kind in (2, 3))) if each]
    if not lines:
        return spread(junctions, most)
    share = max(1, most // (len(lines) + bool(junctions)))
    count = min(len(each) for each in lines)
    if len(junctions) < share:  # what they leave goes to the others
        share = max(1, (most - len(junctions)) // len(lines))
    kinds = [(junctions, share), *((each, min(share, count)) for each in lines)]
    return [point for each, n in kinds for point in spread(each, n)]


def _along(wall: Wall, number: int, stride: int) -> list[Point]:
    return [
        Point(float(wall.places[i, 0]), float(wall.places[i, 1]), 1, number, float(wall.probability[i]))
        for i in _every(len(wall.places), stride)
    ]


def _every(n: int, stride: int) -> list[int]:
    """Return every stride-th of n, centred, so that neither end is further than half a stride from one."""
    first = ((n - 1) % stride) // 2
    return list(range(first, n, stride))


def _beside(found: Objects, grid: Grid, stride: int, distance: float, shape: tuple[int, int]) -> list[Point]:
    """Return the points on both sides of the walls."""
    if not found.walls:
        return []
    every = cKDTree(np.concatenate([wall.places for wall in found.walls]))
    corners = grid.places(np.array([[-0.5, -0.5], [shape[0] - 0.5, shape[1] - 0.5]]))
    low, high = corners.min(axis=0), corners.max(axis=0)
    made = []
    for number, wall in enumerate(found.walls):
        ways = tangents(wall.places, wall.branch.closed)
        for i in _every(len(wall.places), stride):
            normal = np.array([ways[i, 1], -ways[i, 0]])
            if normal[0] < -1e-9 or (abs(normal[0]) <= 1e-9 and normal[1] < 0):
                normal = -normal
            for kind, side in ((2, -1.0), (3, 1.0)):
                place = wall.places[i] + side * distance * normal
                inside = bool(((place >= low) & (place <= high)).all())
                if inside and every.query(place)[0] > distance / 2:
                    made.append(Point(float(place[0]), float(place[1]), kind, number, 0.0))
    return made


def spread(points: list[Point], count: int) -> list[Point]:
    """Return `count` of the points, each as far as possible from those before it, the first one first.

    Gonzalez, Theor. Comput. Sci. 38 (1985) 293.
    """
    if count >= len(points):
        return points
    places = np.array([(p.x, p.y) for p in points])
    chosen = [0]
    away = np.hypot(*(places - places[0]).T)
    for _ in range(count - 1):
        chosen.append(int(np.argmax(away)))
        away = np.minimum(away, np.hypot(*(places - places[chosen[-1]]).T))
    return [points[i] for i in chosen[:count]]


def apart(points: list[Point], distance: float) -> list[Point]:
    """Return the points, those before them first, without any nearer than `distance` [m] to one that is kept."""
    if distance <= 0 or not points:
        return points
    kept: list[Point] = []
    places = np.array([(p.x, p.y) for p in points])
    taken = np.empty((0, 2))
    for point, place in zip(points, places, strict=True):
        if not len(taken) or np.hypot(*(taken - place).T).min() >= distance:
            kept.append(point)
            taken = np.concatenate([taken, place[None]])
    return kept


def coverage(visited: Array, walls: Array, reach: float = 3.0) -> float:
    """Return the share of wall pixels (N, 2) within `reach` of a visited place (M, 2), all in pixels; NaN of none."""
    if not len(walls):
        return float("nan")
    if not len(visited):
        return 0.0
    away, _ = cKDTree(visited).query(walls)
    return float((away <= reach).mean())


def false_points(visited: Array, walls: Array, reach: float = 3.0) -> int:
    """Return how many visited places (M, 2) are further than `reach` from every wall pixel (N, 2), all in pixels."""
    if not len(visited):
        return 0
    if not len(walls):
        return len(visited)
    away, _ = cKDTree(walls).query(visited)
    return int((away > reach).sum())
