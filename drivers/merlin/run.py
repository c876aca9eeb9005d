"""One acquisition: which pixel a frame is, when it was exposed, and when the run is over."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probeloop.api import Clock, DriverError, FrameBuffer, FrameFlag

from .connection import SLICE
from .control import ARMED, BUSY, IDLE, Control, quietly
from .decode import GOOD, IMPOSSIBLE, REPEATED, SURPLUS, place, stamp, views_of
from .headers import PREFIX
from .stream import FrameStream

_TOGETHER_NS = 2_000_000  # frames of so long a time go into a block
_QUIET = 0.02  # [s] after the last frame until it was the last
_LOOK = 0.25  # [s] of silence until the detector is asked
_NOTHING = np.iinfo(np.int64).max
_NO_FILE = ("none", "dummy")


@dataclass(frozen=True)
class Planned:
    """What is asked for.

    frames: in all. width: of a line, 0 = no map. positions: (pixels, 2) [m], one row NaN without a map. exposure_ns:
    of a frame. patience: how long it may be quiet [s]. limit: what a pixel can't exceed.
    """

    frames: int
    width: int
    positions: NDArray[np.float64]
    exposure_ns: int
    patience: float
    limit: int


@dataclass
class Tally:
    """What came of a run."""

    frames: int = 0
    repeated: int = 0
    surplus: int = 0
    impossible: int = 0


class Run:
    """Fills buffers with the frames of a stream until the run is over. `end` must follow."""

    def __init__(
        self, plan: Planned, stream: FrameStream, control: Control, clock: Clock, cancelled: threading.Event
    ) -> None:
        self.plan, self.stream, self.cancelled, self.tally = plan, stream, cancelled, Tally()
        self._control, self._clock = control, clock
        self._seen = np.zeros(plan.frames, np.bool_)
        self._flags = np.zeros(len(plan.positions), np.uint16)
        if plan.width:
            self._flags[:: plan.width] |= np.uint16(FrameFlag.LINE_START)
            self._flags[plan.width - 1 :: plan.width] |= np.uint16(FrameFlag.LINE_END)
        self._highest = -1
        self._base: int | None = None
        self._views: tuple[NDArray[Any], ...] = ()
        self._offset, self._last_ns = _NOTHING, 0
        self._started = 0  # when the first frame was waited for
        self._look = _LOOK
        self._idle = self.over = False

    def fill(self, buffer: FrameBuffer) -> int:
        """Fill rows [0, n) of a buffer and return n, 0 = the run is over; raises DriverError when it failed."""
        row, until = 0, 0
        self._started = self._started or self._clock.now_ns()
        while row < buffer.capacity:
            if not row:
                if not self._wait():
                    return 0
                until = self._clock.now_ns() + _TOGETHER_NS
            elif not self.stream.wait(1, max(0.0, (until - self._clock.now_ns()) / 1e9)):
                break
            row = self._place(buffer, row)
        return row

    @property
    def missing(self) -> int:
        """How many frames never came, or were refused."""
        return self.plan.frames - self.tally.frames

    @property
    def refused(self) -> int:
        """How many frames came and were not taken."""
        return self.stream.counts.refused + self.tally.impossible + self.tally.surplus

    # --- what came ----------------------------------------------------------------------------------------------

    def _place(self, buffer: FrameBuffer, row: int) -> int:
        """Decode what waits into the buffer from `row` on; return the next row."""
        stream, header, plan = self.stream, self.stream.template, self.plan
        assert header is not None
        batch = stream.take(buffer.capacity - row)
        count = batch.count
        if self._base is None:  # a run begins with 1; software that counts on begins beyond the run's last number
            first = int(batch.numbers[0])
            self._base = 1 if 1 <= first <= plan.frames else first
        kinds, index, rows = np.zeros((3, count), np.int64)
        at = batch.first * stream.slot + PREFIX + header.header_bytes
        if not self._views:
            self._views = views_of(stream.memory, buffer.data.dtype.str)
        end, self._highest = place(
            stream.memory, self._views, at, stream.slot, count, batch.numbers, self._base, self._highest,
            self._seen, kinds, index, rows, buffer.data, row, header.raw, header.depth, header.quad, self._limit,
        )  # fmt: skip
        if end > row:
            self._offset, self._last_ns = stamp(
                batch.stamps, batch.arrivals, rows, count, self._offset, self._last_ns, plan.exposure_ns,
                buffer.time_ns,
            )  # fmt: skip
        stream.release(count)
        self._count(kinds)
        if end > row:
            taken = rows >= 0
            self._write_columns(buffer, slice(row, end), index[taken], kinds[taken] == GOOD)
        return int(end)

    @property
    def _limit(self) -> int:
        """What no pixel can exceed; a flat field may take processed ones beyond the counter's depth."""
        flat = str(self.stream.acquisition.get("header_flat_field_file", "")).lower()
        return self.plan.limit if not flat or flat.startswith(_NO_FILE) else 0xFFFFFFFF

    def _count(self, kinds: NDArray[np.int64]) -> None:
        tally = self.tally
        if not kinds.any():
            tally.frames += len(kinds)
            return
        counts = np.bincount(kinds, minlength=4)
        tally.frames += int(counts[GOOD])
        tally.repeated += int(counts[REPEATED])
        tally.surplus += int(counts[SURPLUS])
        tally.impossible += int(counts[IMPOSSIBLE])

    def _write_columns(
        self, buffer: FrameBuffer, rows: slice, index: NDArray[np.int64], good: NDArray[np.bool_]
    ) -> None:  # fmt: skip
        pixel = index % len(self._flags)
        buffer.position[rows] = self.plan.positions[pixel]
        buffer.flags[rows] = self._flags[pixel]
        buffer.scan_index[rows] = pixel if self.plan.width else -1
        if not good.all():
            buffer.flags[rows][~good] = FrameFlag.PATTERN_REPEAT
            buffer.scan_index[rows][~good] = -1

    # --- whether more comes -------------------------------------------------------------------------------------

    def _wait(self) -> bool:
        """Wait for a frame; False when the run is over; raises DriverError when it failed."""
        stream = self.stream
        while True:
            complete = self._highest >= self.plan.frames - 1
            if stream.wait(1, _QUIET / 2 if complete else SLICE):
                if self.tally.surplus and complete:
                    return self._sends_on()
                return True
            if self.cancelled.is_set():
                return False
            if stream.ended:
                return self._close(stream.ended)
            quiet = (self._clock.now_ns() - max(stream.last_ns, self._started)) / 1e9
            if complete:
                if quiet > _QUIET:
                    return self._close("")
            elif quiet > self.plan.patience:
                raise self._failed(f"has sent nothing for {quiet:.1f} s")
            elif quiet > self._look:
                status = self._status()
                if status == IDLE and self._idle:
                    return self._close("is idle")
                self._idle = status == IDLE
                self._look = quiet + (SLICE if self._idle else 1.0)
            elif quiet < _LOOK:
                self._look, self._idle = _LOOK, False

    def _status(self) -> int | None:
        """Return what the detector is doing, None where it does not tell or is gone."""
        try:
            return self._control.status()
        except DriverError:
            return None

    def _sends_on(self) -> bool:
        """End a run of which more frames come than were asked for."""
        quietly(self._control, "STOPACQUISITION")
        raise DriverError(
            f"the Merlin sends more than the {self.plan.frames} frames asked for; it was stopped, and those are kept",
            "is another program setting it?",
        )

    def _close(self, why: str) -> bool:
        """End the run: in order when all but a part of the last line came, else raises DriverError."""
        self.over = True
        if self._highest >= self.plan.frames - 1:
            if self._status() in (BUSY, ARMED):
                quietly(self._control, "STOPACQUISITION")
            if self.tally.surplus:
                return self._sends_on()
            return False
        tail = self.plan.frames - 1 - self._highest
        if self.tally.frames and tail < max(1, self.plan.width) and not self.stream.ended:
            return False
        raise self._failed(why)

    def _failed(self, why: str) -> DriverError:
        counts, tally = self.stream.counts, self.tally
        if self.stream.ended:
            self.stream.stop()
        words = why if why.startswith(("the ", "another ")) else f"the Merlin {why}"
        words += f" after {tally.frames} of {self.plan.frames} frames"
        if counts.cut:
            words += ", in the middle of one"
        if self.refused:
            words += f"; {self.refused} were refused" + (f" ({counts.last_problem})" if counts.last_problem else "")
        if not self.stream.began.is_set():
            return DriverError(words, "see that it is triggered, and that nobody else reads its data")
        return DriverError(words, "see its software and the triggers; what came is kept")


def limit_of(depth: int) -> int:
    """Return the highest count of a counter of `depth` bits."""
    return (1 << depth) - 1


def no_positions() -> NDArray[Any]:
    """Return the places of frames that belong to none."""
    return np.full((1, 2), np.nan)
