"""What a plug-in has in hand, as sticky state in the rig's ledger: a hung plug-in can't say so itself."""

from __future__ import annotations

import os
import statistics
import time
from collections import deque
from dataclasses import dataclass

from ..bus.node import Bus

WORK = 16  # kind of a ledger row; bus/ledger.py has the low numbers
LEAST_NS = 2_000_000_000
TIMES_MEDIAN = 20
FIRST_NS = 60_000_000_000
_STARTED, _LIMIT, _MEDIAN, _BLOCKS, _PID, _BEAT = range(6)


@dataclass(frozen=True)
class Reading:
    """A pulse as the watchdog sees it. late: one call takes longer than it may."""

    pid: int
    busy_s: float
    limit_s: float
    median_s: float
    blocks: int
    silent_s: float

    @property
    def late(self) -> bool:
        """Whether the call in hand takes longer than max(2 s, 20 x median), 60 s for the first of its kind."""
        return self.busy_s > self.limit_s


class Work:
    """The pulse of one plug-in instance; written by the thread that runs it [1 us a call]."""

    def __init__(self, bus: Bus, instance: str) -> None:
        self._words = bus.ledger.claim(WORK, instance, shared=True).words
        self._times: deque[int] = deque(maxlen=33)
        self._first = True
        self._since = 0
        self._words[_PID] = os.getpid()
        self._words[_STARTED] = 0
        self.median_ns = 0
        self.blocks = 0
        self.beat()

    def beat(self) -> None:
        """Say that the loop turns."""
        self._words[_BEAT] = time.monotonic_ns()

    def expect_slow(self) -> None:
        """Allow the next call 60 s: it imports or compiles."""
        self._first = True

    def begin(self) -> None:
        """A call into the plug-in begins."""
        self._words[_LIMIT] = FIRST_NS if self._first else max(LEAST_NS, TIMES_MEDIAN * self.median_ns)
        self._since = self._words[_STARTED] = time.monotonic_ns()

    def end(self) -> None:
        """The call returned."""
        took = time.monotonic_ns() - self._since
        self._words[_STARTED] = 0
        if not self._first:
            self._times.append(took)
            if len(self._times) <= 5 or self.blocks % 16 == 0:
                self.median_ns = int(statistics.median(self._times))
                self._words[_MEDIAN] = self.median_ns
        self._first = False
        self.blocks += 1
        self._words[_BLOCKS] = self.blocks
        self._words[_BEAT] = self._since + took


def read_work(bus: Bus, instance: str) -> Reading | None:
    """Return what the plug-in instance has in hand, or None when it never had a pulse."""
    rows = bus.ledger.rows(WORK, instance)
    if not rows:
        return None
    words = rows[0].words
    now, started = time.monotonic_ns(), words[_STARTED]
    return Reading(
        words[_PID],
        (now - started) / 1e9 if started else 0.0,
        words[_LIMIT] / 1e9,
        words[_MEDIAN] / 1e9,
        words[_BLOCKS],
        max(0.0, (now - words[_BEAT]) / 1e9),
    )
