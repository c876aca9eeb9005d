"""A signal that arrives while a process waits on the bus is no error: Ctrl-C must end a run in order."""

import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from probeloop.bus.event import Bell, EventReader
from probeloop.bus.node import Bus
from probeloop.bus.wait import Poller


@pytest.fixture
def heard() -> Iterator[list[int]]:
    numbers: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: numbers.append(number))
    yield numbers
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("what", ["events", "bell", "poller"])
def test_a_signal_ends_no_wait_with_an_error(what: str, rig_id: str, heard: list[int]) -> None:
    with Bus(rig_id, "waiting") as bus:
        reader, bell = EventReader(bus), Bell(bus, "bell")
        poller = Poller(bus, reader)
        waits: dict[str, Callable[[], object]] = {
            "events": lambda: reader.read(0.3),
            "bell": lambda: bell.wait(0.3),
            "poller": lambda: poller.wait(0.3),
        }
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        assert not waits[what]()
        timer.join()
        for each in (poller, reader, bell):
            each.close()
    assert heard == [signal.SIGUSR1]
