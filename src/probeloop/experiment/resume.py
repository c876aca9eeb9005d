"""A run that was interrupted, as `events.jsonl` has it: its steps, and what was under way.

A command that was accepted but has no result is done again only when it costs neither dose nor pulses, or when the
operator says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from ..data.commands import Command
from ..data.control import Cost, Done, Event, Failed, Observed, StateChange, Verdict
from ..data.errors import PlanError, RecordError
from .plan import Recorded

_WANTED: dict[str, Any] = {cls.__name__: cls for cls in (Verdict, Done, Failed, Observed, StateChange)}
RUNNING = ("running", "paused", "waiting")


class _Tag(msgspec.Struct):
    type: str


@dataclass(frozen=True)
class Underway:
    """A command of the interrupted run. event: what came of it, None = nothing that was recorded."""

    id: int
    command: Command
    cost: Cost = field(default_factory=Cost)
    event: Done | Failed | None = None

    @property
    def is_free(self) -> bool:
        """True when doing it again costs the sample nothing."""
        return self.cost.dose == 0 and self.cost.pulses == 0

    def __str__(self) -> str:
        return f"command {self.id} ({type(self.command).__name__}, {self.cost.dose:.3g} e)"


@dataclass(frozen=True)
class Interrupted:
    """What a run needs to go on.

    steps: recorded ones, in order. unused: accepted commands of the step that was cut off. submitted: commands of
    tickets, by id.
    """

    plan: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    steps: tuple[Recorded, ...] = ()
    unused: tuple[Underway, ...] = ()
    submitted: Mapping[int, Underway] = field(default_factory=dict)

    def check(self, repeat: bool = False) -> tuple[Underway, ...]:
        """Return the commands without a result; raises PlanError for one that may not be repeated, or lost steps.

        repeat: the operator says that they may.
        """
        numbers = [each.step for each in self.steps if each.kind != "change"]
        missing = next((n for n, step in enumerate(numbers) if step != n), None)
        if missing is not None:
            raise PlanError(f"the record has no step {missing}: its events were lost", "start a new run")
        lost = tuple(each for each in (*self.unused, *self.submitted.values()) if each.event is None)
        costly = [str(each) for each in lost if not each.is_free]
        if costly and not repeat:
            raise PlanError(
                f"{', '.join(costly)}: accepted before the crash, without a result",
                "resume with repeat to spend it again, or start a new run",
            )
        return lost


def read_interrupted(path: Path, holder: str) -> Interrupted | None:
    """Read the last run of `holder` from a session's events; None when it ended in order or never began.

    Raises RecordError when the file can't be read.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror}", "name a session folder's events.jsonl") from error
    return interrupted(_events(lines, path), holder)


def interrupted(events: Iterable[Event], holder: str) -> Interrupted | None:
    """Return the last run in `events` when it did not end, else None."""
    run: dict[str, Any] | None = None
    steps: dict[tuple[int, str, int], Recorded] = {}
    accepted: dict[int, Verdict] = {}
    outcomes: dict[int, Done | Failed] = {}
    for event in events:
        match event:
            case StateChange(target="plan", state=state) if state == "running" and "plan" in event.data:
                run = event.data
                if not run.get("resumed"):
                    steps, accepted, outcomes = {}, {}, {}
            case StateChange(target="plan", state=state) if state not in RUNNING:
                run = None
            case Verdict() if event.accepted and not event.dry_run and event.holder == holder:
                accepted[event.id] = event
            case Done() | Failed():
                outcomes[event.id] = event
            case Observed():
                order = len(steps) if event.kind == "change" else 0
                steps[(event.step, event.kind, order)] = Recorded(event.step, event.kind, event.value)
            case _:
                pass
    if run is None:
        return None
    kept = tuple(steps.values())
    return Interrupted(
        str(run["plan"]),
        run.get("parameters", {}),
        run.get("seed"),
        kept,
        _unused(kept, accepted, outcomes),
        _submitted(kept, accepted, outcomes),
    )


def _unused(
    steps: tuple[Recorded, ...], accepted: Mapping[int, Verdict], outcomes: Mapping[int, Done | Failed]
) -> tuple[Underway, ...]:
    used = {n for each in steps for n in each.value.get("ids", ())}
    newest = max(used, default=-1)
    return tuple(
        Underway(n, verdict.command, verdict.cost, outcomes.get(n))
        for n, verdict in accepted.items()
        if n not in used and n > newest
    )


def _submitted(
    steps: tuple[Recorded, ...], accepted: Mapping[int, Verdict], outcomes: Mapping[int, Done | Failed]
) -> dict[int, Underway]:
    """Tickets that no recorded Wait has asked for."""
    waited = {t["id"] for each in steps if each.kind == "wait" for t in each.value["step"]["tickets"]}
    tickets = [each.value["value"]["id"] for each in steps if each.kind == "submit" and "value" in each.value]
    return {
        n: Underway(n, accepted[n].command, accepted[n].cost, outcomes.get(n))
        for n in tickets
        if n not in waited and n in accepted
    }


def _events(lines: list[bytes], path: Path) -> Iterable[Event]:
    """Yield the events a run is made of; a torn last line is what a crash leaves."""
    for number, line in enumerate(lines, 1):
        try:
            wanted = _WANTED.get(msgspec.json.decode(line, type=_Tag).type)
            if wanted is not None:
                event: Event = msgspec.json.decode(line, type=wanted)
                yield event
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            if number == len(lines):
                return
            raise RecordError(f"{path}, line {number}: {error}", "the record is damaged there") from error
