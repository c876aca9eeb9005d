"""What the events of a session come to, counted for the report."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..data.commands import name_of
from ..data.control import Done, Event, Failed, Gap, Observed, Remark, Revision, StateChange, Verdict
from ..data.latency import LOOP_STAGES, LOOP_TOTALS, spans

EVERY_VERDICT = "every verdict"


@dataclass
class Tally:
    """Counts of a session. latencies [ns], by stage of the loop; every verdict: of commands without a cause too."""

    accepted: Counter[str] = field(default_factory=Counter)
    refused: list[Verdict] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    latencies: dict[str, array[int]] = field(
        default_factory=lambda: {
            name: array("q") for name in (*(s.name for s in (*LOOP_STAGES, *LOOP_TOTALS)), EVERY_VERDICT)
        }
    )
    remarks: list[Remark] = field(default_factory=list)
    plans: list[StateChange] = field(default_factory=list)
    revisions: list[Revision] = field(default_factory=list)
    observed: dict[str, list[tuple[float, float, float]]] = field(default_factory=dict)
    started: str = ""
    ended: str = ""
    span_s: float = 0.0

    @classmethod
    def of(cls, events: Iterable[Event]) -> Tally:
        """Count the events."""
        made = cls()
        first = 0
        for event in events:
            made.take(event)
            if event.time_ns:
                first = first or event.time_ns
                made.span_s = max(made.span_s, (event.time_ns - first) / 1e9)
            if event.wall:
                made.started, made.ended = made.started or event.wall, event.wall
        return made

    def take(self, event: Event) -> None:
        """Count one event."""
        match event:
            case Verdict(dry_run=False):
                if event.accepted:
                    self.accepted[name_of(event.command)] += 1
                else:
                    self.refused.append(event)
            case Done(result=result):
                trace = result.trace
                for name, duration in spans(trace).items():
                    self.latencies[name].append(duration)
                if trace.submitted and trace.verdict:
                    self.latencies[EVERY_VERDICT].append(trace.verdict - trace.submitted)
                if result.physical_ns is not None:
                    self.latencies["physical"].append(result.physical_ns)
            case Failed():
                self.failed.append(event.reason)
            case Gap():
                self.gaps.append(event)
            case Remark():
                self.remarks.append(event)
            case Revision():
                self.revisions.append(event)
            case Observed(kind="observe", value=dict() as value):
                self._observe(value)
            case StateChange(target="plan"):
                self.plans.append(event)

    def _observe(self, told: dict[str, Any]) -> None:
        """Keep what a scalarizer made of a place: (x, y) [m] and the value, NaN where it was invalid.

        What is told again takes the place of what the same scalarizer said there before.
        """
        step = told.get("step")
        name = str(step.get("scalarizer", "value")) if isinstance(step, dict) else "value"
        # told again are the earlier ones, behind the new one
        for each in sorted(told.get("value") or (), key=lambda each: not _told_again(each)):
            try:
                x, y = each["position"]
                value = float(each["value"]) if each.get("valid", True) else math.nan
                found = self.observed.setdefault(str(each.get("scalarizer") or name), [])
                if each.get("again"):
                    found[:] = [one for one in found if one[:2] != (float(x), float(y))]
                found.append((float(x), float(y), value))
            except (KeyError, TypeError, ValueError, AttributeError):
                continue

    @property
    def lost(self) -> int:
        """Frames that never came, on all topics."""
        return sum(gap.count for gap in self.gaps)

    def percentiles(self, name: str) -> tuple[float, float, float] | None:
        """Return p50, p99 and the longest [s], None without any."""
        values = self.latencies[name]
        if not values:
            return None
        p50, p99 = np.percentile(np.asarray(values), (50, 99)) / 1e9
        return float(p50), float(p99), max(values) / 1e9


def _told_again(each: object) -> bool:
    return isinstance(each, dict) and bool(each.get("again"))
