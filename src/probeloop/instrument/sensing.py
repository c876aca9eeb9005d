"""Reads the sensors in a thread of its own, so that a `sense` that hangs costs nothing but its own readings."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ..data.control import Remark
from .alarms import SENSE_PERIOD, Alarms, Reading
from .journal import Journal

FIRST_WITHIN = 1.0  # [s] for the first reading, before anything is armed
ENDING = 0.5  # [s] for the thread to end


class Sensing:
    """Asks the driver's `sense` every 50 ms, and hands each reading to the alarms whole. now_ns: CLOCK_MONOTONIC."""

    def __init__(self, instrument: Any, alarms: Alarms, journal: Journal, now_ns: Callable[[], int]) -> None:
        self._instrument, self._alarms, self._journal, self._now_ns = instrument, alarms, journal, now_ns
        self._over, self._first = threading.Event(), threading.Event()
        self._mute = False
        self._thread = threading.Thread(target=self._loop, name="sensing", daemon=True)

    def start(self) -> None:
        """Begin, and wait for the first reading, a second at most."""
        self._thread.start()
        self._first.wait(FIRST_WITHIN)

    def _loop(self) -> None:
        while not self._over.is_set():
            asked = self._now_ns()
            try:
                values = dict(self._instrument.sense())
            except Exception as error:  # a driver may raise anything; said once, and its alarms trip by themselves
                if not self._mute:
                    self._journal.tell(Remark(text=f"sense failed: {type(error).__name__}: {error}", level="error"))
                self._mute = True
            else:
                self._mute = False
                self._alarms.sensed = Reading(values, asked)
                self._first.set()
            self._over.wait(SENSE_PERIOD)

    def end(self) -> None:
        """End the thread; a call that hangs keeps it, and dies with the process."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(ENDING)
