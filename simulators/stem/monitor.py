"""The monitor of the beam current: what it reads with its noise, and how it breaks in a drill."""

from __future__ import annotations

import itertools

import numpy as np

from probeloop.api import Alarm

from .settings import Drill

_RELATIVE, _FLOOR = 0.01, 5e-14  # noise of a reading, of the current and [A]


class BeamMonitor:
    """Reads the current on its way to the sample. drill: its fault from `start_ns` of the column's clock on."""

    def __init__(self, alarm: Alarm, seed: int, drill: Drill, start_ns: int) -> None:
        self.alarm, self._seed, self._drill, self._start_ns = alarm, seed, drill, start_ns
        self._count = itertools.count()
        self._kept: float | None = None

    def read(self, current: float, time_ns: int) -> float | None:
        """Return a reading of `current` [A], None when it gives none; any thread."""
        drill = self._drill if time_ns >= self._start_ns else "none"
        if drill == "missing_sensor":
            return None
        if drill == "high_current":
            current = 2 * self.alarm.high
        noise = np.random.default_rng([self._seed, 2, next(self._count)]).standard_normal()
        reading = current + float(noise) * (_RELATIVE * current + _FLOOR)
        if drill == "stuck_sensor" and self._kept is not None:
            return self._kept
        self._kept = reading
        return reading
