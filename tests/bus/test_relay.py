"""Topics and events between two hosts in one process: same values, nothing lost unnamed, cuts of any length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from bus_words import frames, send
from relay_words import ALL, Hosts, gaps, hosts, read

from probeloop.bus.event import EventReader, EventWriter
from probeloop.bus.relay import channel as channel_module
from probeloop.bus.subscribe import Subscriber
from probeloop.data.axes import Axis, StreamSpec
from probeloop.data.control import Remark, decode_event, encode
from probeloop.data.frame import BlockFlag, pack_ragged

VALUES = StreamSpec("values", "values", "<f4", nav=(Axis("y", 4), Axis("x", 4)))
SPECS: dict[str, StreamSpec] = {
    "frames": frames(16),
    "values": VALUES,
    "complex": msgspec.structs.replace(VALUES, dtype="<c8"),
    "image": StreamSpec("image", "image", "<f8", sig=(Axis("y", 5), Axis("x", 7))),
    "table": StreamSpec("table", "table", fields=(("x", "<f8"), ("n", "<i4"))),
    "ragged": StreamSpec("ragged", "ragged"),
}


@pytest.mark.parametrize("compress", [True, False])
def test_every_kind_arrives_bit_for_bit(tmp_path: Path, rig_id: str, compress: bool) -> None:
    chance = np.random.default_rng(3)
    with hosts(tmp_path, rig_id, topics=ALL, compress=compress) as two:
        two.key("anna", "viewer")
        sources = {name: two.source(name) for name in SPECS}
        two.mirror()
        near = two.near()
        for name, spec in SPECS.items():
            sources[name].announce(spec, 4)
        two.until(lambda: two.mirrors[0].landings.keys() >= SPECS.keys(), "the descriptions")
        readers = {name: Subscriber(near, name, "lossless") for name in SPECS}
        sent: dict[str, list[tuple[Any, ...]]] = {name: [] for name in SPECS}
        for n in (1, 5, 0, 17):
            for name, spec in SPECS.items():
                buffer = sources[name].loan(n + 2)
                raw = buffer.data.reshape(-1).view(np.uint8)
                extra = pack_ragged([bytes(range(i)) for i in range(n)]) if spec.kind == "ragged" else b""
                raw[:] = chance.poisson(0.3, raw.size)
                raw[: len(extra)] = np.frombuffer(extra, np.uint8)
                for column in (buffer.time_ns, buffer.scan_index, buffer.flags):
                    column[:] = chance.integers(0, 30000, column.size)
                buffer.position[:], buffer.dose[:] = chance.normal(size=(n + 2, 2)), chance.random(n + 2)
                size = len(extra) if spec.kind == "ragged" else n
                sent[name].append(
                    (buffer.data[:size].tobytes(), buffer.time_ns[:n].tobytes(), buffer.scan_index[:n].tobytes(),
                     buffer.position[:n].tobytes(), buffer.dose[:n].tobytes(), buffer.flags[:n].tobytes())
                )  # fmt: skip
                sources[name].send(
                    buffer, n, generation=4, flags=BlockFlag.SCAN_END if n == 0 else BlockFlag(0), revision=n,
                    source_index=7, checksum=99, payload_bytes=len(extra) if spec.kind == "ragged" else None,
                )  # fmt: skip
        for name, spec in SPECS.items():
            got = read(two, readers[name], 23)
            assert [(b.index, b.count) for b in got] == [(0, 1), (1, 5), (6, 0), (6, 17)]
            for block, original in zip(got, sent[name], strict=True):
                columns = (block.data, block.time_ns, block.scan_index, block.position, block.dose, block.frame_flags)
                assert tuple(column.tobytes() for column in columns) == original
                assert (block.spec, block.generation, block.revision) == (spec, 4, block.count)
                assert (block.source_index, block.checksum) == (7, 99)
            assert got[2].flags == BlockFlag.SCAN_END
            assert readers[name].stats.lost == 0
        for each in readers.values():
            each.close()


def test_who_comes_late_gets_what_comes_from_then_on_and_its_description(two: Hosts) -> None:
    source = two.source()
    source.announce(frames(), 2)
    for value in range(5):
        send(source, value, generation=2)
    mirror = two.mirror()
    two.until(lambda: "camera" in mirror.landings, "the description of an idle topic")
    reader, events = Subscriber(two.near(), "camera", "lossless"), EventReader(two.near())
    two.until(lambda: reader.pending() or reader.spec, "its description at the near end")
    assert (reader.spec, reader.generation) == (frames(), 2)
    send(source, 5, generation=2)
    (block,) = read(two, reader, 1)
    assert (block.index, block.data.flat[0]) == (5, 5)
    assert reader.stats.lost == mirror.landings["camera"].lost == 0
    assert gaps(events) == []
    for each in (reader, events):
        each.close()


def test_generations_of_different_shape_follow_each_other(two: Hosts) -> None:
    source = two.source(size=1 << 14)
    mirror = two.mirror()
    reader = Subscriber(two.near(), "camera", "lossless")
    sides = (8, 64, 300, 8, 512)
    for generation, side in enumerate(sides):
        source.announce(frames(side, "<u4"), generation)
        for value in range(3):
            send(source, 10 * generation + value, generation=generation)
    got = read(two, reader, 15)
    assert [(b.generation, b.data.shape[1], int(b.data.flat[-1])) for b in got] == [
        (generation, side, 10 * generation + value) for generation, side in enumerate(sides) for value in range(3)
    ]
    assert mirror.landings["camera"].lost == reader.stats.lost == 0
    reader.close()


def test_newest_keeps_only_the_newest(tmp_path: Path, rig_id: str) -> None:
    with hosts(tmp_path, rig_id, topics=(("camera", "newest"),)) as two:
        two.key("anna", "viewer")
        source = two.source()
        source.announce(msgspec.structs.replace(frames(), can_wait=True), 1)
        mirror = two.mirror()
        two.until(lambda: "camera" in mirror.landings, "a description")
        reader = Subscriber(two.near(), "camera", "lossless")
        for value in range(200):  # all between two turns
            send(source, value)
        got = read(two, reader, 1)
        assert [int(block.data.flat[0]) for block in got] == [199]
        assert got[0].index == 199
        assert got[0].spec.can_wait is False  # nobody here can make that source wait
        assert source.readers == 1
        reader.close()


def test_by_kind_takes_the_newest_frames_and_every_value(tmp_path: Path, rig_id: str) -> None:
    with hosts(tmp_path, rig_id) as two:
        two.key("anna", "viewer")
        camera, values = two.source(), two.source("haadf.intensity")
        mirror = two.mirror()
        camera.announce(frames(), 1)
        values.announce(VALUES, 1)
        two.until(lambda: len(mirror.landings) == 2, "two topics")
        reader = Subscriber(two.near(), "haadf.intensity", "lossless")
        for value in range(200):
            send(camera, value)
            send(values, value)
        got = read(two, reader, 200)
        assert [int(block.data[0]) for block in got] == list(range(200))
        two.until(lambda: mirror.landings["camera"].next == 200, "the newest frame")
        assert {name: each.lossless for name, each in mirror.landings.items()} == {
            "camera": False, "haadf.intensity": True,
        }  # fmt: skip
        reader.close()


def test_a_source_that_can_wait_loses_nothing_to_a_slow_reader_far_away(tmp_path: Path, rig_id: str) -> None:
    side, count = 512, 80
    with hosts(tmp_path, rig_id, topics=ALL, most_bytes=1 << 20, compress=False) as two:
        two.key("anna", "viewer")
        source = two.source(size=1 << 20, waits=True)
        spec = msgspec.structs.replace(frames(side), can_wait=True)
        source.announce(spec, 1)
        mirror = two.mirror()
        two.until(lambda: "camera" in mirror.landings, "a description")
        reader = Subscriber(two.near(), "camera", "lossless", credit=True)
        sent, waited, got, held = 0, 0, [], 0
        while len(got) < count:
            if sent < count and source.wait_for_credit(0.0):
                send(source, sent % 60000)
                sent += 1
            else:
                waited += sent < count
                block = reader.receive()  # only now and then
                got += [] if block is None else [int(block.data.flat[0])]
            two.turn()
            held = max(held, *(c.held for r in two.relay.remotes.values() for c in r.channels.values()))
        assert got == list(range(count))
        assert waited > 0
        assert held <= (1 << 20) + 2 * side * side * 2
        assert mirror.landings["camera"].lost == reader.stats.lost == 0
        reader.close()


def test_a_source_that_can_not_wait_goes_on_and_what_is_lost_is_named(tmp_path: Path, rig_id: str) -> None:
    with hosts(tmp_path, rig_id, topics=ALL, most_bytes=1 << 18, compress=False) as two:
        two.key("anna", "viewer")
        source = two.source()
        source.announce(frames(128), 1)
        mirror = two.mirror()
        two.until(lambda: "camera" in mirror.landings, "a description")
        reader, events = Subscriber(two.near(), "camera", "lossless"), EventReader(two.near())
        for value in range(1000):  # the bus keeps 256 of them
            send(source, value)
        got = read(two, reader, 256)
        send(source, 1000)
        got += read(two, reader, 1)
        values = [int(block.data.flat[0]) for block in got]
        assert values == [block.index for block in got]
        missing = 1001 - len(values)
        assert missing > 500
        assert (
            sum(gap.count for gap in gaps(events)) == missing == mirror.landings["camera"].lost == reader.stats.lost
        )
        for each in (reader, events):
            each.close()


def test_events_arrive_in_order_with_the_clock_of_this_host(two: Hosts) -> None:
    out = EventWriter(two.far())
    mirror = two.mirror()
    first = two.until(lambda: mirror.link.offset(), "the clock's offset")
    events = EventReader(two.near())
    stamp = channel_module.now_ns()
    got: list[Remark] = []

    def some() -> bool:
        found = [decode_event(body) for body in events.read()]
        got.extend(e for e in found if isinstance(e, Remark) and e.process == "source")
        return len(got) >= 300

    for number in range(300):
        out.write(encode(Remark(text=f"{number}", process="source", time_ns=stamp)))
        two.turn()
        some()
    two.until(some, "300 events")
    assert [event.text for event in got] == [f"{number}" for number in range(300)]
    assert max(abs(event.time_ns - stamp) for event in got) <= first.error_ns + 100_000  # one host, one clock
    for port in (out, events):
        port.close()


def test_the_clocks_of_one_host_are_found_to_be_one(two: Hosts) -> None:
    source = two.source()
    source.announce(frames(), 1)
    mirror = two.mirror()
    two.until(lambda: "camera" in mirror.landings, "a description")
    two.turn_for(0.3)
    (remote,) = two.relay.remotes.values()
    for clocks in (mirror.link.clock, remote.clock):
        found = clocks.estimate(channel_module.now_ns())
        assert found is not None
        assert abs(found.offset_ns) <= found.error_ns < 1_000_000_000
    reader = Subscriber(two.near(), "camera", "lossless")
    buffer = source.loan(1)
    exposed = channel_module.now_ns()
    source.send(buffer, 1, generation=1, exposed_ns=exposed)
    (block,) = read(two, reader, 1)
    clock = mirror.link.offset()
    assert clock is not None
    assert abs(block.exposed_ns - exposed) <= clock.error_ns + 1_000_000
    assert block.exposed_ns <= block.published_ns
    reader.close()
