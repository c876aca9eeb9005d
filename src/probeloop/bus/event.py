"""The lossless topic `events`, written by every process, and bells: named wake-ups without data."""

from __future__ import annotations

import itertools
import secrets
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from .node import Bus, timed_wait
from .topic import (
    EVENT_BYTES,
    EVENT_DEPTH,
    EVENT_HISTORY,
    EVENT_WRITERS,
    EVENTS,
    BytesPublisher,
    bytes_service,
    let_readers_meet,
    read_bytes,
)

_HEAD = struct.Struct("<QQq")  # writer, its sequence number, host CLOCK_MONOTONIC [ns]
_SLICE_S = 0.5


def _service(bus: Bus) -> Any:
    return bytes_service(bus, EVENTS, history=EVENT_HISTORY, depth=EVENT_DEPTH, publishers=EVENT_WRITERS)


class EventWriter:
    """Appends to the topic `events`; one thread at a time, at most 32 in a rig."""

    def __init__(self, bus: Bus) -> None:
        """Join as a writer; raises BusError or SharedMemoryError."""
        self._bus, self._created_s = bus, time.monotonic()
        self._factory = _service(bus)
        self._port = BytesPublisher(bus, self._factory, EVENTS, size=EVENT_BYTES, depth=EVENT_DEPTH)
        self._wake = bus.event_service(f"{EVENTS}/wake")
        self._notifier = bus.retry(self._wake.notifier_builder().create, "notify on 'events'")
        self._writer = secrets.randbits(64)
        self._sequence = itertools.count()
        self._closed = False
        self._notifier.notify()  # readers look, and so connect, before the first event

    def write(self, body: bytes) -> None:
        """Send one event to every reader; raises SharedMemoryError when a large one has no room."""
        self._port.send(_HEAD.pack(self._writer, next(self._sequence), time.monotonic_ns()) + body)
        self._notifier.notify()

    def close(self) -> None:
        """Leave; a writer younger than 0.2 s first lets the readers connect. Harmless when closed already."""
        if not self._closed:
            self._closed = True
            let_readers_meet(self._bus, self._factory, self._created_s)
            self._port.port.delete()
            self._notifier.delete()
            self._factory = self._wake = None


class EventReader:
    """Reads every event written after it was made; one thread at a time.

    history: also the newest 128 of each living writer from before, which come with the writer's next event: for a
    recorder that takes the place of another. lost: events overwritten before they were read, by the writers' sequence
    numbers.
    """

    def __init__(self, bus: Bus, *, history: bool = False) -> None:
        """Join as a reader; raises BusError (at most 16 readers)."""
        self._factory = _service(bus)
        self._wake = bus.event_service(f"{EVENTS}/wake")
        self.listener: Any = bus.retry(self._wake.listener_builder().create, "wait on 'events'")
        self._port: Any = bus.retry(self._make_port(EVENT_HISTORY if history else 0), "read 'events'")
        self._next: dict[int, int] = {}
        self.lost = 0

    def _make_port(self, history: int) -> Callable[[], Any]:
        return lambda: self._factory.subscriber_builder().history_request(history).create()

    def read(self, timeout_s: float = 0.0) -> list[bytes]:
        """Return every event that has arrived, by the time they were written; an empty list after `timeout_s`."""
        events = self._drain()
        deadline = time.monotonic() + timeout_s
        while not events and (left := deadline - time.monotonic()) > 0:
            timed_wait(self.listener, min(left, _SLICE_S))
            events = self._drain()
        return events

    def _drain(self) -> list[bytes]:
        found: deque[tuple[int, int, bytes]] = deque()
        while (raw := read_bytes(self._port)) is not None:
            writer, sequence, written_ns = _HEAD.unpack_from(raw)
            self.lost += sequence - self._next.get(writer, sequence)
            self._next[writer] = sequence + 1
            found.append((written_ns, len(found), raw[_HEAD.size :]))
        return [body for _, _, body in sorted(found)]

    def hear(self) -> None:
        """Empty the wake-up event."""
        self.listener.try_wait()

    def pending(self) -> bool:
        """Whether an event waits."""
        return bool(self._port.has_samples())

    def close(self) -> None:
        """Leave; harmless when closed already."""
        if self._port is None:
            return
        self._port.delete()
        self.listener.delete()
        self._port = self.listener = None
        self._factory = self._wake = None


class Bell:
    """A named wake-up between threads or processes, for a Poller. Rings coalesce, so it only says: look again.

    Everyone with a Bell of this name hears each ring, the ringer too.
    """

    def __init__(self, bus: Bus, name: str) -> None:
        self._rung = False
        self._service = bus.event_service(f"bell/{name}")
        self._notifier = bus.retry(self._service.notifier_builder().create, f"ring {name!r}")
        self.listener: Any = bus.retry(self._service.listener_builder().create, f"hear {name!r}")

    def ring(self) -> None:
        """Wake everyone who waits; any one thread at a time."""
        self._notifier.notify()

    def hear(self) -> None:
        """Take the rings out of the event."""
        self._rung |= bool(self.listener.try_wait())

    def pending(self) -> bool:
        """Whether it rang since the last look; looking answers it."""
        self.hear()
        rung, self._rung = self._rung, False
        return rung

    def wait(self, timeout_s: float) -> bool:
        """Wait for a ring [s]; False after `timeout_s`."""
        if self.pending():
            return True
        return timed_wait(self.listener, timeout_s)

    def close(self) -> None:
        """Let go of it; harmless when closed already."""
        if self.listener is None:
            return
        self._notifier.delete()
        self.listener.delete()
        self.listener = self._service = None
