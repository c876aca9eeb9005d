"""A thread that takes a run's messages off the data connection, so that it is drained while others publish.

When the ring is full it reads no further: TCP then holds the detector's software back, whose own memory is larger,
and what that loses is missing in the frame numbers.
"""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probeloop.api import Clock, WireError

from .connection import SLICE
from .headers import LONGEST_HEADER, PREFIX, FrameHeader, Scalar, message, parse_acquisition, parse_frame, pixel_bits
from .ring import START, check_slots, find_start, length_of

_AT_ONCE = 4 << 20  # bytes: what stays in the caches until it is decoded


@dataclass(frozen=True)
class Expected:
    """What the frames of a run must be: (ky, kx) once decoded, bits of a counter, raw or processed."""

    shape: tuple[int, int]
    depth: int
    raw: bool

    @property
    def longest(self) -> int:
        """The most bytes of a message [bytes]."""
        return PREFIX + LONGEST_HEADER + 4 * self.shape[0] * self.shape[1]

    def is_length(self, length: int) -> bool:
        """True when a message of a frame may be so long: with the header of one chip or of four."""
        payload = self.shape[0] * self.shape[1] * pixel_bits(self.depth, self.raw) // 8
        return length - PREFIX - payload in (384, 768)

    def problem(self, header: FrameHeader) -> str:
        """Return in words why a frame is none of the run, or ""."""
        ky, kx = header.shape
        if header.shape != self.shape:
            return f"frames of {ky} x {kx} pixels, not {self.shape[0]} x {self.shape[1]}: set pixels = [{ky}, {kx}]"
        if header.raw != self.raw:
            return f"{'raw' if header.raw else 'processed'} frames, which file_format does not ask for"
        if header.depth != self.depth:
            return f"counters of {header.depth} bits, set were {self.depth}"
        return ""


@dataclass
class Counts:
    """What came that was no frame of the run. stale: before its acquisition header. cut: a frame that never ended."""

    refused: int = 0
    skipped_bytes: int = 0
    stale_frames: int = 0
    stale_bytes: int = 0
    cut: int = 0
    last_problem: str = ""


@dataclass(frozen=True)
class Batch:
    """Frames that wait: slots [first, first + count) of the ring, `numbers`, `stamps`, `arrivals` (count,) [ns]."""

    first: int
    count: int
    numbers: NDArray[np.int64]
    stamps: NDArray[np.int64]
    arrivals: NDArray[np.int64]


