"""Lost triggers: pixels in a row without a frame, and a camera that has gone silent (CONVENTIONS.md 9).

The pump notes what it waits for and what never came; the gate reads both like sensors, with alarms of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from ..data.errors import ContractError
from ..data.frame import FrameFlag
from ..data.limits import Alarm, Limits
from .alarms import Reading

MISSED = "pixels_without_frame"
OVERDUE = "frame_overdue"


def alarms_of(limits: Limits) -> dict[str, Alarm]:
    """Return all alarms under these limits: the driver's, and the two on the camera's frames.

    Raises ContractError for a driver's alarm that has the name of one of the two.
    """
    own = {
        MISSED: Alarm(high=float(limits.missed_triggers), units="px"),
        OVERDUE: Alarm(high=limits.frame_timeout, units="s"),
    }
    taken = ", ".join(own.keys() & limits.alarms.keys())
    if taken:
        raise ContractError(f"the alarm {taken} is not the driver's to set", "limit missed_triggers or frame_timeout")
    return {**limits.alarms, **own}


class Triggers:
    """What the acquisition that runs still owes; the pump's thread writes, the gate's reads."""

    def __init__(self) -> None:
        self._missed = self._run = 0
        self._due_ns: int | None = None

    def reset(self) -> None:
        """Forget what was missed, for the next acquisition or after a trip."""
        self._missed = self._run = 0

    @contextmanager
    def waiting(self, due_ns: int) -> Iterator[None]:
        """Wait inside for frames that are due at `due_ns` on CLOCK_MONOTONIC."""
        self._due_ns = due_ns
        try:
            yield
        finally:
            self._due_ns = None

    def frames(self, flags: NDArray[np.uint16]) -> None:
        """Note (N,) flags of frames that came: one after the other that no trigger asked for is a lost line."""
        unasked = (flags & FrameFlag.TRIGGER_MISSED) != 0
        if not unasked.any():
            self._run = 0
            return
        longest, self._run = longest_run(unasked, self._run)
        self.missed(longest)

    def missed(self, run: int) -> None:
        """Note that `run` pixels in a row got no frame."""
        self._missed = max(self._missed, run)

    def reading(self, now_ns: int) -> Reading:
        """Return both as a reading: the longest run so far [px], and how long a frame is overdue [s]."""
        due = self._due_ns
        overdue = max(0.0, (now_ns - due) / 1e9) if due is not None else 0.0
        return Reading({MISSED: self._missed, OVERDUE: overdue}, now_ns)


def longest_run(marked: NDArray[np.bool_], before: int = 0) -> tuple[int, int]:
    """Return the longest run of True, and the one at the end; `before`: a run that leads up to the first.

    >>> longest_run(np.array([True, False, True, True]), before=4)
    (5, 2)
    """
    breaks = np.flatnonzero(~marked)
    if not breaks.size:
        return before + len(marked), before + len(marked)
    last = len(marked) - 1 - int(breaks[-1])
    inner = int(np.diff(breaks).max(initial=1)) - 1
    return max(before + int(breaks[0]), inner, last), last
