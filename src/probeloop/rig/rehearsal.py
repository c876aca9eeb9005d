"""A plan of a rig on a simulator, in this process: the same plan, loop and gate, as fast as the simulator is.

No bus, no other process, no hardware: commands are judged and carried out where they are handed over. Time is the
instrument's own, as it would pass at the pace of the microscope, and beside it what the plan itself takes to choose.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ..data import commands as c
from ..data import control
from ..data.calibration import CalibrationSet
from ..data.control import Accepted, Cause, Description, Event, Refused, Trace
from ..data.driver import Acquisition, Instrument
from ..data.errors import PlanError, RefusedError
from ..data.frame import BlockFlag, FrameBlock, FrameBuffer
from ..data.limits import Limits
from ..data.scan import Position
from ..experiment.controls import Controls, Ended
from ..experiment.link import OVER
from ..experiment.reward import Rewards
from ..experiment.run import RunningPlan
from ..experiment.setup import HOLDER, info_from, make_plan, make_rewards, make_scalarizers, small_topics
from ..experiment.streams import FrameStore
from ..testing.local_instrument import LocalInstrument, LocalOutlet
from .inline import Inline, wanted
from .roles import experiment_config
from .schema import PlanEntry, Rig

PARTS = {"Scan": "scans", "ScanPath": "scans", "AcquireReference": "scans", "AcquireSpectrum": "spectra",
         "ApplyPulse": "spectra", "MoveProbe": "moves"}  # fmt: skip
_NOTHING = BlockFlag(0)
_ENDING = 3600.0  # [s] for a plan
_WAIT_S = 10.0  # for one that was ended


class _Passing(LocalOutlet):
    """A topic that hands every block on, and keeps none."""

    def __init__(self, deliver: Callable[[FrameBlock], None]) -> None:
        super().__init__()
        self._deliver = deliver

    def send(
        self, buffer: FrameBuffer, count: int, *, flags: BlockFlag = _NOTHING, generation: int, exposed_ns: int = 0
    ) -> int:
        """Hand the block on."""
        index = super().send(buffer, count, flags=flags, generation=generation, exposed_ns=exposed_ns)
        self._deliver(self.blocks.pop())
        return index


class _Told(LocalInstrument):
    """An instrument whose events and frames go to who asked for them."""

    def __init__(self, driver: Instrument, limits: Limits) -> None:
        self.hear: Callable[[Event], None] = lambda event: None
        self.deliver: Callable[[FrameBlock], None] = lambda block: None
        super().__init__(driver, limits)

    def tell(self, event: Event) -> None:
        self.hear(event)

    def _outlet(self, acquisition: Acquisition, single: bool) -> LocalOutlet:
        return self.topics.setdefault(acquisition.topic, _Passing(lambda block: self.deliver(block)))


class _Clock:
    """The instrument's time, and what the plan took to choose: the host's time, but for that of the simulator."""

    def __init__(self, instrument: Instrument) -> None:
        self._instrument, self._total, self._since = instrument, 0, 0

    @property
    def thought_ns(self) -> int:
        """What was spent on choosing by now [ns]."""
        return self._total + (time.perf_counter_ns() - self._since if self._since else 0)

    def now_ns(self) -> int:
        """Return both together [ns]."""
        return self._instrument.clock.now_ns() + self.thought_ns

    def wait_until(self, time_ns: int, cancelled: threading.Event | None = None) -> bool:
        """Let the instrument's time pass up to then."""
        return self._instrument.clock.wait_until(time_ns - self.thought_ns, cancelled)

    def think(self, on: bool) -> None:
        """Begin, or stop, to count the host's time."""
        self._total = self.thought_ns
        self._since = time.perf_counter_ns() if on else 0


