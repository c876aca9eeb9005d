"""Rates, losses and ages of the topics that the window reads."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from probeloop.api import Histogram, Timings, display


@dataclass(frozen=True)
class TopicRow:
    """One line of the table. rate [frames/s]; lost: frames missing by index; age [s] of the newest block.

    latency: from the end of exposure (else from publishing) to this window [s]; error: of that, between the clocks of
    two hosts [s], 0 = one host. transport: published -> this window.
    """

    name: str
    kind: str
    shape: str
    rate: float
    megabytes: float
    frames: int
    lost: int
    age: float | None
    latency: float | None
    newest_only: bool
    transport: Histogram
    error: float = 0.0

    @property
    def late(self) -> str:
        """The latency in words; below its error only that."""
        if self.latency is None:
            return "–"
        if self.latency <= self.error:
            return f"< {display(self.error, 's')}"
        return display(self.latency, "s") + (f" ± {display(self.error, 's')}" if self.error else "")


class TopicMeter:
    """Counts of one topic; `row` is called about once a second."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.kind = self.shape = ""
        self.newest_only = False
        self.last_seen: float | None = None
        self.latency: float | None = None
        self.clock_error = 0.0
        self._transport = Timings()
        self._before: tuple[float, int, int] | None = None
        self._first_index = self._end_index = -1
        self._bytes = self._lost_frames = 0
        self._rate = self._megabytes = 0.0

    def saw(self, block: Any, now: float) -> None:
        """Note a block, seen at host CLOCK_MONOTONIC `now` [s]."""
        if not block.count:
            return
        self._transport.add(time.monotonic_ns() - block.published_ns)
        spec = block.spec
        self.kind = spec.kind
        self.shape = " × ".join(map(str, spec.frame_shape)) or "1"
        if self._first_index < 0:
            self._first_index = block.index
        elif block.index > self._end_index and not self.newest_only:
            self._lost_frames += block.index - self._end_index
        # a frame that was recomputed is older than what is on its way; it says nothing of latency
        self._end_index = max(self._end_index, block.index + block.count)
        self._bytes = max(1, spec.frame_bytes)
        self.last_seen = now
        stamp = block.exposed_ns or block.published_ns
        if stamp:
            late = now - stamp / 1e9
            if -self.clock_error <= late < 10:
                late = max(0.0, late)
                self.latency = late if self.latency is None else 0.9 * self.latency + 0.1 * late

    def measure(self, now: float) -> None:
        """Take the rates since the last call, from the sequence numbers, so that skipped frames count too."""
        end = max(0, self._end_index)
        if self._before is not None and now > self._before[0]:
            span = now - self._before[0]
            self._rate = (end - self._before[1]) / span
            self._megabytes = self._rate * self._bytes / 1e6
        self._before = (now, end, self._lost_frames)

    def row(self, lost: int) -> TopicRow:
        """Return the line; lost: as the reader counted it."""
        age = None if self.last_seen is None else time.monotonic() - self.last_seen
        frames = self._end_index - self._first_index if self._first_index >= 0 else 0
        return TopicRow(
            self.name, self.kind, self.shape, max(0.0, self._rate), max(0.0, self._megabytes), frames,
            0 if self.newest_only else lost, age, self.latency, self.newest_only, self._transport.counted,
            self.clock_error,
        )  # fmt: skip


def percentile(values: list[int], share: float) -> float | None:
    """Return the nearest-rank percentile, None where there are no values."""
    ordered = sorted(values)
    return float(ordered[min(len(ordered) - 1, int(share * len(ordered)))]) if ordered else None
