"""What the latency view shows: the loop in all and by stage, and how long blocks are on their way to readers."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from probeloop.api import LOOP_STAGES, LOOP_TOTALS, Histogram

from .rig import Plugin
from .topics import TopicRow

NO_LOOP = "no closed loop yet: no command had frames as its cause"
WINDOW = "this window"
_READINGS = 12


@dataclass(frozen=True)
class LatencyRow:
    """One line. words: from what to what; total: of a whole loop."""

    label: str
    words: str
    histogram: Histogram
    total: bool = False

    @property
    def cells(self) -> tuple[str, str, str]:
        """Median, 99th percentile and how many, in words."""
        p50, p99 = self.histogram.quantile(0.5), self.histogram.quantile(0.99)
        return p50.words if p50 else "–", p99.words if p99 else "–", f"{self.histogram.n:,}"


def loop_rows(latency: Mapping[str, Histogram]) -> list[LatencyRow]:
    """Return both totals, then the stages in the order of the loop; nothing before the first closed loop."""
    if "software" not in latency:
        return []
    totals = [LatencyRow(each.label, each.words, latency.get(each.name, Histogram()), True) for each in LOOP_TOTALS]
    stages = [LatencyRow(each.label, each.words, latency[each.name]) for each in LOOP_STAGES if each.name in latency]
    return [*totals, *stages]


def transport_rows(plugins: Iterable[Plugin], topics: Iterable[TopicRow], recent: Recent) -> list[LatencyRow]:
    """Return a line for every topic that a plug-in reads, then those that this window reads: the last minute."""
    made = [
        (f"{topic} → {plugin.name}", f"{topic} published → taken in by {plugin.name}", histogram)
        for plugin in sorted(plugins, key=lambda each: each.name)
        for topic, histogram in sorted(plugin.transport.items())
    ]
    how = f"looked at by {WINDOW}, about 100 times a second; no source waits for it"
    made += [(f"{row.name} → {WINDOW}", f"{row.name} published → {how}", row.transport) for row in topics]
    return [LatencyRow(label, words, recent.of(label, counted)) for label, words, counted in made if counted.n]


class Recent:
    """What was counted in the last minute, or since the first look if later, out of histograms that only grow.

    A start, when plug-ins compile and readers join, is so forgotten.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic, seconds: float = 60.0) -> None:
        self._now, self._seconds = now_s, seconds
        self._kept: dict[str, deque[tuple[float, Histogram]]] = {}

    def of(self, name: str, counted: Histogram) -> Histogram:
        """Return the last minute of the histogram that goes by this name."""
        kept, now = self._kept.setdefault(name, deque()), self._now()
        while kept and now - kept[0][0] > self._seconds:
            kept.popleft()
        if not kept or now - kept[-1][0] > self._seconds / _READINGS:
            kept.append((now, counted))
        return counted.since(kept[0][1])
