"""A plug-in that joins topics, between its topics: values, flags, losses, refusals, and slow partners."""

from __future__ import annotations

import threading
import time
from typing import Any

import msgspec
import numpy as np
import pytest

from probeloop.bus import topic as topics
from probeloop.bus.ledger import CREDIT
from probeloop.bus.node import Bus
from probeloop.bus.publish import Publisher
from probeloop.bus.subscribe import Subscriber
from probeloop.data.control import Accepted, StateChange
from probeloop.data.errors import BusError, ContractError
from probeloop.data.frame import BlockFlag, FrameBlock
from probeloop.plugin.host import Host
from probeloop.plugin.instance import PluginInstance

from .conftest import Camera, camera_spec, fill
from .stage import END, EVERY, Both, Stage, Times, map_of


def test_two_derived_topics_meet_and_the_columns_are_those_of_the_first(stage: Stage, camera: Camera) -> None:
    stage.host("a", Times())
    stage.host("b", Times(Times.Parameters(factor=3.0)))
    join = stage.host("p", Both(), "a.out", "b.out")
    reader = stage.reader("p.out")
    camera.scan(3)
    stage.settle()
    blocks = [block.copy() for block in reader.drain()]
    assert np.array_equal(np.concatenate([b.data for b in blocks]), 100.0 * 2 * np.arange(64) + 3 * np.arange(64))
    assert np.array_equal(np.concatenate([b.scan_index for b in blocks]), np.arange(64))
    assert np.array_equal(np.concatenate([b.time_ns for b in blocks]), 1000 * np.arange(64))
    assert np.array_equal(blocks[1].position, np.stack([np.arange(16, 32), -np.arange(16, 32)], -1) * 1e-9)
    assert {float(d) for b in blocks for d in b.dose} == {5.0}
    assert [int(b.flags) for b in blocks] == [1, 0, 0, 2]
    assert {b.generation for b in blocks} == {3}
    assert blocks[0].exposed_ns == 77
    assert (blocks[0].spec.name, blocks[0].spec.nav) == ("p.out", camera.spec.nav)
    assert stage.gaps() == []
    told = join.describe()
    assert told["kind"] == "JoinTransform"
    assert told["frames"] == 64
    assert told["next"] == {"a.out": 64, "b.out": 64}
    assert told["inputs"] == {name: {"lost": 0, "unmatched": 0, "waiting": 0} for name in ("a.out", "b.out")}


def test_frames_that_one_topic_lost_are_named_and_the_others_stay_in_place(stage: Stage, camera: Camera) -> None:
    class Loses(Times):
        """Stands for one that lost frames: what is missing is missing in its topic."""

    a, _ = stage.host("a", Times()), stage.host("b", Loses())
    stage.host("p", Both(), "a.out", "b.out")
    stage.host("q", Both(), "camera", "b.out")
    readers = [stage.reader("p.out"), stage.reader("q.out")]
    camera.announce(1)
    camera.block(np.arange(20), 1, BlockFlag.SCAN_BEGIN)
    stage.settle()
    stage.hosts["b"].set_enabled(False)
    camera.block(np.arange(20, 22), 1)
    a.step()
    stage.hosts["b"].set_enabled(True)
    camera.block(np.arange(22, 64), 1, END)
    stage.settle()
    for reader, weight in zip(readers, (2, 1), strict=True):
        wanted = 100.0 * weight * EVERY + 2 * EVERY
        wanted.ravel()[20:22] = np.nan
        np.testing.assert_array_equal(map_of(reader), wanted)
    gaps = {gap.reason: gap for gap in stage.gaps()}
    assert set(gaps) == {"p joins it with a.out, and it never came", "q joins it with camera, and it never came"}
    for gap in gaps.values():
        assert (gap.topic, gap.count, gap.pixels, gap.generation) == ("b.out", 2, (20, 21), 1)
    assert stage.hosts["p"].describe()["inputs"]["a.out"]["unmatched"] == 2


