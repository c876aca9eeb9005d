"""The figures of a campaign, fault by fault, and their table for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .outcome import Outcome


@dataclass
class Row:
    """All injections of one fault."""

    row: int
    what: str
    outcomes: list[Outcome] = field(default_factory=list)
    corrupt: int = 0
    leftovers: int = 0

    def figures(self) -> dict[str, Any]:
        """Return n, verdicts, recovery [ms], corrupt, leftovers, and the means of its own figures."""
        counted = Counter(outcome.verdict for outcome in self.outcomes)
        times = sorted(each.recovery_s * 1e3 for each in self.outcomes if each.recovery_s is not None)
        recovery = {"p50": _rank(times, 0.5), "p99": _rank(times, 0.99)}
        notes: dict[str, list[float]] = {}
        for outcome in self.outcomes:
            for name, value in outcome.notes.items():
                notes.setdefault(name, []).append(value)
        return {
            "row": self.row,
            "what": self.what,
            "n": len(self.outcomes),
            **{verdict: counted[verdict] for verdict in ("contained", "stopped", "refused", "failed")},
            "recovery_ms": recovery,
            "corrupt": self.corrupt,
            "leftovers": self.leftovers,
            **{name: round(sum(values) / len(values), 3) for name, values in notes.items() if name != "nth"},
        }


def _rank(values: Sequence[float], share: float) -> float | None:
    return round(values[min(len(values) - 1, int(share * len(values)))], 1) if values else None


def table(figures: dict[str, Any]) -> str:
    """Return the figures for people."""
    lines = [f"{'row':>3}  {'fault':20}{'n':>4}{'contained':>11}{'stopped':>9}{'refused':>9}{'failed':>8}"
             f"{'p50 ms':>9}{'p99 ms':>9}{'corrupt':>9}{'left':>6}"]  # fmt: skip
    for name, row in sorted(figures["faults"].items(), key=lambda each: each[1]["row"]):
        times = [row["recovery_ms"][each] for each in ("p50", "p99")]
        shown = "".join(f"{'' if value is None else format(value, '.0f'):>9}" for value in times)
        counts = f"{row['n']:>4}{row['contained']:>11}{row['stopped']:>9}{row['refused']:>9}{row['failed']:>8}"
        lines.append(f"{row['row']:>3}  {name:20}{counts}{shown}{row['corrupt']:>9}{row['leftovers']:>6}")
    lines += [f"     {name:20}not run: {why}" for name, why in figures["not_run"].items()]
    lines.append(
        f"{figures['kills']} kills and stops in {figures['rigs']} rigs, {figures['frames']} frames at "
        f"{figures['frames_per_s']} a second: {figures['corrupt']} corrupt, {figures['frames_lost']} lost where the "
        f"source waits, {figures['frames_half_sent']} that a killed plug-in was sending, {figures['leftovers']} left "
        "behind"
    )
    lines += [f"problem: {each}" for each in figures["problems"]]
    return "\n".join(lines) + "\n"
