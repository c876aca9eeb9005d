"""A link that is cut for a moment or for long, a relay or a rig that is started anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from bus_words import frames, send
from relay_words import ALL, Hosts, gaps, hosts, read

from probeloop.bus.event import EventReader
from probeloop.bus.heartbeat import Heartbeat, Pulse
from probeloop.bus.node import Bus
from probeloop.bus.publish import Publisher
from probeloop.bus.relay import channel as channel_module
from probeloop.bus.relay.blocks import pack
from probeloop.bus.relay.landing import Landing
from probeloop.bus.relay.wire import Block, Spec, read_from_server
from probeloop.bus.subscribe import Subscriber
from probeloop.data.frame import FrameBlock, FrameBuffer, block_bytes


def test_a_block_that_comes_twice_is_published_once(local: Bus) -> None:
    landing = Landing(local, "camera", run=7, first=0)
    landing.describe(Spec("camera", True, 0, 1, frames()))
    reader = Subscriber(local, "camera", "lossless")
    memory = np.zeros(block_bytes(frames(), 3), np.uint8)
    for serial, count in ((1, 3), (1, 3), (2, 0), (1, 3), (2, 0), (3, 0)):
        buffer = FrameBuffer.over(memory, frames(), count)
        buffer.seal(count, index=0 if serial == 1 else 3, generation=1)
        head, columns, payload = pack(FrameBlock.parse(memory, frames()), "camera", serial, True)
        block = read_from_server(head)
        assert isinstance(block, Block)
        landing.take(block, columns, payload)
        landing.publish(None)
    assert [(block.index, block.count) for block in reader.drain()] == [(0, 3), (3, 0), (3, 0)]
    assert (landing.repeated, landing.lost, landing.done) == (3, 0, 3)
    reader.close()
    landing.close()


def joined(two: Hosts) -> tuple[Any, Publisher, Any, Subscriber, EventReader]:
    """Return a line that can be cut, a camera there, its mirror here, and who reads here."""
    proxy = two.proxy()
    source = two.source()
    source.announce(frames(), 1)
    mirror = two.mirror(proxy=proxy)
    two.until(lambda: "camera" in mirror.landings, "a description")
    reader, events = Subscriber(two.near(), "camera", "lossless"), EventReader(two.near())
    return proxy, source, mirror, reader, events


@pytest.mark.usefixtures("impatient")
def test_a_short_cut_loses_nothing(two: Hosts) -> None:
    proxy, source, mirror, reader, events = joined(two)
    for value in range(40):
        send(source, value)
        if value == 10:
            two.turn()
            proxy.drop()  # in the middle of what is under way
        if value == 20:
            two.turn_for(0.1)
    got = read(two, reader, 40)
    assert [int(block.data.flat[0]) for block in got] == list(range(40))
    assert mirror.landings["camera"].lost == reader.stats.lost == 0
    assert gaps(events) == []
    for each in (reader, events):
        each.close()


@pytest.mark.usefixtures("impatient")
def test_a_data_connection_that_zeromq_gave_up_is_made_again(two: Hosts) -> None:
    _, source, mirror, reader, events = joined(two)
    send(source, 0)
    read(two, reader, 1)
    socket = mirror.link.calling._sockets[1]
    socket.disconnect(str(mirror.link.endpoint))  # as it does by itself when a byte was damaged on the way
    two.until(lambda: not mirror.link.calling.send(1, b""), "a broken data connection")
    for value in range(1, 20):
        send(source, value)
    got = read(two, reader, 19)
    assert [int(block.data.flat[0]) for block in got] == list(range(1, 20))
    assert mirror.cuts == 1
    assert mirror.landings["camera"].lost == 0
    assert mirror.link.welcome is not None
    for each in (reader, events):
        each.close()


@pytest.mark.usefixtures("impatient")
def test_after_a_long_cut_it_goes_on_and_names_what_is_gone(two: Hosts) -> None:
    proxy, source, mirror, reader, events = joined(two)
    send(source, 0)
    read(two, reader, 1)
    (remote,) = two.relay.remotes.values()
    kept = remote.channels["camera"]
    kept._most = 4000  # a few blocks
    proxy.cut()
    two.until(lambda: not mirror.link.up and not remote.alive(channel_module.now_ns()), "a cut that both ends notice")
    for value in range(1, 900):
        send(source, value)
        if value % 100 == 0:
            two.turn()
    proxy.heal()
    two.until(lambda: mirror.link.up, "a link that is back")
    send(source, 900)
    got: list[FrameBlock] = []
    while mirror.landings["camera"].next < 901 or reader.pending():
        got += read(two, reader, 1)
    values = [int(block.data.flat[0]) for block in got]
    assert values == [block.index for block in got]
    assert values[-1] == 900
    missing = 900 - len(values)
    assert missing > 0
    assert sum(gap.count for gap in gaps(events)) == missing == reader.stats.lost
    assert mirror.cuts >= 1
    for each in (reader, events):
        each.close()


@pytest.mark.usefixtures("impatient")
def test_a_dead_reader_loses_its_credit(two: Hosts) -> None:
    proxy = two.proxy()
    source = two.source(waits=True)
    source.announce(msgspec.structs.replace(frames(128), can_wait=True), 1)
    mirror = two.mirror(proxy=proxy)
    two.until(lambda: "camera" in mirror.landings, "a description")
    (remote,) = two.relay.remotes.values()
    remote.channels["camera"]._most, remote.channels["camera"]._compress = 1 << 16, False
    proxy.cut()
    for _ in range(10):
        while source.wait_for_credit(0.0):
            send(source, 1)
        two.turn()
    assert source.blocked_on == "relay"
    two.until(lambda: source.wait_for_credit(0.0), "a source that goes on")
    assert not remote.alive(channel_module.now_ns())
    for value in range(600):
        assert source.wait_for_credit(0.0)
        send(source, value)
    proxy.heal()
    two.until(lambda: mirror.link.up and mirror.landings["camera"].next == source.next_index, "all that is left")
    assert mirror.landings["camera"].lost > 0
    two.until(lambda: remote.channels["camera"].reader._credit is not None, "its credit again")


@pytest.mark.usefixtures("impatient")
def test_a_relay_that_is_started_anew_is_found_again(two: Hosts) -> None:
    source = two.source()
    source.announce(frames(), 1)
    mirror = two.mirror()
    two.until(lambda: "camera" in mirror.landings, "a description")
    reader, events = Subscriber(two.near(), "camera", "lossless"), EventReader(two.near())
    for value in range(3):
        send(source, value)
    read(two, reader, 3)
    two.relay.close()
    for value in range(3, 8):  # nobody reads
        send(source, value)
    two.relay = two._relay(two.relay.endpoint)
    two.until(lambda: mirror.link.up and any(r.opened for r in two.relay.remotes.values()), "a new session")
    for value in range(8, 12):
        send(source, value)
    got = read(two, reader, 4)
    assert [int(block.data.flat[0]) for block in got] == [8, 9, 10, 11]
    assert [(gap.first, gap.count) for gap in gaps(events)] == [(3, 5)]
    assert reader.stats.lost == 5
    for each in (reader, events):
        each.close()


def test_a_rig_that_is_started_anew_goes_on_where_it_was_here(tmp_path: Path, rig_id: str) -> None:
    with hosts(tmp_path, rig_id, topics=ALL) as two:
        two.key("anna", "viewer")
        source = two.source()
        source.announce(frames(), 1)
        mirror = two.mirror()
        two.until(lambda: "camera" in mirror.landings, "a description")
        reader = Subscriber(two.near(), "camera", "lossless")
        for value in range(3):
            send(source, value)
        read(two, reader, 3)
        two.sources.pop().close()
        at = two.relay.endpoint
        two.relay.close()
        two.bus.ledger.clear()  # as when the last process of a rig has left
        two.relay = two._relay(at)
        source = two.source()
        source.announce(frames(16), 1)
        assert source.next_index == 0
        two.until(lambda: mirror.link.up and mirror._run == two.relay.run, "a session with the new run")
        two.until(lambda: "camera" in mirror.landings, "a description")
        for value in range(5):
            send(source, 50 + value)
        got = read(two, reader, 5)
        assert [(block.index, int(block.data.flat[0])) for block in got] == [(3 + n, 50 + n) for n in range(5)]
        assert mirror._translate.bases == {"camera": 3}
        assert reader.stats.lost == 0
        reader.close()


@pytest.mark.usefixtures("impatient")
def test_heartbeats_are_those_of_the_processes_there(two: Hosts) -> None:
    proxy = two.proxy()
    heart = Heartbeat(two.far(), "instrument")
    mirror = two.mirror(proxy=proxy)
    pulse = Pulse(two.near())

    def age() -> float:
        last = pulse.read("instrument")
        return 99.0 if last is None else last[0]

    def beating() -> bool:
        heart.beat()
        return age() < 0.5

    two.until(beating, "a heartbeat")
    two.until(lambda: age() > 1.0, "its silence")
    two.until(beating, "a heartbeat")
    proxy.cut()
    two.until(lambda: heart.beat() and not mirror.link.up, "a cut")
    two.until(lambda: heart.beat() and age() > 1.0, "silence: what can't be heard is old")
