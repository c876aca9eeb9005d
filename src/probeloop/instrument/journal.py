"""What the instrument's process tells everybody: events with who, when, and in what order."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

import msgspec

from ..data.control import Event, encode


class Journal(Protocol):
    """Takes events; any thread."""

    def tell(self, event: Event) -> None:
        """Write one event."""


class EventJournal:
    """Stamps events and hands them on as bytes, one thread at a time."""

    def __init__(self, process: str, now_ns: Callable[[], int], write: Callable[[bytes], None]) -> None:
        self._process, self._now_ns, self._write = process, now_ns, write
        self._lock = threading.Lock()

    def tell(self, event: Event) -> None:
        """Write one event with this process, the time and the wall clock."""
        with self._lock:
            wall = datetime.now(UTC).isoformat(timespec="milliseconds")
            stamped = msgspec.structs.replace(event, process=self._process, time_ns=self._now_ns(), wall=wall)
            self._write(encode(stamped))
