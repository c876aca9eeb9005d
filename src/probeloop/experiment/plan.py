"""Drives a plan's generator: every step gets its answer, live or from the record, and is recorded.

What is recorded, one `Observed` event a step: value = {"step": ..., "ids": [...], "cost": ..., "value" | "error":
..., "elapsed": seconds}. Changes made from outside between two steps are recorded in the same way with kind
"change", under the number of the step after them, so that a resumed run applies them at the same place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..data.errors import PlanError, ProbeloopError, RefusedError
from ..plugin.contract import PlanSteps, Step
from .controls import Change, Ended
from .steps import Answer, answer_from_plain, answer_to_plain, kind_of, plain, step_to_plain

STEPS_OUT_OF_BUDGET = 200


@dataclass(frozen=True)
class Recorded:
    """A step or a change as the record holds it."""

    step: int
    kind: str
    value: Mapping[str, Any]


class Answers(Protocol):
    """Whoever answers the steps: the loop, or a fake in a test."""

    def answer(self, number: int, step: Step) -> Answer:
        """Do what the step says; raises Ended when the plan has to end."""
        ...

    def take_changes(self) -> list[Change]:
        """Return what was changed from outside since the last call."""
        ...

    def apply(self, change: Change) -> None:
        """Put a change in force."""
        ...

    def recall(self, step: Step, answer: Answer, elapsed: float) -> None:
        """Be told of a step that is answered from the record: charge the budget, remember the ids."""
        ...

    def elapsed(self) -> float:
        """Return the time since the start, pauses not counted [s]."""
        ...


class PlanRun:
    """One run of a plan. record(number, kind, value) is called for every live step, before the plan goes on."""

    def __init__(
        self,
        steps: PlanSteps,
        answers: Answers,
        record: Callable[[int, str, dict[str, Any]], None],
        recorded: Sequence[Recorded] = (),
    ) -> None:
        self._steps = steps
        self._answers = answers
        self._record = record
        self._recorded = [each for each in recorded if each.kind != "change"]
        self._changes = [each for each in recorded if each.kind == "change"]
        self.number = 0
        self._after_budget = 0

    def run(self) -> dict[str, Any]:
        """Run to the end; return the plan's summary. Raises PlanError and whatever the plan lets through."""
        try:
            step = next(self._steps)
            while True:
                answer = self._answer(step)
                self.number += 1
                step = self._steps.throw(answer.error) if answer.error else self._steps.send(answer.value)
        except StopIteration as end:
            return checked_summary(end.value)
        except Ended as end:
            return self._finish(end)
        finally:
            self._steps.close()

    def _answer(self, step: Step) -> Answer:
        kind = kind_of(step)
        self._apply_changes()
        if self.number < len(self._recorded):
            return self._recall(step, kind)
        if self._after_budget >= STEPS_OUT_OF_BUDGET:
            raise PlanError(
                f"the plan went on for {STEPS_OUT_OF_BUDGET} steps after its budget was spent",
                'let it return at a RefusedError whose limit is "budget"',
            )
        answer = self._answers.answer(self.number, step)
        spent = isinstance(answer.error, RefusedError) and answer.error.limit == "budget"
        self._after_budget += bool(self._after_budget or spent)
        value = {
            "step": step_to_plain(step),
            **answer_to_plain(kind, answer),
            "elapsed": self._answers.elapsed(),
        }
        self._record(self.number, kind, value)
        return answer

    def _recall(self, step: Step, kind: str) -> Answer:
        recorded = self._recorded[self.number]
        now, then = step_to_plain(step), plain(recorded.value.get("step"))
        if recorded.step != self.number or now != then:
            raise PlanError(
                f"step {self.number} is {_short(now)}, the record has {_short(then)}: the plan is not deterministic",
                "run probeloop check on it, or start anew",
            )
        answer = answer_from_plain(kind, recorded.value)
        self._answers.recall(step, answer, float(recorded.value.get("elapsed", 0.0)))
        return answer

    def _apply_changes(self) -> None:
        while self._changes and self._changes[0].step <= self.number:
            value = self._changes.pop(0).value
            self._answers.apply(Change(value["kind"], value["target"], value["values"]))
        if self.number < len(self._recorded):
            return
        for change in self._answers.take_changes():
            self._answers.apply(change)
            value = {"kind": change.kind, "target": change.target, "values": plain(dict(change.values))}
            self._record(self.number, "change", value)

    def _finish(self, end: Ended) -> dict[str, Any]:
        """Let the plan say what it has; it gets no further answer."""
        why = {"abort": "aborted", "stop": "stopped"}[end.kind]
        message = f"{why}: {end.reason}" if end.reason else why
        summary: dict[str, Any] = {"succeeded": False, "message": message}
        try:
            self._steps.throw(RefusedError(message, end.kind))
        except StopIteration as stopped:
            summary = {**checked_summary(stopped.value), "succeeded": False, "message": message}
        except ProbeloopError:
            pass
        return {**summary, "ended": end.kind}


def checked_summary(value: object) -> dict[str, Any]:
    """Return a plan's summary as plain data; raises PlanError when "succeeded" or "message" is missing."""
    if (
        not isinstance(value, dict)
        or not isinstance(value.get("succeeded"), bool)
        or not isinstance(value.get("message"), str)
    ):
        raise PlanError(
            f"the plan returned {value!r:.80} as its summary", 'return {"succeeded": bool, "message": str, ...}'
        )
    made: dict[str, Any] = plain(value)
    return made


def _short(step: Any) -> str:
    if not isinstance(step, dict):
        return repr(step)[:60]
    shown = step.get("command", step)
    return str(shown)[:100]
