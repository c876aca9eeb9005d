"""Holds a plan against its contract: deterministic, resumable after every step, and ended by a summary.

The plan runs against an instrument of thin air; then it is killed after every step, begun anew, and fed with what
was answered before: it must yield the same steps. Clocks run an hour ahead and the global random generators are
seeded anew in every run, so that a plan which looks at them is found.
"""

from __future__ import annotations

import contextlib
import functools
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..data.commands import ACQUISITIONS, COMMANDS, AcquireSpectrum, Command, MoveProbe, Scan
from ..data.control import Result
from ..data.driver import Grid, InstrumentInfo
from ..data.errors import ContractError, ProbeloopError, RefusedError
from ..data.limits import Limits
from ..data.settings import Settings
from ..discover import load_class
from ..plugin.contract import (
    Checkpoint,
    Context,
    Observation,
    Observe,
    Plan,
    PlanContext,
    Policy,
    Propose,
    Reduce,
    Register,
    Show,
    Submit,
    Ticket,
    Wait,
)

MOST_STEPS = 5000
MOST_KILLS = 40
SIDE = 250e-9
STEP = 5e-9
PLAIN_INFO = InstrumentInfo(
    name="check",
    modality="afm",
    origin="simulation",
    commands=tuple(COMMANDS),
    limits=Limits(region=((0.0, 0.0), (SIDE, SIDE)), bias=(-10.0, 10.0), knobs={"C10": (-1e-6, 1e-6)}),
    grid=Grid((STEP / 2, STEP / 2), (STEP, STEP)),
    camera_pixels=128 * 128,
)
_CLOCKS = ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time")


@dataclass
class Pretended:
    """Answers every step with what follows from the step and its number alone."""

    number: int = 0
    position: tuple[float, float] = (0.0, 0.0)
    waiting: dict[int, Command] = field(default_factory=dict)

    def answer(self, step: Any) -> Any:
        """Return the answer to a step; raises ContractError for what is none."""
        self.number += 1
        if type(step) in COMMANDS.values():
            return self._result(step)
        match step:
            case Submit():
                self.waiting[self.number] = step.command
                return Ticket(self.number)
            case Wait():
                return tuple(self._result(self.waiting.pop(ticket.id)) for ticket in step.tickets)
            case Observe():
                return (self._observation(step.result),)
            case Reduce():
                return tuple(float(v) for v in np.atleast_1d(np.asarray(step.function(_map(step.result)), float)))
            case Propose():
                return step.positions
            case Show():
                return tuple(step.maps())
            case Register() | Checkpoint():
                return None
        raise ContractError(f"it yields {step!r:.80}, which is no step", "yield commands, or steps of probeloop.api")

    def _result(self, command: Command) -> Result:
        if isinstance(command, AcquireSpectrum | MoveProbe):
            self.position = command.position
        measures = isinstance(command, ACQUISITIONS)
        count = math.prod(command.shape) if isinstance(command, Scan) else int(measures)
        readback = {"position_x": self.position[0], "position_y": self.position[1]}
        topic = ("spectrum" if isinstance(command, AcquireSpectrum) else "scan") if measures else ""
        return Result(
            generation=self.number,
            topic=topic,
            first_index=self.number * 10_000_000,
            count=count,
            first_valid_index=self.number * 10_000_000,
            readback=dict(readback),
        )

    def _observation(self, result: Result) -> Observation:
        x, y = self.position
        value = math.exp(-(((x - 0.7 * SIDE) / SIDE) ** 2) - ((y - 0.3 * SIDE) / SIDE) ** 2)
        return Observation(
            position=self.position,
            value=value,
            topic=result.topic,
            generation=result.generation,
            index=result.first_index,
        )


def check_plan(
    plan: type[Plan],
    parameters: Settings | None = None,
    *,
    info: InstrumentInfo = PLAIN_INFO,
    inputs: Sequence[str] = ("scan", "spectrum"),
    policies: Callable[[str], type[Policy]] | None = None,
    seed: int = 1,
) -> list[str]:
    """Return every way in which a plan breaks its contract, in words; empty = it keeps it.

    policies: how a policy is found by name; None = as a rig finds it.
    """
    settings = parameters if parameters is not None else plan.Parameters()

    def begin() -> Any:
        def make_policy(name: str, values: Mapping[str, Any]) -> Policy:
            cls = (policies or _policy)(name)
            return cls(msgspec.convert(dict(values), cls.Parameters), Context(name, seed + 1))

        names = tuple(dict.fromkeys([*inputs, *plan(settings).inputs()]))
        ctx = PlanContext(np.random.default_rng(seed), info, make_policy, names, ("value",))
        return plan(settings, Context(plan.__name__, seed)).run(ctx)

    try:
        with _another_world(0):
            steps, answers, summary = _play(begin(), [])
    except ContractError as error:
        return [str(error)]
    except ProbeloopError as error:
        return [f"it fails on a plain instrument: {error}"]
    except Exception as error:
        return [f"it raises {type(error).__name__}: {error}"]
    faults = _summary_faults(summary)
    kills = sorted({round(i) for i in np.linspace(0, len(steps), min(MOST_KILLS, len(steps) + 1))})
    for world, kill in enumerate(kills, 1):
        with _another_world(world):
            fault = _replayed(begin(), steps, answers, kill)
        if fault:
            return [*faults, fault]
    return [*faults, *_ended_fault(begin)]


