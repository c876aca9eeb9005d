"""From an acquisition to blocks on a topic: the pump lends the driver memory and publishes what it filled.

A block closes at 1 MiB, about 2 ms or the end of the scan. Which pixel a frame is comes from its scan index
alone: a line that was left with a pixel missing or doubled is named in a Gap, and everything else stays in place.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..data import commands as c
from ..data.axes import StreamSpec
from ..data.control import Gap, Remark
from ..data.driver import Acquisition
from ..data.errors import ContractError
from ..data.frame import COLUMN_BYTES, HEADER_BYTES, BlockFlag, FrameBuffer, FrameFlag
from .door import Door, ShutError
from .lines import Lines
from .triggers import Triggers

BLOCK_BYTES = 1 << 20
BLOCK_NS = 2_000_000
MOST_FRAMES = 4096
CREDIT_SLICE = 0.05  # [s] between two looks at an abort while no reader gives credit
LONG_NS = 2_000_000_000  # after so long a wait for a reader it is said


class Outlet(Protocol):
    """A topic to write to: `bus.publish.Publisher`."""

    def announce(self, spec: StreamSpec, generation: int) -> None:
        """Say what the blocks of `generation` are."""

    def loan(self, capacity: int) -> FrameBuffer:
        """Lend memory for `capacity` frames."""

    def send(
        self, buffer: FrameBuffer, count: int, *, flags: BlockFlag = ..., generation: int, exposed_ns: int = ...
    ) -> int:
        """Publish rows [0, count); return the index of the first."""

    def discard(self, buffer: FrameBuffer) -> None:
        """Take lent memory back unsent."""

    def wait_for_credit(self, timeout_s: float, cancelled: Callable[[], bool] | None = None) -> bool:
        """Wait until the slowest reader has room."""

    @property
    def blocked_on(self) -> str | None:
        """The process whose reader holds the source back, or None."""

    def notices(self) -> list[str]:
        """Return what happened to readers' credits since the last call, in words."""

    def refresh(self) -> None:
        """Connect late joiners."""


@dataclass(frozen=True, slots=True)
class Frames:
    """What the account of dose needs to know of delivered frames: (N,) columns, valid during the call."""

    position: NDArray[np.float64]
    dose: NDArray[np.float64]
    time_ns: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Delivery:
    """What came of an acquisition. first_valid_ns: host time at which the first settled frame was there, 0 = none."""

    first_index: int = -1
    count: int = 0
    first_valid_index: int = -1
    first_valid_ns: int = 0
    aborted: bool = False
    error: str = ""


