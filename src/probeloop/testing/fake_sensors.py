"""Sensors for tests: each reads what it is told to, the ways of broken hardware included."""

from __future__ import annotations

import itertools
import threading
from typing import Literal

from ..data.control import Scalar
from ..data.limits import Alarm

Way = Literal["good", "high", "low", "stuck", "missing", "nan"]
FAKE_ALARMS = {
    "tip_current": Alarm(low=-1e-8, high=1e-8, units="A", when=("approaching", "engaged", "held"), missing_after=0.5),
    "deflection": Alarm(low=-2.0, high=2.0, units="V", hold=0.2, missing_after=0.5),
    "z": Alarm(low=-9e-7, high=9e-7, units="m", when=("engaged",), hold=0.1, missing_after=0.5),
    "beam_monitor": Alarm(low=-1e-12, high=3e-10, units="A", when=("beam_on",), stuck_after=1.0, missing_after=0.5),
}


class FakeSensors:
    """One sensor for each alarm. ways: what each does, by name; "good" is what is not named.

    alarms: by name, both bounds closed. `hang(True)`: sense does not come back, as over a connection that is dead.
    """

    def __init__(self, alarms: dict[str, Alarm]) -> None:
        self.ways: dict[str, Way] = {}
        self._alarms = alarms
        self._count = itertools.count()
        self._answers = threading.Event()
        self._answers.set()

    def hang(self, on: bool) -> None:
        """Let `sense` hang from now on, or no longer."""
        if on:
            self._answers.clear()
        else:
            self._answers.set()

    def sense(self) -> dict[str, Scalar]:
        """Return what each sensor reads."""
        self._answers.wait()
        count = next(self._count)
        read = {name: self._read(alarm, self.ways.get(name, "good"), count) for name, alarm in self._alarms.items()}
        return {name: value for name, value in read.items() if value is not None}

    def _read(self, alarm: Alarm, way: Way, count: int) -> float | None:
        middle, half = (alarm.low + alarm.high) / 2, (alarm.high - alarm.low) / 2
        noise = half * 1e-3 * (1 + count % 7)
        values = {"high": alarm.high + half, "low": alarm.low - half, "stuck": middle, "nan": float("nan")}
        return None if way == "missing" else values.get(way, middle + noise)
