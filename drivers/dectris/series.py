"""One series of frames on its way into buffers: by their own numbers, with everything that went wrong counted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from probeloop.api import Clock, DriverError, FrameBuffer, FrameFlag

from .decompress import DamagedError, Unpacker
from .intake import Arrived, Broken, Expected, Intake, Item
from .messages import End, Image, Refused

_BLOCK_NS = 2_000_000  # a buffer is handed on so long after its first frame
_SLICE_S = 0.05
_GRACE_S = 0.5  # after the last frame, for the end of the series
_RECONNECT_S = 2.0
_REPEATED = int(FrameFlag.PATTERN_REPEAT | FrameFlag.TRIGGER_MISSED)
_MOST_REASONS = 3

Which = slice | NDArray[np.int64]


@dataclass(frozen=True)
class Places:
    """Where frames belong. pixels: of the map, 0 = none. width: of a line. position: of some of them, (N, 2) [m]."""

    pixels: int = 0
    width: int = 0
    position: Callable[[Which], NDArray[np.float64]] | None = None

    def line_flags(self) -> NDArray[np.uint16]:
        """Return which pixels begin and which end a line, (pixels,)."""
        flags = np.zeros(self.pixels, np.uint16)
        if self.width:
            flags[:: self.width] |= int(FrameFlag.LINE_START)
            flags[self.width - 1 :: self.width] |= int(FrameFlag.LINE_END)
        return flags


@dataclass
class Counts:
    """What came of a series. lost: numbers that no good frame came for. beyond: more than were asked for."""

    received: int = 0
    lost: int = 0
    repeated: int = 0
    refused: int = 0
    beyond: int = 0
    stale: int = 0
    garbage: int = 0
    remark: str = ""


class Triggers(Protocol):
    """Software triggers. problem: why one could not be given. answered: all were taken."""

    problem: DriverError | None
    answered: bool


class NoTriggers:
    """The scan unit gives them."""

    problem: DriverError | None = None
    answered = False


class Series:
    """Fills buffers with the frames of an armed series.

    silence: how long nothing may come [s]. ended(): is called once the last frame is there. state(): what the
    detector says that it does, for the words of an error. triggers: how the software triggers go.
    """

    def __init__(
        self,
        intake: Intake,
        expected: Expected,
        places: Places,
        clock: Clock,
        *,
        exposure_ns: int,
        silence: float,
        cancelled: threading.Event,
        ended: Callable[[], None],
        state: Callable[[], str],
        triggers: Triggers,
    ) -> None:
        self.counts = Counts()
        self._intake, self._expected, self._places, self._clock = intake, expected, places, clock
        self._exposure_ns, self._silence, self._cancelled = exposure_ns, silence, cancelled
        self._ended, self._state, self._triggers = ended, state, triggers
        self._unpacker = Unpacker()
        self._seen = bytearray(expected.total)
        self._line_flags = places.line_flags()
        self._highest = -1
        self._heard_ns = self._last_ns = 0
        self._reasons: list[str] = []
        self._closing_ns = self._broken_ns = 0
        self._over = False
        self._problem: DriverError | None = None

    @property
    def in_order(self) -> bool:
        """True when the series was brought to its end: the detector needs no abort."""
        return self._closing_ns > 0

    def frames(self, begin: Callable[[], None]) -> Generator[int, FrameBuffer, None]:
        """Fill buffers until the series is over; begin(): is called with the first one."""
        buffer = yield 0
        if not self._cancelled.is_set():
            begin()
        self._heard_ns = self._clock.now_ns()
        while True:
            n = self._fill(buffer)
            if not n:
                break
            buffer = yield n
        if self._problem is not None and not self._cancelled.is_set():
            raise self._problem

    def _fill(self, buffer: FrameBuffer) -> int:
        """Fill rows with what is there, at least one unless the series is over; return how many."""
        numbers: list[int] = []
        arrivals: list[int] = []
        flags: list[int] = []
        last, capacity, take = self._expected.total - 1, buffer.capacity, self._intake.take
        frame, stride, first_ns = buffer.data.ctypes.data, self._expected.size * self._expected.channels, 0
        while len(numbers) < capacity:
            if numbers:
                if self._highest == last or self._over or self._cancelled.is_set():
                    break
                item = take(wait=False)
                if item is None:
                    break
            else:
                if self._is_over():
                    break
                item = take(wait=True)
                if item is None:
                    continue
                first_ns = self._heard_ns = self._clock.now_ns()
            row = len(numbers)
            flag = self._judge(item, buffer, row, frame + row * stride)
            if flag is None or not isinstance(item, Arrived):
                continue
            numbers.append(item.image.number)
            arrivals.append(item.arrival_ns)
            flags.append(flag)
            if item.arrival_ns - first_ns > _BLOCK_NS:
                break
        if numbers:
            self._heard_ns = self._clock.now_ns()
            self._columns(buffer, numbers, arrivals, flags)
        return len(numbers)

    def _judge(self, item: Item, buffer: FrameBuffer, row: int, address: int) -> int | None:
        """Count an item, and unpack a frame into its row, at `address`; return its flags, None = not handed on."""
        if isinstance(item, Arrived):
            return self._take(item.image, buffer, row, address)
        if isinstance(item, Refused):
            self._refuse(item.number, item.why)
        elif isinstance(item, End):
            self._over = True
            self._problem = self._problem or self._ended_badly()
        elif isinstance(item, Broken):
            self._broken_ns = self._clock.now_ns()
        return None

    def _take(self, image: Image, buffer: FrameBuffer, row: int, address: int) -> int | None:
        counts, number = self.counts, image.number
        if number >= self._expected.total:
            counts.beyond += 1
            self._remark(f"frame {number} of a series of {self._expected.total}")
            return None
        try:
            if len(image.channels) == 1:
                self._unpacker.unpack(image.channels[0], buffer.data[row], image.md5, address)
            else:
                for packed, out in zip(image.channels, buffer.data[row], strict=True):
                    self._unpacker.unpack(packed, out)
        except DamagedError as error:
            self._refuse(number, str(error))
            return None
        self._highest = max(self._highest, number)
        self._broken_ns = 0
        if self._seen[number]:
            counts.repeated += 1
            return _REPEATED
        self._seen[number] = 1
        counts.received += 1
        return 0

    def _refuse(self, number: int, why: str) -> None:
        self.counts.refused += 1
        self._highest = max(self._highest, min(number, self._expected.total - 1))
        self._remark(f"frame {number if number >= 0 else 'of no number'} refused: {why}")

    def _columns(self, buffer: FrameBuffer, numbers: list[int], arrivals: list[int], flags: list[int]) -> None:
        n, places = len(numbers), self._places
        for row, arrival in enumerate(arrivals):
            self._last_ns = max(arrival - self._exposure_ns, self._last_ns)
            arrivals[row] = self._last_ns
        buffer.time_ns[:n] = arrivals
        if not places.pixels:
            buffer.scan_index[:n] = -1
            buffer.flags[:n] = flags
            return
        first, last = numbers[0], numbers[-1]
        which: Which
        if last - first == n - 1 and last < places.pixels and not any(flags):  # as it should be: nothing to look up
            which = slice(first, last + 1)
            buffer.scan_index[:n] = range(first, last + 1)
            buffer.flags[:n] = self._line_flags[which]
        else:
            number, own = np.array(numbers), np.array(flags, np.uint16)
            which = number % places.pixels
            again = np.where(number >= places.pixels, int(FrameFlag.REPEAT_VISIT), 0).astype(np.uint16)
            buffer.scan_index[:n] = np.where(own != 0, -1, which)
            buffer.flags[:n] = own | again | self._line_flags[which]
        if places.position is not None:
            buffer.position[:n] = places.position(which)

    def _is_over(self) -> bool:
        """True when nothing more is to be waited for; `_problem` says why that is no good end."""
        if self._over or self._cancelled.is_set():
            return True
        now = self._clock.now_ns()
        if self._closing_ns:
            if now - self._closing_ns > _GRACE_S * 1e9:
                self._over, self._problem = True, self._problem or self._ended_badly()
            return self._over
        quiet = now - self._heard_ns - self._exposure_ns
        last_came = self._highest == self._expected.total - 1
        if last_came or (self._triggers.answered and quiet > _GRACE_S * 1e9):
            self._closing_ns = now
            self._ended()  # what is on its way still comes, and the end behind it
            return False
        trouble = self._trouble(now, quiet)
        if trouble is not None:
            self._over, self._problem = True, trouble
        return self._over

    def _trouble(self, now: int, quiet: int) -> DriverError | None:
        if self._triggers.problem is not None:
            return self._triggers.problem
        if self._broken_ns and now - self._broken_ns > _RECONNECT_S * 1e9:
            return DriverError(f"the DCU closed the stream{self._so_far()}", "is it still there? Scan again")
        if quiet <= self._silence * 1e9:
            return None
        self._over = True
        thief = self.another_reader()
        if thief:
            return DriverError(thief, "end the other reader: each message goes to one alone")
        other = self._intake.aside.series - {self._intake.series}
        if not self.counts.received and self._intake.aside.stale and other:
            names = ", ".join(map(str, sorted(other)[:4]))
            return DriverError(
                f"frames of series {names} come, the DCU armed {self._intake.series}",
                "wait for the end of the other series, or set series = 'header'",
            )
        if not self._tail_is_missing:
            return None
        return DriverError(f"no frame for {self._silence:g} s{self._so_far()}; {self._state()}", "do triggers come?")

    @property
    def _tail_is_missing(self) -> bool:
        """True when so much is missing at the end that more than some frames were lost: a line, half of a few."""
        missing = self._expected.total - 1 - self._highest
        return missing >= (self._places.width or max(1, self._expected.total // 2))

    def _ended_badly(self) -> DriverError | None:
        """Say that the series is over though its last frames are missing, or hardly any frame could be read."""
        thief = self.another_reader()
        if thief:
            return DriverError(thief, "end the other reader: each message goes to one alone")
        refused, received = self.counts.refused, self.counts.received
        if refused > received:
            first = next((why for why in self._reasons if "refused" in why), "")
            return DriverError(
                f"{refused} frames refused, {received} good ones: {first}", "look at the stream's settings"
            )
        if not self._tail_is_missing:
            return None
        return DriverError(
            f"the DCU ended the series{self._so_far()}", "look at the triggers, and at who disarmed it"
        )

    def _so_far(self) -> str:
        total, received = self._expected.total, self.counts.received
        if received == total:
            return f" after all {total} frames"
        tail = ""
        if self._highest < total - 1:
            what = "pixels" if self._places.pixels == total else "frames"
            tail = f": {what} {self._highest + 1} to {total - 1} have none"
        return f" after {received} of {total} frames{tail}"

    def another_reader(self) -> str:
        """Say in words that every other frame is missing as if somebody else took them, "" = it does not look so."""
        step = stride(np.flatnonzero(np.frombuffer(self._seen, bool)))
        if step > 1:
            return (
                f"another reader on the stream port takes frames: only every {ordinal(step)} one came{self._so_far()}"
            )
        torn = sum("parts of it are missing" in reason for reason in self._reasons)
        if torn >= _MOST_REASONS and self.counts.refused > self.counts.received:
            return f"another reader on the stream port takes parts of frames{self._so_far()}"
        return ""

    def settle(self) -> Counts:
        """Return the counts, with what the receiver has counted."""
        counts, aside = self.counts, self._intake.aside
        counts.lost = self._expected.total - counts.received
        counts.stale, counts.garbage = aside.stale, aside.garbage
        if aside.garbage:
            self._remark(f"{aside.garbage} messages of garbage: {aside.why}")
        counts.remark = "; ".join(self._reasons)
        return counts

    def _remark(self, text: str) -> None:
        if len(self._reasons) < _MOST_REASONS:
            self._reasons.append(text)


def stride(numbers: NDArray[np.int64]) -> int:
    """Return k where the numbers, in order, are nearly all k apart: what a queue shared by k readers leaves.

    >>> stride(np.array([0, 2, 4, 6, 8, 10])), stride(np.array([0, 1, 2, 5, 6, 7]))
    (2, 1)
    """
    if len(numbers) < 4:
        return 1
    steps, counts = np.unique(np.diff(numbers), return_counts=True)
    best = int(np.argmax(counts))
    return int(steps[best]) if counts[best] >= 0.9 * (len(numbers) - 1) else 1


def ordinal(number: int) -> str:
    """Write 2 as "2nd"."""
    return f"{number}{ {2: 'nd', 3: 'rd'}.get(number, 'th') }"
