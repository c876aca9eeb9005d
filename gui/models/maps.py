"""Maps of the sample, put together from blocks as they come: every value at its `scan_index`, the rest NaN."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probeloop.api import FrameBlock, StreamSpec, WireError, assemble, empty_map

PARTS = ("amplitude", "phase", "real", "imaginary")


@dataclass(frozen=True)
class Extent:
    """Where a picture lies: left and top edge, width and height, in `units` ("px" where uncalibrated)."""

    x: float
    y: float
    width: float
    height: float
    units: str


def extent_of(axes: tuple[Any, ...]) -> Extent:
    """Return the extent of a picture over two axes (y, x); pixel centres are positions."""
    y, x = axes[-2], axes[-1]
    if x.scale is None or y.scale is None or not x.scale or not y.scale:
        return Extent(-0.5, -0.5, float(x.size), float(y.size), "px")
    return Extent(x.offset - x.scale / 2, y.offset - y.scale / 2, x.size * x.scale, y.size * y.scale, x.units or "px")


class LiveMap:
    """The newest map of one topic. Written by the feed's thread, looked at by any other.

    data: (*nav, *frame) as `assemble` fills it, or None. version: rises with every change. generation: of the scan.
    """

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.spec: StreamSpec | None = None
        self.data: NDArray[Any] | None = None
        self.generation = -1
        self.revision = 0
        self.version = 0
        self.measured = 0
        self.newest_index = -1
        self.complete = False
        self._seen: NDArray[np.bool_] | None = None
        self._changed: tuple[int, int] | None = None
        self._lock = threading.Lock()

    def take_changed_rows(self) -> tuple[int, int] | None:
        """Return the rows [first, last) written since the last call, None where that is not known."""
        with self._lock:
            changed, self._changed = self._changed, (0, 0)
        return changed

    def _mark(self, pixels: NDArray[np.int64]) -> None:
        """Note the rows of these pixels as written."""
        if self.spec is None or self._changed is None or len(self.spec.nav) != 2:
            return
        width = self.spec.nav[1].size
        first, last = int(pixels.min()) // width, int(pixels.max()) // width + 1
        before = self._changed
        self._changed = (first, last) if before == (0, 0) else (min(before[0], first), max(before[1], last))

    def take(self, block: FrameBlock) -> None:
        """Write a block. A newer generation begins a new map; blocks of an older one are left out."""
        if block.generation < self.generation:
            return
        if block.spec.kind == "image":
            self._replace(block)
            return
        if block.generation > self.generation or self.spec is None or block.spec.nav != self.spec.nav:
            self._begin(block.spec, block.generation)
        if self.data is None or self._seen is None or not block.count:
            self.complete = self.complete or bool(int(block.flags) & 2)
            return
        with self._lock:
            pixels = assemble(block.spec, block, self.data)
            if pixels.size:
                self._mark(pixels)
        if pixels.size:
            seen = self._seen
            self.measured += int(np.count_nonzero(~seen[np.unique(pixels)]))
            seen[pixels] = True
            self.newest_index = int(pixels[-1])
        self.revision = block.revision
        self.complete = self.complete or bool(int(block.flags) & 2)
        self.version += 1

    def _begin(self, spec: StreamSpec, generation: int) -> None:
        self.spec, self.generation = spec, generation
        self.measured, self.newest_index, self.complete = 0, -1, False
        self._changed = None
        try:
            self.data = empty_map(spec)
            self._seen = np.zeros(int(np.prod(spec.nav_shape)), np.bool_)
        except WireError:
            self.data = self._seen = None
        self.version += 1

    def _replace(self, block: FrameBlock) -> None:
        if block.count:
            self.spec, self.generation, self.revision = block.spec, block.generation, block.revision
            self.data = np.array(block.data[-1])
            self._changed = None
            self.measured = int(np.count_nonzero(np.isfinite(self.data)))
            self.version += 1

    @property
    def channels(self) -> tuple[str, ...]:
        """What can be chosen to look at: the channels' names, or parts of a complex number, or nothing."""
        spec = self.spec
        if spec is None:
            return ()
        names = tuple(channel.name for channel in spec.channels) if len(spec.channels) > 1 else ()
        if not np.issubdtype(spec.numpy_dtype, np.complexfloating):
            return names
        return tuple(f"{name} {part}".strip() for name in names or ("",) for part in PARTS)

    def picture(self, channel: int = 0) -> tuple[NDArray[Any], Extent] | None:
        """Return the chosen channel as (ny, nx) real, and where it lies; None where there is no map of two axes."""
        spec, data = self.spec, self.data
        if spec is None or data is None:
            return None
        complex_parts = len(PARTS) if np.iscomplexobj(data) else 1
        number, part = divmod(max(0, channel), complex_parts)
        lead = len(spec.nav) if spec.kind != "image" else 0
        if len(spec.channels) > 1:
            data = np.take(data, min(number, len(spec.channels) - 1), axis=lead)
        axes = spec.nav if spec.kind != "image" else spec.sig
        if data.ndim != 2 or len(axes) != 2:
            return None
        return (_part(data, part) if complex_parts > 1 else data), extent_of(axes)

    @property
    def share(self) -> float:
        """How much of the map is measured, 0 to 1."""
        total = 0 if self._seen is None else self._seen.size
        return self.measured / total if total else 0.0

    def value_at(self, x: float, y: float, channel: int = 0) -> tuple[int, float] | None:
        """Return (scan_index, value) of the pixel at (x, y) in the extent's units, None outside."""
        shown = self.picture(channel)
        if shown is None:
            return None
        data, extent = shown
        ny, nx = data.shape
        ix = int(np.floor((x - extent.x) / extent.width * nx))
        iy = int(np.floor((y - extent.y) / extent.height * ny))
        return (iy * nx + ix, float(data[iy, ix])) if 0 <= ix < nx and 0 <= iy < ny else None


def _part(data: NDArray[Any], part: int) -> NDArray[Any]:
    choices: tuple[Any, ...] = (np.abs, np.angle, np.real, np.imag)
    picked: NDArray[Any] = choices[part](data)
    return picked
