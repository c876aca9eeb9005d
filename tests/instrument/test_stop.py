"""STOP against everything: reordered, duplicated, delayed commands; live, at random phase, with two policies."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from probeloop.bus.node import Bus
from probeloop.bus.request import Client
from probeloop.data import commands as c
from probeloop.data import control
from probeloop.data.clock import MonotonicClock
from probeloop.data.control import Accepted, Refused, Submit, decode_reply, encode
from probeloop.data.limits import Limits
from probeloop.instrument.service import run_instrument
from probeloop.testing.fake_driver import FAKE_LIMITS, SMALL_SCAN, Call, FakeDriver
from probeloop.testing.local_instrument import LocalInstrument

FREE = Limits(
    **{name: getattr(FAKE_LIMITS, name) for name in FAKE_LIMITS.__struct_fields__} | {"dose": None, "area_dose": None}
)
STOPS = int(os.environ.get("PROBELOOP_STOPS", "1000"))
MOVES = (c.MoveProbe((1e-9, 0.0)), c.Unblank(), SMALL_SCAN, c.Approach(), c.SetBias(1.0))


class DelayedCommands(RuleBasedStateMachine):
    """A network that keeps commands as long as it likes, sends them again, and in any order."""

    @initialize()
    def start(self) -> None:
        self.driver = FakeDriver(modality="stem", limits=FREE)
        self.rig = LocalInstrument(self.driver)
        self.epochs = [self.rig.take().epoch]  # type: ignore[union-attr]
        self.wire: list[Submit] = []
        self.wrong: list[str] = []
        self.stopped = False
        self.driver.watch = self.called

    def called(self, call: Call) -> None:
        if call.verb == "make_safe":
            return
        job = self.rig.desk.running
        if self.stopped:
            self.wrong.append(f"{call.verb} after STOP")
        if job is not None and job.submit.epoch != self.epochs[-1]:
            self.wrong.append(f"{call.verb} of epoch {job.submit.epoch} in {self.epochs[-1]}")

    @rule(what=st.sampled_from(MOVES))
    def decide(self, what: Any) -> None:
        self.wire.append(Submit(what, "experiment", self.epochs[-1]))

    @rule(which=st.integers(0, 50), keep=st.booleans())
    def deliver(self, which: int, keep: bool) -> None:
        if self.wire:
            at = which % len(self.wire)
            reply = self.rig.handle(self.wire[at] if keep else self.wire.pop(at))
            if self.stopped:
                assert isinstance(reply, Refused)

    @rule()
    def execute(self) -> None:
        self.rig.desk.run_next()

    @rule()
    def together(self) -> None:
        batch: list[Any] = [*self.wire[-3:], c.Stop("in the middle"), *self.wire[:2]]
        replies = self.rig.requests.handle_all(batch)
        self.stopped = True
        assert all(isinstance(r, Accepted) == isinstance(q, c.Stop) for q, r in zip(batch, replies, strict=True))

    @rule()
    def stop(self) -> None:
        assert isinstance(self.rig.handle(c.Stop("now")), Accepted)
        self.stopped = True

    @rule()
    def rearm(self) -> None:
        self.rig.rearm()
        reply = self.rig.take()
        assert isinstance(reply, Accepted)
        self.stopped = False
        self.epochs.append(reply.epoch)

    @rule()
    def hand_over_and_back(self) -> None:
        if not self.stopped:
            self.rig.handle(control.TakeControl("operator", force=True))
            self.rig.handle(control.ReleaseControl("operator"))
            self.epochs.append(self.rig.take().epoch)  # type: ignore[union-attr]

    @rule()
    def live(self) -> None:
        self.rig.beat()
        self.rig.advance(0.2)

    @invariant()
    def nothing_old_and_nothing_after_stop(self) -> None:
        if hasattr(self, "wrong"):
            assert not self.wrong, self.wrong


def test_no_delayed_command_acts_after_stop() -> None:
    run_state_machine_as_test(
        DelayedCommands,
        settings=settings(
            max_examples=60,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            database=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_no_motion_after_abort_linuxcnc_865() -> None:
    """LinuxCNC #865: after an abort, segments that were read ahead still moved the machine."""
    driver = FakeDriver(modality="stem", limits=FREE)
    rig = LocalInstrument(driver)
    rig.take()
    rig.do(c.Unblank())
    for x in range(5):
        rig.submit(c.MoveProbe((x * 1e-9, 0.0)))
    rig.submit(SMALL_SCAN)
    rig.handle(control.Abort("operator"))
    before = len(driver.calls)
    assert not rig.desk.run_next()
    assert len(driver.calls) == before
    flushed = [event for event in rig.events if isinstance(event, control.Failed)]
    assert [event.id for event in flushed] == [2, 3, 4, 5, 6, 7]
    assert rig.do(c.MoveProbe((1e-9, 0.0)))  # an abort does not latch


def test_stop_in_the_middle_of_a_scan_ends_it_in_band() -> None:
    driver = FakeDriver(modality="stem", limits=FREE)
    rig = LocalInstrument(driver)
    rig.take()
    rig.do(c.Unblank())
    stops: list[control.Reply] = []

    def third(call: Call) -> None:
        if call.verb == "frames" and sum(made.verb == "frames" for made in driver.calls) == 3:
            rig.desk.door.shut()
            rig.desk.scan.abort()

    driver.watch = third
    rig.do(SMALL_SCAN)
    blocks = rig.topics["camera"].blocks
    assert blocks[-1].flags == 2 | 4
    assert 0 < rig.frames("camera") < 256
    assert sum(made.verb == "frames" for made in driver.calls) == 3
    stops.append(rig.handle(c.Stop()))
    assert isinstance(stops[0], Accepted)


