"""Receives a series, and sorts out what is not of it.

ZeroMQ's own thread reads the socket into a bounded queue, whatever Python does meanwhile; the pump's thread takes
from it and unpacks. A thread of ours between the two was measured: handing over took longer than it saved.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from probeloop.api import DriverError

from .decompress import largest_packed
from .messages import End, Event, Garbage, Header, Image, Refused

HELD = 64 << 20  # [bytes] of frames that a queue holds
_QUIET_S = 0.02  # without a message, before a series is armed
_SLICE_S = 0.02
_MILLI = 1000
_MOST_ASIDE = 64  # messages
_PAUSE_MS = 2  # without a message, after which the frames that are there are handed on
_NO_HANDSHAKE = (0x0800, 0x2000, 0x4000)  # ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL, _PROTOCOL, _AUTH


class Arrived(msgspec.Struct, frozen=True):
    """A frame of the series, still packed. arrival_ns: host's clock."""

    image: Image
    arrival_ns: int


class Broken(msgspec.Struct, frozen=True):
    """The connection is gone."""


Item = Arrived | Refused | End | Broken


class Parser(Protocol):
    """A version of the stream."""

    def feed(self, parts: Sequence[bytes]) -> list[Event]:
        """Take the parts of a message; return what they complete."""
        ...


