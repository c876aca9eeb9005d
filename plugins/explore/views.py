"""One scan of everything, and a closer look at where most is to be seen."""

from __future__ import annotations

import math
from typing import Annotated, Any

import msgspec

from probeloop.api import (
    Checkpoint,
    Plan,
    PlanContext,
    PlanError,
    PlanSteps,
    Reduce,
    Region,
    Result,
    Scan,
    Settings,
    quantity,
)

from .area import busiest, dwell, grid_area, ready, scan_area

Side = Annotated[int, msgspec.Meta(ge=1, le=4096)]


class Overview(Plan):
    """One scan."""

    class Parameters(Settings):
        """region, shape (ny, nx), dwell_time: None = the instrument's. frames: scans over each other.

        channels: annular detectors to scan with, none = the camera.
        """

        region: Region | None = None
        shape: tuple[Side, Side] | None = None
        dwell_time: Annotated[float, quantity("s", gt=0, le=3600)] | None = None
        frames: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1
        channels: tuple[str, ...] = ()

    def run(self, ctx: PlanContext) -> PlanSteps:
        """Scan once."""
        wanted = self.parameters
        region, shape = scan_area(ctx.info, wanted.region, wanted.shape)
        yield from ready(ctx.info)
        period = dwell(ctx.info, wanted.dwell_time)
        scan = Scan(region, shape, period, frames=wanted.frames, channels=wanted.channels)
        result: Result = yield scan
        yield Checkpoint(1.0, "scanned")
        message = f"scanned {shape[0]} x {shape[1]} pixels"
        if result.aborted:
            return {"succeeded": False, "message": "the scan was ended early", "generation": result.generation}
        return {"succeeded": True, "message": message, "generation": result.generation, "shape": shape}


class Zoom(Plan):
    """Overview, a scan of the part with the highest contrast, and out again."""

    class Parameters(Settings):
        """What to look at.

        topic: whose map says where, "" = the one the scan goes to. factor: overview to detail, in length. zoom_shape:
        of the detail, None = the pixels that the scanner has there. region, shape, dwell_time: of the overview, None
        = the instrument's. out: scan the whole again.
        """

        topic: str = ""
        factor: Annotated[float, quantity("", gt=1, le=1000)] = 4.0
        region: Region | None = None
        shape: tuple[Side, Side] | None = None
        zoom_shape: tuple[Side, Side] | None = None
        dwell_time: Annotated[float, quantity("s", gt=0, le=3600)] | None = None
        out: bool = True

    def inputs(self) -> tuple[str, ...]:
        """Return the topic whose map says where."""
        return (self.parameters.topic,) if self.parameters.topic else ()

    def run(self, ctx: PlanContext) -> PlanSteps:
        """Scan, choose, scan, and scan again."""
        wanted = self.parameters
        region, shape = scan_area(ctx.info, wanted.region, wanted.shape)
        time = dwell(ctx.info, wanted.dwell_time)
        yield from ready(ctx.info)
        overview: Result = yield Scan(region, shape, time)
        topic = wanted.topic or overview.topic
        if topic not in ctx.inputs:
            known = ", ".join(ctx.inputs) or "none"
            raise PlanError(f"zoom can't look at {topic!r}", f"name one of its inputs as topic: {known}")
        yield Checkpoint(0.4, "overview")
        window = (max(1, round(shape[0] / wanted.factor)), max(1, round(shape[1] / wanted.factor)))
        found: tuple[float, ...] = yield Reduce(overview, topic, Contrast(window))
        if found[2] <= 0:
            return {"succeeded": False, "message": f"{topic} shows no contrast", "generation": overview.generation}
        inside, pixels = self._detail(ctx, region, shape, found, window)
        detail: Result = yield Scan(inside, wanted.zoom_shape or pixels, time)
        yield Checkpoint(0.8, "detail")
        summary: dict[str, Any] = {
            "succeeded": not detail.aborted,
            "message": f"zoomed by {wanted.factor:g} on {topic}",
            "region": inside,
            "contrast": found[2],
            "generations": [overview.generation, detail.generation],
        }
        if wanted.out:
            again: Result = yield Scan(region, shape, time)
            summary["generations"] = [*summary["generations"], again.generation]
        yield Checkpoint(1.0, "out")
        return summary

    def _detail(
        self,
        ctx: PlanContext,
        region: Region,
        shape: tuple[int, int],
        found: tuple[float, ...],
        window: tuple[int, int],
    ) -> tuple[Region, tuple[int, int]]:
        """Return the region around the place found, moved inside the overview, and its pixels."""
        row, column = found[0], found[1]
        height, width = region.height / shape[0], region.width / shape[1]
        dy, dx = (row - (shape[0] - 1) / 2) * height, (column - (shape[1] - 1) / 2) * width
        centre = _turned(region, dx, dy)
        inside = Region(*centre, window[1] * width, window[0] * height, region.rotation)
        if region.rotation or not all(ctx.info.grid.step):
            return inside, shape
        x, y, w, h = inside.centre_x, inside.centre_y, inside.width / 2, inside.height / 2
        return grid_area(ctx.info, (x - w, y - h), (x + w, y + h))


class Contrast(msgspec.Struct, frozen=True):
    """Finds the window (rows, columns) of the highest contrast in a map."""

    window: tuple[int, int]

    def __call__(self, image: Any) -> tuple[float, ...]:
        """Return its centre (row, column) [pixels], and its contrast."""
        return busiest(image, self.window)


def _turned(region: Region, dx: float, dy: float) -> tuple[float, float]:
    """Return the place (dx, dy) [m] from the region's centre along its own axes."""
    c, s = math.cos(region.rotation), math.sin(region.rotation)
    return region.centre_x + c * dx - s * dy, region.centre_y + s * dx + c * dy
