"""What may come over the wire: nothing but WireError, and nothing larger than was said."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probeloop.bus.relay import wire
from probeloop.bus.relay.blocks import check, pack, room_for, unpack
from probeloop.data.axes import Axis, StreamSpec
from probeloop.data.errors import WireError
from probeloop.data.frame import BlockFlag, FrameBlock, FrameBuffer, block_bytes, data_offset, pack_ragged

CAMERA = StreamSpec("camera", "frames", "<u2", nav=(Axis("y", 4), Axis("x", 4)), sig=(Axis("ky", 8), Axis("kx", 8)))
TABLE = StreamSpec("spots", "table", fields=(("x", "<f8"), ("n", "<i4")))
RAGGED = StreamSpec("events_", "ragged")
IMAGE = StreamSpec("map", "image", "<c8", sig=(Axis("y", 5), Axis("x", 3)))
SPECS = {"frames": CAMERA, "table": TABLE, "ragged": RAGGED, "image": IMAGE}


def block(spec: StreamSpec, count: int, seed: int = 1) -> FrameBlock:
    """A block with something in every field."""
    chance = np.random.default_rng(seed)
    items = [bytes(range(n % 7)) for n in range(count)]
    extra = pack_ragged(items) if spec.kind == "ragged" else b""
    memory = np.zeros(max(block_bytes(spec, count), data_offset(count) + len(extra)), np.uint8)
    buffer = FrameBuffer.over(memory, spec, count)
    raw = buffer.data.reshape(-1).view(np.uint8)
    raw[:] = chance.poisson(0.2, raw.size) if spec.kind != "ragged" else np.frombuffer(extra, np.uint8)
    buffer.time_ns[:] = chance.integers(0, 2**60, count)
    buffer.scan_index[:] = chance.integers(-1, 16, count)
    buffer.position[:] = chance.normal(size=(count, 2))
    buffer.dose[:] = chance.random(count)
    buffer.flags[:] = chance.integers(0, 256, count)
    buffer.seal(
        count, index=3, generation=7, flags=5, revision=2, source_index=11, published_ns=5, exposed_ns=4,
        payload_bytes=len(extra) or None, checksum=2**64 - 1,
    )  # fmt: skip
    return FrameBlock.parse(memory, spec)


def same(parts: tuple[bytes, bytes, bytes], original: FrameBlock) -> wire.Block:
    head = wire.read_from_server(parts[0])
    assert isinstance(head, wire.Block)
    room = room_for(head, original.spec)
    check(head, parts[1], parts[2])
    memory = np.zeros(room, np.uint8)
    buffer = FrameBuffer.over(memory, original.spec, head.count)
    unpack(head, parts[1], parts[2], buffer)
    size = head.size if original.spec.kind == "ragged" else head.count
    assert buffer.data[:size].tobytes() == original.data.tobytes()
    for name in ("time_ns", "scan_index", "position", "dose"):
        assert np.array_equal(getattr(buffer, name), getattr(original, name))
    assert np.array_equal(buffer.flags, original.frame_flags)
    return head


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("count", [0, 1, 300])
@pytest.mark.parametrize("kind", SPECS)
def test_a_block_comes_out_bit_for_bit(kind: str, count: int, compress: bool) -> None:
    original = block(SPECS[kind], count)
    head = same(pack(original, "topic", 9, compress), original)
    assert (head.index, head.generation, head.revision, head.source_index) == (3, 7, 2, 11)
    assert (head.flags, head.checksum, head.serial) == (BlockFlag(5), 2**64 - 1, 9)
    assert head.packed == (compress and count == 300)


def test_noise_travels_as_it_is() -> None:
    spec = msgspec.structs.replace(CAMERA, dtype="<f8")
    original = block(spec, 4)
    raw = np.random.default_rng(0).integers(0, 256, original.data.nbytes, np.uint8)
    loud = msgspec.structs.replace(original, data=raw.view("<f8").reshape(original.data.shape))
    head = wire.read_from_server(pack(loud, "t", 1, True)[0])
    assert isinstance(head, wire.Block)
    assert not head.packed


MESSAGES: list[Any] = [
    wire.Envelope(b"", 1, wire.Hello(1, bytes(16))),
    wire.Envelope(bytes(16), 2, wire.Join({"camera": 3}, 4)),
    wire.Envelope(bytes(16), 3, wire.Beat(1, 2, 3)),
    wire.Envelope(bytes(16), 4, wire.Ask(1, "instrument", 5, b"\x81\xa4type\xa8Describe")),
    wire.Envelope(bytes(16), 5, wire.Receipt(10, {"camera": 3}, 4)),
]
ANSWERS: list[Any] = [
    wire.Welcome(bytes(16), 5, "rig", "operator:anna", "operator", True),
    wire.Bye("no", "go", True),
    wire.Beat(1, 2, 3),
    wire.Answer(1, b"x"),
    wire.State((("instrument", 5, 6, 7),), ((16, "haadf"),), ("instrument",)),
    wire.Spec("camera", True, 0, 1, CAMERA),
    wire.read_from_server(pack(block(CAMERA, 2), "camera", 1, True)[0]),
    wire.Happened(1, b"x"),
]


@pytest.mark.parametrize("message", MESSAGES + ANSWERS, ids=lambda m: type(getattr(m, "message", m)).__name__)
def test_messages_come_back(message: Any) -> None:
    read = wire.read_envelope if isinstance(message, wire.Envelope) else wire.read_from_server
    assert read(wire.encode(message)) == message


@st.composite
def mutated(draw: st.DrawFn, messages: list[Any]) -> bytes:
    """A valid message with some bytes changed, cut off, doubled or put in."""
    body = bytearray(wire.encode(draw(st.sampled_from(messages))))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(body)))
        what = draw(st.sampled_from(("set", "cut", "add", "double")))
        if what == "set" and at < len(body):
            body[at] = draw(st.integers(0, 255))
        elif what == "cut":
            del body[at : at + draw(st.integers(1, 9))]
        elif what == "add":
            body[at:at] = draw(st.binary(max_size=9))
        else:
            body += body[at:]
    return bytes(body)


@settings(max_examples=1500)
@given(st.one_of(mutated(MESSAGES), mutated(ANSWERS), st.binary(max_size=200)))
def test_nothing_but_a_wire_error_comes_of_garbage(body: bytes) -> None:
    for read in (wire.read_envelope, wire.read_from_server):
        try:
            message: Any = read(body)
        except WireError:
            continue
        assert wire.encode(message)  # whatever was let through is whole


@pytest.mark.parametrize(
    "body",
    [
        b"\x91" * 100_000,  # nesting
        b"\xdd\xff\xff\xff\xff",  # an array of 4 billion
        b"\xc6\xff\xff\xff\xff",  # 4 GB of bytes
        b"\xdf\xff\xff\xff\xff",  # a map of 4 billion
        b"\x00" * (wire.MOST_ASKED + 2000),  # too long
        wire.encode(wire.Envelope(bytes(16), 1, wire.Join({f"t{i}": 1 for i in range(wire.MOST_TOPICS + 1)}, 0))),
        wire.encode(wire.Envelope(bytes(17), 1, wire.Beat(1, 2, 3))),
        wire.encode(wire.Envelope(bytes(16), -1, wire.Beat(1, 2, 3))),
        wire.encode(wire.Envelope(bytes(16), 1, wire.Beat(2**63, 2, 3))),
        wire.encode(wire.Envelope(bytes(16), 1, wire.Ask(1, "x" * 49, 0, b""))),
        wire.encode(wire.Envelope(bytes(16), 1, wire.Hello(1, b"short"))),
    ],
)
def test_a_bomb_costs_no_memory(body: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            wire.read_envelope(body)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@settings(max_examples=600)
@given(data=st.data(), kind=st.sampled_from(sorted(SPECS)), compress=st.booleans())
def test_no_damaged_block_gets_further_than_its_own_buffer(data: st.DataObject, kind: str, compress: bool) -> None:
    spec = SPECS[kind]
    head_bytes, columns, payload = pack(block(spec, 40), "topic", 1, compress)
    head = wire.read_from_server(head_bytes)
    assert isinstance(head, wire.Block)
    for name in data.draw(st.lists(st.sampled_from(("count", "size", "packed")), max_size=2)):
        values: Any = st.booleans() if name == "packed" else st.integers(0, 2**31)
        head = msgspec.structs.replace(head, **{name: data.draw(values)})
    parts = [bytearray(columns), bytearray(payload)]
    for _ in range(data.draw(st.integers(0, 8))):
        part = parts[data.draw(st.integers(0, 1))]
        if part and data.draw(st.booleans()):
            part[data.draw(st.integers(0, len(part) - 1))] = data.draw(st.integers(0, 255))
        elif part:
            del part[data.draw(st.integers(0, len(part) - 1)) :]
    try:
        room = room_for(head, spec)
        check(head, parts[0], parts[1])
    except WireError:
        return
    assert room <= wire.MOST_PART
    guarded = np.full(room + 128, 0xA5, np.uint8)
    buffer = FrameBuffer.over(guarded[:room], spec, head.count)
    with contextlib.suppress(WireError):
        unpack(head, bytes(parts[0]), bytes(parts[1]), buffer)
    assert (guarded[room:] == 0xA5).all()


@pytest.mark.parametrize("size", [0, 2**20, 2**31])
def test_a_packed_payload_that_claims_another_size_is_not_unpacked(size: int) -> None:
    head_bytes, columns, payload = pack(block(CAMERA, 300), "topic", 1, True)
    head = wire.read_from_server(head_bytes)
    lying = bytearray(payload)
    struct.pack_into("<I", lying, 4, size)
    with pytest.raises(WireError, match="the head says"):
        check(head, columns, lying)  # type: ignore[arg-type]


def test_a_description_that_is_none_is_refused() -> None:
    bad = msgspec.structs.replace(CAMERA, dtype="O")
    with pytest.raises(WireError, match="no stream description"):
        wire.read_from_server(wire.encode(wire.Spec("camera", True, 0, 1, bad)))
    huge = msgspec.structs.replace(CAMERA, sig=(Axis("ky", 2**30), Axis("kx", 2**30)))
    with pytest.raises(WireError, match="larger than any memory"):
        wire.read_from_server(wire.encode(wire.Spec("camera", True, 0, 1, huge)))
