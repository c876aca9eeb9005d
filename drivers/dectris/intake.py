"""Receives a series on a thread of its own, into a bounded queue, while the pump unpacks and publishes.

ZeroMQ's own thread reads the socket whatever Python does; its queue is bounded too, then TCP makes the DCU wait.
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


class Queue:
    """At most `most` items between two threads; one that was full is filled again when half of it is gone."""

    def __init__(self, most: int) -> None:
        self._items: deque[Any] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._most, self._wanted = most, 1
        self._full = self._waits = self._closed = False

    def put(self, item: Any) -> bool:
        """Add an item when there is room; False when the queue was closed."""
        with self._changed:
            if len(self._items) >= self._most:
                self._full = True
                self._changed.wait_for(lambda: not self._full or self._closed)
            if self._closed:
                return False
            self._items.append(item)
            if self._waits and len(self._items) >= self._wanted:
                self._changed.notify_all()
            return True

    def take(self, most: int, seconds: float, least: int = 1) -> list[Any]:
        """Return up to `most` items, once there are `least` or `seconds` have passed."""
        items = self._items
        with self._changed:
            self._wanted = min(least, self._most)
            if len(items) < self._wanted and not self._closed:
                self._waits = True
                self._changed.wait_for(lambda: len(items) >= self._wanted or self._closed, seconds)
                self._waits = False
            taken = [items.popleft() for _ in range(min(most, len(items)))]
            if self._full and len(items) <= self._most // 2:
                self._full = False
                self._changed.notify_all()
            return taken

    def close(self) -> None:
        """Let whoever waits go."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """True when nothing comes any more."""
        return self._closed


@dataclass
class Aside:
    """What came and is no frame of the series; written by the receiving thread alone."""

    stale: int = 0
    garbage: int = 0
    series: set[int] = field(default_factory=set)
    why: str = ""


class Intake:
    """One series: connect, wait until all is quiet, `expect` its number, take from `ready`, close.

    now_ns: the host's clock. Raises DriverError where pyzmq is missing.
    """

    def __init__(self, endpoint: str, parser: Parser, expected: Expected, now_ns: Callable[[], int]) -> None:
        try:
            import zmq
        except ImportError:
            raise DriverError("a DECTRIS stream needs pyzmq", "pip install 'probeloop[dectris]'") from None
        self._zmq: Any = zmq
        self.ready = Queue(expected.held)
        self.aside = Aside()
        self.header: Header | None = None
        self.has_header = threading.Event()
        self._endpoint, self._parser = endpoint, parser
        self._expected, self._now_ns = expected, now_ns
        self._digit = str(expected.itemsize)
        self._series: int | None = None
        self._connected, self._quiet, self._open = threading.Event(), threading.Event(), threading.Event()
        self._closing = threading.Event()
        self._no_stream = ""
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._guarded, name="dectris receives", daemon=True)

    def connect(self, seconds: float, over: Callable[[], bool]) -> None:
        """Connect, and drop what still waits at the DCU; raises DriverError when nothing streams there."""
        self._thread.start()
        deadline = self._now_ns() + round(seconds * 1e9)
        while not self._quiet.wait(_QUIET_S) and not over() and self._failure is None and self._now_ns() < deadline:
            pass
        if self._failure is not None:
            raise DriverError(f"the stream at {self._endpoint} can't be read: {self._failure}")
        if self._quiet.is_set() or over():
            return
        if not self._connected.is_set():
            why = self._no_stream or "nothing answers there"
            raise DriverError(f"no stream at {self._endpoint}: {why}", "look at stream_port and at who may reach it")
        raise DriverError(
            f"frames of another series keep coming from {self._endpoint}", "wait for its end, or abort it: STOP does"
        )

    def expect(self, series: int | None) -> None:
        """Let frames of this series through; None = of the first that announces itself from now on."""
        self._series = series
        self._open.set()

    @property
    def series(self) -> int | None:
        """The number of the series that is let through."""
        return self._series

    @property
    def failure(self) -> Exception | None:
        """What ended a thread that should not have ended."""
        return self._failure

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        self._open.set()
        self.ready.close()
        if self._thread.ident is not None:
            self._thread.join(5.0)

    def _guarded(self) -> None:
        try:
            self._receive()
        except Exception as error:  # whoever waits must be told, whatever it was
            self._failure = error
            self.ready.close()

    def _receive(self) -> None:
        zmq = self._zmq
        context = zmq.Context()
        socket = context.socket(zmq.PULL)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVHWM, self._expected.held)
        socket.setsockopt(zmq.MAXMSGSIZE, self._expected.largest_message)
        monitor = socket.get_monitor_socket()
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(monitor, zmq.POLLIN)
        try:
            socket.connect(self._endpoint)
            while not self._closing.is_set():
                try:
                    parts = socket.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    self._idle(poller, socket, monitor)
                    continue
                arrival = self._now_ns()
                for event in self._parser.feed(parts):
                    self._sort(event, arrival)
        finally:
            socket.disable_monitor()
            monitor.close(0)
            context.destroy(linger=0)

    def _idle(self, poller: Any, socket: Any, monitor: Any) -> None:
        """Wait for a message; before the series is open, see that nothing comes any more, and then wait for that."""
        waiting = self._connected.is_set() and not self._quiet.is_set()
        found = dict(poller.poll(round((_QUIET_S if waiting else _SLICE_S) * _MILLI)))
        if monitor in found:
            self._hear(monitor)
        elif not found and waiting:
            self._quiet.set()
            self._open.wait()

    def _hear(self, monitor: Any) -> None:
        from zmq.utils.monitor import recv_monitor_message

        zmq = self._zmq
        kind = recv_monitor_message(monitor)["event"]
        if kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._connected.set()
        elif kind == zmq.EVENT_CONNECT_RETRIED:
            self._no_stream = self._no_stream or "the connection is refused"
        elif kind == zmq.EVENT_DISCONNECTED or kind in _NO_HANDSHAKE:
            if self._open.is_set():
                self.ready.put(Broken())
            elif not self._connected.is_set():
                self._no_stream = "what listens there speaks no ZeroMQ"

    def _sort(self, event: Event, arrival: int) -> None:
        """Let through what belongs to the series, count the rest."""
        aside, is_open = self.aside, self._open.is_set()
        if is_open and type(event) is Image and event.series == self._series:
            self.ready.put(self._unfit(event) or Arrived(event, arrival))
            return
        if isinstance(event, Garbage):
            aside.garbage += 1
            aside.why = aside.why or event.why
            return
        if is_open and isinstance(event, Header) and self._series is None and event.series not in aside.series:
            self._series = event.series
        torn = isinstance(event, Refused) and event.series < 0
        if not is_open or (event.series != self._series and not torn):
            aside.stale += isinstance(event, Image | Refused)
            if len(aside.series) < 64:
                aside.series.add(event.series)
        elif isinstance(event, Header):
            self.header = event
            self.has_header.set()
        else:
            self.ready.put(event)

    def _unfit(self, image: Image) -> Refused | None:
        for packed in image.channels:
            if packed.shape != self._expected.shape or packed.dtype[2] != self._digit:
                (h, w), bits = packed.shape, 8 * int(packed.dtype[2])
                (height, width), wanted = self._expected.shape, 8 * self._expected.itemsize
                why = f"{h} x {w} pixels of {bits} bit, the DCU announced {height} x {width} of {wanted} bit"
                return Refused(image.series, image.number, why)
        return None if image.number >= 0 else Refused(image.series, -1, "it has no number")
