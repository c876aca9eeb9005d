"""Which pixels of a line got no frame, and which got more than one: by scan index, never by order of arrival."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..data.axes import StreamSpec
from ..data.control import Gap
from ..data.frame import FrameFlag
from .triggers import longest_run

NAMED_PIXELS = 256  # an event names no more than these
_TAKEN = int(FrameFlag.TRIGGER_MISSED | FrameFlag.FLYBACK)  # a frame without a pixel that stands for none


class Lines:
    """Compares what each line should have with what came, by scan index.

    missed: hears how many pixels in a row, in the order of the visits, got no frame. A frame that came while the
    hardware settled belongs to no pixel, but its trigger was not lost.
    """

    def __init__(
        self,
        spec: StreamSpec,
        generation: int,
        report: Callable[[Gap], None],
        missed: Callable[[int], None] = lambda run: None,
    ) -> None:
        shape = spec.nav_shape
        self._width = shape[-1] if shape else 0
        self._counts = np.zeros(math.prod(shape) if shape and spec.sync != "none" else 0, np.int32)
        self._topic, self._generation, self._report = spec.name, generation, report
        self._row = self._before = -1
        self._started = self._backwards = False
        self._missed, self._run, self._excused = missed, 0, 0

    def add(self, scan_index: NDArray[np.int64], flags: NDArray[np.uint16], first: int) -> bool:
        """Take the columns of a block, whose first frame has the index `first`; True when a line ended in it."""
        repeats = np.flatnonzero(flags & FrameFlag.PATTERN_REPEAT)
        if repeats.size and self._counts.size:
            self._tell_repeats(scan_index, repeats, first)
        if scan_index.size:
            self._before = int(scan_index[-1])
        index = scan_index[scan_index >= 0]
        if not self._counts.size:
            return True
        if index.size < scan_index.size:
            self._excused += int(np.count_nonzero((scan_index < 0) & ((flags & _TAKEN) == 0)))
        if not index.size:
            return False
        rows = index // self._width
        starts = np.concatenate([[0], np.flatnonzero(np.diff(rows)) + 1, [index.size]])
        missing: list[NDArray[np.int64]] = []
        doubled: list[NDArray[np.int64]] = []
        for begin, end in itertools.pairwise(starts):
            row = int(rows[begin])
            if self._started and row != self._row:
                self._close(self._row, missing, doubled)
                for skipped in self._between(self._row, row):
                    self._close(skipped, missing, doubled)
            elif not self._started:
                for skipped in range(row):
                    self._close(skipped, missing, doubled)
            self._row, self._started = row, True
            self._backwards = bool(index[end - 1] < index[begin])
            np.add.at(self._counts, index[begin:end], 1)
        self._tell(missing, doubled)
        last = int(index[-1])
        return len(starts) > 2 or bool(np.all(self._counts[last - last % self._width :][: self._width]))

    def _tell_repeats(self, scan_index: NDArray[np.int64], repeats: NDArray[np.int64], first: int) -> None:
        """Name the frames that the driver says repeat the one before: no pixel gets them."""
        before = np.concatenate([[self._before], scan_index])[repeats]
        self._report(
            Gap(
                topic=self._topic,
                first=first + int(repeats[0]),
                count=0,
                reason=f"{repeats.size} frames that repeat the one before",
                generation=self._generation,
                pixels=tuple(int(p) for p in before[:NAMED_PIXELS]),
            )
        )

    def close(self) -> None:
        """End the scan: the last line, and lines that never came."""
        if not self._counts.size:
            return
        missing: list[NDArray[np.int64]] = []
        doubled: list[NDArray[np.int64]] = []
        for row in range(max(0, self._row), self._counts.size // self._width):
            self._close(row, missing, doubled)
        self._tell(missing, doubled)

    def _between(self, before: int, now: int) -> list[int]:
        """Return the lines that should have come between two; the map may begin again."""
        if now > before:
            return list(range(before + 1, now))
        return [*range(before + 1, self._counts.size // self._width), *range(now)]

    def _close(self, row: int, missing: list[NDArray[np.int64]], doubled: list[NDArray[np.int64]]) -> None:
        line = self._counts[row * self._width : (row + 1) * self._width]
        if line.min() == 1 == line.max():
            line[:] = 0
            self._run = self._excused = 0
            return
        self._count_run(line == 0)
        missing.append(np.flatnonzero(line == 0) + row * self._width)
        doubled.append(np.flatnonzero(line > 1) + row * self._width)
        line[:] = 0

    def _count_run(self, lost: NDArray[np.bool_]) -> None:
        """Go on counting pixels in a row without a frame, through one more line of the map."""
        longest, last = longest_run(lost[::-1] if self._backwards else lost, self._run)
        self._run = max(0, last - self._excused)
        if longest > self._excused:
            self._missed(longest - self._excused)
        self._excused = max(0, self._excused - int(np.count_nonzero(lost)))

    def _tell(self, missing: list[NDArray[np.int64]], doubled: list[NDArray[np.int64]]) -> None:
        for found, reason in (
            (missing, "no frame for these pixels"),
            (doubled, "more than one frame for these pixels"),
        ):
            pixels = np.concatenate(found) if found else np.zeros(0, np.int64)
            if pixels.size:
                named = tuple(int(p) for p in pixels[:NAMED_PIXELS])
                self._report(
                    Gap(
                        topic=self._topic,
                        first=named[0],
                        count=int(pixels.size) if found is missing else 0,
                        reason=reason,
                        generation=self._generation,
                        pixels=named,
                    )
                )
