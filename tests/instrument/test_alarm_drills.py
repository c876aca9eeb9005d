"""Every cause of an alarm, at the driver: nobody in control, or a live commander; latched until re-armed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import ANY

import msgspec
import numpy as np
import pytest

from probeloop.bus.event import EventReader
from probeloop.bus.node import Bus
from probeloop.bus.request import Client
from probeloop.data import commands as c
from probeloop.data import control
from probeloop.data.clock import MonotonicClock
from probeloop.data.control import Accepted, Failed, Refused, StateChange, Submit, decode_event, decode_reply, encode
from probeloop.data.driver import VERBS
from probeloop.data.errors import ContractError
from probeloop.data.limits import Alarm, Limits
from probeloop.instrument import triggers
from probeloop.instrument.service import run_instrument
from probeloop.testing.fake_driver import FAKE_LIMITS, SMALL_SCAN, Call, FakeDriver
from probeloop.testing.fake_sensors import FAKE_ALARMS, Way
from probeloop.testing.local_instrument import LocalInstrument

NEVER_PARKED = tuple(name for name in VERBS if name != "Blank")


def limits(**changes: Any) -> Limits:
    own = {name: getattr(FAKE_LIMITS, name) for name in FAKE_LIMITS.__struct_fields__}
    return Limits(**{**own, "alarms": FAKE_ALARMS, **changes})


def fake(**options: Any) -> FakeDriver:
    return FakeDriver(**{"modality": "stm", "commands": NEVER_PARKED, "limits": limits()} | options)


@dataclass(frozen=True)
class Drill:
    """A fault, how long it may last [s], and what the operator reads; feedback, beam: the state it is judged in."""

    sensor: str
    way: Way | None
    within: float
    words: str
    feedback: str = "withdrawn"
    beam: bool = False


DRILLS = {
    "current over its limit": Drill("tip_current", "high", 0.05, "20 nA is above 10 nA", "engaged"),
    "current the other way": Drill("tip_current", "low", 0.05, "-20 nA is below -10 nA", "held"),
    "deflection over its limit": Drill("deflection", "high", 0.25, "4 V is above 2 V"),
    "z at its upper rail": Drill("z", "high", 0.15, "1.8 µm is above 900 nm", "engaged"),
    "z at its lower rail": Drill("z", "low", 0.15, "-1.8 µm is below -900 nm", "engaged"),
    "sensor absent": Drill("tip_current", "missing", 0.55, "no value for 0.55 s", "engaged"),
    "sensor gives NaN": Drill("deflection", "nan", 0.55, "no value for 0.55 s"),
    "driver does not answer": Drill("deflection", None, 0.55, "no value for 0.55 s"),
    "sensor stuck": Drill("beam_monitor", "stuck", 1.05, "stuck at", beam=True),
}
drills = pytest.mark.parametrize("drill", DRILLS.values(), ids=list(DRILLS))


def run(rig: LocalInstrument, seconds: float) -> None:
    """Let time pass with a commander that lives, if there is one."""
    for _ in range(round(seconds / 0.05)):
        rig.beat()
        rig.advance(0.05)


def inject(rig: LocalInstrument, drill: Drill) -> None:
    if drill.way is None:
        rig.answers = False
    else:
        rig.driver.sensors.ways[drill.sensor] = drill.way  # type: ignore[attr-defined]


def told(rig: LocalInstrument) -> StateChange:
    return next(e for e in rig.events if isinstance(e, StateChange) and (e.target, e.state) == ("gate", "tripped"))


@drills
def test_with_nobody_in_control_it_reaches_make_safe_by_itself(drill: Drill) -> None:
    driver = fake()
    rig = LocalInstrument(driver)
    driver.values.update(feedback=drill.feedback, blanked=not drill.beam)  # somebody used the vendor's own panel
    rig.desk.refresh_readback()
    run(rig, 0.5)
    assert (rig.desk.state.fault, rig.desk.state.holder) == ("", "")
    before = driver.safe_count
    inject(rig, drill)
    run(rig, drill.within - 0.05)
    assert rig.desk.state.fault == ""
    run(rig, 0.15)
    assert drill.words in rig.desk.state.fault
    assert rig.desk.state.fault.startswith(f"alarm {drill.sensor}: ")
    assert driver.safe_count > before
    assert (driver.values["blanked"], driver.values["feedback"]) == (True, "withdrawn")


@drills
def test_with_a_live_commander_it_trips_latches_and_flushes(drill: Drill) -> None:
    driver = fake()
    rig = LocalInstrument(driver)
    rig.take()
    if drill.beam:
        rig.do(c.Unblank())
    if drill.feedback != "withdrawn":
        rig.do(c.Approach())
    if drill.feedback == "held":
        rig.do(c.SetFeedback("hold"))
    run(rig, 0.5)
    assert rig.desk.state.fault == ""
    waiting = rig.submit(c.SetBias(0.6))
    assert isinstance(waiting, Accepted)
    epoch = rig.desk.state.epoch
    inject(rig, drill)
    run(rig, drill.within + 0.1)
    event = told(rig)
    assert drill.words in event.reason
    assert (event.data["fault"], event.data["holder"], event.data["epoch"]) == (event.reason, "", epoch + 1)
    assert [e.id for e in rig.events if isinstance(e, Failed)] == [waiting.id]
    assert not rig.desk.run_next()
    assert driver.values["feedback"] == "withdrawn"
    # latched: it stays when the sensor is good again, nobody commands, and only the operator re-arms
    driver.sensors.ways.clear()
    rig.answers = True
    run(rig, 1.0)
    assert rig.desk.state.fault == event.reason
    assert isinstance(rig.take(), Refused)
    assert isinstance(rig.handle(control.Rearm("experiment")), Refused)
    assert isinstance(rig.rearm(), Accepted)
    assert (rig.desk.state.fault, rig.desk.queued) == ("", 0)
    rig.take()
    run(rig, 1.0)
    assert rig.desk.state.fault == ""


@pytest.mark.parametrize("way", ["high", "low", "missing", "nan", None])
def test_re_arming_is_refused_while_a_judged_sensor_is_not_good(way: Way | None) -> None:
    driver = fake()
    rig = LocalInstrument(driver)
    inject(rig, Drill("deflection", way, 0.6, ""))
    run(rig, 0.7)
    assert rig.desk.state.fault
    refused = rig.rearm()
    assert isinstance(refused, Refused)
    assert refused.limit == "alarm"
    assert refused.reason.startswith("alarm deflection: ")
    assert any(isinstance(e, StateChange) and (e.target, e.state) == ("alarms", "standing") for e in rig.events)
    assert rig.desk.state.fault.startswith("alarm deflection: ")
    driver.sensors.ways.clear()
    rig.answers = True
    run(rig, 0.05)
    assert isinstance(rig.rearm(), Accepted)


def test_it_is_not_armed_in_the_first_place_while_a_sensor_is_not_good() -> None:
    driver = fake()
    driver.sensors.ways["deflection"] = "missing"
    rig = LocalInstrument(driver)
    assert rig.desk.state.fault == "not armed yet: alarm deflection: no value yet"
    state = rig.handle(control.Describe()).state["alarms"]  # type: ignore[union-attr]
    assert state["deflection"]["stands"] == "no value yet"
    assert state["tip_current"]["stands"] == ""
    driver.sensors.ways.clear()
    run(rig, 0.05)
    assert isinstance(rig.rearm(), Accepted)


def test_describe_lists_every_alarm_with_value_bounds_and_whether_it_stands() -> None:
    driver = fake()
    rig = LocalInstrument(driver)
    driver.sensors.ways["tip_current"] = "high"
    run(rig, 0.1)
    state = rig.handle(control.Describe()).state["alarms"]  # type: ignore[union-attr]
    assert set(state) == {*FAKE_ALARMS, triggers.MISSED, triggers.OVERDUE}
    tip, frames = state["tip_current"], state[triggers.MISSED]
    assert (tip["value"], tip["units"], tip["high"], tip["judged"], tip["stands"]) == (2e-8, "A", 1e-8, False, "")
    assert (frames["value"], frames["high"], frames["low"], frames["judged"]) == (0.0, 256.0, None, True)


def test_a_driver_may_not_take_the_name_of_a_core_alarm() -> None:
    with pytest.raises(ContractError, match="frame_overdue"):
        LocalInstrument(fake(limits=limits(alarms={"frame_overdue": Alarm(high=1e9)})))


# --- with the real threads --------------------------------------------------------------------------------------

TRIPS = int(os.environ.get("PROBELOOP_TRIPS", "5"))
CALM = {n: msgspec.structs.replace(each, missing_after=2.0) for n, each in FAKE_ALARMS.items()}  # on a busy machine


@contextmanager
def running(rig_id: str, driver: FakeDriver) -> Iterator[tuple[Callable[[Any], Any], Callable[..., Any]]]:
    """Serve a driver on a bus of this process; yields how to ask it, and how to take an event out of the stream."""
    ready, stop = threading.Event(), threading.Event()
    with Bus(rig_id, "instrument", local=True) as bus, Bus(rig_id, "test", local=True) as mine:
        client, reader, seen = Client(mine, "instrument"), EventReader(mine), list[Any]()
        thread = threading.Thread(
            target=run_instrument, args=(bus, driver), kwargs={"stop": stop, "ready": ready.set}, name="service"
        )

        def ask(request: control.Request) -> Any:
            return decode_reply(client.call(encode(request), 5.0))

        def until(**fields: Any) -> Any:
            clock = MonotonicClock()
            deadline = clock.now_ns() + 20_000_000_000
            while True:
                for event in seen:
                    if all(hasattr(event, n) and getattr(event, n) == value for n, value in fields.items()):
                        seen.remove(event)
                        return event
                assert clock.now_ns() < deadline, f"no {fields} among {seen[-5:]}"
                seen.extend(decode_event(body) for body in reader.read(0.1))

        thread.start()
        try:
            assert ready.wait(10.0)
            yield ask, until
        finally:
            stop.set()
            thread.join(10.0)
            client.close()
            reader.close()
        assert not thread.is_alive()


def rearmed(ask: Callable[[Any], Any]) -> None:
    """Re-arm, once the sensing thread has seen that all is good again."""
    clock = MonotonicClock()
    deadline = clock.now_ns() + 20_000_000_000
    while not isinstance(reply := ask(control.Rearm("operator")), Accepted):
        assert clock.now_ns() < deadline, reply
        clock.wait_until(clock.now_ns() + 20_000_000)


def test_a_value_over_its_limit_reaches_make_safe_in_time(rig_id: str) -> None:
    """At random phase; PROBELOOP_TRIPS=200 with -s is the long form, and prints what it took."""
    driver = fake(limits=limits(alarms={"z": Alarm(low=-1.0, high=1.0, units="m", missing_after=2.0)}))
    clock, rng, took = MonotonicClock(), np.random.default_rng(5), list[float]()
    entered = [0]

    def called(call: Call) -> None:
        if call.verb == "make_safe" and not entered[0]:
            entered[0] = clock.now_ns()

    driver.watch = called
    with running(rig_id, driver) as (ask, until):
        for _ in range(TRIPS):
            clock.wait_until(clock.now_ns() + int(rng.integers(0, 100_000_000)))
            entered[0], begun = 0, clock.now_ns()
            driver.sensors.ways["z"] = "high"
            until(target="gate", state="tripped")
            took.append((entered[0] - begun) / 1e6)
            driver.sensors.ways.clear()
            rearmed(ask)
    print(f"\nvalue over its limit to make_safe: p50 {np.median(took):.0f} ms, longest {max(took):.0f} ms of {TRIPS}")
    assert np.median(took) < 1000


def test_a_sense_that_hangs_trips_and_keeps_nobody_waiting(rig_id: str) -> None:
    """STOP and Describe are answered while it hangs; nothing is re-armed until it answers again."""
    driver = fake(limits=limits(alarms=CALM))
    with running(rig_id, driver) as (ask, until):
        assert ask(control.Describe()).state["armed"] is True
        driver.sensors.hang(True)
        assert "alarm deflection: no value for" in until(target="gate", state="tripped").reason
        assert isinstance(ask(c.Stop("while it hangs")), Accepted)
        assert "no value" in ask(control.Describe()).state["alarms"]["deflection"]["stands"]
        refused = ask(control.Rearm("operator"))
        assert isinstance(refused, Refused)
        assert "alarm deflection" in refused.reason
        driver.sensors.hang(False)
        rearmed(ask)
        assert isinstance(ask(control.TakeControl("experiment")), Accepted)


def test_a_sense_that_hangs_from_the_start_leaves_it_stopped(rig_id: str) -> None:
    driver = fake(limits=limits(alarms=CALM))
    driver.sensors.hang(True)
    with running(rig_id, driver) as (ask, until):
        assert ask(control.Describe()).state["armed"] is False
        assert "alarm deflection: no value yet" in until(target="alarms", state="standing").reason
        driver.sensors.hang(False)
        rearmed(ask)


class Raising(FakeDriver):
    """Its sensors' connection breaks."""

    broken = False

    def sense(self) -> Any:
        if self.broken:
            raise OSError("connection reset")
        return super().sense()


