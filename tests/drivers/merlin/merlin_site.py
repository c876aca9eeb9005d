"""A driver and a server for it in one process, and what a pump would get."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from probeloop.drivers.merlin import Merlin, MerlinSettings
from probeloop.simulators.servers.merlin import Faults, MerlinServer, PoolSource

from probeloop.data import commands as c
from probeloop.data.driver import Acquisition
from probeloop.data.errors import DriverError
from probeloop.data.frame import FrameBuffer, FrameFlag
from probeloop.data.scan import Region

FIELD = 100e-9
WHOLE = Region(0.0, 0.0, FIELD, FIELD)


@dataclass
class Taken:
    """What an acquisition gave. error: what it failed with, None = it ended in order."""

    acquisition: Acquisition
    data: NDArray[Any]
    scan_index: NDArray[np.int64]
    time_ns: NDArray[np.int64]
    flags: NDArray[np.uint16]
    position: NDArray[np.float64]
    error: DriverError | None

    @property
    def pixels(self) -> NDArray[np.int64]:
        """The pixels that got a frame, in the order of arrival."""
        return self.scan_index[self.scan_index >= 0]

    @property
    def repeats(self) -> int:
        """How many frames are flagged as coming twice."""
        return int(np.count_nonzero(self.flags & FrameFlag.PATTERN_REPEAT))

    def is_of(self, source: PoolSource, depth: int) -> bool:
        """True when every frame is that of its pixel."""
        good = self.scan_index >= 0
        return bool(np.array_equal(self.data[good], expected(source, depth, self.scan_index[good])))


def expected(source: PoolSource, depth: int, pixels: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Return what the counters hold for these frames of a run."""
    made: NDArray[np.uint32] = np.minimum(source.frames[pixels % source.size], (1 << depth) - 1)
    return made


def settings(server: MerlinServer, **values: Any) -> MerlinSettings:
    """Return settings for a driver of this server."""
    ports = {"control_port": server.control_port, "data_port": server.data_port}
    return MerlinSettings(**{"field_of_view": (FIELD, FIELD), "buffer": 1, **ports, **values})


@contextmanager
def site(
    shape: tuple[int, int] = (32, 64), faults: Faults | None = None, mean: float = 2.0, *, rate: float | None = 0.0,
    quad: bool = False, server: dict[str, Any] | None = None, **values: Any,
) -> Iterator[tuple[Merlin, MerlinServer, PoolSource]]:  # fmt: skip
    """Yield a driver, its server, and where the frames come from."""
    source = PoolSource(shape, mean)
    with MerlinServer(source, rate=rate, quad=quad, faults=faults, **(server or {})) as made:
        driver = Merlin(settings(made, **values))
        try:
            yield driver, made, source
        finally:
            driver.close()


def scan(shape: tuple[int, int], dwell: float = 1e-3, frames: int = 1) -> c.Scan:
    """Return a scan of the whole field of view."""
    return c.Scan(WHOLE, shape, dwell, frames=frames)


def take(acquisition: Acquisition, capacity: int = 7) -> Taken:
    """Pump an acquisition to its end, whatever that is."""
    columns: list[tuple[NDArray[Any], ...]] = []
    error = None
    try:
        next(acquisition.frames)
        while True:
            buffer = FrameBuffer.allocate(acquisition.spec, capacity)
            n = acquisition.frames.send(buffer)
            names = ("data", "scan_index", "time_ns", "flags", "position")
            columns.append(tuple(getattr(buffer, name)[:n].copy() for name in names))
    except StopIteration:
        pass
    except DriverError as failed:
        error = failed
    acquisition.frames.close()
    if not columns:
        buffer = FrameBuffer.allocate(acquisition.spec, 0)
        columns = [(buffer.data, buffer.scan_index, buffer.time_ns, buffer.flags, buffer.position)]
    data, index, time_ns, flags, position = (np.concatenate(each) for each in zip(*columns, strict=True))
    return Taken(acquisition, data, index, time_ns, flags, position, error)
