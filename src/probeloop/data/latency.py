"""Where the time of a closed loop goes: its stages between two stamps, and histograms of them.

The bins are fixed and logarithmic, so histograms of any processes and times add up, and every percentile carries a
known relative error: C. Masson, J. E. Rim, H. K. Lee, "DDSketch", Proc. VLDB Endow. 12 (2019) 2195; the fixed range
is that of G. Tene's HdrHistogram (hdrhistogram.org).
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Mapping
from itertools import accumulate, pairwise
from typing import Annotated, Any

import msgspec

from .control import Result, Trace
from .units import display

_NEWEST = 512
BINS_A_DECADE = 20
EDGES_NS = tuple(round(10 ** (3 + k / BINS_A_DECADE)) for k in range(7 * BINS_A_DECADE + 1))  # 1 us ... 10 s
BINS = len(EDGES_NS) + 1  # the first: shorter than all of them, the last: 10 s and longer
_GAMMA = 10 ** (1 / BINS_A_DECADE)
RELATIVE_ERROR = (_GAMMA - 1) / (_GAMMA + 1)  # 5.8 %
Count = Annotated[int, msgspec.Meta(ge=0)]


class Stage(msgspec.Struct, frozen=True):
    """A part of the loop. stamp: of `Trace`, at which it ends; it begins at the stamp passed before."""

    name: str
    label: str
    stamp: str
    words: str


LOOP_STAGES = (
    Stage("camera", "camera", "published", "end of exposure → the camera's block published"),
    Stage("to_plugin", "to the plug-in", "taken", "published → taken in by the first plug-in"),
    Stage("plugin", "plug-in", "derived", "into the first plug-in → out of the last"),
    Stage("to_policy", "to the policy", "received", "published → received by the policy's process"),
    Stage("decision", "decision", "decided", "received → decided, the wait for the rest of its scan included"),
    Stage("hand_over", "hand-over", "submitted", "decided → submitted, moves on the way included"),
    Stage("gate", "gate", "verdict", "submitted → verdict of the gate"),
    Stage("instrument", "instrument", "applied", "verdict → applied by the instrument, the queue included"),
)
LOOP_TOTALS = (
    Stage("software", "software, in all", "applied", "end of exposure → command applied"),
    Stage(
        "physical", "physical, in all", "", "end of exposure → first valid frame of the new state, settling included"
    ),
)


def spans(trace: Trace) -> dict[str, int]:
    """Return the time in each stage that a command passed [ns], and in all; nothing for a command without a cause.

    The stages add up to `software`: one whose stamp is missing belongs to the next.
    """
    total = trace.loop_latency_ns
    if total is None:
        return {}
    passed = [("", trace.exposed), *((each.name, getattr(trace, each.stamp)) for each in LOOP_STAGES)]
    made = {name: end - start for (_, start), (name, end) in pairwise(each for each in passed if each[1])}
    return {**made, "software": total}


class Quantile(msgspec.Struct, frozen=True):
    """A percentile of what was counted [ns]: it lies in [low, high]; `value` is off by 5.8 % at most.

    Below 1 us and from 10 s on there is one bin each, and [low, high] is all that is known.
    """

    value: float
    low: int
    high: int

    @property
    def words(self) -> str:
        """Two digits, which is what is known, with their unit."""
        if self.low == 0:
            return f"< {display(EDGES_NS[0] / 1e9, 's')}"
        if self.low >= EDGES_NS[-1]:
            return f"> {display(self.low / 1e9, 's')}"
        return display(self.value / 1e9, "s", 2)


class Histogram(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Durations counted in fixed bins, 20 a decade from 1 us to 10 s. first: the bin of counts[0]; longest [ns].

    A negative duration, stamps in the wrong order, is in the first bin.
    """

    first: Annotated[int, msgspec.Meta(ge=0, lt=BINS)] = 0
    counts: Annotated[tuple[Count, ...], msgspec.Meta(max_length=BINS)] = ()
    longest: int = 0

    @classmethod
    def of(cls, bins: list[int], longest: int) -> Histogram:
        """Return the histogram of (BINS,) counts."""
        filled = [k for k, count in enumerate(bins) if count]
        if not filled:
            return cls()
        return cls(filled[0], tuple(bins[filled[0] : filled[-1] + 1]), longest)

    @property
    def n(self) -> int:
        """How many durations were counted."""
        return sum(self.counts)

    @property
    def bins(self) -> list[int]:
        """(BINS,) counts."""
        made = [0] * BINS
        made[self.first : self.first + len(self.counts)] = self.counts
        return made[:BINS]

    def bars(self) -> list[tuple[int, int, float]]:
        """Return (from [ns], to [ns], height as a share of the highest) of every bin that holds something."""
        highest = max(self.counts, default=1)
        return [(*_bounds(k), count / highest) for k, count in enumerate(self.counts, self.first) if count]

    def __add__(self, other: Histogram) -> Histogram:
        """Return both together."""
        bins = [a + b for a, b in zip(self.bins, other.bins, strict=True)]
        return Histogram.of(bins, max(self.longest, other.longest))

    def since(self, before: Histogram) -> Histogram:
        """Return what was counted after `before`, an earlier reading; all of it when that is another process's."""
        bins = [a - b for a, b in zip(self.bins, before.bins, strict=True)]
        if min(bins) < 0:
            return self
        last = max((k for k, count in enumerate(bins) if count), default=0)
        return Histogram.of(bins, min(self.longest, _bounds(last)[1]))

    def quantile(self, share: float) -> Quantile | None:
        """Return the nearest-rank percentile for a share in [0, 1]; None where nothing was counted."""
        if not self.n:
            return None
        rank = max(1, math.ceil(self.n * share - 1e-9))
        low, high = _bounds(self.first + bisect_left(list(accumulate(self.counts)), rank))
        high = max(low, min(high, self.longest))
        # harmonic mean: its relative error is the same to either side
        return Quantile(2 * low * high / (low + high) if low and high else float(high), low, high)