def test_an_aborted_scan_ends_once_behind_the_last_of_all(stage: Stage, camera: Camera) -> None:
    stage.host("a", Times())
    stage.host("p", Both(), "camera", "a.out")
    reader = stage.reader("p.out")
    camera.scan(1, aborted=True)
    camera.scan(2)
    stage.settle()
    assert [(b.generation, b.count, int(b.flags)) for b in reader.drain()] == [
        (1, 16, 1), (1, 16, 0), (1, 0, 6), (2, 16, 1), (2, 16, 0), (2, 16, 0), (2, 16, 2),
    ]  # fmt: skip


def test_a_hand_over_goes_on_with_the_next_frame_of_every_topic(stage: Stage, camera: Camera) -> None:
    stage.host("a", Times())
    old, new = stage.host("p", Both(), "camera", "a.out"), stage.host("q", Both(), "camera", "a.out")
    reader, second = stage.reader("p.out"), stage.reader("q.out")
    camera.announce(1)
    camera.block(np.arange(10), 1, BlockFlag.SCAN_BEGIN)
    stage.hosts["a"].step()
    camera.block(np.arange(10, 20), 1)
    old.step()
    assert old.set_enabled(False) == Accepted(id=20)
    ahead = old.describe()["next"]
    assert ahead == {"camera": 20, "a.out": 10}
    new.intake.next |= ahead
    camera.block(np.arange(20, 64), 1, END)
    stage.settle()
    assert np.concatenate([b.scan_index for b in reader.drain()]).tolist() == list(range(10))
    assert np.concatenate([b.scan_index for b in second.drain()]).tolist() == list(range(20, 64))
    (gap,) = stage.gaps()
    assert (gap.pixels, gap.topic) == (tuple(range(10, 20)), "camera"), "what waited went with the old one"
    assert gap.reason == "q joins it with a.out, and did not read it yet"


def test_disable_and_enable_read_both_topics_from_then_on(stage: Stage, camera: Camera) -> None:
    stage.host("a", Times())
    join, reader = stage.host("p", Both(), "camera", "a.out"), stage.reader("p.out")
    camera.announce(1)
    for i in range(4):
        camera.block(np.arange(4 * i, 4 * i + 4), 1)
        stage.settle()
        if i < 2:
            join.set_enabled(i == 1)
    assert np.concatenate([b.scan_index for b in reader.drain()]).tolist() == [*range(4), *range(8, 16)]
    assert [e.state for e in stage.told if isinstance(e, StateChange) and e.target == "p"][:2] == [
        "running",
        "disabled",
    ]


def test_scans_of_other_shapes_are_refused_and_the_next_one_is_not(stage: Stage, camera: Camera, bus: Bus) -> None:
    other = Camera(bus, camera_spec((8, 8)))
    stage.open.append(other)
    other.publisher.close()
    other.publisher = Publisher(bus, "second", 1 << 20)
    join, reader = stage.host("p", Both(), "camera", "second"), stage.reader("p.out")
    other.announce(1, camera_spec((4, 16)))
    other.scan(1, announce=False)
    camera.scan(1)
    stage.settle()
    assert join.state == "refused"
    assert join.reason == "p: camera is a scan of 8 x 8, second one of 4 x 16: they can't be joined"
    assert list(reader.drain()) == []
    other.announce(2, camera_spec((8, 8)))
    other.scan(2, announce=False)
    camera.scan(2)
    stage.settle()
    assert join.state == "running"
    np.testing.assert_array_equal(map_of(reader), 101.0 * EVERY)
    assert stage.gaps() == []


def test_inputs_that_do_not_fit_are_refused_by_their_roles(bus: Bus) -> None:
    for inputs, words in (
        (("camera",), "the input of p names 1 topic, it joins 2: first, second. name one for each, in that order"),
        (("a", "b", "c"), "the input of p names 3 topics, it joins 2: first, second"),
        (("a", "a"), "the input of p names a topic twice: a, a. name each once"),
    ):
        with pytest.raises(ContractError) as raised:
            Host(bus, PluginInstance(name="p", use="t", input=inputs), Both(), print)
        assert str(raised.value).startswith(words)


