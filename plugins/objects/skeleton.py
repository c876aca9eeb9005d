"""The middle line of what lies above a threshold, taken apart at its junctions into branches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Pixels = NDArray[np.int64]

_AROUND = np.ones((3, 3), int)
_BROAD = 4  # half the width of a band [px] from which on its end is too far from the edge
_RING = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))  # once round a pixel


@dataclass(frozen=True)
class Branch:
    """A line without junctions. pixels: (N, 2) (row, column) in order; closed: its end meets its beginning.

    joins: numbers of the junctions at its ends, of which it has 0 to 2.
    """

    pixels: Pixels
    closed: bool
    joins: tuple[int, ...] = ()


@dataclass(frozen=True)
class Network:
    """The branches, and the junctions (row, column) between them, (K, 2) float."""

    branches: tuple[Branch, ...]
    junctions: Array


def middle_lines(mask: Mask, spur: int) -> Mask:
    """Return the skeleton of a mask (ny, nx), one pixel wide, without side branches of up to `spur` pixels.

    Zhang and Suen, Commun. ACM 27 (1984) 236, as scikit-image has it. A broad band that the edge of the map cuts goes
    on to the edge: it is thinned with what a mirror there would show.
    """
    from skimage.morphology import skeletonize

    lines: Mask = skeletonize(mask)
    deep = ndi.distance_transform_edt(mask) if mask.any() else np.zeros(mask.shape)
    reach = min(int(np.ceil(deep.max())) + 1, *mask.shape)
    if reach > _BROAD:
        wide: Mask = skeletonize(np.pad(mask, reach, mode="symmetric"))
        mirrored = wide[reach : reach + mask.shape[0], reach : reach + mask.shape[1]]
        lost = lines & (ndi.distance_transform_edt(~mirrored) > reach)  # what lies along the edge
        lines = skeletonize(mirrored | lost)
    if spur < 1 or not lines.any():
        return lines
    short = np.zeros(lines.shape, bool)
    for branch in network(lines).branches:
        if len(branch.joins) == 1 and not branch.closed and len(branch.pixels) <= spur:
            short[tuple(branch.pixels.T)] = True
    made: Mask = skeletonize(lines & ~short)
    return made


def network(lines: Mask) -> Network:
    """Return the branches and junctions of lines (ny, nx) one pixel wide.

    A junction is a pixel that three lines or more leave, with the pixels of the lines around it; such that touch are
    one.
    """
    forks = lines & (_crossings(lines) >= 3)
    groups, count = ndi.label(ndi.binary_dilation(forks, _AROUND) & lines, _AROUND)
    centres = np.array(ndi.center_of_mass(forks, groups, range(1, count + 1)), np.float64).reshape(-1, 2)
    parts, n = ndi.label(lines & (groups == 0), _AROUND)
    near = np.zeros((lines.shape[0] + 2, lines.shape[1] + 2), int)
    near[1:-1, 1:-1] = groups
    made = []
    for number, box in enumerate(ndi.find_objects(parts), 1):
        if box is None:
            continue
        rows, columns = np.nonzero(parts[box] == number)
        pixels = np.stack([rows + box[0].start, columns + box[1].start], axis=1)
        made.append(_branch(_in_order(pixels), near))
    assert len(made) == n
    return Network(tuple(made), centres)


def _branch(pixels: Pixels, near: NDArray[np.int64]) -> Branch:
    """Say which junctions an ordered line meets. near: number of the junction at a pixel, with a margin of 1."""

    def met(end: Pixels) -> set[int]:
        y, x = end
        around = near[y : y + 3, x : x + 3]
        return {int(each) - 1 for each in around[around > 0]}

    first, last = met(pixels[0]), met(pixels[-1])
    closed = len(pixels) > 3 and not first and not last and bool(np.abs(pixels[0] - pixels[-1]).max() <= 1)
    joins = [min(first)] if first else []
    others = last - first if len(pixels) == 1 else last
    joins += [min(others)] if others else []
    return Branch(pixels, closed, tuple(joins))


def _crossings(lines: Mask) -> NDArray[np.int64]:
    """Return how many lines leave each pixel: from no line to line, once round it."""
    ny, nx = lines.shape
    wide = np.zeros((ny + 2, nx + 2), bool)
    wide[1:-1, 1:-1] = lines
    ring = [wide[1 + dy : 1 + dy + ny, 1 + dx : 1 + dx + nx] for dy, dx in _RING]
    changes = [~ring[i] & ring[(i + 1) % 8] for i in range(8)]
    made: NDArray[np.int64] = np.sum(changes, axis=0)
    return made


def _in_order(pixels: Pixels) -> Pixels:
    """Return the pixels of one line (N, 2) from one end to the other; from anywhere when it has no end.

    A neighbour across an edge comes before one across a corner.
    """
    left = {(int(y), int(x)) for y, x in pixels}
    start = next((each for each in sorted(left) if len(_neighbours(each, left)) <= 1), min(left))
    order = [start]
    left.remove(start)
    while left:
        around = _neighbours(order[-1], left)
        if not around:  # the other way from the first pixel, where the line began in its middle
            order.reverse()
            around = _neighbours(order[-1], left)
            if not around:
                break
        order.append(around[0])
        left.remove(around[0])
    return np.array(order, np.int64)


def _neighbours(pixel: tuple[int, int], among: set[tuple[int, int]]) -> list[tuple[int, int]]:
    y, x = pixel
    edges_first = sorted(_RING, key=lambda way: abs(way[0]) + abs(way[1]))
    return [(y + dy, x + dx) for dy, dx in edges_first if (y + dy, x + dx) in among]
