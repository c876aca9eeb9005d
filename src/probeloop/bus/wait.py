"""One blocking call over many sources."""

from __future__ import annotations

import os
import threading
import time
from typing import Any, Protocol

import iceoryx2 as iox2

from .node import Bus

_SLICE_S = 0.5
LOOKS = 8  # between two times that another process may have the core
let_others_run = getattr(os, "sched_yield", lambda: None)


class Source(Protocol):
    """What a Poller can wait on: an event's listener, and whether something waits to be read."""

    listener: Any

    def hear(self) -> None:
        """Empty the listener."""
        ...

    def pending(self) -> bool:
        """Whether a read would find something."""
        ...


class Socket(Protocol):
    """The same for a file descriptor that can be waited on until it is readable."""

    fd: int

    def hear(self) -> None:
        """Nothing needs to be emptied: what is pending is read."""
        ...

    def pending(self) -> bool:
        """Whether a read would find something; the looking itself takes the descriptor's own wake-ups."""
        ...


class Poller:
    """Waits for any of several Subscribers, Servers, Clients, EventReaders, Bells or sockets; one thread at a time.

    Events coalesce, so whoever wakes must drain every ready source; what was left is reported again at once.
    Close the Poller before its sources.
    """

    def __init__(self, bus: Bus, *sources: Source | Socket) -> None:
        self._set: Any = (
            iox2.WaitSetBuilder.new().signal_handling_mode(iox2.SignalHandlingMode.Disabled).create(bus.service_type)
        )
        self._sources: list[tuple[Source | Socket, Any]] = []
        for source in sources:
            self.add(source)

    def add(self, source: Source | Socket) -> None:
        """Wait for one more source."""
        fd = getattr(source, "fd", None)
        if fd is None:
            guard = self._set.attach_notification(source.listener)  # type: ignore[union-attr]
        else:
            guard = self._set.attach_notification_fd(iox2.FileDescriptor.non_owning_new(fd))
        self._sources.append((source, guard))

    def remove(self, source: Source | Socket) -> None:
        """Wait for this source no longer; harmless when it was not waited for."""
        for item in self._sources:
            if item[0] is source:
                item[1].delete()
                self._sources.remove(item)
                return

    def wait(self, timeout_s: float) -> list[Source | Socket]:
        """Return the sources that have something, an empty list after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while True:
            ready = [source for source, _ in self._sources if source.pending()]
            left = deadline - time.monotonic()
            if ready or left <= 0:
                return ready
            if not self._sources:
                threading.Event().wait(left)
                continue
            fired, _ = self._set.wait_and_process_with_timeout(iox2.Duration.from_secs_f64(min(left, _SLICE_S)))
            # the wait set reports a listener until it is emptied, so empty it before looking
            for source, guard in self._sources:
                if any(one.has_event_from(guard) for one in fired):
                    source.hear()

    def poll(self, timeout_s: float) -> list[Source | Socket]:
        """As `wait`, but without sleeping: some 15 us less until it returns, for a core of its own."""
        deadline = time.monotonic() + timeout_s
        while True:
            for _ in range(LOOKS):
                if ready := [source for source, _ in self._sources if source.pending()]:
                    return ready
            if time.monotonic() >= deadline:
                return []
            for source, _ in self._sources:  # nobody is to wait for room for an event
                source.hear()
            let_others_run()

    def close(self) -> None:
        """Stop waiting; harmless when closed already."""
        for _, guard in self._sources:
            guard.delete()
        self._sources.clear()
        if self._set is not None:
            self._set.delete()
            self._set = None
