"""Blocks for the tests of the record."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from probeloop.data.axes import Axis, Channel, StreamSpec
from probeloop.data.frame import BlockFlag, FrameBlock, FrameBuffer

F_LETTER = np.array(
    [[1, 1, 1, 1, 0], [1, 0, 0, 0, 0], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 0, 0, 0, 0]], np.float32
)


def frames_spec(ny: int = 4, nx: int = 5, **changes: Any) -> StreamSpec:
    """A small 4D-STEM stream."""
    values: dict[str, Any] = {
        "name": "camera",
        "kind": "frames",
        "dtype": "<u2",
        "nav": (Axis("y", ny, 1e-9, 2e-9, "m"), Axis("x", nx, 0.5e-9, 0.0, "m")),
        "sig": (Axis("ky", 6, 1e-3, -3e-3, "rad"), Axis("kx", 7, 1e-3, -3e-3, "rad")),
        "units": "counts",
        "origin": "simulation",
    }
    return StreamSpec(**(values | changes))


def map_spec(ny: int, nx: int, channels: int = 0) -> StreamSpec:
    """A stream of values on a scan."""
    made = tuple(Channel(f"c{i}", f"q{i}", "m") for i in range(channels))
    nav = (Axis("y", ny, 1e-9, 0.0, "m"), Axis("x", nx, 1e-9, 0.0, "m"))
    return StreamSpec("scan", "values", "<f4", nav, channels=made, units="m", origin="replay")


def spectrum_spec() -> StreamSpec:
    """Loops at a place."""
    return StreamSpec(
        "spectrum", "spectra", "<f8", (), (Axis("step", 8, 1.0),), aux={"bias": tuple(range(8))}, units="a.u."
    )


def block_of(
    spec: StreamSpec, data: NDArray[Any], scan_index: Any, *, index: int = 0, generation: int = 1, revision: int = 0,
    flags: int = 0,
) -> FrameBlock:  # fmt: skip
    """Return a block of the frames in `data`."""
    count = len(data)
    buffer = FrameBuffer.allocate(spec, max(1, count))
    buffer.data[:count] = data
    buffer.scan_index[:count] = scan_index
    buffer.time_ns[:count] = 1000 + index + np.arange(count)
    buffer.position[:count, 0] = np.asarray(scan_index) * 1e-9
    buffer.position[:count, 1] = 7e-9
    buffer.dose[:count] = 2.0
    buffer.seal(count, index=index, generation=generation, revision=revision, flags=flags)
    return FrameBlock(
        spec, index, count, BlockFlag(flags), generation, revision, -1, 0, 0, 0, buffer.data[:count],
        buffer.time_ns[:count], buffer.scan_index[:count], buffer.position[:count], buffer.dose[:count],
        buffer.flags[:count],
    )  # fmt: skip


def rows(spec: StreamSpec, row: int, values: NDArray[Any], **more: Any) -> FrameBlock:
    """Return one line of a scan, taken from the whole map `values`."""
    nx = spec.nav[-1].size
    return block_of(spec, values[row], row * nx + np.arange(nx), index=row * nx, **more)
