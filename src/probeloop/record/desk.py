"""What the recorder knows besides frames: generations, events, faults to tell, and how long the disk will last."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from ..data.control import Event, Generation, Verdict, decode_event
from ..data.errors import WireError

_KEPT = 20_000
_LOW_S = 60.0
_LOW_BYTES = 64 << 20


class EventLog:
    """Appends every event to events.jsonl, and remembers which command caused which generation.

    What is in the file already, from a recorder that died, is not written again when it comes once more.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._unwritten: list[bytes] = []
        self._lock = threading.Lock()  # the writing thread tries again what failed
        self._causes: OrderedDict[int, Verdict] = OrderedDict()
        self._generations: OrderedDict[int, Generation] = OrderedDict()
        self._newest, self._began_ns = _newest(path), time.monotonic_ns()

    def take(self, bodies: list[bytes]) -> list[Event]:
        """Take events as they came over the bus; write what the disk takes; return them decoded."""
        events: list[Event] = []
        for body in bodies:
            try:
                event = decode_event(body)
            except WireError:
                continue
            if event.time_ns < self._began_ns and 0 < event.time_ns <= self._newest.get(event.process, -1):
                continue
            events.append(event)
            with self._lock:
                self._unwritten.append(msgspec.json.encode(event))
            if isinstance(event, Verdict) and event.accepted and not event.dry_run:
                _remember(self._causes, event.id, event)
            elif isinstance(event, Generation):
                _remember(self._generations, event.id, event)
        self.write()
        return events

    def write(self) -> str:
        """Append what is not written yet; return what went wrong, or ""."""
        with self._lock:
            return self._write() if self._unwritten else ""

    def _write(self) -> str:
        try:
            with self.path.open("ab") as file:
                if file.tell() and not _ends_with_newline(self.path):
                    file.write(b"\n")
                file.write(b"\n".join(self._unwritten) + b"\n")
        except OSError as error:
            return f"events.jsonl: {error.strerror}"
        self.count += len(self._unwritten)
        self._unwritten.clear()
        return ""

    def about(self, generation: int) -> dict[str, Any]:
        """Return what is known of a generation, for its file to carry."""
        made = self._generations.get(generation)
        if made is None:
            return {"first_generation": generation}
        verdict = self._causes.get(made.command_id)
        return {
            "first_generation": generation,
            "command_id": made.command_id,
            "command": "" if made.scan is None else msgspec.json.encode(made.scan).decode(),
            "cause": [] if verdict is None else [list(each) for each in verdict.cause],
            "holder": "" if verdict is None else verdict.holder,
            "calibration_ids": list(made.calibration_ids),
            "settings": dict(made.settings),
            "t_settled_ns": made.t_settled_ns,
        }


class DiskWatch:
    """Says in time that the disk will be full, and once what failed."""

    def __init__(self, free: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> None:
        self._free, self._clock = free, clock
        self._last: tuple[float, int] | None = None
        self._low = False
        self._failing = False
        self.rate = 0.0
        self.free_bytes = 0

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the disk is full at the present rate; None while nothing is written."""
        return self.free_bytes / self.rate if self.rate >= 1.0 else None  # it fades, and never becomes 0

    def look(self, written: int) -> str:
        """Look at the free space, `written` bytes in all so far; return a warning once, or ""."""
        now = self._clock()
        self.free_bytes = self._free()
        if self._last is not None and now > self._last[0]:
            rate = (written - self._last[1]) / (now - self._last[0])
            self.rate = rate if self.rate == 0 else 0.7 * self.rate + 0.3 * rate
        self._last = (now, written)
        left = self.seconds_left
        low = self.free_bytes < _LOW_BYTES or (left is not None and left < _LOW_S)
        say, self._low = low and not self._low, low
        if not say:
            return ""
        when = f"in {left:.0f} s at {self.rate / 1e6:.3g} MB/s" if left is not None else "soon"
        return f"the disk of the session will be full {when}: {self.free_bytes / 1e6:.0f} MB are free. Make room"

    def failed(self, faults: list[str]) -> str:
        """Return what to say of the faults since the last look: the first of an episode, or its end, or ""."""
        was, self._failing = self._failing, bool(faults)
        if faults and not was:
            return f"recording fails, {faults[0]}. Acquisition goes on; make room or end the run"
        return "recording again" if was and not faults else ""


def wall() -> str:
    """Return the wall clock as ISO 8601 with its zone."""
    return datetime.now().astimezone().isoformat(timespec="milliseconds")


class _Stamp(msgspec.Struct):
    process: str = ""
    time_ns: int = 0


def _newest(path: Path) -> dict[str, int]:
    """Return when the newest event of each process was written that the file has [ns]."""
    found: dict[str, int] = {}
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(msgspec.MsgspecError):  # the torn last line of a crash
                stamp = msgspec.json.decode(line, type=_Stamp)
                found[stamp.process] = max(stamp.time_ns, found.get(stamp.process, -1))
    return found


def _remember(store: OrderedDict[int, Any], key: int, value: Any) -> None:
    store[key] = value
    while len(store) > _KEPT:
        store.popitem(last=False)


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"
