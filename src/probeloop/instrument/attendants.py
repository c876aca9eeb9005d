"""Two threads that serve an instrument: one attends, to requests and to what was accepted; the other stands by.

Whoever accepted a command takes it to the hardware itself: to wake another thread for that and give it the
interpreter takes longer than the verdict. Two threads that wait for the same requests are both woken by each and
fight for the interpreter, which doubled the time of a closed loop (docs/decisions/0014); so the other one sleeps, and
takes over the requests when a driver call takes longer than 2 ms: STOP is heard whatever the driver does, 4 ms later
at most; some 30 where a timer ticks every 16 ms, as on Windows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from .desk import ControlDesk

READBACK_NS = 250_000_000  # between two looks at an idle instrument
PATIENCE = 0.002  # [s] that nobody listens for while the one who attends is in the driver
ENDING = 2.0  # [s] for a thread to end


class Attendants:
    """The threads "desk-1" and "desk-2".

    answer: waits a little for requests and answers those that came; called by the one who attends.
    """

    def __init__(self, desk: ControlDesk, answer: Callable[[], None]) -> None:
        self._desk, self._answer = desk, answer
        self._over = threading.Event()
        self._driving = threading.Lock()
        self._changing = threading.Lock()  # of who attends
        self._attending = 0
        self._left = 0.0  # when the one who attends left the requests for the driver [s], 0 = it listens
        self._absences = 0
        self._called = threading.Event()  # the other one is to look whether it is needed
        self._looked_ns = 0
        self.failure: Exception | None = None
        self._threads = [
            threading.Thread(target=self._serve, args=(me,), name=f"desk-{me + 1}", daemon=True) for me in (0, 1)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def _serve(self, me: int) -> None:
        try:
            while not self._over.is_set():
                if me == self._attending:
                    self._attend(me)
                else:
                    self._stand_by(me)
        except Exception as error:  # the process ends in order, and says so
            self.failure = error
            self._desk.ending.set()

    def _attend(self, me: int) -> None:
        self._answer()
        self._absences += 1
        self._left = time.monotonic()
        if not self._called.is_set():  # it looks by itself while absences follow each other
            self._called.set()
        self._carry_out()
        with self._changing:
            if me == self._attending:
                self._left = 0.0

    def _stand_by(self, me: int) -> None:
        """Sleep until the other one has left for the driver; take its place when it stays away."""
        self._called.wait()
        seen = self._absences
        self._over.wait(PATIENCE)
        with self._changing:
            if self._left and time.monotonic() - self._left > PATIENCE:
                self._attending, self._left = me, 0.0
        if me != self._attending and seen == self._absences:
            self._called.clear()
            if self._left:  # it left between the two looks, and found this one awake
                self._called.set()

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
        self._called.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(ENDING)
