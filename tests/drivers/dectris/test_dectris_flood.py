"""Frames of a series that is not ours, without end: they keep nobody inside, and are told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import zmq
from dectris_words import POOL
from probeloop.drivers.dectris.intake import Expected, Intake
from probeloop.drivers.dectris.stream_v2 import MessagesV2
from probeloop.simulators.servers.dectris_wire import V2Image, pack

from probeloop.api import DriverError, MonotonicClock


@contextmanager
def flooding(socket: Any) -> Iterator[None]:
    """Send frames of series 9 without a pause."""
    over, message = threading.Event(), V2Image(pack(POOL[0], "bslz4"), ("threshold_1",)).message(9, 0, 0, 1)

    def flood() -> None:
        while not over.is_set():
            with suppress(zmq.Again):
                socket.send(message)

    thread = threading.Thread(target=flood, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(5.0)


def test_a_flood_of_another_series_keeps_nobody_inside() -> None:
    clock, expected = MonotonicClock(), Expected((24, 40), 2, 1, 100)
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.setsockopt(zmq.SNDTIMEO, 20)
        socket.setsockopt(zmq.LINGER, 0)
        where = f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}"
        intake = Intake(where, MessagesV2(("threshold_1",)), expected, clock.now_ns)
        intake.connect(2.0, lambda: False)
        intake.expect(5)
        with flooding(socket):
            for _ in range(20):
                begun = clock.now_ns()
                assert intake.take(wait=True) is None
                assert clock.now_ns() - begun < 1e9
            assert intake.aside.stale > 20
            intake.close()
            assert intake.take(wait=True) is None
            told = ""
            for _ in range(50):  # a flood that pauses, because this machine is busy, is none
                other = Intake(where, MessagesV2(("threshold_1",)), expected, clock.now_ns)
                try:
                    other.connect(0.3, lambda: False)
                except DriverError as error:
                    told = str(error)
                    break
                finally:
                    other.close()
            assert "frames of another series keep coming" in told
