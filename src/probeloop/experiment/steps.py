"""Steps of a plan and their answers as plain data, so that a record can feed them to the plan again.

A float that JSON has no word for (NaN, inf) is written as text and read back as the float.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ..data import errors
from ..data.commands import COMMANDS, Command
from ..data.control import Cost, Result
from ..data.errors import PlanError, ProbeloopError, RefusedError
from ..data.scan import Position
from ..plugin.contract import (
    Checkpoint,
    Observation,
    Observe,
    Propose,
    Reduce,
    Register,
    Show,
    Step,
    Submit,
    Ticket,
    Wait,
)

_KINDS: dict[type, str] = {
    Submit: "submit",
    Wait: "wait",
    Observe: "observe",
    Reduce: "reduce",
    Show: "show",
    Register: "register",
    Propose: "propose",
    Checkpoint: "checkpoint",
    **dict.fromkeys(COMMANDS.values(), "command"),
}
_ANSWERS: dict[str, Any] = {
    "command": Result,
    "submit": Ticket,
    "wait": tuple[Result, ...],
    "observe": tuple[Observation, ...],
    "reduce": tuple[float, ...],
    "show": tuple[str, ...],
    "register": None,
    "propose": tuple[Position, ...],
    "checkpoint": None,
}


@dataclass(frozen=True)
class Answer:
    """What came of a step: a value, or the error that is raised at the yield.

    ids: of the commands it took, moves that lead there included. cost: what they spent.
    """

    value: Any = None
    error: ProbeloopError | None = None
    ids: tuple[int, ...] = ()
    cost: Cost = field(default_factory=Cost)


def kind_of(step: object) -> str:
    """Return the kind of a step; raises PlanError for what is none."""
    try:
        return _KINDS[type(step)]
    except KeyError:
        raise PlanError(
            f"the plan yielded {step!r:.80}, which is no step", "yield a command or one of " + _STEPS
        ) from None


_STEPS = ", ".join(cls.__name__ for cls, kind in _KINDS.items() if kind != "command")


def plain(value: Any) -> Any:
    """Return structs, tuples and numbers as what JSON can hold; NaN and inf as text."""
    return _finite(msgspec.to_builtins(value, enc_hook=_named))


def step_to_plain(step: Step) -> dict[str, Any]:
    """Return a step as plain data; equal data means an equal step."""
    kind = kind_of(step)
    made: dict[str, Any] = {"kind": kind, **(plain(step) if kind != "command" else {"command": plain(step)})}
    return made


def answer_to_plain(kind: str, answer: Answer) -> dict[str, Any]:
    """Return an answer as plain data."""
    made: dict[str, Any] = {"ids": list(answer.ids), "cost": plain(answer.cost)}
    if answer.error is not None:
        made["error"] = {"type": type(answer.error).__name__, "arguments": plain(_arguments(answer.error))}
    elif _ANSWERS[kind] is not None:
        made["value"] = plain(answer.value)
    return made


def answer_from_plain(kind: str, data: Mapping[str, Any]) -> Answer:
    """Read what `answer_to_plain` made; raises PlanError when it isn't that."""
    try:
        ids, cost = tuple(data.get("ids", ())), msgspec.convert(data.get("cost", {}), Cost, strict=False)
        if "error" in data:
            cls = getattr(errors, data["error"]["type"])
            if not issubclass(cls, ProbeloopError):
                raise TypeError(data["error"]["type"])
            return Answer(None, cls(*data["error"]["arguments"]), ids, cost)
        expected = _ANSWERS[kind]
        value = None if expected is None else msgspec.convert(data["value"], expected, strict=False)
        return Answer(value, None, ids, cost)
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError) as error:
        raise PlanError(f"the record holds no answer to a {kind} step: {error}") from error


def command_of(step: Step) -> Command | None:
    """Return the command a step hands over, or None."""
    if isinstance(step, Submit):
        return step.command
    return step if kind_of(step) == "command" else None  # type: ignore[return-value]


def _arguments(error: ProbeloopError) -> tuple[str, ...]:
    if isinstance(error, RefusedError):
        return (error.reason, error.limit, error.allowed)
    return (error.message, error.next_move)


def _named(value: Any) -> Any:
    """Functions of Reduce and Show are told apart by name."""
    if callable(value):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__name__)}"
    if hasattr(value, "item"):  # a numpy number
        return value.item()
    raise TypeError(f"{type(value).__name__} is no plain value of a step")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, dict):
        return {str(key): _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value
