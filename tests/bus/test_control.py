"""Requests, events, bells, heartbeats, and waiting for several of them at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest
from bus_words import Spawn, frames, send

from probeloop.bus import node
from probeloop.bus.event import Bell, EventReader, EventWriter
from probeloop.bus.heartbeat import Heartbeat, Pulse
from probeloop.bus.ledger import BEAT_NS, CREDIT, PULSE, Ledger
from probeloop.bus.node import Bus, shared_memory_folder
from probeloop.bus.publish import Publisher
from probeloop.bus.request import _CLIENT_BYTES, _SERVER_BYTES, Client, Respond, Server
from probeloop.bus.stats import PublisherStats, Rates, ReaderStats, rates
from probeloop.bus.subscribe import Poller, Subscriber
from probeloop.data.errors import BusError, SharedMemoryError


def test_requests_are_answered_one_by_one(bus: Bus) -> None:
    server, client = Server(bus, "gate"), Client(bus, "gate")

    def serve() -> None:
        poller = Poller(bus, server)
        answered = 0
        while answered < 5:
            assert poller.wait(5.0) == [server]
            for body, respond in server.receive():
                respond(body[::-1])
                answered += 1
        poller.close()

    thread = threading.Thread(target=serve)
    thread.start()
    for body in (b"abc", b"", b"x" * 100_000, b"\0" * 4096, b"last"):
        assert client.call(body, 5.0) == body[::-1]
    thread.join()
    client.close()
    server.close()


def test_all_waiting_requests_come_at_once_and_get_their_own_answer(bus: Bus) -> None:
    server = Server(bus, "gate")
    clients = [Client(bus, "gate") for _ in range(6)]
    replies: dict[int, bytes] = {}
    threads = [
        threading.Thread(target=lambda n=n, c=c: replies.__setitem__(n, c.call(b"%d" % n, 5.0)))
        for n, c in enumerate(clients)
    ]
    for thread in threads:
        thread.start()
    pause = threading.Event()
    waiting: list[tuple[bytes, object]] = []
    while len(waiting) < 6:
        waiting += server.receive()
        pause.wait(0.005)
    for body, respond in reversed(waiting):
        respond(b"to " + body)
    for thread in threads:
        thread.join()
    assert replies == {n: b"to %d" % n for n in range(6)}
    for port in (*clients, server):
        port.close()


def test_no_server_no_answer_and_a_dropped_request_are_one_line(bus: Bus) -> None:
    client = Client(bus, "gate")
    with pytest.raises(BusError, match="nobody serves 'gate'"):
        client.call(b"anyone")
    server = Server(bus, "gate")
    with pytest.raises(BusError, match=r"did not answer within 0.05 s"):
        client.call(b"anyone", 0.05)
    (_, respond), *rest = server.receive() or [(b"", None)]
    assert not rest
    if respond is not None:
        respond(b"too late")

    def drop() -> None:
        while not server.receive():
            pass

    thread = threading.Thread(target=drop)
    thread.start()
    with pytest.raises(BusError, match="dropped the request"):
        client.call(b"anyone", 5.0)
    thread.join()
    server.close()
    with pytest.raises(BusError, match="nobody serves"):
        client.call(b"anyone")
    client.close()


def test_who_gives_up_and_asks_again_is_heard_and_ends_no_server(bus: Bus) -> None:
    """A server that answers later, as a link to another host does while that does not answer."""
    server, client = Server(bus, "gate"), Client(bus, "gate")
    waiting: list[tuple[bytes, Respond]] = []
    for number in range(10):
        question = client.ask(b"%d" % number)
        waiting += server.receive()
        question.close()
    assert [body for body, _ in waiting] == [b"%d" % number for number in range(10)]
    for _, respond in waiting:
        respond(b"too late")
    several = [client.ask(b"a"), client.ask(b"b")]
    later = server.receive()
    for question in several:  # given up, and asked anew before the server has looked
        question.close()
    question = client.ask(b"c")
    while not (asked := server.receive()):
        pass
    asked[0][1](b"yes")
    assert question.reply() == b"yes"
    for _, respond in later:
        respond(b"too late")
    question.close()
    client.close()
    server.close()


def test_an_answer_is_given_once(bus: Bus) -> None:
    server, client = Server(bus, "gate"), Client(bus, "gate")
    thread = threading.Thread(target=lambda: client.call(b"x", 5.0))
    thread.start()
    asked = []
    while not asked:
        asked = server.receive()
    asked[0][1](b"yes")
    with pytest.raises(BusError, match="answered twice"):
        asked[0][1](b"no")
    thread.join()
    client.close()
    server.close()


def test_requests_cross_processes_and_survive_the_server(ipc: Bus, spawn: Spawn) -> None:
    child, client = spawn("serve"), Client(ipc, "gate")
    for number in range(200):
        assert client.call(b"ask %d" % number) == (b"ask %d" % number)[::-1]
    with pytest.raises(BusError):
        client.call(b"die", 0.2)
    child.wait()
    ipc.clean_stale()
    again = spawn("serve")
    assert client.call(b"quit") == b"tiuq"
    assert again.wait() == 0
    client.close()


def test_events_of_many_writers_arrive_in_order(bus: Bus) -> None:
    reader = EventReader(bus)
    writers = [EventWriter(bus) for _ in range(32)]
    with pytest.raises(BusError, match="at most 32"):
        EventWriter(bus)
    for number in range(4):
        for name, writer in enumerate(writers):
            writer.write(b"%d/%d" % (number, name))
    assert reader.read() == [b"%d/%d" % (number, name) for number in range(4) for name in range(32)]
    assert reader.read(0.01) == []
    assert reader.lost == 0
    writers[0].write(b"y" * 100_000)
    assert reader.read() == [b"y" * 100_000]
    for port in (*writers, reader):
        port.close()


def test_lost_events_are_counted(local: Bus) -> None:
    reader, writer = EventReader(local), EventWriter(local)
    writer.write(b"first")
    assert reader.read() == [b"first"]
    for number in range(300):
        writer.write(b"%d" % number)
    assert reader.read() == [b"%d" % number for number in range(44, 300)]
    assert reader.lost == 44
    reader.close()
    writer.close()


def test_a_reader_that_wants_the_history_gets_what_was_said_before_it_came(bus: Bus) -> None:
    first = EventReader(bus)
    writer = EventWriter(bus)
    for number in range(200):
        writer.write(b"%d" % number)
    late, other = EventReader(bus, history=True), EventReader(bus)
    writer.write(b"200")
    assert late.read(1.0) == [b"%d" % number for number in range(201 - 129, 201)]
    assert late.lost == 0
    assert other.read(1.0) == [b"200"]
    assert len(first.read()) == 201
    for port in (first, late, other, writer):
        port.close()


def test_events_cross_processes(ipc: Bus, spawn: Spawn) -> None:
    reader = EventReader(ipc)
    child = spawn("write", 100)
    events: list[bytes] = []
    while len(events) < 100:
        new = reader.read(5.0)
        assert new
        events += new
    assert events == [b"%d" % number for number in range(100)]
    assert child.wait() == 0
    reader.close()


def test_one_wait_for_everything(bus: Bus) -> None:
    reader, events, server, bell = Subscriber(bus, "camera"), EventReader(bus), Server(bus, "gate"), Bell(bus, "stop")
    publisher, writer, ringer = Publisher(bus, "camera", 1 << 14), EventWriter(bus), Bell(bus, "stop")
    poller = Poller(bus, reader, events, server)
    poller.add(bell)
    publisher.announce(frames(), 1)
    assert poller.wait(0.02) == []
    for value in range(5):
        send(publisher, value)
    assert poller.wait(1.0) == [reader]
    assert poller.wait(1.0) == [reader]  # not drained: reported again
    assert len(list(reader.drain())) == 1
    writer.write(b"e")
    ringer.ring()
    ringer.ring()
    assert poller.wait(1.0) == [events, bell]
    assert events.read() == [b"e"]
    assert poller.wait(0.0) == []  # two rings, one report
    poller.remove(bell)
    ringer.ring()
    assert poller.wait(0.02) == []
    assert bell.wait(1.0)
    timer = threading.Timer(0.05, lambda: send(publisher, 1))
    started = time.monotonic()
    timer.start()
    assert poller.wait(5.0) == [reader]
    assert 0.03 < time.monotonic() - started < 1.0
    timer.join()
    poller.close()
    for port in (reader, events, server, bell, publisher, writer, ringer):
        port.close()


def test_a_reader_is_woken_across_processes(ipc: Bus, spawn: Spawn) -> None:
    reader = Subscriber(ipc, "camera", "lossless")
    child = spawn("publish")
    print(3, file=child.stdin, flush=True)
    got = []
    while len(got) < 3:
        block = reader.receive(5.0)
        assert block is not None
        got.append(block.index)
    assert got == [0, 1, 2]
    child.stdin.close()
    child.wait()
    reader.close()


def test_a_stopped_process_has_no_pulse(ipc: Bus, spawn: Spawn) -> None:
    pulse = Pulse(ipc)
    assert pulse.read("beater") is None
    with pytest.raises(BusError, match="never had a pulse"):
        pulse.require("beater", 1.0)
    child = spawn("beat")
    age_s, pid, _ = pulse.read("beater") or (9.0, 0, 0)
    assert (age_s < 1.0, pid) == (True, child.pid)
    os.kill(child.pid, signal.SIGSTOP)
    pause = threading.Event()
    pause.wait(0.3)
    age_s, _, stopped_at = pulse.read("beater") or (0.0, 0, 0)
    assert age_s > 0.2
    with pytest.raises(BusError, match=rf"'beater' \(pid {child.pid}\) is silent since"):
        pulse.require("beater", 0.2)
    os.kill(child.pid, signal.SIGCONT)
    deadline = time.monotonic() + 5.0
    while (pulse.read("beater") or (9.0, 0, 0))[2] <= stopped_at:
        assert time.monotonic() < deadline
        pause.wait(0.01)
    pulse.require("beater", 1.0)
    assert pulse.processes() == ["beater"]
    child.stdin.close()
    assert child.wait() == 0


def test_a_restarted_process_continues_its_pulse(local: Bus) -> None:
    first = Heartbeat(local)
    assert first.beat() == 2
    assert Heartbeat(local).beat() == 4
    assert (Pulse(local).read("test") or (0, 0, 0))[1:] == (os.getpid(), 4)


def test_the_ledger_gives_rows_and_takes_them_back() -> None:
    ledger = Ledger(None)
    rows = [ledger.claim(CREDIT, "t", f"r{n}") for n in range(1024)]
    with pytest.raises(BusError, match="all 1024 rows"):
        ledger.claim(CREDIT, "t")
    ledger.release(rows[7])
    ledger.release(rows[7])
    assert ledger.claim(CREDIT, "t", "new").number == 7
    with pytest.raises(BusError, match="longer than 48 bytes"):
        ledger.claim(CREDIT, "x" * 49)


def test_rates() -> None:
    assert rates(ReaderStats(1, 10, 100, 1), ReaderStats(3, 30, 2_000_100, 5), 2.0) == Rates(10.0, 1.0, 2.0)
    assert rates(PublisherStats(), PublisherStats(1, 8, 1_000_000), 0.5) == Rates(16.0, 2.0, 0.0)
    assert rates(ReaderStats(), ReaderStats(), 0.0) == Rates(0.0, 0.0, 0.0)


def test_what_a_service_takes_of_shared_memory_is_known_and_taken_at_once(ipc: Bus) -> None:
    def used() -> int:
        return sum(path.stat().st_blocks * 512 for path in shared_memory_folder().glob(f"{ipc.prefix}*"))

    before = used()
    server = Server(ipc, "gate")
    with_server = used()
    client = Client(ipc, "gate")
    with_client = used()
    assert 0.9 < (with_server - before) / _SERVER_BYTES <= 1.0
    assert 0.9 < (with_client - with_server) / _CLIENT_BYTES <= 1.0
    client.close()
    server.close()


def test_too_little_room_is_one_line_before_anything_is_made(ipc: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(ipc, "gate")
    monkeypatch.setattr(node.shutil, "disk_usage", lambda folder: SimpleNamespace(free=5 << 20))
    with pytest.raises(SharedMemoryError, match=r"'gate' needs 5\.3 MiB of shared memory, 5\.0 MiB are free"):
        Server(ipc, "gate")  # its own memory, and a connection for the client that waits
    Server(ipc, "other").close()
    monkeypatch.setattr(node.shutil, "disk_usage", lambda folder: SimpleNamespace(free=900_000))
    for make in (lambda: Client(ipc, "other"), lambda: EventReader(ipc), lambda: Subscriber(ipc, "camera")):
        with pytest.raises(SharedMemoryError, match=r"0\.9 MiB are free"):
            make()
    client.close()


def test_a_word_beside_a_pulse_stays_when_its_process_is_gone(local: Bus) -> None:
    pulse = Pulse(local)
    assert pulse.mark("test") == 0
    Heartbeat(local).mark(-7)
    Heartbeat(local).beat()
    threading.Event().wait(0.005)  # who had no pulse is looked for again after 2 ms
    assert pulse.mark("test") == -7


def test_a_rig_whose_nodes_are_not_seen_here_is_left_alone_while_its_pulse_beats() -> None:
    prefix = node.rig_prefix("in-a-container")
    path = shared_memory_folder() / f"{prefix}ledger"
    ledger = Ledger(path)
    pulse = ledger.claim(PULSE, "instrument").words
    try:
        pulse[BEAT_NS] = time.monotonic_ns()
        assert prefix not in Bus.clean_other_rigs()
        assert path.exists()
        pulse[BEAT_NS] -= 60_000_000_000
        assert prefix in Bus.clean_other_rigs()
        assert not path.exists()
    finally:
        ledger.close(remove=True)
