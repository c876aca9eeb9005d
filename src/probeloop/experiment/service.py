"""What an experiment process does: requests, events and topics in one thread, a plan in another.

One plan at a time. While it runs this process holds the lease on control and gives a sign of life every second, so
the window may go; at its end the lease is given back. STOP, a fault, or a lease that somebody took ends the plan.
"""

from __future__ import annotations

import secrets
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from ..bus.event import Bell, EventReader
from ..bus.node import Bus
from ..bus.request import Server
from ..bus.subscribe import Subscriber
from ..bus.wait import Poller
from ..data import control
from ..data.clock import Clock, MonotonicClock
from ..data.commands import Pause, Resume, Stop
from ..data.control import Accepted, Refused, Reply, Request, StateChange
from ..data.errors import BusError, ProbeloopError, WireError
from ..plugin.contract import DropIn
from .changes import set_reward, unusable
from .controls import Change, Controls
from .description import PlanForms, offered, schema_of, settings_of, state_of
from .interest import Recorded
from .link import BusGate, EventLog, InstrumentLink
from .loop import changed_parameters
from .resume import Interrupted, read_interrupted
from .reward import Rewards
from .run import RunningPlan
from .setup import HOLDER, ExperimentConfig, info_from, make_plan, make_rewards, make_scalarizers, small_topics
from .showing import MapTopics
from .steps import plain
from .streams import FrameStore, History, Refusals

SERVICE = "experiment"
TICK = 0.25  # [s] longest wait; everything urgent wakes it
BEAT = 1.0  # [s] between two signs of life to the gate
ENDING = 3.0  # [s] for a plan's thread to end
LOST = 3  # signs of life in a row that nobody answered


