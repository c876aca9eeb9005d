"""The guard acts when the instrument's process is gone or hangs, once, and says what it could do."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

from probeloop.bus.event import EventReader
from probeloop.bus.heartbeat import Heartbeat
from probeloop.bus.node import Bus
from probeloop.data.control import Event, Scalar, StateChange, decode_event
from probeloop.instrument.guard import SILENCE, Guard, Seen, guard_connection, is_alive, run_guard


class Port:
    """A second way to the hardware."""

    def __init__(self, works: bool = True) -> None:
        self.works, self.safe, self.closed = works, threading.Event(), False

    def make_safe(self) -> None:
        if not self.works:
            raise OSError("no route")
        self.safe.set()

    def read_back(self) -> dict[str, Scalar]:
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


def test_it_acts_once_for_each_loss() -> None:
    seen: list[Seen | None] = [None]
    port, told = Port(), Told()
    guard = Guard(lambda: seen[0], port, told)
    assert not guard.look()
    seen[0] = Seen(0.01, 7, True)
    assert not guard.look()
    seen[0] = Seen(0.2, 7, False)
    assert guard.look()
    assert port.safe.is_set()
    assert not guard.look()
    seen[0] = Seen(0.0, 8, True)
    assert not guard.look()
    seen[0] = Seen(SILENCE + 0.1, 8, True)
    assert guard.look()
    assert told.states == ["made safe", "watching", "made safe"]


def test_it_says_so_when_it_reaches_nothing_or_fails() -> None:
    told = Told()
    Guard(lambda: Seen(0.0, 1, False), None, told).look()
    Guard(lambda: Seen(0.0, 1, False), Port(works=False), told).look()
    assert told.states == ["nothing to reach", "NOT SAFE: no route"]


def test_a_process_that_died_is_seen_dead_even_unreaped() -> None:
    assert is_alive(os.getpid())
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    try:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie now
        assert not is_alive(child.pid)
    finally:
        child.wait()


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
            assert port.safe.wait(SILENCE)
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
