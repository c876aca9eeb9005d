"""The loop: answers a plan's steps with what the gate and the streams give.

Every command goes to the gate, with what caused it: the newest frame of each input that was looked at since the
last command. Commands that follow without a new look have no cause, and so no loop latency.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import numpy as np

from ..data.clock import Clock
from ..data.commands import ACQUISITIONS, Command, MoveProbe, Read
from ..data.control import Accepted, Cause, Cost, Done, Event, Failed, Progress, Remark, Result, StateChange, Trace
from ..data.driver import InstrumentInfo
from ..data.errors import DriverError, PlanError, RefusedError
from ..data.scan import Position
from ..data.settings import Settings, convert
from ..plugin.contract import (
    Checkpoint,
    DropIn,
    Observation,
    Observe,
    Propose,
    Reduce,
    Register,
    Scalarizer,
    Show,
    Step,
    Submit,
    Ticket,
    Wait,
)
from .budget import Budget
from .controls import Change, Controls
from .interest import Interest, Recorded, ScalarizerInput
from .moves import goal_of, on_grid, way
from .outputs import note, stands, words
from .resume import Interrupted, Underway
from .reward import Rewards
from .showing import Screen, Showing
from .steps import Answer, command_of
from .streams import Seen, Streams

STOP_TOLD = 5.0  # [s] after a command that STOP ended, until the STOP itself is told


class Gate(Protocol):
    """The way to the instrument."""

    def submit(self, command: Command, cause: Cause, trace: Trace, dry_run: bool = False) -> Accepted:
        """Hand a command over; raises RefusedError, and Ended when the epoch is over or the lease gone."""
        ...

    def register(self, shift: Position, sigma: float, peak_ratio: float) -> None:
        """Tell how far the specimen is from where it was thought to be [m]; raises RefusedError, and Ended."""
        ...


@dataclass(frozen=True)
class Timeouts:
    """How long to wait [s]: for frames and the end of a scan, and for a result beyond the expected duration."""

    data: float = 10.0
    result: float = 60.0


class Loop:
    """Answers steps (plan.Answers). emit: publishes an event. name: the plan's. screen: where its maps go."""

    def __init__(
        self,
        info: InstrumentInfo,
        gate: Gate,
        streams: Streams,
        controls: Controls,
        clock: Clock,
        emit: Callable[[Event], None],
        *,
        budget: Budget | None = None,
        rewards: Rewards | None = None,
        scalarizers: Mapping[str, ScalarizerInput] | None = None,
        drop_ins: Mapping[str, DropIn] | None = None,
        approval: bool = False,
        timeouts: Timeouts | None = None,
        interrupted: Interrupted | None = None,
        repeat: bool = False,
        name: str = "plan",
        screen: Screen | None = None,
        recorded: Recorded | None = None,
    ) -> None:
        self._info, self._gate, self._streams = info, gate, streams
        self._controls, self._clock, self._emit = controls, clock, emit
        self.budget = budget or Budget()
        self.rewards = rewards or Rewards()
        self.interest = Interest(scalarizers or {}, self.rewards, streams, emit, recorded)
        self._drop_ins = {} if drop_ins is None else drop_ins
        self._approval = approval
        self._timeouts = timeouts or Timeouts()
        self._unused = interrupted.unused if interrupted else ()
        self._submitted = dict(interrupted.submitted) if interrupted else {}
        self._repeat = repeat
        self._showing = Showing(name, screen, lambda text: emit(Remark(text=text, level="warning")))
        self._made_before: dict[tuple[str, int, int], tuple[Command, Cost]] = {}
        self._made_again: dict[tuple[str, int, int], Result] = {}
        self._start_ns = clock.now_ns()
        self._earlier = 0.0
        self._position: Position | None = None
        self._outputs: dict[str, Command] = {}
        self._seen: dict[str, Seen] = {}
        self._commands: dict[int, tuple[Command, Cost]] = {}

    # what plan.PlanRun asks for

    def elapsed(self) -> float:
        """Return the time since the start, pauses not counted [s]."""
        return self._earlier + (self._clock.now_ns() - self._start_ns - self._controls.paused_ns) / 1e9

    def take_changes(self) -> list[Change]:
        """Return what was changed from outside since the last call."""
        return self._controls.take_changes()

    def apply(self, change: Change) -> None:
        """Put a change in force."""
        if change.kind == "budget":
            self.budget.change(change.values)
        elif change.kind == "reward":
            self.rewards.change(change.values)
            self.interest.valued_anew()
        elif change.kind == "scalarizer":
            self.interest.change(change.values)
        else:
            drop_in = self._drop_ins[change.target]
            drop_in.parameters = changed_parameters(drop_in.parameters, change.values)
            if isinstance(drop_in, Scalarizer):
                self.interest.valued_anew(change.target)

    def recall(self, step: Step, answer: Answer, elapsed: float) -> None:
        """Take a recorded step into account, without doing it again."""
        command = command_of(step)
        if command is not None and answer.ids and not isinstance(answer.error, RefusedError):
            self.budget.charge(command, answer.cost)
            if isinstance(answer.value, Result):
                self._made_before[_place(answer.value)] = (command, answer.cost)
            note(self._outputs, command)
        if isinstance(step, Observe) and answer.error is None:
            self.interest.recall(step, answer.value)
        self._earlier = elapsed
        self._start_ns = self._clock.now_ns()

    def answer(self, number: int, step: Step) -> Answer:
        """Do what the step says; raises Ended when the plan has to end."""
        self._controls.hold()
        self.budget.at(self.elapsed())
        try:
            if self._outputs:
                self._outputs_again()
            match step:
                case Submit():
                    return self._hand_over(step.command)
                case Wait():
                    return Answer(tuple(self._result(ticket.id) for ticket in step.tickets))
                case Observe():
                    return Answer(self._observe(step))
                case Reduce():
                    return Answer(self._reduce(step))
                case Show():
                    units, newest = self.interest.units(step.scalarizer), self.interest.newest
                    time_ns = newest.time_ns if newest is not None else 0
                    return Answer(self._showing.answer(step, units, self._info.origin, time_ns))
                case Register():
                    self._gate.register(step.shift, step.sigma, step.peak_ratio)
                    return Answer()
                case Propose():
                    return Answer(self._propose(step))
                case Checkpoint():
                    return self._checkpoint(step)
                case _:
                    return self._do(step)
        except (RefusedError, DriverError, PlanError) as error:
            return Answer(error=error)

    # commands

    def _do(self, command: Command) -> Answer:
        handed = self._hand_over(command)
        if handed.error is not None:
            return handed
        try:
            return Answer(self._result(handed.value.id), ids=handed.ids, cost=handed.cost)
        except DriverError as error:
            return Answer(error=error, ids=handed.ids, cost=handed.cost)

    def _outputs_again(self) -> None:
        """Undo what the gate did when the interrupted run fell silent: it made the outputs safe."""
        wanted, self._outputs = self._outputs, {}
        now = self._result(self._submit(Read()).id).readback if set(wanted) != {"beam"} else {}
        for name, command in wanted.items():
            if not stands(name, now):
                self._emit(Remark(text=words(name, command)))
                self._result(self._submit(command).id)

    def _hand_over(self, command: Command) -> Answer:
        decided = self._clock.now_ns()
        command = on_grid(command, self._info.grid)
        before = self._finished_before(command)
        if before is not None:
            note(self._outputs, command)
            self.budget.charge(command, before.cost)
            return Answer(Ticket(before.id), ids=(before.id,), cost=before.cost)
        ids: list[int] = []
        cost: Cost | None = None
        try:
            if self.budget.needs_cost and isinstance(command, ACQUISITIONS):
                cost = self._gate.submit(command, (), Trace(), dry_run=True).cost
            self.budget.check(command, cost)
            cause, trace = self._cause(decided)
            for each in self._approach(command):
                ids.append(self._submit(each, cause, trace).id)
                self._result(ids[-1])
            accepted = self._submit(command, cause, trace)
        except (RefusedError, DriverError) as error:
            return Answer(error=error, ids=tuple(ids))
        self.budget.charge(command, accepted.cost)
        return Answer(Ticket(accepted.id), ids=(*ids, accepted.id), cost=accepted.cost)

    def _submit(self, command: Command, cause: Cause = (), trace: Trace | None = None) -> Accepted:
        stamped = msgspec.structs.replace(trace or Trace(), submitted=self._clock.now_ns())
        accepted = self._gate.submit(command, cause, stamped)
        self._commands[accepted.id] = (command, accepted.cost)
        goal = goal_of(command)
        if goal is not None or isinstance(command, ACQUISITIONS):
            self._position = goal
        return accepted

    def _cause(self, decided: int) -> tuple[Cause, Trace]:
        seen, self._seen = sorted(self._seen.values(), key=lambda each: each.topic), {}
        if not seen:
            return (), Trace(decided=decided)
        newest = max(seen, key=lambda each: each.trace.exposed)
        return tuple((each.topic, each.index) for each in seen), msgspec.structs.replace(
            newest.trace, decided=decided
        )

    def _approach(self, command: Command) -> list[Command]:
        """Return the moves that bring the probe within one step of where the command wants it."""
        goal = goal_of(command)
        if goal is None or self._info.limits.max_step is None or "MoveProbe" not in self._info.commands:
            return []
        if self._position is None:
            self._position = self._where()
        stops = way(self._position, goal, self._info) if self._position is not None else []
        if stops:
            text = f"{type(command).__name__}: {len(stops)} moves on the way, the longest step being limited"
            self._emit(Remark(text=text))
        return [MoveProbe(position=each) for each in stops]

    def _where(self) -> Position | None:
        if "Read" not in self._info.commands:
            return None
        found = self._result(self._submit(Read(("position_x", "position_y"))).id).readback
        x, y = found.get("position_x"), found.get("position_y")
        return (float(x), float(y)) if isinstance(x, int | float) and isinstance(y, int | float) else None

    def _result(self, command_id: int) -> Result:
        """Wait for a result; raises DriverError when the command failed or nothing comes of it."""
        before = self._submitted.pop(command_id, None)
        if before is not None and before.event is None:
            self._emit(Remark(text=f"repeats {before}", level="warning"))
            accepted = self._submit(before.command)
            self.budget.charge(before.command, accepted.cost)
            command_id = accepted.id
        command, cost = self._commands.pop(command_id, (None, Cost()))
        event = before.event if before is not None else None
        if before is not None and isinstance(event, Done):
            self._made_before[_place(event.result)] = (before.command, before.cost)
        event = event or self._controls.result(command_id, self._timeouts.result + 3.0 * cost.time)
        name = type(command or (before and before.command)).__name__
        stopped = event.result.stopped if isinstance(event, Done) else event is not None and event.stopped
        if stopped and before is None:
            self._controls.wait_for(lambda: False, STOP_TOLD)  # ends the plan, with the reason
        if isinstance(event, Done):
            return event.result
        if isinstance(event, Failed):
            raise DriverError(f"{name} (command {command_id}) failed: {event.reason}")
        raise DriverError(f"nothing came of {name} (command {command_id})", "look at the instrument's process")

    def _finished_before(self, command: Command) -> Underway | None:
        """Return the command that was cut off when it is this one and had come to its end."""
        unused, self._unused = self._unused, ()
        for each in unused:
            if each.command == command and each.event is not None:
                self._submitted[each.id] = each
                return each
        return None

    # data

    def _present(self, result: Result, topic: str) -> Result:
        """Return the result, whose data on `topic` went with the interrupted run: the record has them still.

        Else that of the same measurement done again; raises PlanError when it costs something and nobody allowed it.
        """
        place = _place(result)
        if place in self._made_again or place not in self._made_before:
            return self._made_again.get(place, result)
        if self._streams.recall(topic, result):
            return result
        command, cost = self._made_before[place]
        before = Underway(result.first_index, command, cost)
        if not (before.is_free or self._repeat):
            raise PlanError(
                f"the data of {type(command).__name__} ({cost.dose:.3g} e) went with the interrupted run",
                "resume with repeat to measure it again, or start a new run",
            )
        self._emit(Remark(text=f"measures again, its data were lost: {type(command).__name__}", level="warning"))
        handed = self._hand_over(command)
        if handed.error is not None:
            raise handed.error
        self._made_again[place] = self._result(handed.value.id)
        return self._made_again[place]

    def _observe(self, step: Observe) -> tuple[Observation, ...]:
        topic = self.interest.topic(step)
        result = self._present(step.result, topic)
        frames, seen = self._streams.frames(topic, result, self._controls.wait_for, self._timeouts.data)
        self._seen[topic] = seen
        return self.interest.observe(step, result, frames)

    def _reduce(self, step: Reduce) -> tuple[float, ...]:
        found, seen = self._streams.map(
            step.topic, self._present(step.result, step.topic), self._controls.wait_for, self._timeouts.data
        )
        self._seen[step.topic] = seen
        values = step.function(found)
        return tuple(float(value) for value in np.atleast_1d(np.asarray(values, np.float64)))

    # the operator

    def _propose(self, step: Propose) -> tuple[Position, ...]:
        kept = step.positions
        if self._approval and step.positions:
            waiting = self._controls.suggest(step.positions)
            shown = [{"id": n, "position": list(p)} for n, p in waiting.items()]
            self._emit(StateChange(target="plan", state="waiting", reason="approval", data={"suggestions": shown}))
            kept = self._controls.approved()
            self._emit(StateChange(target="plan", state="running", reason="approval", data={"approved": len(kept)}))
        return (*kept, *self._controls.take_added())

    def _checkpoint(self, step: Checkpoint) -> Answer:
        done = min(max(step.progress, 0.0), 1.0)
        eta = self.elapsed() * (1.0 - done) / done if done > 0 else None
        self._emit(Progress(target="plan", done=done, total=1.0, eta=eta, message=step.message))
        return Answer()


def _place(result: Result) -> tuple[str, int, int]:
    return result.topic, result.generation, result.first_index


def changed_parameters(parameters: Settings, values: Mapping[str, Any]) -> Settings:
    """Return the parameters with `values` in place, checked; raises SettingsError."""
    return convert(type(parameters), {**msgspec.to_builtins(parameters), **values})
