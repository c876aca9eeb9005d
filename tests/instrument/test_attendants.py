"""Two threads at one desk: one may hang in the driver, the other still hears STOP; what fails is told."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from probeloop.data import commands as c
from probeloop.data.control import Accepted
from probeloop.instrument.attendants import Attendants
from probeloop.testing.fake_driver import FakeDriver
from probeloop.testing.local_instrument import LocalInstrument

PATIENCE = 5.0


class Held(FakeDriver):
    """A driver whose moves take until they are let go; it counts how many are inside at once."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.go_on = threading.Event(), threading.Event()
        self.moved: queue.Queue[tuple[float, float]] = queue.Queue()
        self.most_at_once = self._now = 0

    def move_probe(self, command: c.MoveProbe) -> int:
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        self.inside.set()
        self.go_on.wait(PATIENCE)
        self._now -= 1
        done = super().move_probe(command)
        self.moved.put(command.position)
        return done


class Desk:
    """A held driver with two attendants, who take requests from a queue."""

    def __init__(self) -> None:
        self.driver = Held()
        self.rig = LocalInstrument(self.driver)
        self.rig.take()
        self.asked: queue.Queue[Any] = queue.Queue()
        self.told: queue.Queue[Any] = queue.Queue()
        self.listener = ""
        self._reading = threading.Lock()
        self.attendants = Attendants(self.rig.desk, self._answer)
        self.attendants.start()

    def _answer(self) -> None:
        try:
            request = self.asked.get(timeout=0.01)
        except queue.Empty:
            return
        self.listener = threading.current_thread().name
        with self._reading:
            stop = isinstance(request, c.Stop)
            self.told.put(self.rig.handle(request) if stop else self.rig.submit(request))

    def move(self, x: float) -> None:
        assert isinstance(self.rig.submit(c.MoveProbe((x, 0.0))), Accepted)


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    made.driver.go_on.set()
    made.attendants.end()
    assert made.driver.most_at_once == 1
    assert made.attendants.failure is None


def test_stop_is_heard_while_a_command_hangs_in_the_driver(desk: Desk) -> None:
    desk.move(1e-9)
    assert desk.driver.inside.wait(PATIENCE)
    desk.move(2e-9)
    desk.asked.put(c.Stop("now"))
    desk.told.get(timeout=PATIENCE)
    assert desk.rig.desk.state.fault.startswith("STOP now")
    assert desk.rig.desk.queued == 0
    assert desk.driver.moved.empty()  # the answer did not wait for the driver


def test_what_was_accepted_while_the_driver_was_busy_is_carried_out_next(desk: Desk) -> None:
    desk.move(1e-9)
    assert desk.driver.inside.wait(PATIENCE)
    desk.move(2e-9)
    desk.driver.go_on.set()
    assert [desk.driver.moved.get(timeout=PATIENCE)[0] for _ in range(2)] == [1e-9, 2e-9]


def test_each_in_turn_listens_while_the_other_is_in_the_driver(desk: Desk) -> None:
    listening = set()
    for number in range(1, 5):
        desk.driver.inside.clear()
        desk.driver.go_on.clear()
        desk.asked.put(c.MoveProbe((number * 1e-9, 0.0)))
        assert isinstance(desk.told.get(timeout=PATIENCE), Accepted)
        assert desk.driver.inside.wait(PATIENCE)
        desk.asked.put(c.Annotate(f"heard during move {number}"))
        assert isinstance(desk.told.get(timeout=PATIENCE), Accepted)
        listening.add(desk.listener)
        desk.driver.go_on.set()
        assert desk.driver.moved.get(timeout=PATIENCE)[0] == number * 1e-9
    assert listening == {"desk-1", "desk-2"}


def test_a_fault_of_our_own_ends_the_process_in_order() -> None:
    rig = LocalInstrument(FakeDriver())

    def answer() -> None:
        raise OSError("the bus is gone")

    attendants = Attendants(rig.desk, answer)
    attendants.start()
    assert rig.desk.ending.wait(PATIENCE)
    attendants.end()
    assert isinstance(attendants.failure, OSError)
