"""Software triggers: given on a thread of its own, because the DCU answers only when the frames are taken."""

from __future__ import annotations

import threading

from probeloop.api import DriverError

from .simplon import Call, Simplon


class SoftwareTrigger:
    """Gives `count` triggers, one after the other.

    value: the exposure that goes with each [s], None = none. seconds: that one takes at most. problem: why one could
    not be given. answered: all were taken.
    """

    def __init__(self, simplon: Simplon, count: int, seconds: float, value: float | None = None) -> None:
        self._simplon, self._count, self._seconds, self._value = simplon, count, seconds, value
        self._call = Call()
        self.problem: DriverError | None = None
        self.answered = False
        self._thread = threading.Thread(target=self._give, name="dectris triggers", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def cancel(self) -> None:
        """Give no more, and wait for no answer; any thread."""
        self._call.cancel()

    def end(self) -> None:
        """Cancel, and end the thread."""
        self._call.cancel()
        if self._thread.ident is not None:
            self._thread.join(5.0)

    def _give(self) -> None:
        for _ in range(self._count):
            if self._call.cancelled:
                return
            try:
                self._simplon.command("trigger", value=self._value, timeout=self._seconds, call=self._call)
            except DriverError as error:
                if not self._call.cancelled:
                    self.problem = error
                return
        self.answered = True
