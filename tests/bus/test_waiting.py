"""How a reader waits: asleep, a moment where blocks come briskly, polling where it was asked to."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from bus_words import frames, send

from probeloop.bus import publish, subscribe, wait
from probeloop.bus.node import Bus
from probeloop.bus.publish import Publisher
from probeloop.bus.subscribe import Subscriber
from probeloop.bus.wait import Poller


def test_a_polling_reader_never_sleeps(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    publisher = Publisher(bus, "camera", 1 << 12)
    publisher.announce(frames(), 1)
    reader = Subscriber(bus, "camera", "lossless", poll=True)

    def must_not(*_: object) -> bool:
        raise AssertionError("it slept")

    monkeypatch.setattr(subscribe, "timed_wait", must_not)
    monkeypatch.setattr(subscribe, "let_others_run", lambda: send(publisher, 3))
    block = reader.receive(5.0)
    assert block is not None
    assert reader.receive(0.0) is None
    silent = Subscriber(bus, "silent", "newest", poll=True)
    monkeypatch.setattr(subscribe, "let_others_run", lambda: None)
    assert silent.receive(0.01) is None
    silent.close()
    reader.close()
    publisher.close()


def test_a_polling_process_looks_at_everything_and_never_sleeps(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    publisher = Publisher(bus, "camera", 1 << 12)
    publisher.announce(frames(), 1)
    readers = [Subscriber(bus, topic, "lossless") for topic in ("camera", "silent")]
    poller = Poller(bus, *readers)
    monkeypatch.setattr(poller, "_set", None)  # what it would sleep at
    monkeypatch.setattr(wait, "let_others_run", lambda: send(publisher, 3))
    for _ in range(3):
        assert poller.poll(5.0) == [readers[0]]
        assert [block.count for block in readers[0].drain()] == [1]
    monkeypatch.setattr(wait, "let_others_run", lambda: None)
    began = time.monotonic()
    assert poller.poll(0.01) == []
    assert time.monotonic() - began >= 0.01
    monkeypatch.undo()
    poller.close()
    for port in (*readers, publisher):
        port.close()


def test_blocks_of_a_brisk_stream_are_let_gather_and_a_slow_one_is_slept_for(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = Publisher(bus, "camera", 1 << 12)
    publisher.announce(frames(), 1)
    reader = Subscriber(bus, "camera", "lossless")
    slept: list[float] = []
    monkeypatch.setattr(subscribe, "timed_wait", lambda listener, seconds: slept.append(seconds))
    monkeypatch.setattr(subscribe, "_pause", lambda seconds: send(publisher, 3))
    stamps = iter([1_000_000, 1_010_000, 1_020_000, 99_000_000])
    clock = SimpleNamespace(monotonic_ns=lambda: next(stamps), monotonic=time.monotonic)
    monkeypatch.setattr(publish, "time", clock)
    for _ in range(2):
        send(publisher, 3)
        assert reader.receive(0.0) is not None
    assert reader.receive(0.02) is not None  # 10 us apart: one came while it paused, and no event was waited for
    assert slept == []
    send(publisher, 3)
    assert reader.receive(0.0) is not None
    assert reader.receive(0.02) is None  # 79 ms apart
    assert slept
    reader.close()
    publisher.close()
