"""One end of a transport under test, as a process: it is told runs on stdin and answers on stdout, a JSON line each.

Every frame is checked: word 0 is its number, word 1 the time at which its filling began, and the sum of all its
words must be that of the source. Rivals run the same code around their own transport, so both sides do the same work.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

import numba as nb
import numpy as np
from numpy.typing import NDArray

from ..data.clock import MonotonicClock

FRAME_WORDS = 16_384  # 256 x 256 uint16: 128 KiB
HOT_FRAMES = 16  # the source walks through 2 MiB, as a camera's driver through its ring
END = np.uint64(1 << 62)
_QUIET_S = 5.0
_CONNECT_NS = 30_000_000
_WARM_NS = 20_000_000  # of a stream, not timed: until its memory's pages are there, as those of the limits are
_KEPT = 200_000

Words = NDArray[np.uint64]


class Sender(Protocol):
    """The writing end. `send` publishes (n, FRAME_WORDS) words, which it copies into its own memory first."""

    def wait_for_readers(self, count: int) -> None:
        """Return when so many readers are joined."""
        ...

    def send(self, words: Words) -> None:
        """Publish a block of frames; waits while readers are behind, loses nothing."""
        ...

    def close(self) -> None:
        """Leave."""
        ...


class Reader(Protocol):
    """The reading end."""

    def receive(self, timeout_s: float) -> Words | None:
        """Return the next block, (n, FRAME_WORDS), valid until the next call; None after `timeout_s`."""
        ...

    def close(self) -> None:
        """Leave."""
        ...


MakeSender = Callable[[str, int], Sender]
MakeReader = Callable[[str, int], Reader]


@nb.njit(nogil=True, cache=True)
def check(words: Any, sums: Any, expected: int) -> tuple[int, int, int, int]:
    """Read every word of (n, FRAME_WORDS); return (its stamp, corrupt frames, frames missing, number expected next).

    Corrupt is a frame with another sum than its source's, or one that came before. The stamp of the end is -1.
    """
    corrupt, missing = 0, 0
    if words[0, 0] == END:
        return -1, 0, int(words[0, 1]) - expected, expected
    for f in range(words.shape[0]):
        total = np.uint64(0)
        for i in range(words.shape[1]):
            total += words[f, i]
        number = int(words[f, 0])
        if total - words[f, 0] - words[f, 1] != sums[number % sums.shape[0]]:
            corrupt += 1
            expected += 1  # its number may be what is wrong
        elif number < expected:
            corrupt += 1
        else:
            missing += number - expected
            expected = number + 1
    return int(words[0, 1]), corrupt, missing, expected


class Source:
    """The frames: random words, the first two of each are stamped when it is sent."""

    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        self._hot = rng.integers(0, 1 << 62, (HOT_FRAMES, FRAME_WORDS), np.uint64)
        self._hot[:, :2] = 0
        self.sums = self._hot.sum(axis=1, dtype=np.uint64)
        self._words = memoryview(self._hot.data).cast("B").cast("Q")
        self._blocks: dict[tuple[int, int], tuple[Words, tuple[int, ...]]] = {}

    def stamped(self, first: int, count: int) -> Words:
        """Return frames first .. first + count - 1, stamped with their numbers and the time now."""
        at = first % HOT_FRAMES
        found = self._blocks.get((at, count))
        if found is None:
            places = tuple(number * FRAME_WORDS for number in range(at, at + count))
            found = self._blocks[at, count] = self._hot[at : at + count], places
        block, places = found
        words, now = self._words, time.monotonic_ns()
        for place in places:
            words[place], words[place + 1] = first, now
            first += 1
        return block


def send_run(sender: Sender, source: Source, run: dict[str, Any]) -> dict[str, Any]:
    """Send blocks of run["n"] frames for run["seconds"], at run["rate"] blocks a second or as fast as they go."""
    n, rate, clock = int(run["n"]), float(run.get("rate", 0.0)), MonotonicClock()
    corrupt_at = int(run.get("corrupt_at", -1))
    sender.wait_for_readers(int(run["readers"]))
    sender.send(source.stamped(0, n))  # the first block makes the connection, and is not timed
    clock.wait_until(time.monotonic_ns() + _CONNECT_NS)
    began, cpu = time.monotonic_ns(), time.process_time_ns()
    end, first, blocks = began + round(float(run["seconds"]) * 1e9), n, 0
    while time.monotonic_ns() < end:
        if rate:
            clock.wait_until(began + round(blocks / rate * 1e9))
        words = source.stamped(first, n)
        if first <= corrupt_at < first + n:  # the self-test: one bit of one frame is wrong
            words = words.copy()
            words[corrupt_at - first, -1] ^= np.uint64(1 << 40)
        sender.send(words)
        first += n
        blocks += 1
    last = source.stamped(0, n).copy()
    last[:, 0] = END
    last[:, 1] = first
    sender.send(last)
    return {"frames": first, "cpu_us": (time.process_time_ns() - cpu) / 1e3 / max(1, first)}


def read_run(reader: Reader, sums: Words, run: dict[str, Any]) -> dict[str, Any]:
    """Read until the end; return what was read and checked, frames a second and latencies."""
    n, expected, corrupt, lost, count = int(run["n"]), 0, 0, 0, 0
    latencies = np.zeros(_KEPT, np.int64)
    opened = began = ended = 0
    blocks, before, cpu = 0, n, time.process_time_ns()
    while True:
        words = reader.receive(_QUIET_S)
        now = time.monotonic_ns()
        if words is None:
            return {"error": f"nothing came for {_QUIET_S:g} s after {count} frames"}
        stamp, bad, missing, expected = check(words, sums, expected)
        if stamp < 0:
            lost += missing
            break
        if blocks:
            if not began:
                opened = opened or stamp
                if stamp - opened >= _WARM_NS:
                    began, before = stamp, count
            latencies[min(blocks, _KEPT) - 1] = now - stamp
        blocks += 1
        corrupt, lost, count = corrupt + bad, lost + missing, count + n
        ended = time.monotonic_ns()
    if blocks < 2:
        return {"error": f"{blocks} blocks came: the run is too short, or nothing was read"}
    p50, p99 = np.percentile(latencies[: min(blocks - 1, _KEPT)] / 1e3, [50, 99])
    return {
        "frames": count,
        "lost": lost,
        "corrupt": corrupt,
        "fps": (count - before) / max(1, ended - (began or opened)) * 1e9,
        "p50_us": float(p50),
        "p99_us": float(p99),
        "cpu_us": (time.process_time_ns() - cpu) / 1e3 / max(1, count),
    }


def serve(make_sender: MakeSender, make_reader: MakeReader, arguments: list[str]) -> int:
    """Be a "sender" or a "reader" until stdin ends. A run is {"name", "n", "seconds", "rate", "readers"}."""
    if arguments == ["try"]:
        return 0  # its library could be imported
    role, source = arguments[0], Source()
    check(np.zeros((1, FRAME_WORDS), np.uint64), source.sums, 0)
    read_only = np.zeros((1, FRAME_WORDS), np.uint64)
    read_only.flags.writeable = False
    check(read_only, source.sums, 0)
    _say({"ready": True, "pid": os.getpid()})
    for line in sys.stdin:
        run = json.loads(line)
        end: Any = (make_sender if role == "sender" else make_reader)(run["name"], int(run["n"]))
        try:
            _say({"joined": True})
            _say(send_run(end, source, run) if role == "sender" else read_run(end, source.sums, run))
            sys.stdin.readline() if role == "sender" else None  # it stays until the readers have read
        finally:
            end.close()
        _say({"left": True})
    return 0


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
