"""The gate at work: one state under one lock, requests in, verdicts out, jobs for the executor.

Nothing here runs by itself: the service's threads call `handle`, `run_next` and `tick`, and so do tests, with a
ManualClock and no thread at all.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from ..data import commands as c
from ..data import control
from ..data.clock import MonotonicClock
from ..data.control import (
    Accepted,
    Cost,
    Failed,
    Refused,
    Remark,
    Reply,
    Request,
    Result,
    StateChange,
    Submit,
    Verdict,
)
from ..data.driver import Acquisition, Instrument
from ..data.limits import Limits
from .checks import CHECKS
from .description import describe
from .door import Door, ShutError
from .dose import DoseAccount, pitch_of
from .drift import Drift
from .executor import Acquire, Executor, Job
from .gate import (
    HOLDER_TIMEOUT,
    Applied,
    Check,
    GateEvent,
    GateState,
    Heard,
    Judgement,
    ReadBack,
    Rearmed,
    Released,
    Spent,
    TookControl,
    Tripped,
    advance,
    judge,
)
from .journal import Journal
from .parameters import set_parameters
from .pump import Delivery, Frames, Outlet, Pump, ScanControl
from .safety import OutputLeases, SafeReport, go_safe, proof_test, unsafe_outputs

LONGEST_QUEUE = 64
OPERATORS = ("operator", "gui", "cli")
_HISTORY = 512


class ControlDesk:
    """State, queue and account of one instrument.

    now_ns: CLOCK_MONOTONIC. outlet: gives the topic of an acquisition. checks: for the mutation tests alone.
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
        acquire: Acquire | None = None,
        first_generation: int = 1,
    ) -> None:
        self.instrument, self.limits, self.journal, self.now_ns = instrument, limits, journal, now_ns
        self.info = instrument.describe()
        self.outlet, self._checks = outlet, checks
        self.door, self.scan, self.drift = Door(), ScanControl(), Drift()
        self.state = GateState(knobs=dict.fromkeys(limits.knobs, 0.0), beam_current=0.0)
        low, high = limits.region
        self.account = DoseAccount(self.info, low, high, instrument.clock.now_ns())
        self.readback: dict[str, control.Scalar] = {}
        self.latencies: deque[int] = deque(maxlen=_HISTORY)
        self.physical: deque[int] = deque(maxlen=_HISTORY)
        self.generation = first_generation - 1
        self.running: Job | None = None
        self._pending: Job | None = None  # running, and not yet at the hardware
        self._unproven = False
        self._mute = False
        self._pitch = 0.0
        self.ending = threading.Event()
        self._lock = threading.RLock()
        self._queue: deque[Job] = deque()
        self._work = threading.Condition(self._lock)
        self._leases = OutputLeases()
        self._idle_since = now_ns()
        self._last_id = 0
        self.pump = Pump(
            self.door,
            self.scan,
            now_ns,
            journal.tell,
            self._delivered,
            self._after_pause,
            self._electrons_per_ns,
            host_clock=isinstance(instrument.clock, MonotonicClock),
        )
        self._executor = Executor(instrument, self, acquire or self.pump.run)

    # --- requests ---------------------------------------------------------------------------------------------

    def handle(self, request: Request) -> Reply:
        """Answer one request; STOP comes before all others in `handle_all`."""
        match request:
            case c.Stop():
                return self.trip(f"STOP {request.reason}".strip())
            case Submit():
                return self._submit(request)
            case control.Describe():
                return describe(self)
            case control.TakeControl():
                return self._take(request)
            case control.ReleaseControl():
                return self._release(request)
            case control.Heartbeat():
                return self._heard(request)
            case control.Rearm():
                return self._rearm(request)
            case c.Pause() | c.Resume() | control.Abort():
                return self._scan_control(request)
            case control.SetParameters():
                with self._lock:
                    return set_parameters(self, request)
            case control.Note():
                self.journal.tell(control.Remark(text=request.text))
                return Accepted(epoch=self.state.epoch)
            case control.Shutdown():
                self.ending.set()
                return self.trip("shut down")
        return Refused(f"the instrument has no use for {type(request).__name__}", "request", "see Describe")

    def handle_all(self, requests: list[Request]) -> list[Reply]:
        """Answer what arrived together: STOP first, so that what came before it in the same breath is void."""
        replies: dict[int, Reply] = {}
        for stops in (True, False):
            for i, request in enumerate(requests):
                stop = isinstance(request, c.Stop) or (
                    isinstance(request, Submit) and isinstance(request.command, c.Stop)
                )
                if stop is stops:
                    replies[i] = self.handle(request)
        return [replies[i] for i in range(len(requests))]

    def _submit(self, submit: Submit) -> Reply:
        if isinstance(submit.command, c.Stop):
            return self.trip(f"STOP {submit.command.reason}".strip())
        with self._work:
            judged = self.judge(submit, self._planned())
            if judged.accepted and len(self._queue) >= LONGEST_QUEUE:
                judged = replace(
                    judged,
                    accepted=False,
                    reason="the queue is full",
                    limit=f"{LONGEST_QUEUE} commands",
                    check="queue",
                )
            now = self.now_ns()
            self._last_id += 1
            made = self._last_id
            if judged.accepted and not submit.dry_run:
                if submit.holder == self.state.holder:
                    self._alive(now)
                self._queue.append(Job(made, submit, judged.cost, now))
            self.journal.tell(
                Verdict(
                    id=made,
                    command=submit.command
                    if judged.check != "valid"
                    else c.Annotate(f"malformed {submit.command!r}"[:4000]),
                    holder=submit.holder,
                    epoch=submit.epoch,
                    accepted=judged.accepted,
                    reason=judged.reason,
                    limit=judged.limit,
                    allowed=judged.allowed,
                    cost=judged.cost,
                    cause=submit.cause,
                    dry_run=submit.dry_run,
                )
            )
            self._work.notify_all()
        if judged.accepted:
            return Accepted(made, judged.cost, self.state.epoch)
        return Refused(judged.reason, judged.limit, judged.allowed)

    def judge(self, submit: Submit, state: GateState | None = None) -> Judgement:
        """Hold a command against every check in the state now, or in another one."""
        with self._lock:
            now = self.instrument.clock.now_ns()
            forecast = partial(self._forecast, now_ns=now)
            return judge(
                state or self.state,
                self.info,
                self.limits,
                submit,
                self.now_ns(),
                clock_ns=now,
                checks=self._checks,
                drift=self.drift,
                forecast=forecast,
            )

    def _forecast(self, command: c.Command, state: GateState, now_ns: int) -> Cost:
        return self.account.forecast(command, state, self.info, self.drift, now_ns)

    def _planned(self) -> GateState:
        """Return the state in which a command submitted now would meet the hardware."""
        state = self.state
        jobs = [*([self._pending] if self._pending is not None else []), *self._queue]
        for job in jobs:
            if job.submit.epoch == state.epoch:
                state = replace(advance(state, Applied(job.submit.command)), dose=state.dose + job.cost.dose)
        return state

    def _take(self, request: control.TakeControl) -> Reply:
        with self._work:
            state, now = self.state, self.now_ns()
            if not request.holder:
                return Refused("nobody asks for control", "holder", "a name")
            if state.fault:
                return Refused(f"stopped: {state.fault}", "latched fault", "the operator's Rearm first")
            if state.holder and state.holder != request.holder:
                if not request.force:
                    return Refused(f"{state.holder!r} holds control", "lease", "wait, or force as the operator")
                if not is_operator(request.holder):
                    return Refused("only the operator takes control by force", "lease", ", ".join(OPERATORS))
                self._flush(f"{request.holder!r} took control")
                self.scan.abort()
            self.advance(TookControl(request.holder, now))
            self.door.open(self.state.epoch)
            self._alive(now)
            self.journal.tell(StateChange(target="control", state=request.holder, reason="took control"))
            return Accepted(epoch=self.state.epoch)

    def _release(self, request: control.ReleaseControl) -> Reply:
        with self._work:
            if not self.state.holder or request.holder != self.state.holder:
                return Refused(f"{request.holder!r} does not hold control", "lease", self.state.holder)
            self._flush("control was given back")
            unsafe = bool(unsafe_outputs(self.state, self.info)) or self.running is not None
            self.advance(Released())
        if unsafe:
            report = self._go_safe()
            if not report.ok:
                return self.trip(f"after control was given back: {report.words()}")
        with self._work:
            if not self.state.fault:
                self.door.open(self.state.epoch)
            self.journal.tell(StateChange(target="control", state="free", reason=f"{request.holder!r} gave it back"))
            return Accepted(epoch=self.state.epoch)

    def _heard(self, request: control.Heartbeat) -> Reply:
        with self._lock:
            state = self.state
            if request.holder != state.holder or request.epoch != state.epoch:
                return Refused(
                    state.fault or f"{state.holder or 'nobody'!r} holds control", "lease", f"epoch {state.epoch}"
                )
            self._alive(self.now_ns())
            return Accepted(epoch=state.epoch)

    def _alive(self, now: int) -> None:
        self.advance(Heard(now))
        self._leases = self._leases.renewed(unsafe_outputs(self.state, self.info), now)

    def _rearm(self, request: control.Rearm) -> Reply:
        if not is_operator(request.holder):
            return Refused("only the operator re-arms", "rearm", ", ".join(OPERATORS))
        return self.arm(request.holder)

    def arm(self, who: str) -> Reply:
        """Try the STOP path, and permit commands again if it works; nothing restarts by itself."""
        if not self.state.fault:
            return Accepted(epoch=self.state.epoch)
        report = proof_test(self.instrument, self.door, self.now_ns)
        passed = "passed" if report.ok else "failed"
        self.journal.tell(
            StateChange(target="proof test", state=passed, reason=report.words(), data={"took": report.took})
        )
        if not report.ok:
            return Refused(
                f"the proof test of the STOP path failed: {report.words()}", "proof test", "repair, then Rearm"
            )
        self._executor.read_back()
        with self._work:
            self._flush("re-armed")
            self.scan.reset()
            self.advance(Rearmed())
            self.door.open(self.state.epoch)
            self.journal.tell(StateChange(target="gate", state="armed", reason=f"by {who}"))
            return Accepted(epoch=self.state.epoch)

    def _scan_control(self, request: c.Pause | c.Resume | control.Abort) -> Reply:
        with self._lock:
            if isinstance(request, c.Pause):
                self.scan.pause()
                self._idle_since = self.now_ns()
            elif isinstance(request, c.Resume):
                if self.state.fault:
                    return Refused(f"stopped: {self.state.fault}", "latched fault", "the operator's Rearm")
                self.scan.resume()
            else:
                self._flush(f"abort {request.reason}".strip())
                self.scan.abort()
            self.journal.tell(StateChange(target="scan", state=type(request).__name__.lower()))
            return Accepted(epoch=self.state.epoch)

    # --- safety -----------------------------------------------------------------------------------------------

    def trip(self, reason: str) -> Reply:
        """STOP: shut the door, make safe, raise the epoch, latch, flush; Accepted only when it is safe."""
        self.door.shut()  # before any lock: what is judged at this moment won't pass
        report = self._go_safe()
        with self._work:
            self._flush(reason)
            self.scan.abort()
            self.advance(Tripped(reason))
            self.door.shut()  # a hand-over may have opened it meanwhile
            self._leases = OutputLeases()
            self._unproven = not report.ok
            self.journal.tell(
                StateChange(
                    target="gate", state="tripped", reason=reason, data={"safe": report.words(), "took": report.took}
                )
            )
            epoch = self.state.epoch
        if report.ok:
            return Accepted(epoch=epoch)
        return Refused(f"NOT SAFE: {report.words()}", "safe state", "use the instrument's own switch")

    def _go_safe(self) -> SafeReport:
        self.scan.abort()
        report = go_safe(self.instrument, self.door, self.now_ns)
        if report.readback is not None:
            self.advance(ReadBack(report.readback))
        return report

    def tick(self) -> None:
        """Look at the clock: lost holder, expired leases, spent dose. At least every 100 ms."""
        with self._lock:
            now = self.now_ns()
            self._integrate()
            state = self.state
            reason, again = "", False
            if state.fault:
                again = self._unproven and self.door.quiet(0.0)
            else:
                reason = self._reason(state, now)
        if reason:
            self.trip(reason)
        elif again:
            self._prove_again()

    def _reason(self, state: GateState, now: int) -> str:
        """Return why the gate must trip now, or ""."""
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
            self.journal.tell(StateChange(target="control", state="free", reason=f"{state.holder!r} is silent"))
            self.advance(Released())
            self.door.open(self.state.epoch)
        return ""

    def _prove_again(self) -> None:
        """Make safe once more: the call that hung at the last trip has left, whatever it did last."""
        report = self._go_safe()
        with self._lock:
            self._unproven = not report.ok
            self.journal.tell(
                StateChange(target="safe state", state="ok" if report.ok else "missed", reason=report.words())
            )

    # --- jobs -------------------------------------------------------------------------------------------------

    def wait_for_work(self, timeout_s: float) -> bool:
        """Wait for a job [s]; True when there is one."""
        with self._work:
            return self._work.wait_for(lambda: bool(self._queue) or self.ending.is_set(), timeout_s) and bool(
                self._queue
            )

    def run_next(self) -> bool:
        """Carry out the oldest job in this thread; False when there is none."""
        with self._work:
            if not self._queue:
                return False
            job = self.running = self._pending = self._queue.popleft()
            self.scan.reset()
        try:
            self._executor.run(job)
        finally:
            with self._work:
                self.running = self._pending = None
                self._idle_since = self.now_ns()
        return True

    def park(self) -> None:
        """Blank a beam that idles for longer than the park timeout; called by the executor's thread."""
        with self._lock:
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

    def wake(self) -> None:
        """Wake the executor's thread, to look whether it is over."""
        self.ending.set()
        with self._work:
            self._work.notify_all()

    def began(self, job: Job, command: c.Command) -> None:
        """Note the start of a job, and of feedback on its way in."""
        with self._lock:
            self._pitch = pitch_of(command)
            if isinstance(command, c.Approach):
                self.state = replace(self.state, feedback="approaching")

    def ended(self, job: Job, delivery: Delivery | None, result: Result | None) -> None:
        """Note the end of a job, and its latencies."""
        with self._lock:
            if result is not None:
                latency = result.trace.loop_latency_ns
                if latency is not None and job.submit.cause:
                    self.latencies.append(latency)
                if result.physical_ns is not None:
                    self.physical.append(result.physical_ns)

    def next_generation(self) -> int:
        """Return the number of a new generation: the hardware accepted a change."""
        with self._lock:
            self.generation += 1
            return self.generation

    def advance(self, event: GateEvent) -> None:
        """Move the state; the account of dose follows the beam."""
        with self._lock:
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

    def _flush(self, reason: str) -> None:
        while self._queue:
            self.journal.tell(Failed(id=self._queue.popleft().id, reason=f"flushed: {reason}"))

    def _integrate(self) -> None:
        state, now = self.state, self.instrument.clock.now_ns()
        place = self.drift.to_specimen(state.position, now)
        total = self.account.tick(now, not state.blanked, state.beam_current, place)
        self.state = advance(state, Spent(total))

    def _delivered(self, frames: Frames) -> None:
        with self._lock:
            (dx, dy), _ = self.drift.at(self.instrument.clock.now_ns())
            self.account.frames(frames.position - np.asarray([dx, dy]), frames.dose, self._pitch)
            known = np.flatnonzero(np.isfinite(frames.position).all(axis=1))
            if known.size:
                x, y = frames.position[known[-1]]
                self.state = replace(self.state, position=(float(x), float(y)))
            self._integrate()

    def _after_pause(self, epoch: int) -> None:
        self._executor.unpark(epoch)

    def _electrons_per_ns(self) -> float:
        return self.account.rate_per_ns


def is_operator(holder: str) -> bool:
    """True for the names a person commands under."""
    return holder.split("-")[0].split(":")[0] in OPERATORS
