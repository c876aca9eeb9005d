"""The one door to the driver: who is inside, and whether it is open.

A STOP shuts it. What was inside at that moment can't be called back, so `shut` says whether someone is, and
`quiet` waits until they left: then nothing reaches the hardware any more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class ShutError(Exception):
    """The door was shut before the call: its epoch is over."""


class Door:
    """Counts the calls inside the driver; `make_safe` alone goes round it.

    barred: asked at each call: a reason from outside that shuts it before anybody here could.
    """

    def __init__(self, barred: Callable[[], bool] = lambda: False) -> None:
        self._barred = barred
        self._changed = threading.Condition()
        self._calls = threading.Lock()
        self._inside = 0
        self._epoch = -1
        self.shut_event = threading.Event()

    @contextmanager
    def passing(self, epoch: int | None) -> Iterator[None]:
        """Make one driver call; calls of several threads follow each other.

        epoch: in which the caller was permitted; None = only looks (read_back), which is always allowed.
        Raises ShutError when that epoch is over, also when it ended while waiting for another call.
        """
        with self._calls:
            with self._changed:
                if epoch is not None and (epoch != self._epoch or self._barred()):
                    raise ShutError
                self._inside += 1
            try:
                yield
            finally:
                with self._changed:
                    self._inside -= 1
                    self._changed.notify_all()

    @contextmanager
    def present(self) -> Iterator[None]:
        """Count as inside without keeping others out: for what spans several calls, such as an acquisition."""
        with self._changed:
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def open(self, epoch: int) -> None:
        """Let calls of `epoch` through, and only those."""
        with self._changed:
            self._epoch = epoch
            self.shut_event.clear()

    def is_open(self, epoch: int) -> bool:
        """Return whether calls of `epoch` still pass."""
        return self._epoch == epoch and not self._barred()

    def shut(self) -> bool:
        """Let no further call through; return whether one is inside."""
        with self._changed:
            self._epoch = -1
            self.shut_event.set()
            return self._inside > 0

    def quiet(self, timeout_s: float) -> bool:
        """Wait until nobody is inside [s]; False = someone still is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._inside, timeout_s)
