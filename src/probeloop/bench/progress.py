"""How far a long measurement is, and how long it will take yet, on stderr."""

from __future__ import annotations

import sys
from typing import TextIO

from ..data.clock import Clock, MonotonicClock

_EVERY_S, _EVERY_S_IN_A_FILE = 0.5, 10.0


class Progress:
    """One line that is written over on a screen, a line now and then elsewhere."""

    def __init__(self, what: str, clock: Clock | None = None, stream: TextIO | None = None) -> None:
        self._what, self._clock = what, clock or MonotonicClock()
        self._stream = stream if stream is not None else sys.stderr
        self._screen = self._stream.isatty()
        self._began = self._told = self._clock.now_ns()

    def __call__(self, done: int, of: int) -> None:
        """Tell that `done` of `of` are done."""
        now = self._clock.now_ns()
        last = done >= of
        if (now - self._told) * 1e-9 < (_EVERY_S if self._screen else _EVERY_S_IN_A_FILE) and not last:
            return
        if last and not self._screen:
            return
        self._told = now
        left = (now - self._began) * 1e-9 / max(done, 1) * (of - done)
        text = f"{self._what} {done} of {of}, {left:.0f} s to go"
        self._stream.write(
            f"\r{text:<70}" + ("\r" + " " * 70 + "\r" if last else "") if self._screen else text + "\n"
        )
        self._stream.flush()