class Rehearsal:
    """An instrument that stands by for the plans of a rig, one after the other, as in a run.

    limits: the instrument's own, narrowed by the rig's. progress: told how far a plan is, 0 to 1, and its words.
    """

    def __init__(
        self, rig: Rig, instrument: Instrument, limits: Limits, progress: Callable[[float, str], None]
    ) -> None:
        self.rig = rig
        self.config = msgspec.structs.replace(experiment_config(rig), data_timeout=0.5, result_timeout=0.5)
        self._local = _Told(instrument, limits)
        self._clock, self._progress = _Clock(instrument), progress
        self._scalarizers = make_scalarizers(self.config)
        self._rewards = Rewards(make_rewards(self.config), self.config.weights)

    def run(self, entry: PlanEntry) -> dict[str, Any]:
        """Run a plan to its end and return what it took, as plain data; raises ProbeloopError for one that is none.

        One that the gate does not let begin, because a plan before it tripped it, has taken nothing.
        """
        described = self._local.handle(control.Describe())
        assert isinstance(described, Description)
        info = info_from(described.state)
        plan = make_plan(entry.use, entry.parameters, entry.seed, info, self.config)
        taken = self._local.handle(control.TakeControl(HOLDER))
        if isinstance(taken, Refused):
            now = self._figures()
            return self._told(entry, "not begun", taken.reason, {}, Tally(self._progress), now, now)
        own = [each.topic or "spectrum" for each in self._scalarizers.values()]
        topics = tuple(dict.fromkeys([*own, *plan.inputs(), *small_topics(info)]))
        changed = threading.Condition()
        store = FrameStore(topics, self._clock, changed)
        controls = Controls(self._clock, changed)
        calibrations = CalibrationSet(info.calibrations).replace(self.rig.calibrations)
        tally = Tally(self._progress)
        gate = _Gate(self._local, controls, tally, self._clock)
        plugins = wanted(self.rig, topics, calibrations)
        self._local.hear = gate.hear
        self._local.deliver = lambda block: _deliver(block, store, plugins)
        before = self._figures()
        over = threading.Event()
        run = RunningPlan(
            entry.use, plan, entry.parameters, entry.seed, info, gate, store, controls, self._clock, tally.hear,
            over.set, config=self.config, scalarizers=self._scalarizers, rewards=self._rewards, approval=False,
        )  # fmt: skip
        self._clock.think(True)
        try:
            run.start()
            if not run.join(_ENDING):
                controls.end_with("abort", "the rehearsal took too long")
                run.join(_WAIT_S)
                raise PlanError(
                    f"{entry.use}: its rehearsal was not over after {_ENDING:.0f} s", "rehearse a smaller plan"
                )
        except KeyboardInterrupt:
            controls.end_with("abort", "interrupted")
            run.join(_ENDING)
            raise
        finally:
            self._clock.think(False)
            refused = [f"{each.name}: {each.refused}" for each in plugins if each.refused]
            for each in plugins:
                each.close()
            self._local.handle(control.ReleaseControl(HOLDER))
        event = run.end_event
        assert event is not None
        made = self._told(entry, event.state, event.reason, event.data, tally, before, self._figures())
        return {**made, "plugins_refused": refused}

    def _figures(self) -> dict[str, float]:
        account = self._local.desk.account
        self._local.sense()
        self._local.desk.tick()
        return {"now": self._clock.now_ns(), "thought": self._clock.thought_ns, "dose": account.total}

    def _told(
        self, entry: PlanEntry, state: str, message: str, summary: Mapping[str, Any], tally: Tally,
        before: dict[str, float], after: dict[str, float],
    ) -> dict[str, Any]:  # fmt: skip
        account = self._local.desk.account
        seconds = {name: ns / 1e9 for name, ns in tally.spent.items()}
        seconds["choices"] = (after["thought"] - before["thought"]) / 1e9
        seconds["total"] = (after["now"] - before["now"]) / 1e9
        return {
            "plan": entry.use, "seed": entry.seed, "state": state, "message": message,
            "commands": dict(tally.commands), "commands_total": sum(tally.commands.values()),
            "refused": tally.refused, "first_refusal": tally.first_refusal,
            "time_s": seconds,
            "dose_e": after["dose"] - before["dose"],
            "highest_e_per_m2": account.map.maximum if account.total else 0.0,
            "dose_is_estimate": account.sigma is None,
            "spectra": tally.commands["AcquireSpectrum"], "invalid": tally.invalid, "pulses": tally.pulses,
            "summary": {k: v for k, v in summary.items() if isinstance(v, int | float | str | bool)},
        }  # fmt: skip

    def close(self) -> None:
        """Let go of the simulator."""
        self._local.driver.close()


