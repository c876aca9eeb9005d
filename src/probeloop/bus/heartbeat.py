"""Heartbeats: a stopped or hung process stays alive for the operating system, its pulse does not."""

from __future__ import annotations

import os
import time

from ..data.errors import BusError
from .ledger import BEAT_NS, PULSE
from .node import Bus

_SEQUENCE, _TIME_NS, _PID, _MARK = 0, BEAT_NS, 2, 3
_LOOK_AGAIN_NS = 2_000_000  # for a process without a pulse yet: a look takes 30 us, and the gate asks for each call


class Heartbeat:
    """This process's pulse: sticky state in the rig's ledger, so a late reader sees it at once."""

    def __init__(self, bus: Bus, process: str | None = None) -> None:
        """Take over the pulse of `process` (default: this Bus's); a restart continues its sequence."""
        self._words = bus.ledger.claim(PULSE, process or bus.process, shared=True).words
        self.beat()  # before the pid: with another's beat, or none, a process that has just begun would look hung
        self._words[_PID] = os.getpid()

    def beat(self) -> int:
        """Say that the loop which calls this is alive [0.2 us]; return the sequence number."""
        words = self._words
        sequence = words[_SEQUENCE] + 1
        words[_TIME_NS] = time.monotonic_ns()
        words[_SEQUENCE] = sequence
        return sequence

    def mark(self, value: int) -> None:
        """Leave a word beside the pulse; what it means is between this process and those that read it."""
        self._words[_MARK] = value


class Pulse:
    """Reads the heartbeats of a rig; any thread."""

    def __init__(self, bus: Bus) -> None:
        self._ledger = bus.ledger
        self._rows: dict[str, memoryview] = {}
        self._absent: dict[str, int] = {}

    def _row(self, process: str) -> memoryview | None:
        words = self._rows.get(process)
        if words is None:
            now = time.monotonic_ns()
            if now - self._absent.get(process, -_LOOK_AGAIN_NS) < _LOOK_AGAIN_NS:
                return None
            rows = self._ledger.rows(PULSE, process)
            if not rows:
                self._absent[process] = now
                return None
            words = self._rows[process] = rows[0].words
        return words

    def mark(self, process: str) -> int:
        """Return the word that a process left beside its pulse, 0 when there is none; it outlives the process."""
        words = self._row(process)
        return 0 if words is None else words[_MARK]

    def read(self, process: str) -> tuple[float, int, int] | None:
        """Return (age [s], pid, sequence) of the last beat, or None when that process never had a pulse."""
        words = self._row(process)
        if words is None:
            return None
        age_s = (time.monotonic_ns() - words[_TIME_NS]) * 1e-9
        return max(0.0, age_s), words[_PID], words[_SEQUENCE]

    def processes(self) -> list[str]:
        """Return the names of all processes that ever had a pulse in this rig."""
        return sorted(row.name for row in self._ledger.rows(PULSE))

    def require(self, process: str, max_age_s: float) -> None:
        """Raise BusError, one line, when the last beat of `process` is older than `max_age_s`."""
        last = self.read(process)
        if last is None:
            raise BusError(f"process {process!r} never had a pulse", "is it started?")
        if last[0] > max_age_s:
            raise BusError(
                f"process {process!r} (pid {last[1]}) is silent since {last[0]:.2f} s", "stop or restart it"
            )
