"""What a simulated DECTRIS control unit sends for a series, and what it does wrong on purpose, known exactly."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from probeloop.api import MonotonicClock

from .dectris_config import Configuration
from .dectris_wire import Packed, V2Image, v1_end, v1_header, v1_image, v2_end, v2_start

Grouping = Literal["image", "single", "glued"]
CHANNELS = ("threshold_1",)
_JUNK = b"\x00\xffnot a message of this protocol"


@dataclass(frozen=True)
class Faults:
    """What goes wrong, by the number of a frame in its series.

    drop, duplicate: never sent, sent twice. corrupt: how, see `dectris_wire.CORRUPTIONS`. stall: pauses [s] before
    it. garbage: junk messages before it. stale: so many frames of the series before, after the header. extra:
    frames beyond those asked for. end_at: the series ends before this frame. silent_at: nothing comes from this frame
    on, not even an end.
    """

    drop: frozenset[int] = frozenset()
    duplicate: frozenset[int] = frozenset()
    corrupt: Mapping[int, str] = field(default_factory=dict)
    stall: Mapping[int, float] = field(default_factory=dict)
    garbage: frozenset[int] = frozenset()
    stale: int = 0
    extra: int = 0
    end_at: int | None = None
    silent_at: int | None = None


class Sender(Protocol):
    """The unit that a series is of."""

    config: Configuration
    channels: tuple[str, ...]
    faults: Faults
    grouping: Grouping
    rate: float | None
    series: int
    sent: int

    def socket(self, second: bool) -> Any:
        """Return the socket of stream v2, else of stream v1."""
        ...

    def packed(self, bits: int, algorithm: str, bare: bool) -> list[Packed]:
        """Return the pool, packed."""
        ...

    def images(self, bits: int, algorithm: str) -> list[V2Image]:
        """Return the pool as messages of stream v2."""
        ...


class Sending:
    """Sends the messages of one series, with what goes wrong in it."""

    def __init__(self, server: Sender, cancelled: threading.Event) -> None:
        config = server.config
        self._server, self._cancelled, self._faults = server, cancelled, server.faults
        self._clock, self._series = MonotonicClock(), server.series
        self._second = config.get("format", "stream") == "cbor"
        self._socket = server.socket(self._second)
        bits, algorithm = int(config.get("bit_depth_image")), str(config.get("compression"))
        self._packed = server.packed(bits, algorithm, bare=not self._second and algorithm == "lz4")
        self._images = server.images(bits, algorithm) if self._second else []
        self._detail = str(config.get("header_detail", "stream") or "basic")
        self._exposure_ns = round(config.get("count_time") * 1e9)
        rate = server.rate
        self._period_ns = round(config.get("frame_time") * 1e9 if rate is None else 1e9 / rate if rate else 0)
        self._before: list[bytes] = []

    def header(self) -> None:
        """Begin the series."""
        config = self._server.config.values()
        if self._second:
            self._send([v2_start(self._series, config, self._server.channels)])
        elif self._server.grouping == "glued":
            self._before = v1_header(self._series, config, self._detail)
        else:
            self._send(v1_header(self._series, config, self._detail))
        for number in range(self._faults.stale):
            self._frame(self._series - 1, number, None)

    def frames(self, first: int, count: int) -> bool:
        """Send frames; True when a fault, or whoever cancels, ends the series before they are all sent."""
        faults, start = self._faults, self._clock.now_ns()
        for number in range(first, first + count):
            if number in (faults.end_at, faults.silent_at) or self._cancelled.is_set():
                return True
            if self._period_ns and not self._clock.wait_until(
                start + (number - first) * self._period_ns, self._cancelled
            ):
                return True
            pause = round(faults.stall.get(number, 0.0) * 1e9)
            if pause and not self._clock.wait_until(self._clock.now_ns() + pause, self._cancelled):
                return True
            if number in faults.garbage:
                self._send([_JUNK])
            if number in faults.drop:
                continue
            for _ in range(1 + (number in faults.duplicate)):
                self._frame(self._series, number, faults.corrupt.get(number))
            self._server.sent += 1
        return False

    def end(self) -> None:
        """End the series."""
        self._send([v2_end(self._series)] if self._second else v1_end(self._series), even_so=True)

    def _frame(self, series: int, number: int, corrupt: str | None) -> None:
        at = number % len(self._packed)
        start_ns = number * self._period_ns
        if self._second:
            image = self._images[at]
            if corrupt is not None:
                image = V2Image(self._packed[at].corrupted(corrupt), self._server.channels)
            self._send([image.message(series, number, start_ns, self._exposure_ns)])
            return
        packed = self._packed[at] if corrupt is None else self._packed[at].corrupted(corrupt)
        before, self._before = self._before, []
        self._send([*before, *v1_image(series, number, packed, start_ns, self._exposure_ns)])

    def _send(self, parts: list[bytes], even_so: bool = False) -> None:
        """Send a message, waiting for room while the series lives."""
        if len(parts) > 1 and self._server.grouping == "single":
            for part in parts:
                self._send([part])
            return
        import zmq

        while True:
            try:
                self._socket.send_multipart(parts)
            except zmq.Again:
                if self._cancelled.is_set() or even_so:
                    return
            else:
                return