class Tally:
    """What a plan did: commands by name, time by part [ns], refusals, spectra that can't be judged."""

    def __init__(self, progress: Callable[[float, str], None]) -> None:
        self.commands: Counter[str] = Counter()
        self.spent: dict[str, int] = {"scans": 0, "spectra": 0, "moves": 0, "other": 0}
        self.refused = self.invalid = self.pulses = 0
        self.first_refusal: dict[str, Any] | None = None
        self._progress = progress

    def took(self, command: c.Command, ns: int) -> None:
        """Count a command that was carried out."""
        name = c.name_of(command)
        self.commands[name] += 1
        self.spent[PARTS.get(name, "other")] += ns
        self.pulses += isinstance(command, c.ApplyPulse)

    def hear(self, event: Event) -> None:
        """Follow the plan's own events."""
        if isinstance(event, control.Progress):
            self._progress(event.done, event.message)
        if not isinstance(event, control.Observed):
            return
        if event.kind == "observe" and "value" in event.value:
            self.invalid += not any(each["valid"] for each in event.value["value"] if not each.get("again"))
        error = event.value.get("error")
        if not error or error["type"] != "RefusedError":
            return
        self.refused += 1
        reason, limit, allowed = error["arguments"]
        command = event.value["step"].get("command", {}).get("type", event.kind)
        self.first_refusal = self.first_refusal or {
            "step": event.step, "command": command, "reason": reason, "limit": limit, "allowed": allowed,
        }  # fmt: skip


class _Gate:
    """The loop's way to a gate in the same thread: a command is carried out before its ticket is given."""

    def __init__(self, local: LocalInstrument, controls: Controls, tally: Tally, clock: _Clock) -> None:
        self._local, self._controls, self._tally, self._clock = local, controls, tally, clock

    def hear(self, event: Event) -> None:
        """Hear what the instrument says."""
        if isinstance(event, control.Done | control.Failed):
            self._controls.finished(event)
        elif isinstance(event, control.StateChange) and event.target == "gate" and event.state == "tripped":
            self._controls.end_with("stop", event.reason)

    def submit(self, command: c.Command, cause: Cause, trace: Trace, dry_run: bool = False) -> Accepted:
        """Judge a command, and carry it out; raises RefusedError, and Ended when the gate lets nothing through."""
        self._clock.think(False)
        try:
            reply = self._accepted(self._local.submit(command, cause=cause, trace=trace, dry_run=dry_run))
            if not dry_run:
                clock = self._local.driver.clock
                began = clock.now_ns()
                while self._local.desk.run_next():
                    pass
                self._tally.took(command, clock.now_ns() - began)
                self._local.sense()
                self._local.desk.tick()
            return reply
        finally:
            self._clock.think(True)

    def register(self, shift: Position, sigma: float, peak_ratio: float) -> None:
        """Tell how far the specimen is from where it was thought to be [m]; raises RefusedError, and Ended."""
        values = {"x": shift[0], "y": shift[1], "sigma": sigma, "peak_ratio": min(peak_ratio, 1e9), "relative": True}
        self._accepted(self._local.handle(control.SetParameters("drift", values)))

    def _accepted(self, reply: control.Reply) -> Accepted:
        if isinstance(reply, Accepted):
            return reply
        assert isinstance(reply, Refused)
        if reply.limit in OVER:
            raise Ended("stop", reply.reason)
        raise RefusedError(reply.reason, reply.limit, reply.allowed)


def _deliver(block: FrameBlock, store: FrameStore, plugins: list[Inline]) -> None:
    store.accept(block)
    for each in plugins:
        if block.spec.name in each.input:
            each.take(block, lambda made: _deliver(made, store, plugins))
