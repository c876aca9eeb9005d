"""Two threads that serve an instrument: each answers requests, and each carries out what was accepted.

One at a time may be in the driver, so the other one is always free to hear STOP. Whoever accepted a command takes
it to the hardware itself: to wake another thread for that and give it the interpreter takes longer than the verdict.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from .desk import ControlDesk

READBACK_NS = 250_000_000  # between two looks at an idle instrument
ENDING = 2.0  # [s] for a thread to end


class Attendants:
    """The threads "desk-1" and "desk-2".

    answer: waits a little for requests and answers those that came; both threads call it at once, so it locks what it
    reads and judges with.
    """

    def __init__(self, desk: ControlDesk, answer: Callable[[], None]) -> None:
        self._desk, self._answer = desk, answer
        self._over = threading.Event()
        self._driving = threading.Lock()
        self._looked_ns = 0
        self.failure: Exception | None = None
        self._threads = [threading.Thread(target=self._attend, name=f"desk-{i}", daemon=True) for i in (1, 2)]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def _attend(self) -> None:
        try:
            while not self._over.is_set():
                self._answer()
                self._carry_out()
        except Exception as error:  # the process ends in order, and says so
            self.failure = error
            self._desk.ending.set()

    def _carry_out(self) -> None:
        """Carry out all that waits, unless the other thread does; it looks again when it has left the driver."""
        desk, first = self._desk, True
        while (first or desk.queued) and self._driving.acquire(blocking=False):
            try:
                first = False
                while not self._over.is_set() and desk.run_next():
                    pass
                desk.park()
                if desk.now_ns() - self._looked_ns > READBACK_NS:
                    self._looked_ns = desk.now_ns()
                    desk.refresh_readback()
            finally:
                self._driving.release()

    def end(self) -> None:
        """End the threads; a driver call that hangs keeps its own, which dies with the process."""
        self._over.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(ENDING)