@dataclass(frozen=True)
class Expected:
    """What every frame of a series must be. shape: (height, width). itemsize: [bytes]. total: frames."""

    shape: tuple[int, int]
    itemsize: int
    channels: int
    total: int

    @property
    def size(self) -> int:
        """Bytes of one channel."""
        return self.shape[0] * self.shape[1] * self.itemsize

    @property
    def held(self) -> int:
        """How many frames a queue holds."""
        return max(2, HELD // (self.size * self.channels))

    @property
    def largest_message(self) -> int:
        """What a frame, or a header with all its tables, takes at most [bytes]."""
        pixels = self.shape[0] * self.shape[1]
        return (1 << 20) + self.channels * (largest_packed(self.size) + 3 * largest_packed(4 * pixels))


@dataclass
class Aside:
    """What came and is no frame of the series."""

    stale: int = 0
    garbage: int = 0
    series: set[int] = field(default_factory=set)
    why: str = ""


class Intake:
    """One series: connect, `expect` its number once it is armed, take, close.

    One thread at a time uses it; any may close it. now_ns: the host's clock. Raises DriverError without pyzmq.
    """

    def __init__(self, endpoint: str, parser: Parser, expected: Expected, now_ns: Callable[[], int]) -> None:
        try:
            import zmq
        except ImportError:
            raise DriverError("a DECTRIS stream needs pyzmq", "pip install 'probeloop[dectris]'") from None
        self.aside = Aside()
        self.header: Header | None = None
        self.series: int | None = None
        self._zmq: Any = zmq
        self._endpoint, self._parser = endpoint, parser
        self._expected, self._now_ns = expected, now_ns
        self._digit = str(expected.itemsize)
        self._sorted: deque[Item] = deque()
        self._using = threading.Lock()
        self._connected = self._open = self._closed = False
        self._no_stream = ""
        self._context: Any = zmq.Context()
        self._socket = self._context.socket(zmq.PULL)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVTIMEO, _PAUSE_MS)
        self._socket.setsockopt(zmq.RCVHWM, expected.held)
        self._socket.setsockopt(zmq.MAXMSGSIZE, expected.largest_message)
        self._monitor = self._socket.get_monitor_socket()
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)

    def connect(self, seconds: float, over: Callable[[], bool]) -> None:
        """Connect, and drop what still waits at the DCU; raises DriverError when nothing streams there."""
        self._socket.connect(self._endpoint)
        deadline = self._now_ns() + round(seconds * 1e9)
        while not over() and self._now_ns() < deadline:
            if not self._receive(_QUIET_S) and self._connected:
                return
        if over():
            return
        if not self._connected:
            why = self._no_stream or "nothing answers there"
            raise DriverError(f"no stream at {self._endpoint}: {why}", "look at stream_port and at who may reach it")
        raise DriverError(
            f"frames of another series keep coming from {self._endpoint}", "wait for its end, or abort it: STOP does"
        )

    def expect(self, series: int | None) -> None:
        """Let frames of this series through; None = of the first that announces itself from now on."""
        self.series, self._open = series, True

    def wait_for_header(self, seconds: float, over: Callable[[], bool]) -> Header | None:
        """Return the header of the series, None when it does not come in time, or it is `over`."""
        deadline = self._now_ns() + round(seconds * 1e9)
        while (
            self.header is None
            and not over()
            and self._now_ns() < deadline
            and len(self._sorted) < self._expected.held
        ):
            self._receive(_QUIET_S)
        return self.header

    def take(self, *, wait: bool) -> Item | None:
        """Return what came next; None when nothing does within 2 ms, or 20 if it is to `wait`, or it is closed."""
        waiting = self._sorted
        if not waiting:
            self._receive(_SLICE_S if wait else 0.0)
        return waiting.popleft() if waiting else None

    def close(self) -> None:
        """Let go of the connection; who is inside `take` gets None."""
        with self._using:
            if not self._closed:
                self._closed = True
                self._socket.disable_monitor()
                self._context.destroy(linger=0)

    def _receive(self, seconds: float) -> bool:
        """Read messages until one is of the series, or none has come for 2 ms and `seconds`; True when any came.

        Gives up after many that are not, so that a flood of them keeps nobody inside.
        """
        came = polled = False
        for _ in range(_MOST_ASIDE):
            if self._sorted:
                break
            with self._using:
                if self._closed:
                    return came
                try:
                    parts = self._socket.recv_multipart()
                except self._zmq.Again:
                    if polled or not seconds:
                        return came
                    found = dict(self._poller.poll(round(seconds * _MILLI)))
                    if self._monitor in found:
                        self._hear()
                    polled = self._socket not in found
                    continue
            came = self._connected = True
            arrival = self._now_ns()
            for event in self._parser.feed(parts):
                self._sort(event, arrival)
            if not self._open:
                return True
        return came

    def _hear(self) -> None:
        from zmq.utils.monitor import recv_monitor_message

        kind, zmq = recv_monitor_message(self._monitor)["event"], self._zmq
        if kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._connected = True
        elif kind == zmq.EVENT_CONNECT_RETRIED:
            self._no_stream = self._no_stream or "the connection is refused"
        elif kind == zmq.EVENT_DISCONNECTED or kind in _NO_HANDSHAKE:
            if self._open:
                self._sorted.append(Broken())
            elif not self._connected:
                self._no_stream = "what listens there speaks no ZeroMQ"

    def _sort(self, event: Event, arrival: int) -> None:
        """Let through what belongs to the series, count the rest."""
        aside = self.aside
        if self._open and type(event) is Image and event.series == self.series:
            self._sorted.append(self._unfit(event) or Arrived(event, arrival))
            return
        if isinstance(event, Garbage):
            aside.garbage += 1
            aside.why = aside.why or event.why
            return
        if self._open and isinstance(event, Header) and self.series is None and event.series not in aside.series:
            self.series = event.series
        torn = isinstance(event, Refused) and event.series < 0
        if not self._open or (event.series != self.series and not torn):
            aside.stale += isinstance(event, Image | Refused)
            if len(aside.series) < 64:
                aside.series.add(event.series)
        elif isinstance(event, Header):
            self.header = event
        elif not isinstance(event, Image):
            self._sorted.append(event)

    def _unfit(self, image: Image) -> Refused | None:
        for packed in image.channels:
            if packed.shape != self._expected.shape or packed.dtype[2] != self._digit:
                (h, w), bits = packed.shape, 8 * int(packed.dtype[2])
                (height, width), wanted = self._expected.shape, 8 * self._expected.itemsize
                why = f"{h} x {w} pixels of {bits} bit, the DCU announced {height} x {width} of {wanted} bit"
                return Refused(image.series, image.number, why)
        return None if image.number >= 0 else Refused(image.series, -1, "it has no number")