def test_stop_between_judgement_and_call_keeps_the_call_out() -> None:
    driver = FakeDriver(modality="stem", limits=FREE)
    rig = LocalInstrument(driver)
    rig.take()
    rig.submit(c.Unblank())
    began = rig.desk.began

    def stop_comes(*arguments: Any) -> None:
        began(*arguments)
        rig.handle(c.Stop("just now"))

    rig.desk.began = stop_comes  # type: ignore[method-assign]
    rig.desk.run_next()
    assert "unblank" not in [call.verb for call in driver.calls]
    assert driver.values["blanked"]


class Late(FakeDriver):
    """Its calls reach the hardware late, whatever make_safe says meanwhile."""

    def __init__(self, seconds: float) -> None:
        super().__init__(modality="stem", limits=FREE)
        self.seconds, self.entered = seconds, threading.Event()

    def _do(self, verb: str, command: c.Command, **changes: Any) -> int:
        self.entered.set()
        threading.Event().wait(self.seconds)
        return super()._do(verb, command, **changes)


def test_the_verdict_waits_for_the_call_that_was_inside_and_makes_safe_after_it() -> None:
    driver = Late(0.05)
    rig = LocalInstrument(driver)
    rig.take()
    rig.submit(c.Unblank())
    executor = threading.Thread(target=rig.desk.run_next)
    executor.start()
    assert driver.entered.wait(5.0)
    assert isinstance(rig.handle(c.Stop()), Accepted)
    verbs = [call.verb for call in driver.calls]
    assert verbs[-3:] == ["make_safe", "unblank", "make_safe"]
    executor.join(5.0)
    assert driver.values["blanked"]


class _Policy(threading.Thread):
    """Takes control whenever it can, and sends what a wild policy would."""

    def __init__(self, bus: Bus, over: threading.Event, epoch: Callable[[], int], seed: int) -> None:
        super().__init__(name=f"policy {seed}", daemon=True)
        self._client, self._over, self._epoch = Client(bus, "instrument"), over, epoch
        self._rng = np.random.default_rng(seed)
        self.sent = self.accepted = 0

    def run(self) -> None:
        while not self._over.is_set():
            what = MOVES[self._rng.integers(len(MOVES))]
            submit = Submit(what, "experiment", self._epoch() - int(self._rng.integers(4) == 0))
            reply = decode_reply(self._client.call(encode(submit), 5.0))
            self.sent += 1
            self.accepted += isinstance(reply, Accepted)
        self._client.close()


@pytest.mark.timeout(600)
def test_live_stops_against_two_policies(rig_id: str) -> None:
    """At random phase; PROBELOOP_STOPS=10000 is the long form."""
    driver = Late(1e-4)
    ready, end, over = threading.Event(), threading.Event(), threading.Event()
    now = [0]
    verdicts: list[int] = []  # calls that had reached the driver when the STOP was answered
    wrong: list[str] = []
    reaching = 0

    def called(call: Call) -> None:
        nonlocal reaching
        if call.verb != "make_safe":
            reaching += 1

    driver.watch = called
    with Bus(rig_id, "instrument", local=True) as bus, Bus(rig_id, "policies", local=True) as other:
        service = threading.Thread(
            target=run_instrument, args=(bus, driver), kwargs={"stop": end, "ready": ready.set}, name="instrument"
        )
        service.start()
        assert ready.wait(10.0)
        client = Client(other, "instrument")

        def ask(request: control.Request) -> control.Reply:
            return decode_reply(client.call(encode(request), 5.0))

        policies = [_Policy(other, over, lambda: now[0], seed) for seed in (1, 2)]
        clock, rng = MonotonicClock(), np.random.default_rng(7)
        for policy in policies:
            policy.start()
        took: list[int] = []
        for _ in range(STOPS):
            ask(control.Rearm("operator"))
            reply = ask(control.TakeControl("experiment"))
            assert isinstance(reply, Accepted), reply
            now[0] = reply.epoch
            clock.wait_until(clock.now_ns() + int(rng.integers(0, 2_000_000)))
            begun = clock.now_ns()
            stopped = ask(c.Stop("random phase"))
            took.append(clock.now_ns() - begun)
            count = reaching
            assert isinstance(stopped, Accepted), stopped
            clock.wait_until(clock.now_ns() + 200_000)
            if reaching != count:
                wrong.append(f"{reaching - count} calls after the verdict: {driver.calls[-3:]}")
            if not driver.values["blanked"] or driver.values["feedback"] != "withdrawn":
                wrong.append("not safe after the verdict")
            verdicts.append(count)
            driver.calls.clear()
        over.set()
        for policy in policies:
            policy.join(10.0)
        client.close()
        end.set()
        service.join(10.0)
        assert not service.is_alive()
    assert not wrong, wrong[:3]
    assert sum(policy.accepted for policy in policies) > STOPS // 20  # the race did take place
    assert verdicts[-1] > STOPS // 20
    assert np.median(took) < 50e6


def test_a_command_that_meets_a_latched_gate_at_execution_was_stopped_and_did_not_fail() -> None:
    instrument = LocalInstrument(FakeDriver())
    instrument.take()
    instrument.submit(c.MoveProbe((1e-9, 1e-9)))
    with instrument.desk.lock:  # the trip comes between the queue and the hardware
        job = instrument.desk._queue.popleft()
        instrument.desk.trip("a test")
        instrument.desk.enqueue(job)
    instrument.desk.run_next()
    ends = [event for event in instrument.events if isinstance(event, control.Failed) and event.id == job.id]
    assert [(end.stopped, "a test" in end.reason) for end in ends] == [(True, True)]