def _play(generator: Any, answers: list[Any]) -> tuple[list[Any], list[Any], Any]:
    """Run a plan to its end; return its steps as plain data, the answers, and the summary."""
    pretended, steps = Pretended(), []
    try:
        step = next(generator)
        while True:
            steps.append(_plain(step))
            answers.append(pretended.answer(step))
            if len(steps) > MOST_STEPS:
                raise ContractError(f"it goes on after {MOST_STEPS} steps", "check it with smaller parameters")
            step = generator.send(answers[-1])
    except StopIteration as end:
        return steps, answers, end.value
    finally:
        generator.close()


def _replayed(generator: Any, steps: list[Any], answers: list[Any], kill: int) -> str:
    """Feed a new run with the answers up to `kill`, and let it go on; return how it differs, or ""."""
    number = 0
    try:
        step = next(generator)
        while True:
            if number >= len(steps) or _plain(step) != steps[number]:
                then = str(steps[number])[:80] if number < len(steps) else "the end"
                return (
                    f"killed after step {kill} and resumed, its step {number} is {str(_plain(step))[:80]} instead of "
                    f"{then}: it looks at a clock, at chance other than ctx.rng, or at something global"
                )
            answer = answers[number]
            number += 1
            step = generator.send(answer)
    except StopIteration:
        return (
            "" if number == len(steps) else f"resumed after step {kill} it ends after {number} of {len(steps)} steps"
        )
    except Exception as error:
        return f"resumed after step {kill} it raises {type(error).__name__}: {error}"
    finally:
        generator.close()


def _ended_fault(begin: Callable[[], Any]) -> list[str]:
    """STOP before the first answer: the plan may sum up or let the error through, nothing else."""
    generator = begin()
    try:
        next(generator)
        generator.throw(RefusedError("stopped", "stop"))
    except (StopIteration, ProbeloopError):
        return []
    except Exception as error:
        return [f"stopped at its first step it raises {type(error).__name__}: {error}"]
    finally:
        generator.close()
    return []  # it yields on: the host does not answer it, and closes it


def _summary_faults(summary: Any) -> list[str]:
    if not isinstance(summary, dict):
        return [f"it returns {summary!r:.60}, not a summary"]
    wanted = (("succeeded", bool), ("message", str))
    faults = [
        f"its summary has no {key!r} ({kind.__name__})"
        for key, kind in wanted
        if not isinstance(summary.get(key), kind)
    ]
    try:
        msgspec.json.encode(msgspec.to_builtins(summary))
    except (TypeError, ValueError) as error:
        faults.append(f"its summary is no plain data: {error}")
    return faults


def _plain(step: Any) -> Any:
    return type(step).__name__, repr(msgspec.to_builtins(step, enc_hook=_named)) if _is_struct(step) else repr(step)


def _is_struct(step: Any) -> bool:
    return isinstance(step, msgspec.Struct)


def _named(value: Any) -> Any:
    if hasattr(value, "item"):
        return value.item()
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__name__)}"


def _map(result: Result) -> NDArray[np.float64]:
    """A square map with one bright corner, as large as the result allows."""
    side = max(1, math.isqrt(max(result.count, 1)))
    y, x = np.mgrid[:side, :side] / side
    made: NDArray[np.float64] = np.exp(-(((x - 0.8) / 0.1) ** 2) - ((y - 0.2) / 0.1) ** 2)
    return made


@functools.cache
def _policy(name: str) -> type[Policy]:
    cls: type[Policy] = load_class(name, "Policy")
    return cls


@contextlib.contextmanager
def _another_world(number: int) -> Iterator[None]:
    """Set all clocks an hour ahead, `number` times, and seed the global generators with `number`."""
    saved = {name: getattr(time, name) for name in _CLOCKS}
    chance, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002

    def ahead(clock: Callable[[], Any], ns: bool) -> Callable[[], Any]:
        shift = 3600 * number * (1_000_000_000 if ns else 1)
        return lambda: clock() + shift

    try:
        for name, clock in saved.items():
            setattr(time, name, ahead(clock, name.endswith("_ns")))
        random.seed(number)
        np.random.seed(number)  # noqa: NPY002
        yield
    finally:
        for name, clock in saved.items():
            setattr(time, name, clock)
        random.setstate(chance)
        np.random.set_state(legacy)  # noqa: NPY002