class ExperimentService:
    """Requests, events and data of an experiment process; one thread, the one that calls `turn`."""

    def __init__(
        self, bus: Bus, config: ExperimentConfig, recorded: Recorded | None = None, history: History | None = None
    ) -> None:
        """Make the rig's scalarizers and rewards; raises DropInError, SettingsError or BusError."""
        self.config, self._recorded, self._history = config, recorded, history
        self._bus = bus
        self._clock: Clock = MonotonicClock()
        self._scalarizers = make_scalarizers(config)
        self._rewards = Rewards(make_rewards(config), config.weights)
        self._approval, self._repeat = config.approval, config.repeat
        self._changed = threading.Condition()
        self._run: RunningPlan | None = None
        self._gate: BusGate | None = None
        self._subscribers: list[Subscriber] = []
        self._epoch = self._unanswered = self._beaten_ns = 0
        self._last: dict[str, Any] = {"state": "idle"}
        self._forms = PlanForms(config.folders)
        self._progress: control.Progress | None = None
        self._revisions: dict[str, int] = {}
        self._refusals = Refusals()
        self._interrupted = read_interrupted(Path(config.resume), HOLDER) if config.resume else None
        self.ending = False
        self._log = EventLog(bus, self._clock)
        self._reader = EventReader(bus)
        self._server = Server(bus, SERVICE)
        self._instrument = InstrumentLink(bus)
        self._screen = MapTopics(bus)
        self._bell = Bell(bus, f"{SERVICE}/over")
        self._ringer = Bell(bus, f"{SERVICE}/over")
        self._poller = Poller(bus, self._server, self._reader, self._bell)

    # one turn

    def turn(self, timeout: float = TICK) -> None:
        """Wait for something to do [s], and do it."""
        self._poller.wait(timeout)
        self._bell.pending()
        for body in self._reader.read():
            self._heard(body)
        for subscriber in self._subscribers:
            for block in subscriber.drain():
                self._store.accept(block)
        for body, respond in self._server.receive():
            respond(control.encode(self._answer(body)))
        self._beat()
        self._screen.refresh()
        if self._run is not None and self._run.ended:
            self._finish(self._run)

    def _heard(self, body: bytes) -> None:
        try:
            event = control.decode_event(body)
        except WireError:
            return
        self._refusals.hear(event)
        if isinstance(event, control.Progress) and event.target == "plan":
            self._progress = event
        if (run := self._run) is None:
            return
        if isinstance(event, control.Done | control.Failed):
            run.controls.finished(event)
        elif isinstance(event, StateChange) and event.target == "gate" and event.state == "tripped":
            run.controls.end_with("stop", event.reason)
        elif isinstance(event, StateChange) and event.target == "lease" and event.data.get("holder") != HOLDER:
            run.controls.end_with("stop", f"control is no longer ours: {event.reason}")

    def _beat(self) -> None:
        """Tell the gate that the holder lives."""
        run, now = self._run, self._clock.now_ns()
        if run is None or run.ended or now - self._beaten_ns < BEAT * 1e9:
            return
        self._beaten_ns = now
        try:
            reply = self._instrument.ask(control.Heartbeat(HOLDER, self._epoch))
            self._unanswered = 0
        except BusError as error:
            self._unanswered += 1
            if self._unanswered >= LOST:
                run.controls.end_with("stop", str(error))
            return
        if isinstance(reply, Refused):
            run.controls.end_with("stop", reply.reason)

    # requests

    def _answer(self, body: bytes) -> Reply:
        try:
            return self.handle(control.decode_request(body))
        except WireError as error:
            return Refused(error.message, "message", "a Request of data/control.py")
        except ProbeloopError as error:
            return Refused(error.message, "", error.next_move)
        except Exception as error:  # a drop-in may raise anything while it is made; the process goes on
            traceback.print_exc()
            return Refused(f"{type(error).__name__}: {error}", "", "look at the experiment's log")

    def handle(self, request: Request) -> Reply:
        """Return the answer to a request; raises ProbeloopError for what can't be done."""
        match request:
            case control.Describe():
                return self._describe()
            case control.Run():
                return self._begin(request)
            case Resume() if self._run is None and self._interrupted is not None:
                return self._take_up()
            case control.SetParameters():
                return self._set_parameters(request)
            case control.SetBudget():
                return self._set_budget(request)
            case control.SetReward():
                return set_reward(request, self._run, self._rewards, self._scalarizers, self._tell)
            case Stop():
                if self._run is not None:
                    self._run.controls.end_with("stop", request.reason or "STOP")
                return self._instrument.ask(request)
            case control.Shutdown():
                self.ending = True
                return Accepted()
            case _:
                return self._to_the_plan(request)

    def _to_the_plan(self, request: Request) -> Reply:
        run = self._run
        if run is None or run.ended:
            return Refused("no plan runs", "state", "Run, Describe, SetParameters, SetBudget, SetReward")
        match request:
            case Pause():
                run.controls.pause()
                self._tell("plan", "paused")
            case Resume():
                run.controls.resume()
                self._tell("plan", "running", "resumed")
            case control.Abort():
                run.controls.end_with("abort", request.reason)
                self._instrument.ask(request)
            case control.Approve() | control.Veto():
                unknown = run.controls.decide(request.ids, isinstance(request, control.Approve))
                if unknown:
                    waiting = ", ".join(map(str, run.controls.waiting_for_approval)) or "none"
                    return Refused(f"no suggestion {', '.join(map(str, unknown))} waits", "suggestions", waiting)
            case control.AddPoint():
                run.controls.add_point(request.position)
            case _:
                return Refused(f"an experiment does not know {type(request).__name__}", "requests")
        return Accepted()

    def _set_parameters(self, request: control.SetParameters) -> Reply:
        target, values = request.target, request.values
        if target == SERVICE:
            return self._set_own(values)
        drop_ins = self._drop_ins()
        if target not in drop_ins:
            return Refused(f"nothing here is called {target!r}", "target", ", ".join([SERVICE, *drop_ins]))
        revision = self._revisions.get(target, 0)
        if request.expect_revision is not None and request.expect_revision != revision:
            return Refused(f"{target!r} is at revision {revision}", "revision", str(revision))
        new = changed_parameters(drop_ins[target].parameters, values)
        if why := unusable(drop_ins[target], new, self._run):
            return Refused(why, "parameters", "others that fit these spectra")
        if self._run is not None:
            self._run.controls.change(Change("parameters", target, values))
        else:
            drop_ins[target].parameters = new
        self._revisions[target] = revision + 1
        shown = plain(msgspec.to_builtins(new))
        self._log.emit(control.Revision(target=target, topic="", revision=revision + 1, first_index=-1, values=shown))
        return Accepted(revision + 1)

    def _set_own(self, values: Mapping[str, Any]) -> Reply:
        known = {"approval", "repeat"}
        if not set(values) <= known or not all(isinstance(value, bool) for value in values.values()):
            return Refused(f"can't set {dict(values)!r:.60}", "parameters", "approval, repeat: true or false")
        if self._run is not None:
            return Refused("a plan runs", "state", "set it before Run")
        self._approval = bool(values.get("approval", self._approval))
        self._repeat = bool(values.get("repeat", self._repeat))
        return Accepted()

    def _set_budget(self, request: control.SetBudget) -> Reply:
        values = {name: getattr(request, name) for name in ("dose", "time", "count")}
        given = {name: value for name, value in values.items() if value is not None}
        if self._run is not None:
            self._run.controls.change(Change("budget", "", given))
        else:
            self.config = replace(self.config, budget=replace(self.config.budget, **given))
        self._tell("budget", "set", data=given)
        return Accepted()

    # a run's begin and end

    def _begin(self, request: control.Run) -> Reply:
        seed = request.seed if request.seed is not None else secrets.randbits(31)
        return self._start(request.plan, request.parameters, seed, None)

    def _take_up(self) -> Reply:
        cut_off = self._interrupted
        assert cut_off is not None
        cut_off.check(self._repeat)
        return self._start(cut_off.plan, cut_off.parameters, cut_off.seed or 0, cut_off)

    def _start(self, name: str, parameters: Mapping[str, Any], seed: int, interrupted: Interrupted | None) -> Reply:
        if self._run is not None:
            return Refused(f"the plan {self._run.name!r} runs", "state", "Abort it, or wait")
        described = self._instrument.ask(control.Describe())
        if not isinstance(described, control.Description):
            return Refused("the instrument does not say what it is", "instrument")
        info = info_from(described.state)
        plan = make_plan(name, parameters, seed, info, self.config)
        taken = self._instrument.ask(control.TakeControl(HOLDER))
        if not isinstance(taken, Accepted):
            return taken
        self._epoch, self._beaten_ns, self._unanswered = taken.epoch, self._clock.now_ns(), 0
        self._progress = None
        try:
            self._subscribe(tuple(dict.fromkeys([*self._inputs(), *plan.inputs(), *small_topics(info)])))
            self._gate = BusGate(self._bus, taken.epoch)
        except ProbeloopError:
            self._let_go()
            raise
        self._run = RunningPlan(
            name,
            plan,
            parameters,
            seed,
            info,
            self._gate,
            self._store,
            Controls(self._clock, self._changed),
            self._clock,
            self._log.emit,
            self._ringer.ring,
            config=self.config,
            scalarizers=self._scalarizers,
            rewards=self._rewards,
            approval=self._approval,
            interrupted=interrupted,
            repeat=self._repeat,
            screen=self._screen,
            recorded=self._recorded,
        )
        self._interrupted = None
        self._run.start()
        return Accepted(epoch=taken.epoch)

    def _inputs(self) -> list[str]:
        return [*self.config.inputs, *(each.topic or "spectrum" for each in self._scalarizers.values())]

    def _subscribe(self, topics: tuple[str, ...]) -> None:
        self._store = FrameStore(topics, self._clock, self._changed, history=self._history, refusals=self._refusals)
        for topic in topics:
            subscriber = Subscriber(self._bus, topic, "lossless", credit=True)
            self._subscribers.append(subscriber)
            self._poller.add(subscriber)

    def _let_go(self) -> None:
        """Leave the plan's topics, and give control back."""
        for subscriber in self._subscribers:
            self._poller.remove(subscriber)
            subscriber.close()
        self._subscribers.clear()
        if self._gate is not None:
            self._gate.close()
            self._gate = None
        try:
            self._instrument.ask(control.ReleaseControl(HOLDER))
        except BusError as error:
            self._log.emit(control.Remark(text=f"control could not be given back: {error}", level="warning"))

    def _finish(self, run: RunningPlan) -> None:
        """Clean up after a plan, give control back, and only then say that it is over."""
        run.join(ENDING)
        self._run = None
        self._let_go()
        event = run.end_event
        assert event is not None
        self._last = {
            "state": event.state,
            "plan": run.name,
            "parameters": plain(run.parameters),
            "seed": run.seed,
            "step": run.step,
            "summary": event.data,
            "message": event.reason,
        }
        self._log.emit(event)

    def resume_at_start(self) -> None:
        """Take up the run that was cut off, where that is possible without the operator."""
        if self._interrupted is None:
            return
        try:
            reply = self._take_up()
            problem = reply.reason if isinstance(reply, Refused) else ""
        except ProbeloopError as error:
            problem = str(error)
        if problem:
            self._last = {"state": "interrupted", "plan": self._interrupted.plan, "message": problem}
            self._tell("plan", "interrupted", problem, {"step": len(self._interrupted.steps)})

    # what it is

    def _drop_ins(self) -> dict[str, DropIn]:
        if self._run is not None:
            return dict(self._run.drop_ins)
        return {name: each.scalarizer for name, each in self._scalarizers.items()}

    def _describe(self) -> control.Description:
        drop_ins = self._drop_ins()
        state = {
            "budget": {"allowed": msgspec.to_builtins(self.config.budget), "spent": None},
            **self._last,
            **(state_of(self._run, self._progress) if self._run is not None else {}),
            "epoch": self._epoch,
            "approval": self._approval,
            "repeat": self._repeat,
            "reward": self._rewards.weights,
            "inputs": self._inputs(),
            "scalarizers": {name: each.topic for name, each in self._scalarizers.items()},
            "revisions": dict(self._revisions),
            **offered(self.config.folders),
            **settings_of(drop_ins),
        }
        return control.Description(
            process=self._bus.process,
            role="experiment",
            state=state,
            schema=schema_of(drop_ins) | {"plans": self._forms.schema()},
        )

    def _tell(self, target: str, state: str, reason: str = "", data: Mapping[str, Any] | None = None) -> None:
        self._log.emit(StateChange(target=target, state=state, reason=reason, data=dict(data or {})))

    def close(self) -> None:
        """End the plan in order, and leave the bus."""
        if self._run is not None:
            run = self._run
            run.controls.end_with("abort", "the experiment's process ends")
            if run.join(ENDING) and run.ended:
                self._finish(run)
        for subscriber in self._subscribers:
            self._poller.remove(subscriber)
            subscriber.close()
        self._poller.close()
        for port in (self._server, self._reader, self._bell, self._ringer, self._instrument, self._screen, self._log):
            port.close()
