"""How often a failed plug-in is started again, and when not any more."""

from __future__ import annotations

from collections import deque

from ..data.clock import Clock, MonotonicClock

MOST = 5
WINDOW_S = 600.0
FIRST_S = 0.5
LONGEST_S = 10.0


class Restarts:
    """Counts failures by name: 0.5 s, 1 s, 2 s ... until the next start, off after 5 in 10 minutes."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or MonotonicClock()
        self._failures: dict[str, deque[int]] = {}

    def next_pause(self, name: str) -> float | None:
        """Note a failure; return how long to wait before the next start [s], or None when it stays off."""
        now = self._clock.now_ns()
        failures = self._failures.setdefault(name, deque())
        failures.append(now)
        while failures[0] < now - WINDOW_S * 1e9:
            failures.popleft()
        if len(failures) >= MOST:
            return None
        return float(min(LONGEST_S, FIRST_S * 2 ** (len(failures) - 1)))

    def forget(self, name: str) -> None:
        """Begin again: a person switched it on, or its source changed."""
        self._failures.pop(name, None)

    @staticmethod
    def why(reason: str) -> str:
        """Return the words for a plug-in that stays off."""
        return f"failed {MOST} times in {WINDOW_S / 60:g} minutes, last: {reason}"