def test_one_reader_too_many_leaves_none_behind(stage: Stage, bus: Bus) -> None:
    for _ in range(16):
        stage.reader("full")
    with pytest.raises(BusError, match="'full'"):
        stage.host("p", Both(), "free", "full")
    assert bus.ledger.rows(CREDIT, "free") == [], "nothing waits for a reader that is not there"


def test_a_slow_partner_makes_a_source_wait_and_nothing_is_lost(
    stage: Stage, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two inputs of one camera that can wait; four blocks deep, and room for a few rows to wait in the join."""
    monkeypatch.setattr(topics, "STANDARD_DEPTHS", dict.fromkeys(topics.STANDARD_DEPTHS, 4))
    spec = msgspec.structs.replace(camera_spec((20, 20), 4), can_wait=True)
    publisher = Publisher(bus, "camera", 1 << 16, source_waits=True)
    stage.open.append(publisher)

    class Slow(Times):
        """Takes its time now and then."""

        def process(self, block: FrameBlock) -> dict[str, Any]:
            if block.scan_index[0] % 50 == 0:
                threading.Event().wait(0.2)
            return super().process(block)

    fast, slow = stage.host("fast", Times()), stage.host("slow", Slow())
    join = stage.host("p", Both(), "fast.out", "slow.out")
    join.intake._most_bytes = 3 << 10
    join.set_enabled(False)
    join.set_enabled(True)
    reader = Subscriber(bus, "p.out", "lossless", credit=True)
    stage.open.append(reader)
    held, over = threading.Event(), threading.Event()

    def loop(host: Host) -> None:
        while not over.is_set():
            if not host.step():
                over.wait(0.001)
            if host.intake.holding:
                held.set()

    threads = [threading.Thread(target=loop, args=(host,)) for host in (fast, slow, join)]
    got: list[int] = []
    publisher.announce(spec, 1)
    try:
        for thread in threads:
            thread.start()
        sent, end = 0, time.monotonic() + 60
        while len(got) < 400 and time.monotonic() < end:
            if sent < 400 and publisher.wait_for_credit(0.0):
                buffer = publisher.loan(1)
                fill(buffer, np.array([sent]))
                flags = BlockFlag.SCAN_BEGIN if sent == 0 else END if sent == 399 else BlockFlag(0)
                publisher.send(buffer, 1, flags=flags, generation=1)
                sent += 1
            block = reader.receive(0.001)
            if block is not None:
                assert np.array_equal(block.data, 202.0 * block.scan_index)
                got += block.scan_index.tolist()
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert got == list(range(400))
    assert stage.gaps() == []
    assert held.is_set(), "the one that was ahead was kept waiting"


def test_a_partner_that_gives_nothing_costs_a_source_its_patience_and_no_more(
    stage: Stage, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("probeloop.plugin.intake.PATIENCE_S", 0.05)
    spec = msgspec.structs.replace(camera_spec((8, 8), 4), can_wait=True)
    publisher = Publisher(bus, "camera", 1 << 16, source_waits=True)
    stage.open.append(publisher)
    join = stage.host("p", Both(), "camera", "silent")
    join.intake._most_bytes = 8 << 10
    join.set_enabled(False)
    join.set_enabled(True)
    publisher.announce(spec, 1)
    held = 0
    for i in range(64):
        stage.until(lambda: publisher.wait_for_credit(0.0))
        buffer = publisher.loan(1)
        fill(buffer, np.array([i]))
        publisher.send(buffer, 1, generation=1)
        join.step()
        held += join.intake.holding
    stage.until(lambda: join.describe()["next"]["camera"] == 64)
    assert held
    waiting = join.describe()["inputs"]["camera"]["waiting"]
    assert 0 < waiting < 10
    gaps = stage.gaps()
    assert {(gap.topic, gap.reason) for gap in gaps} == {("camera", "p had no more room for them to wait in")}
    assert [pixel for gap in gaps for pixel in gap.pixels] == list(range(64 - waiting))
