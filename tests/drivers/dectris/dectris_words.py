"""Words of the tests of the DECTRIS driver: a server, a driver on it, an acquisition pumped to its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from probeloop.drivers.dectris import Dectris, DectrisSettings
from probeloop.simulators.servers.dectris import DectrisServer
from probeloop.simulators.servers.dectris_source import poisson_frames

from probeloop.api import Acquisition, DriverError, FrameBuffer, Region, Scan

FIELD = (1e-7, 2e-7)
POOL = poisson_frames(8, (24, 40), 0.5, 1)  # not square: only then a swap of the axes shows


def settings(server: DectrisServer, stream: str = "v2", **more: Any) -> DectrisSettings:
    """Return settings for a driver of this server."""
    given: dict[str, Any] = {
        "field_of_view": FIELD, "api_port": server.api_port, "stream": stream, "timeout": 2.0, "silence": 1.0,
        "stream_port": server.stream_ports[stream == "v2"], "trigger": "internal",
    }  # fmt: skip
    return DectrisSettings(**{**given, **more})


def scan(ny: int, nx: int, dwell: float = 1e-3, frames: int = 1) -> Scan:
    """Return a scan of the field of view."""
    return Scan(Region(0.0, 0.0, *FIELD), (ny, nx), dwell, frames=frames)


@dataclass
class Pumped:
    """What came of an acquisition, a row a frame."""

    data: NDArray[Any]
    scan_index: NDArray[np.int64]
    flags: NDArray[np.uint16]
    time_ns: NDArray[np.int64]
    position: NDArray[np.float64]
    error: DriverError | None = None
    sizes: list[int] = field(default_factory=list)


def pumped(made: Acquisition, capacity: int = 7) -> Pumped:
    """Pump an acquisition to its end, as the pump does."""
    frames, rows, error, sizes = made.frames, [], None, []
    next(frames)
    buffer = FrameBuffer.allocate(made.spec, capacity)
    while True:
        try:
            n = frames.send(buffer)
        except StopIteration:
            break
        except DriverError as problem:
            error = problem
            break
        sizes.append(n)
        rows.append(
            [c[:n].copy() for c in (buffer.data, buffer.scan_index, buffer.flags, buffer.time_ns, buffer.position)]
        )
    frames.close()
    empty = FrameBuffer.allocate(made.spec, 0)
    columns = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    stacks = [np.concatenate(c) if c else e for c, e in zip(
        columns, (empty.data, empty.scan_index, empty.flags, empty.time_ns, empty.position), strict=True
    )]  # fmt: skip
    return Pumped(*stacks, error, sizes)


def equal(got: Pumped, server: DectrisServer) -> bool:
    """True when every frame with a pixel is, bit for bit, the one that the server has for that number."""
    return all(
        np.array_equal(frame, server.expected(int(index)))
        for frame, index in zip(got.data, got.scan_index, strict=True)
        if index >= 0
    )


def counts(driver: Dectris) -> dict[str, int]:
    """Return what the driver counted in the last series, without the zeros."""
    values = driver.read_back()
    names = ("received", "lost", "repeated", "refused", "beyond", "stale")
    found = {name: values[f"frames_{name}"] for name in names} | {"garbage": values["garbage"]}
    return {name: number for name, number in found.items() if number}
