"""Two threads at one desk: one may hang in the driver, the other still hears STOP; what fails is told."""

from __future__ import annotations

import threading
import time

from probeloop.data import commands as c
from probeloop.data.control import Accepted
from probeloop.instrument.attendants import Attendants
from probeloop.testing.fake_driver import FakeDriver
from probeloop.testing.local_instrument import LocalInstrument


class Held(FakeDriver):
    """A driver whose moves take until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.go_on = threading.Event(), threading.Event()
        self.most_at_once = self._now = 0

    def move_probe(self, command: c.MoveProbe) -> int:
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        self.inside.set()
        self.go_on.wait(10)
        self._now -= 1
        return super().move_probe(command)


def begun(rig: LocalInstrument) -> tuple[Attendants, list[object]]:
    """Return two attendants of `rig`, and a list from which they take requests."""
    asked: list[object] = []
    reading = threading.Lock()

    def answer() -> None:
        time.sleep(0.001)
        with reading:
            if asked:
                rig.handle(asked.pop(0))  # type: ignore[arg-type]

    made = Attendants(rig.desk, answer)
    made.start()
    return made, asked


def submit(rig: LocalInstrument, x: float) -> None:
    assert isinstance(rig.submit(c.MoveProbe((x, 0.0))), Accepted)


def test_stop_is_heard_while_a_command_hangs_in_the_driver() -> None:
    driver = Held()
    rig = LocalInstrument(driver)
    rig.take()
    attendants, asked = begun(rig)
    try:
        submit(rig, 1e-9)
        assert driver.inside.wait(5)
        submit(rig, 2e-9)
        asked.append(c.Stop("now"))
        until = time.monotonic() + 5
        while not rig.desk.state.fault and time.monotonic() < until:
            time.sleep(0.001)
        assert rig.desk.state.fault.startswith("STOP now")
        assert rig.desk.queued == 0
    finally:
        driver.go_on.set()
        attendants.end()
    assert driver.most_at_once == 1


def test_what_was_accepted_while_the_driver_was_busy_is_carried_out_next() -> None:
    driver = Held()
    rig = LocalInstrument(driver)
    rig.take()
    attendants, _ = begun(rig)
    try:
        submit(rig, 1e-9)
        assert driver.inside.wait(5)
        submit(rig, 2e-9)
        driver.go_on.set()
        until = time.monotonic() + 5
        while rig.driver.read_back()["position_x"] != 2e-9 and time.monotonic() < until:
            time.sleep(0.001)
        assert rig.driver.read_back()["position_x"] == 2e-9
    finally:
        attendants.end()
    assert driver.most_at_once == 1


def test_a_fault_of_our_own_ends_the_process_in_order() -> None:
    rig = LocalInstrument(FakeDriver())

    def answer() -> None:
        raise OSError("the bus is gone")

    attendants = Attendants(rig.desk, answer)
    attendants.start()
    assert rig.desk.ending.wait(5)
    attendants.end()
    assert isinstance(attendants.failure, OSError)
