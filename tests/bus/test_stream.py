"""Blocks from one publisher to its readers: contents, order, gaps, changes of spec, garbage."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from bus_words import frames, send
from hypothesis import given, settings
from hypothesis import strategies as st

from probeloop.bus.header import HEADER
from probeloop.bus.node import Bus
from probeloop.bus.publish import ANNOUNCED, Publisher
from probeloop.bus.subscribe import Subscriber
from probeloop.bus.topic import data_service, size_class
from probeloop.data.axes import Axis, Channel, StreamSpec
from probeloop.data.errors import BusError, WireError
from probeloop.data.frame import BlockFlag, FrameBlock, FrameBuffer, FrameFlag, pack_ragged


def test_a_block_arrives_as_it_was_filled(bus: Bus) -> None:
    reader = Subscriber(bus, "camera", "lossless")
    publisher = Publisher(bus, "camera", 1 << 16)
    spec = frames(6, "<i4")
    publisher.announce(spec, 3)
    buffer = publisher.loan(5)
    buffer.data[:3] = np.arange(108).reshape(3, 6, 6)
    buffer.time_ns[:3] = (10, 20, 30)
    buffer.scan_index[:3] = (4, -1, 6)
    buffer.position[:3] = [[1e-9, 2e-9], [3e-9, 4e-9], [5e-9, 6e-9]]
    buffer.dose[:3] = (7.0, 8.0, 9.0)
    buffer.flags[:3] = FrameFlag.FLYBACK
    index = publisher.send(
        buffer, 3, flags=BlockFlag.SCAN_END | BlockFlag.ABORTED, generation=3, revision=5, source_index=77,
        exposed_ns=11, checksum=2**63 + 1, source_published_ns=12, taken_ns=13,
    )  # fmt: skip
    block = reader.receive()
    assert block is not None
    assert (block.index, block.count, block.generation, block.revision, block.source_index) == (index, 3, 3, 5, 77)
    assert block.flags == BlockFlag.SCAN_END | BlockFlag.ABORTED
    assert (block.exposed_ns, block.checksum) == (11, 2**63 + 1)
    assert (block.source_published_ns, block.taken_ns) == (12, 13)
    assert block.published_ns > 0
    assert block.spec == spec == reader.spec
    np.testing.assert_array_equal(block.data, np.arange(108).reshape(3, 6, 6))
    assert block.data.dtype == np.dtype("<i4")
    assert block.time_ns.tolist() == [10, 20, 30]
    assert block.scan_index.tolist() == [4, -1, 6]
    assert block.position.tolist() == [[1e-9, 2e-9], [3e-9, 4e-9], [5e-9, 6e-9]]
    assert block.dose.tolist() == [7.0, 8.0, 9.0]
    assert block.frame_flags.tolist() == [4, 4, 4]
    assert not block.data.flags.writeable
    assert block.data.ctypes.data % 64 == 0
    assert (reader.stats.blocks, reader.stats.frames, reader.stats.bytes) == (1, 3, 3 * 144)
    assert (publisher.stats.blocks, publisher.stats.frames, publisher.readers) == (1, 3, 1)
    reader.close()
    publisher.close()


def test_the_header_is_that_of_the_contract() -> None:
    buffer = FrameBuffer.allocate(frames(), 4)
    buffer.seal(
        3, index=9, generation=2, flags=BlockFlag.SCAN_BEGIN, revision=4, source_index=5, published_ns=6,
        exposed_ns=7, checksum=8, source_published_ns=10, taken_ns=11,
    )  # fmt: skip
    assert HEADER.pack(1, 1, 9, 3, 4, 2, 4, 5, 6, 7, 384, 8, 0, 10, 11) == buffer.header.tobytes()


def test_order_indices_and_an_empty_block(bus: Bus) -> None:
    reader = Subscriber(bus, "camera", "lossless")
    publisher = Publisher(bus, "camera", 1 << 16)
    publisher.announce(frames(), 1)
    for value in range(10):
        send(publisher, value, 3, capacity=4)
    publisher.send(publisher.loan(0), 0, flags=BlockFlag.SCAN_END, generation=1)
    got = [(block.index, block.count, int(block.data.sum()), block.flags) for block in reader.drain()]
    assert got == [(3 * k, 3, 192 * k, 0) for k in range(10)] + [(30, 0, 0, BlockFlag.SCAN_END)]
    assert reader.stats.lost == 0
    assert reader.receive() is None
    reader.close()
    publisher.close()


def test_every_kind_travels(bus: Bus) -> None:
    readers: list[Subscriber] = []
    for spec, value in (
        (StreamSpec("v", "values", "<f8"), 1.5),
        (StreamSpec("k", "values", "<f4", channels=(Channel("a"), Channel("b"))), 2.5),
        (StreamSpec("s", "spectra", "<c8", sig=(Axis("E", 7),)), 1 + 2j),
        (StreamSpec("t", "table", fields=(("x", "<f8"), ("label", "S8"))), (3.0, b"atom")),
    ):
        reader, publisher = Subscriber(bus, spec.name, "lossless"), Publisher(bus, spec.name, 1 << 14)
        publisher.announce(spec, 0)
        buffer = publisher.loan(5)
        buffer.data[:] = value
        publisher.send(buffer, 4, generation=0)
        block = reader.receive()
        assert block is not None
        assert block.data.shape == (4, *spec.frame_shape)
        assert (block.data == np.array(value, spec.numpy_dtype)).all()
        publisher.close()
        readers.append(reader)
    for reader in readers:
        reader.close()


def test_ragged_blocks(bus: Bus) -> None:
    reader, publisher = Subscriber(bus, "c", "lossless"), Publisher(bus, "c", 1 << 14)
    publisher.announce(StreamSpec("c", "ragged"), 0)
    for items in ([b"one", b"", b"three" * 100], [], [b"x" * 9000]):
        payload = pack_ragged(items)
        buffer = publisher.loan(4)
        buffer.data[: len(payload)] = np.frombuffer(payload, np.uint8)
        publisher.send(buffer, len(items), generation=0, payload_bytes=len(payload))
        block = reader.receive()
        assert block is not None
        assert block.items == items
    reader.close()
    publisher.close()


def test_views_are_made_once_a_slot(bus: Bus) -> None:
    reader, publisher = Subscriber(bus, "camera", "lossless"), Publisher(bus, "camera", 1 << 16)
    publisher.announce(frames(), 1)
    seen = set()
    for value in range(400):
        send(publisher, value)
        block = reader.receive()
        assert block is not None
        assert block.data[0, 0, 0] == value
        seen.add(id(block.data))
    assert len(seen) < 8
    reader.close()
    publisher.close()


def test_newest_reads_the_newest_and_counts_what_it_skipped(bus: Bus) -> None:
    reader, publisher = Subscriber(bus, "camera"), Publisher(bus, "camera", 1 << 16)
    publisher.announce(frames(), 1)
    for value in range(50):
        send(publisher, value, 2)
    assert [(block.index, int(block.data[0, 0, 0])) for block in reader.drain()] == [(98, 49)]
    assert reader.stats.lost == 98
    reader.close()
    publisher.close()


@pytest.mark.parametrize(("size", "extra"), [(1 << 14, 1), (1 << 20, 37)])
def test_what_overflows_is_counted_exactly_and_named(bus: Bus, size: int, extra: int) -> None:
    reader, publisher = Subscriber(bus, "camera", "lossless"), Publisher(bus, "camera", size)
    publisher.announce(frames(), 1)
    depth = size_class(size).depth
    for value in range(3):
        send(publisher, value, 2)
    assert len(list(reader.drain())) == 3
    for value in range(depth + extra):
        send(publisher, value % 100, 2)
    got = [block.index for block in reader.drain()]
    assert got == [6 + 2 * k for k in range(extra, depth + extra)]
    assert reader.stats.lost == 2 * extra
    assert reader.stats.gaps == ((6, 2 * extra),)
    assert reader.stats.frames + reader.stats.lost == publisher.next_index
    reader.close()
    publisher.close()


def test_other_readers_do_not_lose_by_a_slow_one(bus: Bus) -> None:
    slow, fast = Subscriber(bus, "camera", "lossless"), Subscriber(bus, "camera", "lossless")
    publisher = Publisher(bus, "camera", 1 << 20)
    publisher.announce(frames(), 1)
    for value in range(500):
        send(publisher, value % 100)
        assert len(list(fast.drain())) == 1
    assert fast.stats.lost == 0
    held = next(iter(slow.drain()))
    assert held.index == slow.stats.lost == 500 - 64
    for reader in (slow, fast):
        reader.close()
    publisher.close()


def test_sixteen_readers_may_lag_and_hold_a_block(local: Bus) -> None:
    readers = [Subscriber(local, "camera", "lossless") for _ in range(16)]
    publisher = Publisher(local, "camera", 1 << 12)
    publisher.announce(frames(), 1)
    for value in range(16):
        send(publisher, value)
        for reader in readers[value:]:
            assert reader.receive() is not None  # each stays with another block
    for value in range(600):
        send(publisher, value % 100)
    assert all(len(list(reader.drain())) == 256 for reader in readers)
    for reader in readers:
        reader.close()
    publisher.close()


def test_a_late_reader_gets_the_spec_of_an_idle_publisher(bus: Bus) -> None:
    publisher = Publisher(bus, "camera", 1 << 16)
    publisher.announce(frames(), 7)
    send(publisher, 1, 5, generation=7)
    reader = Subscriber(bus, "camera", "lossless")
    assert reader.receive() is None
    publisher.refresh()
    assert reader.receive() is None
    assert reader.spec == frames()
    assert reader.generation == 7
    send(publisher, 2, generation=7)
    block = reader.receive()
    assert block is not None
    assert block.index == 5
    assert reader.stats.lost == 0  # what was sent before it came is not its loss
    reader.close()
    publisher.close()


def test_a_late_reader_needs_no_refresh_when_blocks_flow(bus: Bus) -> None:
    publisher = Publisher(bus, "camera", 1 << 16)
    publisher.announce(frames(), 7)
    send(publisher, 1, 5, generation=7)
    reader = Subscriber(bus, "camera", "newest")
    send(publisher, 2, generation=7)
    block = reader.receive()
    assert block is not None
    assert (block.index, reader.stats.unspecified) == (5, 0)
    reader.close()
    publisher.close()


def test_generations_of_other_dtype_shape_and_size(bus: Bus) -> None:
    reader, publisher = Subscriber(bus, "camera", "lossless"), Publisher(bus, "camera", 1 << 14)
    wanted = []
    for generation, spec in enumerate(
        (frames(8), frames(8, "<f4"), frames(4, "<u1"), frames(512, "<u2"), frames(1024, "<f4"), frames(16))
    ):
        publisher.announce(spec, generation)
        wanted += [
            (generation, send(publisher, value, generation=generation), value, spec.frame_shape) for value in range(3)
        ]
    sizes = (publisher.sizes.slot, publisher.sizes.standard)
    got = [(block.generation, block.index, int(block.data.max()), block.data.shape[1:]) for block in reader.drain()]
    if got[-1][0] < 5:  # the large class was opened while draining: its history comes with the next refresh
        publisher.refresh()
        got += [
            (block.generation, block.index, int(block.data.max()), block.data.shape[1:]) for block in reader.drain()
        ]
    assert got == wanted
    assert sizes == (8 << 20, False)
    assert reader.stats.lost == reader.stats.wire_errors == reader.stats.unspecified == 0
    reader.close()
    publisher.close()


def test_a_spec_may_change_within_a_generation(bus: Bus) -> None:
    reader, publisher = Subscriber(bus, "camera", "lossless"), Publisher(bus, "camera", 1 << 14)
    for spec in (frames(4), frames(8, "<f8")):
        publisher.announce(spec, 1)
        send(publisher, 1, 2)
    assert [block.data.shape for block in reader.drain()] == [(2, 4, 4), (2, 8, 8)]
    reader.close()
    publisher.close()


def test_a_generation_that_was_not_announced_is_refused(bus: Bus) -> None:
    publisher = Publisher(bus, "camera", 1 << 14)
    publisher.announce(frames(), 1)
    with pytest.raises(BusError, match="generation 99 of 'camera' was not announced"):
        send(publisher, 1, 2, generation=99)
    publisher.close()


def test_a_generation_of_the_same_frames_costs_no_announcement_but_late_readers_hear_of_it(bus: Bus) -> None:
    early, publisher = Subscriber(bus, "camera", "lossless"), Publisher(bus, "camera", 1 << 14)
    publisher.announce(frames(), 1)
    send(publisher, 1, 2, generation=1)
    told = publisher._words[ANNOUNCED]
    publisher.announce(frames(), 2)
    send(publisher, 2, 2, generation=2)
    assert publisher._words[ANNOUNCED] == told
    assert [(block.index, block.generation) for block in early.drain()] == [(0, 1), (2, 2)]
    assert early.generation == 2
    late = Subscriber(bus, "camera", "lossless")
    publisher.refresh()
    assert not list(late.drain())
    assert (late.spec, late.generation) == (frames(), 2)
    send(publisher, 3, 2, generation=2)
    assert [block.index for block in late.drain()] == [4]
    assert late.stats.unspecified == 0
    for end in (early, late, publisher):
        end.close()


def test_a_reader_that_joins_between_two_blocks_gets_the_next_one(bus: Bus) -> None:
    publisher = Publisher(bus, "camera", 1 << 14)
    publisher.announce(frames(), 1)
    send(publisher, 1, 2, generation=1)
    publisher.announce(frames(), 2)
    late = Subscriber(bus, "camera", "lossless")
    send(publisher, 2, 2, generation=2)
    assert [(block.index, block.generation) for block in late.drain()] == [(2, 2)]
    late.close()
    publisher.close()


def publisher_count(bus: Bus) -> int:
    return data_service(bus, "camera", size_class(1)).dynamic_config.number_of_publishers


def test_two_publishers_hand_over_and_a_third_is_refused(bus: Bus) -> None:
    reader, first = Subscriber(bus, "camera", "lossless"), Publisher(bus, "camera", 1 << 14)
    first.announce(frames(), 1)
    assert not reader.pending()  # they have met
    send(first, 1, 3)
    second = Publisher(bus, "camera", 1 << 14)
    second.announce(frames(), 1)
    with pytest.raises(BusError, match="at most 2 publishers"):
        Publisher(bus, "camera", 1 << 14)
    send(first, 2, 3)
    first.close()
    send(second, 3, 3)
    got = [(block.index, int(block.data[0, 0, 0])) for block in reader.drain()]
    assert got == [(0, 1), (3, 2), (6, 3)]
    assert publisher_count(bus) == 1
    assert reader.stats.lost == 0
    reader.close()
    second.close()


def test_what_a_closed_publisher_sent_can_still_be_read(bus: Bus) -> None:
    reader, publisher = Subscriber(bus, "camera", "lossless"), Publisher(bus, "camera", 1 << 14)
    publisher.announce(frames(), 1)
    assert not reader.pending()  # they have met
    for value in range(5):
        send(publisher, value)
    publisher.close()
    publisher.close()
    assert [int(block.data[0, 0, 0]) for block in reader.drain()] == [0, 1, 2, 3, 4]
    reader.close()
    reader.close()


def test_misuse_is_one_clear_line(local: Bus) -> None:
    publisher = Publisher(local, "camera", 1 << 12)
    with pytest.raises(BusError, match="never announced"):
        publisher.loan(1)
    publisher.announce(frames(), 1)
    with pytest.raises(BusError, match="fewer frames a block"):
        publisher.loan(1000)
    buffer = publisher.loan(2)
    with pytest.raises(WireError, match="3 frames in a block of 2"):
        publisher.send(buffer, 3, generation=1)
    with pytest.raises(BusError, match="being filled"):
        publisher.announce(frames(), 2)
    publisher.discard(buffer)
    with pytest.raises(BusError, match="not on loan"):
        publisher.send(buffer, 1, generation=1)
    with pytest.raises(BusError, match="can't give credit"):
        Subscriber(local, "camera", "newest", credit=True)
    for _ in range(4):
        publisher.loan(1)
    with pytest.raises(BusError, match="no free block"):
        publisher.loan(1)
    assert publisher.next_index == 0
    publisher.close()


@settings(max_examples=200)
@given(data=st.data())
def test_garbage_is_never_delivered(data: st.DataObject) -> None:
    """Mutate a valid header: either the block is consistent with its spec, or it is counted and dropped."""
    valid = bytearray(HEADER.pack(1, 0, 0, 2, 3, 1, 0, -1, 5, 0, 256, 0, 1, 0, 0))
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, 79), st.integers(0, 255)), max_size=4)):
        valid[at] = byte
    size = data.draw(st.sampled_from([1, 2, 4, 8, 9, 64]))
    with Bus(f"garbage-{id(data)}", "test", local=True) as bus:
        reader, publisher = Subscriber(bus, "camera", "lossless"), Publisher(bus, "camera", 1 << 12)
        publisher.announce(frames(), 1)
        sample = publisher._port.loan_slice_uninit(size)
        ctypes.memset(sample.payload_ptr, 0, size * 64)
        ctypes.memmove(sample.payload_ptr, bytes(valid), min(128, size * 64))
        sample.assume_init().send()
        block = reader.receive()
        stats = reader.stats
        if block is None:
            assert stats.wire_errors + stats.unspecified == 1 or HEADER.unpack(valid)[2] < 0
        else:
            assert block.data.shape == (block.count, 8, 8)
            assert block.data.sum() == 0
            assert isinstance(block, FrameBlock)
            assert (stats.blocks, stats.wire_errors) == (1, 0)
        send(publisher, 7)
        reader.close()
        publisher.close()
