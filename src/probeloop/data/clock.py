"""Clocks are passed in, so that an hour can pass in a test at once.

`MonotonicClock` is the host's CLOCK_MONOTONIC, the only base of latencies. `VirtualClock` is an instrument
that is not there: its time is what the simulated hardware would have needed, played at any pace.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """Time in nanoseconds, and a wait that can be cancelled."""

    def now_ns(self) -> int:
        """Return the time now [ns]."""
        ...

    def wait_until(self, time_ns: int, cancelled: threading.Event | None = None) -> bool:
        """Return True when `time_ns` is reached, False when `cancelled` was set before."""
        ...


class MonotonicClock:
    """CLOCK_MONOTONIC of this host."""

    def now_ns(self) -> int:
        """Return the time now [ns]."""
        return time.monotonic_ns()

    def wait_until(self, time_ns: int, cancelled: threading.Event | None = None) -> bool:
        """Wait for `time_ns`; False when `cancelled` was set before."""
        cancelled = cancelled or threading.Event()
        return not cancelled.wait(max(0, time_ns - time.monotonic_ns()) / 1e9)


class ManualClock:
    """A clock that stands still until `advance` is called."""

    def __init__(self, start_ns: int = 0) -> None:
        self._now = start_ns
        self._changed = threading.Condition()

    def now_ns(self) -> int:
        """Return the time now [ns]."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let `seconds` [s] pass, and wake whoever waited for a moment now past."""
        with self._changed:
            self._now += round(seconds * 1e9)
            self._changed.notify_all()

    def wait_until(self, time_ns: int, cancelled: threading.Event | None = None) -> bool:
        """Wait for `time_ns`; `cancelled` is looked at on every advance."""
        with self._changed:
            while self._now < time_ns:
                if cancelled is not None and cancelled.is_set():
                    return False
                self._changed.wait(0.05)
        return cancelled is None or not cancelled.is_set()


class VirtualClock:
    """The time of an instrument that is not there.

    pace: virtual seconds per host second (1 = line-rate); None = as fast as possible.
    The simulated hardware calls `spend`; the clock makes the caller wait for the pace.
    """

    def __init__(self, pace: float | None = 1.0, host: Clock | None = None) -> None:
        self.pace = pace
        self._host = host or MonotonicClock()
        self._virtual = 0
        self._anchor: tuple[int, int] | None = None

    def now_ns(self) -> int:
        """Return the virtual time [ns]."""
        return self._virtual

    def wait_until(self, time_ns: int, cancelled: threading.Event | None = None) -> bool:
        """Move the virtual time to `time_ns`, no faster than the pace."""
        if time_ns > self._virtual:
            return self.spend((time_ns - self._virtual) / 1e9, cancelled)
        return cancelled is None or not cancelled.is_set()

    def restart_pace(self) -> None:
        """Forget how far behind or ahead the host is: call at the start of an acquisition."""
        self._anchor = None

    def spend(self, seconds: float, cancelled: threading.Event | None = None) -> bool:
        """Let `seconds` [s] of virtual time pass; False when `cancelled` was set meanwhile."""
        if self._anchor is None:
            self._anchor = (self._host.now_ns(), self._virtual)
        self._virtual += round(seconds * 1e9)
        if self.pace is None:
            return cancelled is None or not cancelled.is_set()
        host0, virtual0 = self._anchor
        return self._host.wait_until(host0 + round((self._virtual - virtual0) / self.pace), cancelled)