def _bounds(k: int) -> tuple[int, int]:
    low = EDGES_NS[k - 1] if k else 0
    return low, EDGES_NS[k] if k < len(EDGES_NS) else 2**63 - 1


class Timings:
    """Counts durations as they come, 0.3 us each; one thread writes, any thread reads `counted`."""

    def __init__(self) -> None:
        self._bins = [0] * BINS
        self._longest = 0

    def add(self, duration_ns: int) -> None:
        """Count one [ns]."""
        self._bins[bisect_right(EDGES_NS, duration_ns)] += 1
        if duration_ns > self._longest:
            self._longest = duration_ns

    @property
    def counted(self) -> Histogram:
        """What was counted so far."""
        return Histogram.of(self._bins.copy(), self._longest)


class LoopTimings:
    """Counts the stages of every command with a cause, by stage name.

    software, physical: the newest 512 latencies of the loop [ns].
    """

    def __init__(self) -> None:
        self.software: deque[int] = deque(maxlen=_NEWEST)
        self.physical: deque[int] = deque(maxlen=_NEWEST)
        self._stages: dict[str, Timings] = {each.name: Timings() for each in (*LOOP_STAGES, *LOOP_TOTALS)}

    def take(self, result: Result, *, caused: bool = True) -> None:
        """Count a finished command. caused: it followed from a frame."""
        if caused and result.trace.loop_latency_ns is not None:
            self.software.append(result.trace.loop_latency_ns)
        for name, duration in spans(result.trace).items():
            self._stages[name].add(duration)
        if result.physical_ns is not None:
            self._stages["physical"].add(result.physical_ns)
            self.physical.append(result.physical_ns)

    @property
    def counted(self) -> dict[str, Histogram]:
        """What was counted so far, in the order of the loop; a stage that no command passed is left out."""
        found = {name: timings.counted for name, timings in self._stages.items()}
        return {name: histogram for name, histogram in found.items() if histogram.n}


def read_histograms(told: Any) -> dict[str, Histogram]:
    """Return the histograms of a process's Describe by name; what is none is left out."""
    found: dict[str, Histogram] = {}
    for name, each in told.items() if isinstance(told, Mapping) else ():
        try:
            found[str(name)] = msgspec.convert(each, Histogram)
        except msgspec.ValidationError:
            continue
    return found
