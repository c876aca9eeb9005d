"""The gate at work: one state under one lock, requests in, verdicts out, jobs for the executor.

Nothing here runs by itself: the service's threads call `Requests.handle`, `run_next` and `tick`, and so do tests,
with a ManualClock and no thread at all.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial

from msgspec.structs import replace

from ..data import commands as c
from ..data import control
from ..data.clock import MonotonicClock, VirtualClock
from ..data.control import (
    Accepted,
    Cost,
    Failed,
    Refused,
    Remark,
    Reply,
    Result,
    StateChange,
    Submit,
)
from ..data.driver import Acquisition, Instrument
from ..data.latency import LoopTimings
from ..data.limits import Limits
from .alarms import CAUSES, Alarms, Cause, conditions
from .checks import CHECKS
from .door import Door, ShutError
from .dose import DoseAccount, pitch_of
from .drift import Drift
from .executor import Acquire, Basis, Executor, Job
from .gate import (
    HOLDER_TIMEOUT,
    Applied,
    Check,
    GateEvent,
    GateState,
    Heard,
    Judgement,
    ReadBack,
    Released,
    Spent,
    Tripped,
    advance,
    judge,
)
from .journal import Journal
from .pump import Delivery, Frames, Outlet, Pump, ScanControl
from .safety import PROVEN_WITHIN, OutputLeases, SafeReport, go_safe, unsafe_outputs
from .triggers import Triggers, alarms_of


class ControlDesk:
    """State, queue and account of one instrument.

    now_ns: CLOCK_MONOTONIC. outlet: gives the topic of an acquisition. checks, causes: for the mutation tests alone.
    prove_by: tells the guard by when the safe state must be proven [ns], 0 = it is. guarded: how often it acted.
    """

    def __init__(
        self,
        instrument: Instrument,
        limits: Limits,
        *,
        journal: Journal,
        now_ns: Callable[[], int],
        outlet: Callable[[Acquisition, bool], Outlet],
        checks: Mapping[str, Check] = CHECKS,
        causes: Mapping[str, Cause] = CAUSES,
        acquire: Acquire | None = None,
        first_generation: int = 1,
        prove_by: Callable[[int], None] = lambda time_ns: None,
        guarded: Callable[[], int] = lambda: 0,
    ) -> None:
        self._prove_by, self._guarded, self._acts = prove_by, guarded, guarded()
        self.instrument, self.limits, self.journal, self.now_ns = instrument, limits, journal, now_ns
        self.info = instrument.describe()
        self.outlet, self._checks = outlet, checks
        self.door = Door(barred=lambda: self._guarded() != self._acts)
        self.scan, self.drift, self.triggers = ScanControl(), Drift(), Triggers()
        self.alarms = Alarms(alarms_of(limits), now_ns(), causes)
        # a beam that nobody can blank is on
        self.state = GateState(knobs=dict.fromkeys(limits.knobs, 0.0), blanked="Unblank" in self.info.commands)
        low, high = limits.region
        self.account = DoseAccount(self.info, low, high, instrument.clock.now_ns())
        self.readback: dict[str, control.Scalar] = {}
        self.timings = LoopTimings()
        self.generation = first_generation - 1
        self.running: Job | None = None
        self._pending: Job | None = None  # running, and not yet at the hardware
        self._unproven = False
        self._mute = False
        self._pitch = 0.0
        self.ending = threading.Event()
        self.lock = threading.RLock()
        self._queue: deque[Job] = deque()
        self._leases = OutputLeases()
        self._idle_since = now_ns()
        self._last_id = 0
        self.pump = Pump(
            self.door,
            self.scan,
            self.triggers,
            now_ns,
            journal.tell,
            self._delivered,
            self._after_pause,
            self._electrons_per_ns,
            host_clock=isinstance(instrument.clock, MonotonicClock),
        )
        self._executor = Executor(instrument, self, acquire or self.pump.run)

    # --- judgement ------------------------------------------------------------------------------------------

    def judge(self, submit: Submit, state: GateState | None = None) -> Judgement:
        """Hold a command against every check in the state now, or in another one."""
        with self.lock:
            now = self.instrument.clock.now_ns()
            return judge(
                state or self.state,
                self.info,
                self.limits,
                submit,
                self.now_ns(),
                clock_ns=now,
                checks=self._checks,
                drift=self.drift,
                forecast=partial(self._forecast, now_ns=now),
            )

    @property
    def basis(self) -> Basis:
        """What a verdict rests on beside the command and the time."""
        return self.state, self.drift

    def _forecast(self, command: c.Command, state: GateState, now_ns: int) -> Cost:
        return self.account.forecast(command, state, self.info, self.drift, now_ns)

    def planned(self) -> GateState:
        """Return the state in which a command submitted now would meet the hardware."""
        state = self.state
        jobs = [*([self._pending] if self._pending is not None else []), *self._queue]
        for job in jobs:
            if job.submit.epoch == state.epoch:
                state = replace(advance(state, Applied(job.submit.command)), dose=state.dose + job.cost.dose)
        return state

    def alive(self, now: int) -> None:
        """Note a sign of life of the holder: what is not safe may stay so for another while."""
        self.advance(Heard(now))
        self._leases = self._leases.renewed(unsafe_outputs(self.state, self.info), now)

    # --- safety -----------------------------------------------------------------------------------------------

    def trip(self, reason: str) -> Reply:
        """STOP: shut the door, make safe, raise the epoch, latch, flush; Accepted only when it is safe."""
        self.door.shut()  # before any lock: what is judged at this moment won't pass
        acts = self._guarded()
        report = self.go_safe_now()
        with self.lock:
            self._acts = acts  # what the guard did before is part of this trip, not a reason for another
            self.flush(reason, stopped=True)
            self.scan.abort()
            self.advance(Tripped(reason))
            self.door.shut()  # a hand-over may have opened it meanwhile
            self._leases = OutputLeases()
            self._unproven = not report.ok
            epoch = self.state.epoch
            data = {
                "fault": self.state.fault,
                "holder": "",
                "epoch": epoch,
                "safe": report.words(),
                "took": report.took,
            }
            self.journal.tell(StateChange(target="gate", state="tripped", reason=reason, data=data))
        if report.ok:
            return Accepted(epoch=epoch)
        return Refused(f"NOT SAFE: {report.words()}", "safe state", "use the instrument's own switch")

    def go_safe_now(self, how: Callable[..., SafeReport] = go_safe) -> SafeReport:
        """End what runs and reach the safe state; the door stays shut. The guard takes over when this is late."""
        self.scan.abort()
        self._prove_by(self.now_ns() + round(PROVEN_WITHIN * 1e9))
        report = how(self.instrument, self.door, self.now_ns)
        self._prove_by(0 if report.ok else self.now_ns())
        if report.readback is not None:
            self.advance(ReadBack(report.readback))
        return report

    def tick(self) -> None:
        """Look at the sensors and at the clock: lost holder, expired leases, spent dose. At least every 100 ms."""
        with self.lock:
            now = self.now_ns()
            self._integrate()
            alarm = self.look_at_alarms()
            state = self.state
            reason, again = "", False
            if state.fault:
                self._acts = self._guarded()
                again = self._unproven and self.door.quiet(0.0)
            else:
                reason = alarm or self._reason(state, now)
        if reason:
            self.trip(reason)
        elif again:
            self._prove_again()

    @property
    def tripped(self) -> bool:
        """Whether the gate has tripped and nobody has taken note of it."""
        return bool(self.state.fault)

    def look_at_alarms(self) -> str:
        """Judge what the sensors read, in the state now; return why the gate must trip, or ""."""
        with self.lock:
            now, job = self.now_ns(), self.running
            scanning = job is not None and isinstance(job.submit.command, c.ACQUISITIONS) and not self.scan.paused
            return self.alarms.look(self.triggers.reading(now), conditions(self.state, scanning), now)

    def _reason(self, state: GateState, now: int) -> str:
        """Return why the gate must trip now, or ""."""
        if self._guarded() != self._acts:
            return "the guard made the hardware safe: this process was silent"
        self._leases = self._leases.followed(unsafe_outputs(state, self.info), now)
        expired = self._leases.expired(now)
        silent = bool(state.holder) and now - state.heard_ns > HOLDER_TIMEOUT * 1e9
        busy = self.running is not None or bool(self._queue)
        if silent and (busy or unsafe_outputs(state, self.info)):
            return f"{state.holder!r} is silent since {(now - state.heard_ns) / 1e9:.1f} s"
        if expired:
            return f"the lease of {', '.join(expired)} ran out"
        if self.limits.dose is not None and state.dose > self.limits.dose:
            return f"the dose of {self.limits.dose:.3g} e is spent"
        if silent:
            self.advance(Released())
            self.door.open(self.state.epoch)
            self.tell_lease("free", f"{state.holder!r} is silent")
        return ""

    def _prove_again(self) -> None:
        """Make safe once more: the call that hung at the last trip has left, whatever it did last."""
        report = self.go_safe_now()
        with self.lock:
            self._unproven = not report.ok
            self.journal.tell(
                StateChange(target="safe state", state="ok" if report.ok else "missed", reason=report.words())
            )

    # --- jobs -------------------------------------------------------------------------------------------------

    def run_next(self) -> bool:
        """Carry out the oldest job in this thread; False when there is none."""
        with self.lock:
            if not self._queue:
                return False
            job = self.running = self._pending = self._queue.popleft()
            self.scan.reset()
        try:
            self._executor.run(job)
        finally:
            with self.lock:
                self.running = self._pending = None
                self._idle_since = self.now_ns()
        return True

    def park(self) -> None:
        """Blank a beam that idles for longer than the park timeout; called by who may enter the driver."""
        with self.lock:
            state = self.state
            idle = (self.running is None and not self._queue) or self.scan.paused
            waited = self.now_ns() - self._idle_since > self.info.park_timeout * 1e9
            if not (idle and waited and not state.blanked and not state.fault and "Blank" in self.info.commands):
                return
        try:
            self._executor.park(state.epoch)
        except ShutError:
            return  # a STOP came first: it is blanked
        except Exception as error:  # a driver may raise anything; the beam is on and must not stay
            self.journal.tell(Remark(text=f"parking the beam failed: {error}", level="error"))

    def refresh_readback(self) -> None:
        """Ask the hardware for its values."""
        try:
            self._executor.read_back()
        except Exception as error:  # a driver may raise anything; said once
            if not self._mute:
                self.journal.tell(Remark(text=f"read_back failed: {error}", level="error"))
            self._mute = True
        else:
            self._mute = False

    def began(self, job: Job, command: c.Command) -> None:
        """Note the start of a job, and of feedback on its way in."""
        with self.lock:
            self._pitch = pitch_of(command)
            if isinstance(command, c.Approach):
                self.state = replace(self.state, feedback="approaching")

    def ended(self, job: Job, delivery: Delivery | None, result: Result | None) -> None:
        """Note the end of a job, and its latencies."""
        with self.lock:
            if result is not None:
                self.timings.take(result, caused=bool(job.submit.cause))

    def next_id(self) -> int:
        """Return the id of the next command."""
        self._last_id += 1
        return self._last_id

    def enqueue(self, job: Job) -> None:
        """Take an accepted command; the caller holds the lock."""
        self._queue.append(job)

    def idle_from_now(self) -> None:
        """Begin to count towards parking the beam."""
        self._idle_since = self.now_ns()

    def next_generation(self) -> int:
        """Return the number of a new generation: the hardware accepted a change."""
        with self.lock:
            self.generation += 1
            return self.generation

    def advance(self, event: GateEvent) -> None:
        """Move the state; the account of dose follows the beam."""
        with self.lock:
            if isinstance(event, ReadBack):
                self.readback = dict(event.values)
            pending = self._pending
            if isinstance(event, Applied) and pending and type(event.command) is type(pending.submit.command):
                self._pending = None
            before = self.state
            self.state = advance(before, event)
            if (before.blanked, before.beam_current) != (self.state.blanked, self.state.beam_current):
                self._integrate()

    @property
    def queued(self) -> int:
        """How many accepted commands wait."""
        return len(self._queue)

    def tell_lease(self, state: str, reason: str) -> None:
        """Say who holds control now."""
        data = {"holder": self.state.holder, "epoch": self.state.epoch}
        self.journal.tell(StateChange(target="lease", state=state, reason=reason, data=data))

    def flush(self, reason: str, stopped: bool = False) -> None:
        """Drop every command that waits, and say so; the caller holds the lock."""
        while self._queue:
            self.journal.tell(Failed(id=self._queue.popleft().id, reason=f"flushed: {reason}", stopped=stopped))

    def _integrate(self) -> None:
        state, now = self.state, self.instrument.clock.now_ns()
        place = self.drift.to_specimen(state.position, now)
        total = self.account.tick(now, not state.blanked, state.beam_current, place)
        self.state = advance(state, Spent(total))

    def _delivered(self, frames: Frames) -> None:
        with self.lock:
            moved, _ = self.drift.at(self.instrument.clock.now_ns())
            last = self.account.frames(frames.position, frames.dose, self._pitch, moved)
            if last is not None:
                self.state = replace(self.state, position=last)
            self._integrate()

    def _after_pause(self, epoch: int) -> None:
        clock = self.instrument.clock
        if isinstance(clock, VirtualClock):
            clock.restart_pace()  # it does not catch up with the time of the pause
        self._executor.unpark(epoch)

    def _electrons_per_ns(self) -> float:
        return self.account.rate_per_ns
