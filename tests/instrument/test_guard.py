"""The guard acts when the instrument's process is gone or hangs, once, and says what it could do."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from typing import Any

import pytest

from probeloop.bus.event import EventReader
from probeloop.bus.heartbeat import Heartbeat
from probeloop.bus.node import Bus
from probeloop.data import commands as c
from probeloop.data.clock import ManualClock
from probeloop.data.control import Accepted, Event, Refused, Remark, Scalar, StateChange, decode_event
from probeloop.instrument.guard import (
    OVER,
    SILENT_LOOKS,
    Guard,
    Seen,
    Watch,
    Way,
    guard_connection,
    run_guard,
)
from probeloop.testing.local_instrument import FakeDriver, LocalInstrument


class Port:
    """A second way to the hardware."""

    def __init__(self, works: bool = True) -> None:
        self.works, self.safe, self.closed = works, threading.Event(), False
        self.reads, self.asked = True, 0

    def make_safe(self) -> None:
        if not self.works:
            raise OSError("no route")
        self.safe.set()

    def read_back(self) -> dict[str, Scalar]:
        self.asked += 1
        if not self.reads:
            raise OSError("no route")
        return {"blanked": self.safe.is_set()}

    def close(self) -> None:
        self.closed = True


class Told:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def tell(self, event: Event) -> None:
        self.events.append(event)

    @property
    def states(self) -> list[str]:
        return [event.state for event in self.events if isinstance(event, StateChange)]


class Watched:
    """The process as the guard sees it."""

    def __init__(self) -> None:
        self.seen: Seen | None = None

    def beats(self, word: int = 0, lives: bool = True) -> None:
        self.seen = Seen(7, lives, self.seen.sequence + 1 if self.seen else 0, word)

    def dies(self) -> None:
        assert self.seen is not None
        self.seen = replace(self.seen, lives=False)


@pytest.fixture
def watched() -> Watched:
    return Watched()


def made(watched: Watched, way: Way, clock: ManualClock | None = None) -> tuple[Guard, Told, list[int]]:
    told, acts = Told(), list[int]()
    guard = Guard(lambda: watched.seen, way, told, clock or ManualClock(1), lambda: acts.append(len(told.events)))
    return guard, told, acts


def test_it_acts_once_for_each_loss(watched: Watched) -> None:
    port = Port()
    guard, told, acts = made(watched, Way(lambda: port))
    assert not guard.look()
    watched.beats()
    assert not guard.look()
    watched.dies()
    assert guard.look()
    assert port.safe.is_set()
    assert not guard.look()
    assert not guard.needed
    watched.beats()
    assert not guard.look()
    assert not any(guard.look() for _ in range(SILENT_LOOKS - 1))
    assert guard.look()
    assert told.states == ["made safe", "watching", "made safe"]
    assert acts == [0, 3]  # the gate is told before the hardware is touched


def test_a_beat_between_two_looks_is_enough(watched: Watched) -> None:
    guard, told, _ = made(watched, Way(Port))
    for _ in range(3 * SILENT_LOOKS):
        watched.beats()
        assert not guard.look()
        assert not guard.look()
    assert told.events == []


def test_a_stop_that_is_not_proven_in_time_is_the_guards(watched: Watched) -> None:
    port, clock = Port(), ManualClock(1)
    guard, told, _ = made(watched, Way(lambda: port), clock)
    by = clock.now_ns() + 700_000_000
    watched.beats(word=by)
    for _ in range(6):
        clock.advance(0.1)
        assert not guard.look()  # it does not beat while it makes safe, and has the time for it
    clock.advance(0.1)
    assert guard.look()
    assert "could not prove" in guard.lost
    assert not guard.look()
    watched.beats()
    guard.look()
    assert guard.lost == ""
    assert told.states == ["made safe", "watching"]


def test_one_that_ended_in_order_is_left_alone(watched: Watched) -> None:
    guard, told, acts = made(watched, Way(Port))
    watched.beats(word=OVER)
    for _ in range(2 * SILENT_LOOKS):
        guard.look()
    watched.dies()
    guard.look()
    assert not guard.needed
    assert told.events == []
    assert acts == []


def test_it_says_so_when_it_reaches_nothing(watched: Watched) -> None:
    guard, told, acts = made(watched, Way(None))
    watched.beats()
    watched.dies()
    for _ in range(3):
        assert not guard.look()
    assert told.states == ["nothing to reach"]
    assert acts == []


def test_it_goes_on_trying_and_says_only_what_is_new(watched: Watched) -> None:
    ports: list[Port] = []

    def connect() -> Port:
        ports.append(Port(works=len(ports) > 4))
        return ports[-1]

    guard, told, _ = made(watched, Way(connect))
    watched.beats()
    watched.dies()
    looks = [guard.look() for _ in range(4)]
    assert looks == [False, False, True, False]
    assert told.states == ["NOT SAFE", "made safe"]
    errors = [event.text for event in told.events if isinstance(event, Remark) and event.level == "error"]
    assert len(errors) == 1
    assert errors[0].endswith("no route. Use the instrument's own switch")
    assert [port.closed for port in ports] == [True] * 5 + [False]


def test_the_way_is_proven_once_a_second_and_a_change_is_said(watched: Watched) -> None:
    port, clock, told = Port(), ManualClock(1), Told()
    watch = Watch(Way(lambda: port), told, clock)
    for reads, steps in (("works", 30), ("no route", 30), ("works", 30)):
        port.reads = reads == "works"
        for _ in range(steps):
            watch.look()
            clock.advance(0.1)
    assert told.states == ["watching", "blind", "watching"]
    assert 6 <= port.asked <= 10
    assert any(isinstance(event, Remark) and "no route" in event.text for event in told.events)


def test_hardware_that_goes_with_its_instrument_in_order_is_no_alarm() -> None:
    port, told, clock, ended = Port(), Told(), ManualClock(), threading.Event()
    watch = Watch(Way(lambda: port), told, clock, ended.is_set)
    watch.look()
    port.reads = False
    ended.set()
    for _ in range(30):
        clock.advance(0.1)
        watch.look()
    assert told.states == ["watching"]
    ended.clear()  # not in order, then
    clock.advance(1.0)
    watch.look()
    assert told.states == ["watching", "blind"]


@pytest.fixture
def guarded() -> tuple[LocalInstrument, list[int], list[int]]:
    """An instrument at work, what it tells its guard, and how often that acted (the last number counts)."""
    instrument, told, acts = LocalInstrument(FakeDriver()), list[int](), [0]
    instrument.desk._prove_by, instrument.desk._guarded = told.append, lambda: acts[-1]
    instrument.take()
    assert instrument.do(c.Unblank())
    return instrument, told, acts


def test_the_gate_says_by_when_it_will_have_proven_the_safe_state(guarded: Any) -> None:
    instrument, told, _ = guarded
    now = instrument.clock.now_ns()
    instrument.handle(c.Stop())
    assert told == [now + 700_000_000, 0]
    instrument.driver.make_safe = lambda: 1 / 0
    told.clear()
    instrument.handle(c.Stop())
    assert told[1:] == [instrument.clock.now_ns()]  # at once, not when the time is over
    told.clear()
    assert isinstance(instrument.rearm(), Refused)
    assert told[1:] == [instrument.clock.now_ns()]


def test_nothing_passes_the_door_behind_the_guards_back(guarded: Any) -> None:
    instrument, _, acts = guarded
    instrument.submit(c.MoveProbe((1e-9, 1e-9)))
    calls = len(instrument.driver.calls)
    acts.append(1)  # the guard acted while this process stood still; it goes on with what it had in hand
    instrument.desk.run_next()
    assert [call.verb for call in instrument.driver.calls[calls:] if call.verb != "make_safe"] == []
    instrument.desk.tick()
    assert "the guard made the hardware safe" in instrument.desk.state.fault
    assert instrument.driver.values["blanked"]
    instrument.desk.tick()
    assert isinstance(instrument.rearm(), Accepted)
    instrument.take()
    assert instrument.do(c.MoveProbe((1e-9, 1e-9)))


def test_who_re_arms_at_once_after_a_trip_is_not_tripped_again_by_what_the_guard_did_before(guarded: Any) -> None:
    instrument, _, acts = guarded
    acts.append(1)
    instrument.handle(c.Stop())  # another reason came first: an alarm, a person
    assert isinstance(instrument.rearm(), Accepted)  # before the clock is looked at
    instrument.desk.tick()
    assert not instrument.desk.state.fault
    acts.append(2)
    instrument.desk.tick()
    assert "the guard made the hardware safe" in instrument.desk.state.fault


def test_a_class_offers_its_connection_or_none() -> None:
    class Reachable:
        @staticmethod
        def guard_connection(word: str) -> Port:
            assert word == "here"
            return Port()

    connect = guard_connection(Reachable, "here")
    assert connect is not None
    assert isinstance(connect(), Port)
    assert guard_connection(Port) is None


def test_the_guard_process_watches_the_heartbeat(rig_id: str) -> None:
    port, stop, ready = Port(), threading.Event(), threading.Event()
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    with Bus(rig_id, "guard", local=True) as bus:
        pulse = Heartbeat(bus, "instrument")
        pulse._words[2] = child.pid
        reader = EventReader(bus)
        guard = threading.Thread(
            target=run_guard, args=(bus, lambda: port), kwargs={"stop": stop, "ready": ready.set}, name="guard"
        )
        guard.start()
        try:
            assert ready.wait(5.0)
            for _ in range(3):
                pulse.beat()
                reader.pending()
                assert not port.safe.wait(0.1)
            child.kill()
            assert port.safe.wait(5.0)
            said = [*reader.read(0.5), *reader.read(0.2)]
        finally:
            stop.set()
            guard.join(5.0)
            child.kill()
            child.communicate()
        states = [event.state for event in map(decode_event, said) if isinstance(event, StateChange)]
        assert states == ["watching", "made safe"]
        reader.close()
    assert port.closed
