"""What the models need of the bus: small Protocols that `probeloop.api.Connection` keeps and tests can fake."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:  # the stop window looks at no frame, so it does without numpy
    from probeloop.api import Command, Event, FrameBlock, Reply, Request, StreamSpec


class BlockSource(Protocol):
    """A topic being read. `drain` yields blocks that are valid until the next step."""

    spec: StreamSpec | None

    @property
    def stats(self) -> Any:
        """Counters: blocks, frames, bytes, lost."""
        ...

    def drain(self) -> Iterable[FrameBlock]:
        """Yield what has arrived."""
        ...

    def close(self) -> None:
        """Stop reading."""
        ...


class EventSource(Protocol):
    """The events of the rig."""

    @property
    def source(self) -> Any:
        """What a poller waits on."""
        ...

    def read(self, timeout_s: float = 0.0) -> list[Event]:
        """Return what arrived."""
        ...

    def close(self) -> None:
        """Stop reading."""
        ...


class Waiter(Protocol):
    """Waits for several sources at once."""

    def add(self, source: Any) -> None:
        """Wait for one more."""
        ...

    def remove(self, source: Any) -> None:
        """Wait for it no longer."""
        ...

    def wait(self, timeout_s: float) -> list[Any]:
        """Return the sources that have something, an empty list after `timeout_s`."""
        ...

    def close(self) -> None:
        """Stop waiting."""
        ...


class StopSender(Protocol):
    """Sends Stop on ports of its own."""

    def stop(self, reason: str, timeout_s: float = 1.0) -> tuple[Reply, int]:
        """Return the reply and how long it took [ns]."""
        ...

    def close(self) -> None:
        """Let the ports go."""
        ...


class Link(Protocol):
    """A window's place on the bus."""

    rig_id: str

    def subscribe(self, topic: str, mode: Literal["newest", "lossless"] = "newest") -> BlockSource:
        """Read a topic."""
        ...

    def events(self) -> EventSource:
        """Read the events."""
        ...

    def poller(self, *sources: Any) -> Waiter:
        """Wait for sources."""
        ...

    def stop_door(self) -> StopSender:
        """Return a door for Stop."""
        ...

    def topics(self) -> list[str]:
        """Return the names of the topics."""
        ...

    def services(self) -> list[str]:
        """Return the names that can be asked."""
        ...

    def processes(self) -> dict[str, float]:
        """Return the age of the last heartbeat [s] by process."""
        ...

    def request(self, process: str, request: Request, timeout_s: float = 1.0) -> Reply:
        """Ask a process."""
        ...

    def submit(
        self, command: Command, *, holder: str, epoch: int, dry_run: bool = False, timeout_s: float = 1.0
    ) -> Reply:
        """Hand a command to the gate."""
        ...

    def close(self) -> None:
        """Leave the rig."""
        ...


def connect(rig_id: str, name: str = "window") -> Link:
    """Join a running rig; raises BusError or SharedMemoryError."""
    from probeloop.api import Connection

    made: Link = Connection(rig_id, f"{name}-{os.getpid()}")
    return made