class FrameStream:
    """The messages of one run. Made and used by one thread, filled by its own."""

    def __init__(
        self, connection: socket.socket, memory: NDArray[np.uint8], expected: Expected, clock: Clock
    ) -> None:  # fmt: skip
        """Take over the connection; memory: uint8, at least two messages long."""
        self.connection, self.memory, self.expected = connection, memory, expected
        self.counts = Counts()
        self.acquisition: dict[str, Scalar] = {}
        self.template: FrameHeader | None = None
        self.slot = 0
        self.ended = ""  # why nothing more comes
        self.last_ns = 0  # when something came last
        self.left_over = 0  # bytes of what is no whole message yet
        self._clock = clock
        self._changed = threading.Condition()
        self._stopping = False
        self._torn = False  # what follows a frame that lied about its length is still that frame
        self.began = threading.Event()  # the acquisition header is there
        self._slots = self._first = self._pending = self._next = 0
        self._lap = 0  # where who takes them goes back to slot 0
        self._numbers = self._stamps = self._arrivals = np.zeros(0, np.int64)
        self._thread = threading.Thread(target=self._run, name="merlin-data", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self.last_ns = self._clock.now_ns()
        self._thread.start()

    def stop(self) -> None:
        """End reading; what is waiting stays. The connection is left as it is."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(2.0)

    @property
    def reading(self) -> bool:
        """True while the thread reads."""
        return self._thread.is_alive()

    def wait(self, count: int, seconds: float) -> int:
        """Wait until `count` frames are there, or nothing more comes; return how many there are."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending >= count or self.ended or self._stopping, seconds)
            return self._pending

    def take(self, most: int) -> Batch:
        """Return up to `most` frames that wait, in slots next to each other; they stay until `release`."""
        with self._changed:
            first = self._first
            count = min(most, self._pending, self._lap - first)
        rows = slice(first, first + count)
        return Batch(first, count, self._numbers[rows], self._stamps[rows], self._arrivals[rows])

    def release(self, count: int) -> None:
        """Give `count` slots back."""
        with self._changed:
            self._first += count
            self._pending -= count
            if self._first == self._lap:
                self._first, self._lap = 0, self._slots
            self._changed.notify_all()

    # --- the thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            filled = self._find_template(self._find_acquisition(0))
            self._read_frames(filled)
        except _EndedError as end:
            ended = str(end)
        except OSError as error:
            ended = f"the data connection broke: {error.strerror or error}"
        with self._changed:
            self.ended = ended
            self._changed.notify_all()
        self.began.set()

    def _receive(self, begin: int, end: int) -> int:
        """Read into memory[begin:end]; return where it ends now. Raises _EndedError."""
        view = memoryview(self.memory)[begin:end]  # type: ignore[arg-type]
        while not self._stopping:
            try:
                got = self.connection.recv_into(view)
            except TimeoutError:
                continue
            if not got:
                raise _EndedError("the Merlin closed the data connection")
            self.last_ns = self._clock.now_ns()
            return begin + got
        raise _EndedError("stopped")

    def _shift(self, begin: int, end: int, to: int) -> int:
        """Move memory[begin:end] down to `to`; return its new end."""
        if begin > to:
            self.memory[to : to + end - begin] = self.memory[begin:end].copy()
        return to + end - begin

    def _find_acquisition(self, end: int) -> int:
        """Read up to the end of the acquisition header, count what came before; return how far memory is filled."""
        counts, memory = self.counts, self.memory
        while True:
            start = int(find_start(memory, 0, end))
            counts.stale_bytes += start
            end = self._shift(start, end, 0)
            if end >= START:
                length = length_of(memory, 0)
                is_header = bytes(memory[PREFIX:START]) == b"HDR,"
                if length < START or length > (LONGEST_HEADER if is_header else self.expected.longest):
                    counts.stale_bytes += 4
                    end = self._shift(4, end, 0)
                    continue
                if end >= length:
                    if is_header:
                        self.acquisition.update(parse_acquisition(bytes(memory[PREFIX:length])))
                        self.began.set()
                        return self._shift(length, end, 0)
                    counts.stale_frames += 1
                    counts.stale_bytes += length
                    end = self._shift(length, end, 0)
                    continue
            try:
                end = self._receive(end, min(len(memory), end + LONGEST_HEADER))
            except _EndedError:
                counts.stale_bytes += end
                raise

    def _find_template(self, end: int) -> int:
        """Read up to the first frame that is one of the run; return how far memory is filled."""
        while True:
            if end >= START:
                length = length_of(self.memory, 0)
                if not self._begins(0, end) or not START <= length <= self.expected.longest:
                    end = self._sifted(0, end, 0)
                    continue
                if end >= length:
                    if bytes(self.memory[PREFIX:START]) == b"HDR,":  # the run was begun again before any frame
                        self.acquisition.update(parse_acquisition(bytes(self.memory[PREFIX:length])))
                        end = self._shift(length, end, 0)
                        continue
                    header = self._accepted(end)
                    if header is not None:
                        self._adopt(header)
                        return end
                    end = self._sifted(0, end, 0)
                    continue
            try:
                end = self._receive(end, min(len(self.memory), end + LONGEST_HEADER))
            except _EndedError:
                self._finish(0, end)
                raise

    def _begins(self, at: int, end: int) -> bool:
        return int(find_start(self.memory, at, end)) == at

    def _accepted(self, end: int) -> FrameHeader | None:
        """Return the header of the frame at the beginning of memory if it is one of the run; note why not."""
        body = bytes(self.memory[PREFIX : min(end, PREFIX + LONGEST_HEADER)])
        try:
            header = parse_frame(body, length_of(self.memory, 0) - PREFIX, self.expected.depth)
        except WireError as error:
            self.counts.last_problem = str(error)
            return None
        problem = self.expected.problem(header)
        if not problem and PREFIX + header.body_bytes != length_of(self.memory, 0):
            problem = "frames whose header disagrees with their length"
        self.counts.last_problem = problem or self.counts.last_problem
        return None if problem else header

    def _adopt(self, header: FrameHeader) -> None:
        """Lay the ring out for messages with this header."""
        self.slot = PREFIX + header.body_bytes
        self._slots = self._lap = len(self.memory) // self.slot
        self._numbers, self._stamps, self._arrivals = (np.zeros(self._slots, np.int64) for _ in range(3))
        self._prefix = np.frombuffer(message(b"MQ1," + bytes(header.body_bytes - 4))[:START], np.uint8)
        self._after = np.frombuffer(header.after_number, np.uint8)
        self.template = header

    def _read_frames(self, end: int) -> None:
        """Fill the ring until the end. `end`: how far memory is filled, counted from slot `_next`."""
        memory, slot = self.memory, self.slot
        header = self.template
        assert header is not None
        while True:
            begin = self._next * slot
            whole = (end - begin) // slot
            if whole:
                numbers, stamps = self._numbers[self._next :], self._stamps[self._next :]
                good = int(
                    check_slots(
                        memory, begin, slot, whole, self._prefix, self._after, header.stamp_at, numbers, stamps
                    )
                )
                if good:
                    self._torn = False
                    self._arrivals[self._next : self._next + good] = self.last_ns
                    end = self._offer(good, end)
                if good < whole:
                    begin = self._next * slot
                    end = self._sifted(begin, end, begin)
                continue
            try:
                end = self._rewound(end)
                end = self._receive(end, min(self._room(end), end + _AT_ONCE))
            except _EndedError:
                self._finish(self._next * slot, end)
                raise

    def _offer(self, good: int, end: int) -> int:
        """Let the frames in the next `good` slots be taken; return how far memory is filled."""
        with self._changed:
            self._pending += good
            self._next += good
            if self._next == self._slots:
                self._next = end = 0
            self._changed.notify_all()
        return end

    def _rewound(self, end: int) -> int:
        """Go on at the beginning of memory when there is room: what is in the caches is overwritten first."""
        if end < _AT_ONCE:
            return end
        with self._changed:
            begin = self._next * self.slot
            if not self._pending:
                self._first, self._lap = 0, self._slots
            elif self._first < max(2, self._next // 2) or self._next <= self._first:
                return end
            else:
                self._lap = self._next
            self._next = 0
        return self._shift(begin, end, 0)

    def _room(self, end: int) -> int:
        """Wait for room behind `end`; return where it ends. Raises _EndedError."""
        with self._changed:
            while not self._stopping:
                if self._pending and self._next <= self._first:
                    most = self._first * self.slot
                else:
                    most = self._slots * self.slot
                if most > end:
                    return most
                self._changed.wait(SLICE)
        raise _EndedError("stopped")

    def _sifted(self, begin: int, end: int, to: int) -> int:
        """Count what lies at `begin` and is no frame of the run, move what follows to `to`; return its end."""
        memory, counts = self.memory, self.counts
        after = begin
        if end - begin >= START and self._begins(begin, end):
            length = length_of(memory, begin)
            if bytes(memory[begin + PREFIX : begin + START]) == b"HDR,":
                raise _EndedError("another acquisition began on the Merlin")
            counts.refused += 1
            counts.last_problem = counts.last_problem or "frames whose header disagrees with their length"
            told = begin + length  # believed where it is what it should be, or where another message begins
            honest = (self._is_ours(length) and told <= end) or (
                START <= length < end - begin and self._begins(told, end)
            )
            after = told if honest else int(find_start(memory, begin + 4, end))
            self._torn = not honest
        else:
            after = int(find_start(memory, begin, end))
            counts.skipped_bytes += 0 if self._torn else after - begin
        return self._shift(after, end, to)

    def _is_ours(self, length: int) -> bool:
        return length == self.slot if self.slot else self.expected.is_length(length)

    def _finish(self, begin: int, end: int) -> None:
        """Count what lies behind the last whole frame when nothing more comes."""
        self.left_over = end - begin
        while end > begin:
            if not self._begins(begin, end):
                after = int(find_start(self.memory, begin, end))
                self.counts.skipped_bytes += after - begin
                begin = after
            elif end - begin < START or self._is_ours(length_of(self.memory, begin)):
                self.counts.cut += 1
                return
            else:
                end = self._sifted(begin, end, begin)


class _EndedError(Exception):
    """Nothing more comes, and why."""
