"""Carries accepted commands to the driver, one after the other, each judged once more at its execution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from ..data import commands as c
from ..data.control import Cost, Done, Failed, Generation, Progress, Remark, Result, Scalar, Submit
from ..data.driver import OF_THE_CORE, VERBS, Acquisition, Instrument, InstrumentInfo
from .door import Door, ShutError
from .dose import duration
from .drift import Drift
from .gate import Applied, GateEvent, GateState, Judgement, Parked, ReadBack
from .journal import Journal
from .physics import needs_beam
from .pump import Delivery, Outlet, ScanControl, is_single

SETTLE_SLICE = 0.02  # [s]
PROGRESS_NS = 200_000_000
FRESH_NS = 1_000_000  # nothing that depends on time alone changes in so short a time

Basis = tuple[GateState, Drift]


@dataclass(frozen=True, slots=True)
class Job:
    """An accepted command. verdict_ns: CLOCK_MONOTONIC. judged: the verdict, basis: on what it rests beside time."""

    id: int
    submit: Submit
    cost: Cost
    verdict_ns: int
    judged: Judgement | None = None
    basis: Basis | None = None

    def stands(self, basis: Basis, now_ns: int) -> Judgement | None:
        """Return the verdict if it is younger than 1 ms and nothing that it rests on has changed since, else None."""
        before = self.basis
        same = before is not None and before[0] is basis[0] and before[1] is basis[1]
        return self.judged if same and now_ns - self.verdict_ns < FRESH_NS else None


class Desk(Protocol):
    """What the executor needs of the gate: its state under lock, its judgement, its account."""

    state: GateState
    info: InstrumentInfo
    door: Door
    journal: Journal
    scan: ScanControl

    def now_ns(self) -> int:
        """Return CLOCK_MONOTONIC [ns]."""
        ...

    def judge(self, submit: Submit) -> Judgement:
        """Hold a command against every check, in the state now."""
        ...

    @property
    def basis(self) -> Basis:
        """What a verdict rests on beside the command and the time."""
        ...

    def advance(self, event: GateEvent) -> None:
        """Move the state."""
        ...

    def outlet(self, acquisition: Acquisition, single: bool) -> Outlet:
        """Return the topic that an acquisition goes to."""
        ...

    def began(self, job: Job, command: c.Command) -> None:
        """Hear that a job begins."""
        ...

    def ended(self, job: Job, delivery: Delivery | None, result: Result | None) -> None:
        """Hear how a job ended."""
        ...

    def tick(self) -> None:
        """Look at all that could trip the gate."""
        ...

    @property
    def tripped(self) -> bool:
        """Whether the gate has tripped."""
        ...

    def next_generation(self) -> int:
        """Return the number of a new generation."""
        ...


Acquire = Callable[..., Delivery]


class Executor:
    """Runs one job at a time in the thread that calls `run`.

    acquire: pumps an acquisition to its end (in this thread, or in the pump's while this one waits).
    """

    def __init__(self, instrument: Instrument, desk: Desk, acquire: Acquire) -> None:
        self._instrument, self._desk, self._acquire = instrument, desk, acquire
        self._exposed_ns = 0
        self._settled_ns = 0
        self._changed_for_ns = 0  # end of exposure of what the last change was decided on, until a frame shows it

    def run(self, job: Job) -> None:
        """Carry out one job; how it went is told as Done or Failed."""
        desk = self._desk
        judged = job.stands(desk.basis, desk.now_ns()) or desk.judge(job.submit)
        if not judged.accepted:
            words = f"refused at execution: {judged.reason}; allowed: {judged.allowed or 'nothing'}"
            self._fail(job, words, stopped=judged.limit == "latched fault")
            return
        desk.began(job, judged.command)
        delivery: Delivery | None = None
        result: Result | None = None
        try:
            result, delivery = self._carry_out(job, judged)
        except ShutError:
            self._fail(job, "stopped before it reached the hardware", stopped=True)
        except Exception as error:  # a driver may raise anything; the loop must go on
            self._broke(job, f"{type(error).__name__}: {error}")
        else:
            if delivery is not None and delivery.error:
                self._broke(job, delivery.error)
            else:
                desk.journal.tell(Done(id=job.id, result=result))
        finally:
            desk.ended(job, delivery, result)

    def _broke(self, job: Job, reason: str) -> None:
        # a process that was stopped finds its driver's time run out before it looks at what the guard did meanwhile
        try:
            self._desk.tick()
        finally:  # whatever that comes to, the job's end is told
            self._fail(job, reason, stopped=self._desk.tripped)

    def _fail(self, job: Job, reason: str, stopped: bool = False) -> None:
        self._desk.journal.tell(Failed(id=job.id, reason=reason, stopped=stopped))

    def _carry_out(self, job: Job, judged: Judgement) -> tuple[Result, Delivery | None]:
        command, epoch = judged.command, job.submit.epoch
        if c.name_of(command) in OF_THE_CORE:
            return self._own(job, command), None
        if needs_beam(command):
            self.unpark(epoch)
        if isinstance(command, c.ACQUISITIONS):
            self._wait_settled(epoch)
        verb: Callable[[Any], Any] = getattr(self._instrument, VERBS[c.name_of(command)][1])
        with self._desk.door.passing(epoch):
            done = verb(command)
        applied = self._desk.now_ns()
        self._desk.advance(Applied(command))
        readback = self.read_back()
        generation = self._desk.next_generation()
        trace = msgspec.structs.replace(job.submit.trace, verdict=job.verdict_ns, applied=applied)
        if not isinstance(done, Acquisition):
            self._settled_ns = max(self._settled_ns, int(done))
            self._changed_for_ns = trace.exposed or self._changed_for_ns
            return Result(generation=generation, readback=readback, cost=judged.cost, trace=trace), None
        delivery = self._pump(job, command, done, generation, readback)
        physical = None
        exposed = trace.exposed or self._changed_for_ns
        if exposed and delivery.first_valid_ns:
            physical, self._changed_for_ns = delivery.first_valid_ns - exposed, 0
        return (
            Result(
                generation=generation,
                topic=done.topic,
                first_index=delivery.first_index,
                count=delivery.count,
                first_valid_index=delivery.first_valid_index,
                readback=self.read_back(),
                cost=judged.cost,
                trace=trace,
                physical_ns=physical,
                aborted=delivery.aborted,
                stopped=delivery.aborted and not self._desk.door.is_open(job.submit.epoch),
            ),
            delivery,
        )

    def _pump(
        self, job: Job, command: c.Command, acquisition: Acquisition, generation: int, readback: dict[str, Scalar]
    ) -> Delivery:
        desk, spec = self._desk, acquisition.spec
        outlet = desk.outlet(acquisition, is_single(command))
        settled = max(self._settled_ns, acquisition.t_settled_ns)
        desk.journal.tell(
            Generation(
                id=generation,
                command_id=job.id,
                topic=acquisition.topic,
                scan=command,
                settings={**readback, **acquisition.settings},
                calibration_ids=tuple(k.id for k in desk.info.calibrations),
                t_settled_ns=settled,
            )
        )
        total = 1
        for size in spec.nav_shape:
            total *= size
        total *= command.frames if isinstance(command, c.Scan | c.AcquireReference) else 1
        started = told = desk.now_ns()

        def progress(count: int) -> None:
            nonlocal told
            now = desk.now_ns()
            if now - told >= PROGRESS_NS:
                told = now
                eta = (now - started) / 1e9 * (total - count) / count if count else None
                desk.journal.tell(
                    Progress(target=f"command {job.id}", done=float(count), total=float(total), eta=eta)
                )

        single, clock = is_single(command), self._instrument.clock
        own = duration(command) if single else getattr(command, "flyback_time", 0.0)

        def slack() -> int:
            return round(own * 1e9) + max(0, acquisition.t_settled_ns - clock.now_ns())

        return self._acquire(
            acquisition,
            outlet,
            epoch=job.submit.epoch,
            generation=generation,
            settled_ns=settled,
            single=single,
            slack_ns=slack,
            progress=progress,
        )

    def _own(self, job: Job, command: c.Command) -> Result:
        """Carry out a command that needs no verb."""
        desk = self._desk
        trace = msgspec.structs.replace(job.submit.trace, verdict=job.verdict_ns, applied=desk.now_ns())
        if isinstance(command, c.Annotate):
            desk.journal.tell(Remark(text=command.text))
            return Result(trace=trace)
        if isinstance(command, c.Settle):
            self._settle(command, job.submit.epoch)
        values = self.read_back()
        if isinstance(command, c.Read) and command.names:
            values = {name: values.get(name) for name in command.names}
        return Result(readback=values, trace=trace)

    def _settle(self, command: c.Settle, epoch: int) -> None:
        """Wait until the last change has settled and the quantity holds still within its tolerance."""
        clock = self._instrument.clock
        deadline = clock.now_ns() + round(command.timeout * 1e9)
        if command.quantity not in self.read_back():
            raise LookupError(f"the instrument reads back no {command.quantity!r}")
        if self._settled_ns > deadline:
            raise TimeoutError(f"{command.quantity} does not settle within {command.timeout:g} s")
        self._wait_settled(epoch)
        before = self.read_back().get(command.quantity)
        while True:
            if not clock.wait_until(clock.now_ns() + round(SETTLE_SLICE * 1e9), self._desk.door.shut_event):
                raise ShutError
            value = self.read_back().get(command.quantity)
            if not isinstance(value, float | int) or not isinstance(before, float | int):
                return
            if abs(value - before) <= command.tolerance:
                return
            if clock.now_ns() > deadline:
                raise TimeoutError(f"{command.quantity} does not settle within {command.timeout:g} s")
            before = value

    def _wait_settled(self, epoch: int) -> None:
        clock = self._instrument.clock
        if self._settled_ns > clock.now_ns() and not clock.wait_until(self._settled_ns, self._desk.door.shut_event):
            raise ShutError
        if not self._desk.door.is_open(epoch):
            raise ShutError

    def read_back(self) -> dict[str, Scalar]:
        """Ask the hardware, and let the gate know."""
        with self._desk.door.passing(None):
            values = self._instrument.read_back()
        self._desk.advance(ReadBack(values))
        return values

    def park(self, epoch: int) -> None:
        """Take an idle beam off the sample; the next acquisition gets it back."""
        blank: Callable[[c.Blank], int] = getattr(self._instrument, VERBS["Blank"][1])
        with self._desk.door.passing(epoch):
            blank(c.Blank())
        self._desk.advance(Parked())

    def unpark(self, epoch: int) -> None:
        """Give a parked beam back: as Unblank, so the gate judges it as that."""
        desk = self._desk
        if not desk.state.parked:
            return
        submit = Submit(c.Unblank(), desk.state.holder, epoch)
        judged = desk.judge(submit)
        if not judged.accepted:
            raise RuntimeError(f"the parked beam can't come back: {judged.reason}")
        unblank: Callable[[c.Unblank], int] = getattr(self._instrument, VERBS["Unblank"][1])
        with desk.door.passing(epoch):
            settled = unblank(c.Unblank())
        desk.advance(Applied(c.Unblank()))
        self._settled_ns = max(self._settled_ns, int(settled))
