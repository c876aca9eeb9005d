"""What a run came to, counted from its events alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..data.control import Done, Event, Failed, Gap, Progress, Remark, StateChange, Verdict
from ..data.latency import Histogram, LoopTimings


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the nearest-rank percentile of `values`, or None where there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def in_us(histogram: Histogram) -> dict[str, float | int | None]:
    """Return p50 and p99 of a histogram, within 5.8 %, the longest, and how many there are; times in us."""
    p50, p99 = histogram.quantile(0.5), histogram.quantile(0.99)
    return {
        "p50": None if p50 is None else round(p50.value / 1e3, 3),
        "p99": None if p99 is None else round(p99.value / 1e3, 3),
        "longest": round(histogram.longest / 1e3, 3) if histogram.n else None,
        "n": histogram.n,
    }


class Summary:
    """Counts verdicts, latencies, gaps and the ends of plans as their events come by."""

    def __init__(self) -> None:
        self.accepted = self.refused = self.failed = 0
        self.lost: dict[str, int] = {}
        self.loop_ns: list[int] = []
        self.physical_ns: list[int] = []
        self.timings = LoopTimings()
        self.refusals: list[str] = []
        self.plans: list[dict[str, Any]] = []
        self.progress: Progress | None = None
        self.problems: list[str] = []

    def take(self, event: Event) -> None:
        """Count one event."""
        match event:
            case Verdict(accepted=True, dry_run=False):
                self.accepted += 1
            case Verdict(accepted=False, dry_run=False):
                self.refused += 1
                self.refusals.append(event.reason)
            case Done(result=result):
                self.timings.take(result)
                if result.trace.loop_latency_ns is not None:
                    self.loop_ns.append(result.trace.loop_latency_ns)
                if result.physical_ns is not None:
                    self.physical_ns.append(result.physical_ns)
            case Failed():
                self.failed += 1
                self.problems.append(event.reason)
            case Gap():
                self.lost[event.topic] = self.lost.get(event.topic, 0) + event.count
            case Progress():
                self.progress = event
            case StateChange(target="plan"):
                if event.state in PLAN_ENDS:
                    self.plans.append({"state": event.state, "reason": event.reason, **event.data})
            case Remark(level="error") if event.text not in self.problems:
                self.problems.append(event.text)

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as plain data, with units in the names."""
        micro = [value / 1e3 for value in self.loop_ns]
        return {
            "commands_accepted": self.accepted,
            "commands_refused": self.refused,
            "commands_failed": self.failed,
            "frames_lost": sum(self.lost.values()),
            "loop_latency_us": {"p50": percentile(micro, 0.5), "p99": percentile(micro, 0.99), "n": len(micro)},
            "physical_latency_ms": {"p50": percentile([value / 1e6 for value in self.physical_ns], 0.5)},
            "stages_us": {name: in_us(histogram) for name, histogram in self.timings.counted.items()},
            "refusals": sorted(set(self.refusals)),
            "plans": self.plans,
            "problems": self.problems,
        }


PLAN_ENDS = ("finished", "failed", "aborted", "stopped", "interrupted")
