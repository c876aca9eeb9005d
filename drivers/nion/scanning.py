"""From a command to places and times, and from replies of the bridge to rows of a buffer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probeloop.api import (
    Axis,
    Channel,
    Clock,
    FrameBuffer,
    FrameFlag,
    Region,
    Scan,
    StreamSpec,
    visit_order,
)

Expose = Callable[[NDArray[np.float64], memoryview], list[int]]
Image = Callable[[], NDArray[np.float32] | None]


@dataclass(frozen=True, slots=True)
class Visits:
    """Where the probe goes: (T,) scan indices, (T, 2) places (x, y) [m], (T,) flags, and the length of a line."""

    order: NDArray[np.int64]
    places: NDArray[np.float64]
    flags: NDArray[np.uint16]
    line: int

    @classmethod
    def of(cls, command: Scan) -> Visits:
        """Return those of a scan."""
        ny, nx = command.shape
        order = np.tile(visit_order(command.shape, command.order), command.frames)
        t = np.arange(order.size)
        flags = np.where(t % nx == 0, int(FrameFlag.LINE_START), 0).astype(np.uint16)
        flags[t % nx == nx - 1] |= int(FrameFlag.LINE_END)
        flags[t >= ny * nx] |= int(FrameFlag.REPEAT_VISIT)
        return cls(order, command.region.positions(command.shape, order), flags, nx)

    @classmethod
    def still(cls, position: tuple[float, float], frames: int) -> Visits:
        """Return those of a measurement that does not move and belongs to no map."""
        return cls(
            np.full(frames, -1, np.int64),
            np.tile(np.asarray(position, np.float64), (frames, 1)),
            np.zeros(frames, np.uint16),
            frames,
        )


def camera_spec(nav: tuple[Axis, ...], pixels: int, angle: float, period: int, *, mapped: bool = True) -> StreamSpec:
    """Return what a frame of the Ronchigram camera is; angle: of a pixel [rad]. The middle of the disc is at 0."""
    sig = tuple(Axis(name, pixels, angle, -angle * pixels / 2, "rad") for name in ("ky", "kx"))
    return StreamSpec(
        "camera", "frames", "<f4", nav, sig, units="counts", origin="simulation",
        sync="pixel" if mapped else "none", stamp="hardware", exposure_ns=period,
    )  # fmt: skip


def image_spec(nav: tuple[Axis, ...], channels: tuple[str, ...], period: int) -> StreamSpec:
    """Return what the annular detectors give."""
    named = tuple(Channel(name, "intensity", "a.u.") for name in channels)
    return StreamSpec(
        "scan", "values", "<f4", nav, (), named, units="a.u.", origin="simulation", stamp="hardware",
        exposure_ns=period,
    )  # fmt: skip


def map_axes(region: Region, shape: tuple[int, int]) -> tuple[Axis, Axis]:
    """Return the axes of a map; of a rotated region, along its own sides about its centre."""
    (ny, nx), step_y, step_x = shape, region.height / shape[0], region.width / shape[1]
    return (
        Axis("y", ny, step_y, region.centre_y - step_y * (ny - 1) / 2, "m"),
        Axis("x", nx, step_x, region.centre_x - step_x * (nx - 1) / 2, "m"),
    )


def camera_frames(
    visits: Visits, expose: Expose, flyback_ns: int, clock: Clock, cancelled: threading.Event
) -> Generator[int, FrameBuffer, None]:
    """Hand out frames as the camera makes them, place after place.

    expose: fills memory with a frame for each of the (n, 2) places, and returns their starts [ns], fewer when it was
    made safe. flyback_ns: to wait before each line but the first.
    """
    buffer = yield 0
    at, total = 0, len(visits.order)
    while at < total and not cancelled.is_set():
        n = min(buffer.capacity, total - at)
        if flyback_ns:
            n = min(n, visits.line - at % visits.line)
            if at and not at % visits.line and not clock.wait_until(clock.now_ns() + flyback_ns, cancelled):
                return
        rows = slice(at, at + n)
        times = expose(visits.places[rows], buffer.data[:n].data.cast("B"))
        n = len(times)
        if not n:
            return
        _columns(buffer, visits, at, np.asarray(times, np.int64))
        at += n
        buffer = yield n


def image_values(
    command: Scan, visits: Visits, image: Image, clock: Clock, cancelled: threading.Event
) -> Generator[int, FrameBuffer, None]:
    """Hand out an image's pixels at their dwell times, in the order of the visits.

    image: returns the next one, (channels, ny, nx), or None when it was made safe.
    """
    pixels, period = command.shape[0] * command.shape[1], round(command.dwell_time * 1e9)
    flyback = round(command.flyback_time * 1e9)
    buffer = yield 0
    for frame in range(command.frames):
        begun = clock.now_ns()
        made = image()
        if made is None:
            return
        values = made.reshape(len(made), -1).T
        at = 0
        while at < pixels:
            n = min(buffer.capacity, pixels - at)
            t = np.arange(at, at + n)
            times = begun + t * period + t // visits.line * flyback
            if not clock.wait_until(int(times[-1]) + period, cancelled):
                return
            first = frame * pixels + at
            buffer.data[:n] = values[visits.order[first : first + n]].reshape(buffer.data[:n].shape)
            _columns(buffer, visits, first, times)
            at += n
            buffer = yield n


def one_spectrum(
    take: Callable[[], tuple[NDArray[np.float32], int] | None], position: tuple[float, float]
) -> Generator[int, FrameBuffer, None]:
    """Hand out one spectrum."""
    buffer = yield 0
    made = take()
    if made is None:
        return
    counts, time_ns = made
    buffer.data[0] = counts
    buffer.scan_index[0], buffer.flags[0] = -1, 0
    buffer.position[0], buffer.time_ns[0] = position, time_ns
    yield 1


def _columns(buffer: FrameBuffer, visits: Visits, at: int, times: Any) -> None:
    n = len(times)
    rows = slice(at, at + n)
    buffer.time_ns[:n] = times
    buffer.scan_index[:n] = visits.order[rows]
    buffer.position[:n] = visits.places[rows]
    buffer.flags[:n] = visits.flags[rows]
