"""What processes ask of the instrument, and what they are told at once: verdicts, the lease, STOP, re-arming."""

from __future__ import annotations

from msgspec.structs import replace

from ..data import commands as c
from ..data import control
from ..data.control import Accepted, Refused, Reply, Request, StateChange, Submit, Verdict
from .description import describe
from .desk import ControlDesk
from .executor import Job
from .gate import NOT_ARMED, Rearmed, Released, TookControl
from .parameters import set_parameters
from .safety import proof_test, unsafe_outputs

LONGEST_QUEUE = 64
OPERATORS = ("operator", "gui", "cli")


class Requests:
    """Answers requests for one desk; one thread at a time."""

    def __init__(self, desk: ControlDesk) -> None:
        self._desk = desk

    def handle(self, request: Request) -> Reply:
        """Answer one request; STOP comes before all others in `handle_all`."""
        match request:
            case c.Stop():
                return self._desk.trip(f"STOP {request.reason}".strip())
            case Submit():
                return self._submit(request)
            case control.Describe():
                return describe(self._desk)
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
                with self._desk.lock:
                    return set_parameters(self._desk, request)
            case control.Note():
                self._desk.journal.tell(control.Remark(text=request.text))
                return Accepted(epoch=self._desk.state.epoch)
            case control.Shutdown():
                self._desk.ending.set()
                return self._desk.trip("shut down")
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
            return self._desk.trip(f"STOP {submit.command.reason}".strip())
        with self._desk.lock:
            planned = self._desk.planned()
            judged = self._desk.judge(submit, planned)
            as_it_is = planned is self._desk.state
            if judged.accepted and self._desk.queued >= LONGEST_QUEUE:
                judged = replace(
                    judged,
                    accepted=False,
                    reason="the queue is full",
                    limit=f"{LONGEST_QUEUE} commands",
                    check="queue",
                )
            now = self._desk.now_ns()
            made = self._desk.next_id()
            if judged.accepted and not submit.dry_run:
                if submit.holder == self._desk.state.holder:
                    self._desk.alive(now)
                # that the holder was heard changes no verdict
                kept = (judged, self._desk.basis) if as_it_is else (None, None)
                self._desk.enqueue(Job(made, submit, judged.cost, now, *kept))
            self._desk.journal.tell(
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
        if judged.accepted:
            return Accepted(made, judged.cost, self._desk.state.epoch)
        return Refused(judged.reason, judged.limit, judged.allowed)

    def _take(self, request: control.TakeControl) -> Reply:
        with self._desk.lock:
            state, now = self._desk.state, self._desk.now_ns()
            if not request.holder:
                return Refused("nobody asks for control", "holder", "a name")
            if state.fault:
                return Refused(f"stopped: {state.fault}", "latched fault", "the operator's Rearm first")
            if state.holder and state.holder != request.holder:
                if not request.force:
                    return Refused(f"{state.holder!r} holds control", "lease", "wait, or force as the operator")
                if not is_operator(request.holder):
                    return Refused("only the operator takes control by force", "lease", ", ".join(OPERATORS))
                self._desk.flush(f"{request.holder!r} took control")
                self._desk.scan.abort()
            self._desk.advance(TookControl(request.holder, now))
            self._desk.door.open(self._desk.state.epoch)
            self._desk.alive(now)
            self._desk.tell_lease("held", f"{request.holder!r} took control")
            return Accepted(epoch=self._desk.state.epoch)

    def _release(self, request: control.ReleaseControl) -> Reply:
        with self._desk.lock:
            if not self._desk.state.holder or request.holder != self._desk.state.holder:
                return Refused(f"{request.holder!r} does not hold control", "lease", self._desk.state.holder)
            self._desk.flush("control was given back")
            unsafe = bool(unsafe_outputs(self._desk.state, self._desk.info)) or self._desk.running is not None
            self._desk.advance(Released())
        if unsafe:
            report = self._desk.go_safe_now()
            if not report.ok:
                return self._desk.trip(f"after control was given back: {report.words()}")
        with self._desk.lock:
            if not self._desk.state.fault:
                self._desk.door.open(self._desk.state.epoch)
            reason = f"{request.holder!r} gave it back"
            self._desk.tell_lease("free", reason)
            return Accepted(epoch=self._desk.state.epoch)

    def _heard(self, request: control.Heartbeat) -> Reply:
        with self._desk.lock:
            state = self._desk.state
            if request.holder != state.holder or request.epoch != state.epoch:
                return Refused(
                    state.fault or f"{state.holder or 'nobody'!r} holds control", "lease", f"epoch {state.epoch}"
                )
            self._desk.alive(self._desk.now_ns())
            return Accepted(epoch=state.epoch)

    def _rearm(self, request: control.Rearm) -> Reply:
        if not is_operator(request.holder):
            return Refused("only the operator re-arms", "rearm", ", ".join(OPERATORS))
        return self.arm(request.holder)

    def arm(self, who: str) -> Reply:
        """Try the STOP path; permit commands if it works and no alarm stands. Nothing restarts by itself."""
        if not self._desk.state.fault:
            return Accepted(epoch=self._desk.state.epoch)
        report = self._desk.go_safe_now(proof_test)
        passed = "passed" if report.ok else "failed"
        self._desk.journal.tell(
            StateChange(target="proof test", state=passed, reason=report.words(), data={"took": report.took})
        )
        if not report.ok:
            return Refused(
                f"the proof test of the STOP path failed: {report.words()}", "proof test", "repair, then Rearm"
            )
        self._desk.refresh_readback()
        self._desk.triggers.reset()
        self._desk.look_at_alarms()
        standing = self._desk.alarms.standing(self._desk.now_ns())
        if standing:
            words = "; ".join(f"alarm {name}: {why}" for name, why in standing.items())
            with self._desk.lock:
                if self._desk.state.fault.startswith(NOT_ARMED):  # no cause of its own that must stay
                    self._desk.state = replace(self._desk.state, fault=f"{NOT_ARMED}: {words}")
            self._desk.journal.tell(StateChange(target="alarms", state="standing", reason=words))
            return Refused(words, "alarm", "mend it or its sensor, then Rearm")
        with self._desk.lock:
            self._desk.flush("re-armed")
            self._desk.scan.reset()
            self._desk.advance(Rearmed())
            self._desk.door.open(self._desk.state.epoch)
            self._desk.journal.tell(
                StateChange(target="gate", state="armed", reason=f"by {who}", data={"epoch": self._desk.state.epoch})
            )
            return Accepted(epoch=self._desk.state.epoch)

    def _scan_control(self, request: c.Pause | c.Resume | control.Abort) -> Reply:
        with self._desk.lock:
            if isinstance(request, c.Pause):
                self._desk.scan.pause()
                self._desk.idle_from_now()
            elif isinstance(request, c.Resume):
                if self._desk.state.fault:
                    return Refused(f"stopped: {self._desk.state.fault}", "latched fault", "the operator's Rearm")
                self._desk.scan.resume()
            else:
                self._desk.flush(f"abort {request.reason}".strip())
                self._desk.scan.abort()
            words = {c.Pause: "paused", c.Resume: "resumed", control.Abort: "aborted"}
            self._desk.journal.tell(StateChange(target="gate", state=words[type(request)]))
            return Accepted(epoch=self._desk.state.epoch)


def is_operator(holder: str) -> bool:
    """True for the names a person commands under."""
    return holder.split("-")[0].split(":")[0] in OPERATORS
