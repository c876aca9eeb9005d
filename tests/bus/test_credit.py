"""Credits: a source that can wait stays behind the slowest living lossless reader."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from bus_words import Spawn, frames, send

from probeloop.bus import credit
from probeloop.bus.credit import WANTED
from probeloop.bus.ledger import CREDIT
from probeloop.bus.node import Bus, node_of, store_node
from probeloop.bus.publish import Publisher
from probeloop.bus.subscribe import Subscriber

BLOCKS = 600


def source(bus: Bus, max_block_bytes: int = 1 << 16) -> Publisher:
    publisher = Publisher(bus, "camera", max_block_bytes, source_waits=True)
    publisher.announce(frames(), 1)
    return publisher


def fill(publisher: Publisher) -> int:
    """Send until there is no credit left; return how many blocks that were."""
    sent = 0
    while publisher.wait_for_credit(0.0):
        send(publisher, sent % 1000)
        sent += 1
    return sent


def test_a_slow_reader_holds_the_source_back_and_loses_nothing(bus: Bus) -> None:
    reader = Subscriber(bus, "camera", "lossless", credit=True)
    other = Subscriber(bus, "camera", "newest")
    publisher = source(bus)

    def produce() -> None:
        for value in range(BLOCKS):
            assert publisher.wait_for_credit(10.0)
            send(publisher, value)

    thread = threading.Thread(target=produce)
    thread.start()
    got = []
    pause = threading.Event()
    while len(got) < BLOCKS:
        block = reader.receive(5.0)
        assert block is not None
        got.append(int(block.data[0, 0, 0]))
        if len(got) % 100 == 0:
            pause.wait(0.02)
    thread.join()
    assert got == list(range(BLOCKS))
    assert reader.stats.lost == 0
    for port in (reader, other, publisher):
        port.close()


def test_the_window_is_kept_and_the_slowest_is_named(bus: Bus) -> None:
    reader = Subscriber(bus, "camera", "lossless", credit=True)
    publisher = source(bus, 1 << 20)
    assert publisher.blocked_on is None
    assert fill(publisher) == publisher.credits.window == 64
    assert publisher.blocked_on == "test"
    assert not publisher.wait_for_credit(0.05)
    assert not publisher.wait_for_credit(5.0, cancelled=lambda: True)
    first = reader.receive()
    assert first is not None
    assert not publisher.wait_for_credit(0.0)  # received is not finished
    assert reader.receive() is not None
    assert publisher.wait_for_credit(0.0)
    assert publisher.blocked_on is None
    reader.close()
    publisher.close()


def test_a_source_that_one_of_several_readers_wakes_does_not_ask_each_time_who_lives(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, fast = (Subscriber(bus, "camera", "lossless", credit=True) for _ in range(2))
    publisher = source(bus)
    sent = fill(publisher)
    assert len(list(fast.drain())) == sent
    wanted: list[list[int]] = []

    def woken(listener: object, seconds: float) -> bool:
        wanted.append(sorted(row.words[WANTED] for row in bus.ledger.rows(CREDIT, "camera")))
        if len(wanted) == 20:
            assert len(list(slow.drain())) == sent
        return True

    monkeypatch.setattr(credit, "timed_wait", woken)
    monkeypatch.setattr(publisher.credits, "drop_dead", lambda: pytest.fail("asked who lives"))
    assert publisher.wait_for_credit(5.0)
    assert len(wanted) == 20
    assert wanted[0][0] == 0 < wanted[0][1]  # only the reader that is behind is to ring
    for port in (slow, fast, publisher):
        port.close()


def test_without_credit_readers_nothing_waits_and_one_may_join_later(bus: Bus) -> None:
    publisher = source(bus)
    for value in range(BLOCKS):
        assert publisher.wait_for_credit(0.0)
        send(publisher, value)
    reader = Subscriber(bus, "camera", "lossless", credit=True)
    assert fill(publisher) == publisher.credits.window
    assert len(list(reader.drain())) == publisher.credits.window
    assert publisher.wait_for_credit(0.0)
    reader.close()
    fill_more = [publisher.wait_for_credit(0.0) and send(publisher, 1) for _ in range(BLOCKS)]
    assert all(fill_more)
    publisher.close()


def test_a_frame_above_the_standard_classes_keeps_the_promise(bus: Bus) -> None:
    reader = Subscriber(bus, "camera", "lossless", credit=True)
    publisher = Publisher(bus, "camera", 1 << 16, source_waits=True)
    publisher.announce(frames(1024, "<f4"), 1)
    got: list[int] = []

    def consume() -> None:
        while len(got) < 20:
            block = reader.receive(5.0)
            assert block is not None
            got.append(int(block.data[0, 5, 5]))

    thread = threading.Thread(target=consume)
    thread.start()
    for value in range(20):
        assert publisher.wait_for_credit(5.0)
        send(publisher, value)
        publisher.refresh()
    thread.join()
    assert got == list(range(20))
    assert reader.stats.lost == 0
    reader.close()
    publisher.close()


def test_a_killed_reader_loses_its_credit_at_once(ipc: Bus, spawn: Spawn) -> None:
    publisher = source(ipc)
    child = spawn("read", "lossless", "credit")
    fill(publisher)
    assert publisher.blocked_on == "read"
    os.kill(child.pid, signal.SIGKILL)
    started = time.monotonic()
    assert publisher.wait_for_credit(5.0)
    assert time.monotonic() - started < 1.0
    assert publisher.blocked_on is None
    child.wait()
    ipc.clean_stale()
    publisher.close()


def test_a_stopped_reader_keeps_its_credit_and_is_named(ipc: Bus, spawn: Spawn) -> None:
    publisher = source(ipc)
    child = spawn("read", "lossless", "credit")
    sent = fill(publisher)
    os.kill(child.pid, signal.SIGSTOP)
    assert not publisher.wait_for_credit(0.3)
    assert publisher.blocked_on == "read"
    os.kill(child.pid, signal.SIGCONT)
    print(sent + 50, file=child.stdin, flush=True)
    for value in range(50):
        assert publisher.wait_for_credit(5.0)
        send(publisher, value)
    lines = [child.stdout.readline() for _ in range(sent + 51)]
    assert lines[-1] == "0\n"
    child.stdin.close()
    assert child.wait() == 0
    publisher.close()


@pytest.mark.parametrize(
    "node_id", [0, 1, 2**62, 2**63, 2**64 - 1, 2**100 + 7, 77540545608434099608953016732146998410, 2**128 - 1]
)
def test_every_node_id_is_kept_whole(node_id: int) -> None:
    words = memoryview(bytearray(32)).cast("q")
    store_node(words, node_id)
    assert node_of(words) == node_id


def test_a_very_slow_reader_gets_every_block_of_a_long_replay(bus: Bus) -> None:
    slow, fast = (Subscriber(bus, "camera", "lossless", credit=True) for _ in range(2))
    publisher = source(bus)
    many, got, pause = 4000, {"slow": 0, "fast": 0}, threading.Event()

    def consume(name: str, reader: Subscriber) -> None:
        while got[name] < many:
            block = reader.receive(20.0)
            assert block is not None
            assert int(block.data[0, 0, 0]) == got[name] % 1000
            got[name] += 1
            if name == "slow" and got[name] % 20 == 0:
                pause.wait(0.002)

    threads = [threading.Thread(target=consume, args=pair) for pair in (("slow", slow), ("fast", fast))]
    for thread in threads:
        thread.start()
    for value in range(many):
        assert publisher.wait_for_credit(20.0)
        send(publisher, value % 1000)
        assert publisher.next_index - got["slow"] <= publisher.credits.window + 1
    for thread in threads:
        thread.join()
    assert got == {"slow": many, "fast": many}
    assert slow.stats.lost == fast.stats.lost == 0
    for port in (slow, fast, publisher):
        port.close()


def test_a_reader_killed_while_the_source_waits_for_it_is_told_and_the_other_loses_nothing(
    ipc: Bus, spawn: Spawn
) -> None:
    publisher = source(ipc)
    child = spawn("read", "lossless", "credit")
    reader = Subscriber(ipc, "camera", "lossless", credit=True)
    sent = fill(publisher)
    assert len(list(reader.drain())) == sent  # only the child holds the source back from here on
    went_on: list[bool] = []
    thread = threading.Thread(target=lambda: went_on.append(publisher.wait_for_credit(20.0)))
    thread.start()
    until = time.monotonic() + 10.0
    while ipc.ledger.rows(CREDIT, "camera")[0].words[WANTED] == 0 and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    thread.join()
    assert went_on == [True]
    assert publisher.notices() == ["read is gone, camera waits for it no longer"]
    assert publisher.notices() == []
    for value in range(100):
        assert publisher.wait_for_credit(5.0)
        send(publisher, value)
        assert reader.receive(5.0) is not None
    assert reader.stats.lost == 0
    child.wait()
    reader.close()
    publisher.close()


def test_a_stopped_reader_loses_its_credit_when_its_heart_is_silent_and_has_it_back(
    ipc: Bus, spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("probeloop.bus.credit.SILENT_S", 0.6)
    publisher = source(ipc)
    child = spawn("beat_and_read")
    fill(publisher)
    assert publisher.blocked_on == "beat_and_read"
    assert not publisher.wait_for_credit(1.2)  # it is slow, but its heart beats
    assert publisher.notices() == []
    os.kill(child.pid, signal.SIGSTOP)
    assert publisher.wait_for_credit(20.0)
    told = publisher.notices()
    assert len(told) == 1
    assert told[0].startswith(f"beat_and_read (pid {child.pid}) gives no sign of life since")
    for value in range(1000):  # goes on without it, far beyond what its queue holds
        assert publisher.wait_for_credit(0.0)
        send(publisher, value)
    os.kill(child.pid, signal.SIGCONT)
    print(2, file=child.stdin, flush=True)  # with the second block the first is finished: that counts again
    assert int(child.stdout.readline()) > 0
    until = time.monotonic() + 20.0
    while publisher.blocked_on is None and time.monotonic() < until:
        send(publisher, 0)  # the rows are looked at when the credit so far is used up
    assert publisher.blocked_on == "beat_and_read"
    assert publisher.notices() == ["beat_and_read reads camera again"]
    caught_up = publisher.next_index
    print(caught_up, file=child.stdin, flush=True)
    lost = int(child.stdout.readline())
    assert 0 < lost < caught_up
    print(caught_up + 600, file=child.stdin, flush=True)
    for value in range(600):
        assert publisher.wait_for_credit(20.0)
        send(publisher, value)
    assert int(child.stdout.readline()) == lost  # what was overwritten while it stood still, and not one more
    child.stdin.close()
    assert child.wait() == 0
    publisher.close()