def test_a_sense_that_raises_is_said_once_and_trips(rig_id: str) -> None:
    driver = Raising(modality="stm", commands=NEVER_PARKED, limits=limits(alarms=CALM))
    with running(rig_id, driver) as (ask, until):
        driver.broken = True
        assert until(level="error").text == "sense failed: OSError: connection reset"
        assert "no value for" in until(target="gate", state="tripped").reason
        ask(control.Note("that was all"))
        assert until(text=ANY).text == "that was all"
        driver.broken = False
        rearmed(ask)


def test_z_at_its_rail_trips_while_the_commander_lives(rig_id: str) -> None:
    driver = fake(limits=limits(alarms=CALM))
    with running(rig_id, driver) as (ask, until):
        epoch = ask(control.TakeControl("experiment")).epoch
        made = ask(Submit(c.Approach(), "experiment", epoch))
        assert until(id=made.id, result=ANY).result.generation > 0
        driver.sensors.ways["z"] = "high"
        assert until(target="gate", state="tripped").reason == "alarm z: 1.8 µm is above 900 nm"
        assert driver.values["feedback"] == "withdrawn"
        assert isinstance(ask(control.Heartbeat("experiment", epoch)), Refused)
        assert ask(Submit(c.Approach(), "experiment", epoch)).limit == "latched fault"


def test_a_camera_that_goes_silent_trips_and_lets_the_pump_go(rig_id: str) -> None:
    driver = fake(hang=("frames",), limits=limits(alarms=CALM, frame_timeout=0.3))
    with running(rig_id, driver) as (ask, until):
        epoch = ask(control.TakeControl("experiment")).epoch
        ask(Submit(c.Unblank(), "experiment", epoch))
        ask(Submit(SMALL_SCAN, "experiment", epoch))
        assert driver.hanging.wait(10.0)
        reason = until(target="gate", state="tripped").reason
        assert reason.startswith("alarm frame_overdue: ")
        assert reason.endswith("is above 300 ms")
        rearmed(ask)
        assert ask(control.Describe()).state["alarms"]["frame_overdue"]["value"] == 0.0