class ScanControl:
    """Pause, resume and abort of what runs; any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._paused = self._aborted = False

    @property
    def paused(self) -> bool:
        """True while it is to hold after the current line."""
        return self._paused

    @property
    def aborted(self) -> bool:
        """True when it is to end."""
        return self._aborted

    def reset(self) -> None:
        """Forget both, for the next acquisition."""
        with self._changed:
            self._paused = self._aborted = False

    def pause(self) -> None:
        """Hold after the current line."""
        with self._changed:
            self._paused = True

    def resume(self) -> None:
        """Go on."""
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    def abort(self) -> None:
        """End in order, after what the driver is filling now."""
        with self._changed:
            self._aborted = True
            self._paused = False
            self._changed.notify_all()

    def wait_resumed(self) -> bool:
        """Wait while paused; False when it is to end."""
        with self._changed:
            self._changed.wait_for(lambda: not self._paused)
            return not self._aborted


@dataclass(frozen=True, slots=True)
class Pump:
    """Runs one acquisition at a time, in the thread that calls `run`.

    now_ns: CLOCK_MONOTONIC. report: takes gaps and remarks. delivered: told of every block's frames. after_pause: is
    called when a pause ends, to get a parked beam back. triggers: told what is waited for and what never came.
    """

    door: Door
    control: ScanControl
    triggers: Triggers
    now_ns: Callable[[], int]
    report: Callable[[Gap | Remark], None]
    delivered: Callable[[Frames], None]
    after_pause: Callable[[int], None]
    electrons_per_ns: Callable[[], float]
    host_clock: bool = False

    def run(
        self,
        acquisition: Acquisition,
        outlet: Outlet,
        *,
        epoch: int,
        generation: int,
        settled_ns: int = 0,
        single: bool = False,
        slack_ns: Callable[[], int] = lambda: 0,
        progress: Callable[[int], None] | None = None,
    ) -> Delivery:
        """Publish every frame of `acquisition`; a block flagged SCAN_END always ends it.

        epoch: in which it was permitted. settled_ns: instrument's clock; frames exposed before are SETTLING.
        single: one frame in all, so that its block is the end too. slack_ns: how much longer
        than its exposures a filling may take now [ns].
        """
        with self.door.present():
            outlet.announce(acquisition.spec, generation)
            return self._run(acquisition, outlet, epoch, generation, settled_ns, single, slack_ns, progress)

    def _run(
        self,
        acquisition: Acquisition,
        outlet: Outlet,
        epoch: int,
        generation: int,
        settled_ns: int,
        single: bool,
        slack_ns: Callable[[], int],
        progress: Callable[[int], None] | None,
    ) -> Delivery:
        spec, frames = acquisition.spec, acquisition.frames
        self.triggers.reset()
        lines = Lines(spec, generation, self.report, self.triggers.missed)
        capacity = 1 if single else block_capacity(acquisition)
        filling_ns = capacity * (acquisition.frame_period_ns or spec.exposure_ns)
        first_index, first_valid_index, first_valid_ns, count = -1, -1, 0, 0
        flags, error, ended = BlockFlag.SCAN_BEGIN, "", False
        aborted = True
        try:
            with self.triggers.waiting(self.now_ns() + slack_ns()), self.door.passing(epoch):
                next(frames)
            while not self.control.aborted:
                buffer = self._loan(outlet, capacity, epoch)
                if buffer is None:
                    break
                with self.triggers.waiting(self.now_ns() + filling_ns + slack_ns()):
                    n = self._fill(frames, buffer, epoch, outlet)
                if n is None:  # also where make_safe ended it
                    aborted = self.control.aborted
                    break
                valid = self._complete(acquisition, buffer, n, settled_ns)
                if single:
                    flags |= BlockFlag.SCAN_END
                    ended = True
                index = outlet.send(
                    buffer, n, flags=flags, generation=generation, exposed_ns=self._exposed(spec, buffer, n)
                )
                flags = BlockFlag(0)
                first_index = index if first_index < 0 else first_index
                if first_valid_index < 0 and valid >= 0:
                    first_valid_index, first_valid_ns = index + valid, self.now_ns()
                count += n
                self.delivered(Frames(buffer.position[:n], buffer.dose[:n], buffer.time_ns[:n]))
                self.triggers.frames(buffer.flags[:n])
                line_ended = lines.add(buffer.scan_index[:n], buffer.flags[:n], index)
                if progress is not None:
                    progress(count)
                if single:
                    aborted = False
                    break
                if self.control.paused and line_ended:
                    if not self.control.wait_resumed():
                        break
                    self.after_pause(epoch)
        except ShutError:
            pass
        except StopIteration:
            error = "the acquisition ended before its first frame"
        except Exception as problem:  # a driver may raise anything; the topic must still be ended
            error = f"{type(problem).__name__}: {problem}"
        self._end(frames)
        if not aborted and not error:
            lines.close()
        aborted = aborted or bool(error)
        if not ended:
            end = flags | BlockFlag.SCAN_END | (BlockFlag.ABORTED if aborted else BlockFlag(0))
            index = outlet.send(outlet.loan(1), 0, flags=end, generation=generation)
            first_index = index if first_index < 0 else first_index
        return Delivery(first_index, count, first_valid_index, first_valid_ns, aborted, error)

    def _loan(self, outlet: Outlet, capacity: int, epoch: int) -> FrameBuffer | None:
        """Lend memory when the slowest reader has room; None = aborted or stopped meanwhile."""

        def over() -> bool:
            return self.control.aborted or not self.door.is_open(epoch)

        if not outlet.wait_for_credit(CREDIT_SLICE, over) and not self._wait_long(outlet, over):
            return None
        self._tell_notices(outlet)
        buffer = outlet.loan(capacity)
        buffer.dose[:] = 0.0
        buffer.flags[:] = 0
        buffer.scan_index[:] = -1
        buffer.position[:] = math.nan
        return buffer

    def _wait_long(self, outlet: Outlet, over: Callable[[], bool]) -> bool:
        """Wait for a reader's credit, and say so when that takes long; False = aborted or stopped meanwhile."""
        began, said = self.now_ns(), False
        while not over():
            done = outlet.wait_for_credit(CREDIT_SLICE, over)
            waited, who = (self.now_ns() - began) / 1e9, outlet.blocked_on
            self._tell_notices(outlet)
            if not done and not said and self.now_ns() - began > LONG_NS and who is not None:
                said = True
                text = (
                    f"the acquisition waits for {who} since {waited:.0f} s: it is slow, or stopped. Nothing is lost"
                )
                self.report(Remark(text=text, level="warning"))
            if done:
                if said:
                    self.report(Remark(text=f"the acquisition goes on after {waited:.0f} s"))
                return True
        return False

    def _tell_notices(self, outlet: Outlet) -> None:
        for text in outlet.notices():
            self.report(Remark(text=text, level="warning"))

    def _fill(self, frames: Any, buffer: FrameBuffer, epoch: int, outlet: Outlet) -> int | None:
        """Let the driver fill `buffer`; None at the end of the acquisition."""
        try:
            with self.door.passing(epoch):
                n = frames.send(buffer)
        except StopIteration:
            outlet.discard(buffer)
            return None
        except BaseException:
            outlet.discard(buffer)
            raise
        size = math.prod(buffer.spec.nav_shape)
        index = buffer.scan_index[: n if isinstance(n, int) else 0]
        if not isinstance(n, int) or not 1 <= n <= buffer.capacity:
            outlet.discard(buffer)
            raise ContractError(f"the driver filled {n!r} of {buffer.capacity} frames")
        if size and (int(index.max()) >= size or int(index.min()) < -1):
            outlet.discard(buffer)
            raise ContractError(f"a scan index outside the map of {size} pixels: {int(index.max())}")
        return n

    def _complete(self, acquisition: Acquisition, buffer: FrameBuffer, n: int, settled_ns: int) -> int:
        """Flag what was exposed too early, charge what the driver did not; return the first valid row or -1."""
        flags, time_ns, settled = buffer.flags[:n], buffer.time_ns[:n], max(settled_ns, acquisition.t_settled_ns)
        # readers wait for this block, a closed loop for one of a single frame: numpy's ways take 2 us each
        if int(time_ns[0] if n == 1 else time_ns.min()) < settled:
            flags[time_ns < settled] |= int(FrameFlag.SETTLING)
        if not (buffer.dose[0] or buffer.dose[:n].any()):
            exposure = acquisition.spec.exposure_ns or acquisition.frame_period_ns
            buffer.dose[:n] = self.electrons_per_ns() * exposure
        if not (int(flags[0]) if n == 1 else flags.any()):
            return 0
        valid = np.flatnonzero((flags & FrameFlag.SETTLING) == 0)
        return int(valid[0]) if len(valid) else -1

    def _exposed(self, spec: StreamSpec, buffer: FrameBuffer, n: int) -> int:
        """Return the end of exposure of the newest frame on the host's clock [ns]."""
        now = self.now_ns()
        return min(now, int(buffer.time_ns[n - 1]) + spec.exposure_ns) if self.host_clock else now

    def _end(self, frames: Any) -> None:
        """Let the driver tidy up; a generator that another thread is inside can't be closed."""
        try:
            frames.close()
        except Exception as problem:  # a driver may raise anything while it ends
            self.report(Gap(topic="", first=0, count=0, reason=f"the driver failed while ending: {problem}"))


def most_frames(spec: StreamSpec) -> int:
    """Return how many frames fit in a block of 1 MiB, at least one."""
    if spec.kind == "ragged":
        return 64
    most = max(1, (BLOCK_BYTES - HEADER_BYTES - 64) // (spec.frame_bytes + COLUMN_BYTES))
    return min(MOST_FRAMES, most)


def block_capacity(acquisition: Acquisition) -> int:
    """Return how many frames a block takes: what fits in 1 MiB and about 2 ms, at least one."""
    most = most_frames(acquisition.spec)
    if acquisition.frame_period_ns > 0:
        most = min(most, max(1, BLOCK_NS // acquisition.frame_period_ns))
    return most


def is_single(command: c.Command) -> bool:
    """True for a measurement of one frame."""
    return isinstance(command, c.AcquireSpectrum)
