"""Objects of a map as it grows: a table of walls and junctions, and a map of their numbers."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from probeloop.api import Axis, DropInError, Outputs, ScanTransform, Settings, StreamSpec, map_input, quantity

from .find import Grid, Junction, NoLines, Objects, Wall, find
from .identity import Identities

FIELDS = (
    ("position", "(2,)<f8"), ("kind", "S12"), ("label", "S16"), ("id", "<i4"), ("length", "<f8"),
    ("orientation", "<f8"), ("curvature", "<f8"), ("mean", "<f4"), ("variance", "<f4"), ("pixels", "<i4"),
    ("degree", "<i4"),
)  # fmt: skip
MOST = 4096  # objects of a picture


class WallObjects(ScanTransform):
    """Walls and junctions in a map of probabilities, each with the same number from picture to picture.

    The table has one row an object. position: of its middle, on it, (x, y) [m] in the SCAN frame. kind: wall, loop (a
    wall without ends) or junction. label: kind and number. id: number. length [m]. orientation: of its main axis,
    from x towards y, 0 to pi [rad]. curvature: mean magnitude along it [1/m]. mean, variance: of the probabilities
    along it (how even the wall is; not the uncertainty of who made the map). pixels: of its middle line. degree: ends
    of walls that meet in a junction, and 0, 1 or 2 junctions at the ends of a wall. What an object has not is NaN.
    """

    every = "seconds"
    interval = 0.5
    takes = "map"
    may_be_nan = True  # the map, where nothing is measured yet

    class Parameters(Settings):
        """What counts as a wall, and as the same one.

        threshold: its probability. shortest: its length [px]. tolerance: how far it may move between two pictures.
        memory: scans of its place in which it may be missing.
        """

        threshold: Annotated[float, quantity("", ge=0.0, le=1.0)] = 0.5
        shortest: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 6
        tolerance: Annotated[float, quantity("px", ge=0.5, le=100)] = 3.0
        memory: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 2

    def __init__(self, parameters: Any = None, context: Any = None) -> None:
        super().__init__(parameters, context)
        self._walls = Identities(self.parameters.memory)
        self._junctions = Identities(self.parameters.memory)

    def outputs(self, spec: StreamSpec) -> dict[str, StreamSpec]:
        """Return `table`, and `map`, (1, ny, nx) float32: the number of the wall at its pixels.

        In the map 0 = no wall, NaN = not measured.

        Raises SettingsError when the input is no map of real numbers on axes in metres, and DropInError without
        scikit-image.
        """
        try:
            import skimage.morphology  # noqa: F401 - a second or two, which a map that comes would be told to hang for
        except ImportError as error:
            raise DropInError("objects needs scikit-image", 'pip install "probeloop[objects]"') from error
        wanted = "a 2D map of probabilities, such as segment.mean"
        found = map_input(spec, wanted=wanted, several=False, real=True, metres=True)
        axes: tuple[Axis, ...] = found.axes
        y, x = found.axes
        self._size = found.shape
        self._grid = Grid((x.offset, y.offset), (float(x.scale or 1), float(y.scale or 1)))
        axes = tuple(map(msgspec.structs.replace, axes))
        return {
            "table": StreamSpec("table", "table", fields=FIELDS),
            "map": StreamSpec("map", "image", "<f4", sig=axes, units="id"),
        }

    def begin(self, spec: StreamSpec) -> None:
        """Another scan; the objects of the last ones are remembered."""
        corners = self._grid.places(np.array([[-0.5, -0.5], [self._size[0] - 0.5, self._size[1] - 0.5]]))
        for each in (self._walls, self._junctions):
            each.memory = self.parameters.memory
            each.begin(corners.min(axis=0), corners.max(axis=0))

    def update(self, data: Any, mask: NDArray[np.bool_] | None = None) -> Outputs | None:
        """Return the objects of probabilities (ny, nx), NaN = not measured; None for what is no map of lines."""
        p = self.parameters
        try:
            found = find(np.asarray(data, np.float64), self._grid, p.threshold, p.shortest)
        except NoLines as error:
            self.notice = str(error)
            return None
        count = len(found.walls) + len(found.junctions)
        if count > MOST:
            self.notice = f"{count} objects, more than {MOST}: raise threshold or shortest"
            return None
        self.notice = ""
        reach = p.tolerance * self._grid.pixel
        walls = self._walls.number([each.places for each in found.walls], reach)
        junctions = self._junctions.number([np.array([each.place]) for each in found.junctions], reach)
        drawn = np.where(np.isfinite(data), np.float32(0.0), np.float32(np.nan))
        for number, wall in zip(walls, found.walls, strict=True):
            drawn[tuple(wall.drawn.T)] = number
        return {"table": table(found, walls, junctions), "map": drawn[None]}


def table(found: Objects, walls: list[int], junctions: list[int]) -> NDArray[Any]:
    """Return the rows of walls and junctions with their numbers; see WallObjects."""
    rows = [_wall(each, number) for each, number in zip(found.walls, walls, strict=True)]
    rows += [_junction(each, number) for each, number in zip(found.junctions, junctions, strict=True)]
    return np.array(rows, np.dtype(list(FIELDS)))


def _wall(wall: Wall, number: int) -> tuple[Any, ...]:
    kind, s = "loop" if wall.branch.closed else "wall", wall.shape
    return (
        s.middle, kind, f"{kind} {number}", number, s.length, s.orientation, s.curvature,
        wall.probability.mean(), wall.probability.var(), len(wall.places), len(wall.branch.joins),
    )  # fmt: skip


def _junction(junction: Junction, number: int) -> tuple[Any, ...]:
    none = float("nan")
    return (
        junction.place, "junction", f"junction {number}", number, 0.0, none, none, junction.probability, 0.0, 1,
        junction.degree,
    )  # fmt: skip
