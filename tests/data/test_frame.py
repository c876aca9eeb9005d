"""Blocks: what goes in comes out, in place; what is no block is a WireError and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from probeloop.data.axes import Axis, StreamSpec
from probeloop.data.errors import WireError
from probeloop.data.frame import (
    HEADER,
    HEADER_BYTES,
    BlockFlag,
    FrameBlock,
    FrameBuffer,
    FrameFlag,
    block_bytes,
    data_offset,
    pack_ragged,
    unpack_ragged,
)

CAMERA = StreamSpec("camera", "frames", "<u2", sig=(Axis("ky", 4), Axis("kx", 6)))
COUNTED = StreamSpec("counted", "ragged")


def memory_of(spec: StreamSpec, capacity: int, extra: int = 0) -> np.ndarray:
    return np.zeros(block_bytes(spec, capacity) + extra, np.uint8)


@given(
    st.integers(0, 9),
    st.integers(0, 4),
    st.sampled_from(["<u1", "<u2", "<i4", "<f4", "<f8", "<c8", "<c16"]),
    hnp.array_shapes(min_dims=0, max_dims=3, max_side=5),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 2**31),
)
def test_a_block_survives(count: int, spare: int, dtype: str, shape: tuple[int, ...], big: int, seed: int) -> None:
    spec = StreamSpec("any", "frames", dtype, sig=tuple(Axis(f"a{i}", n) for i, n in enumerate(shape)))
    memory = memory_of(spec, count + spare)
    buffer = FrameBuffer.over(memory, spec, count + spare)
    generator = np.random.default_rng(seed)
    buffer.data[:count] = generator.integers(0, 100, (count, *shape))
    buffer.time_ns[:count] = generator.integers(-(2**62), 2**62, count)
    buffer.scan_index[:count] = generator.integers(-1, 2**40, count)
    buffer.position[:count] = generator.normal(size=(count, 2))
    buffer.dose[:count] = generator.random(count)
    buffer.flags[:count] = generator.integers(0, 256, count)
    flags = BlockFlag.SCAN_END | BlockFlag.ABORTED
    buffer.seal(
        count, index=big, generation=-big - 1, flags=flags, revision=7, source_index=3,
        published_ns=5, exposed_ns=6, checksum=2**64 - 1, source_published_ns=8, taken_ns=big,
    )  # fmt: skip
    block = FrameBlock.parse(memory, spec)
    assert (block.count, block.index, block.generation, block.flags) == (count, big, -big - 1, flags)
    assert (block.revision, block.source_index, block.published_ns, block.exposed_ns) == (7, 3, 5, 6)
    assert (block.checksum, block.source_published_ns, block.taken_ns) == (2**64 - 1, 8, big)
    for name, of_buffer in [("data", "data"), ("time_ns", "time_ns"), ("scan_index", "scan_index"),
                            ("position", "position"), ("dose", "dose"), ("frame_flags", "flags")]:  # fmt: skip
        ours, theirs = getattr(block, name), getattr(buffer, of_buffer)[:count]
        np.testing.assert_array_equal(ours, theirs)
        assert not ours.flags.writeable
        assert np.shares_memory(ours, memory) or ours.size == 0
    kept = block.copy()
    memory[:] = 255
    assert not np.shares_memory(kept.data, memory)
    assert kept.scan_index.shape == (count,)


@given(st.binary(max_size=600))
def test_garbage_is_a_wire_error(data: bytes) -> None:
    with pytest.raises(WireError):
        FrameBlock.parse(np.frombuffer(data, np.uint8), CAMERA)


@pytest.mark.parametrize("spec", [CAMERA, COUNTED], ids=lambda s: s.kind)
@given(changes=st.lists(st.tuples(st.integers(0, HEADER_BYTES - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_damaged_header_gives_a_block_inside_the_memory_or_a_wire_error(
    spec: StreamSpec, changes: list[tuple[int, int]]
) -> None:
    memory = memory_of(spec, 5, extra=0 if spec is CAMERA else 64)
    FrameBuffer.over(memory, spec, 5).seal(3, index=0, generation=0, payload_bytes=None if spec is CAMERA else 40)
    for at, value in changes:
        memory[at] = value
    try:
        block = FrameBlock.parse(memory, spec)
        if spec.kind == "ragged":
            assert sum(map(len, block.items)) <= memory.size
    except WireError:
        return
    assert block.time_ns.shape == (block.count,)
    if spec is CAMERA:
        assert block.data.shape == (block.count, 4, 6)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("layout", 2),
        ("count", 6),
        ("capacity", 2**32 - 1),
        ("payload_bytes", -1),
        ("payload_bytes", 2**62),
        ("count", 0),
    ],
)
def test_each_lie_of_a_header_is_found(field: str, value: int) -> None:
    memory = memory_of(CAMERA, 5)
    FrameBuffer.over(memory, CAMERA, 5).seal(3, index=0, generation=0)
    memory[:HEADER_BYTES].view(HEADER)[field] = value
    with pytest.raises(WireError):
        FrameBlock.parse(memory, CAMERA)


def test_a_block_of_another_stream_is_refused() -> None:
    memory = memory_of(CAMERA, 2)
    FrameBuffer.over(memory, CAMERA, 2).seal(2, index=0, generation=0)
    with pytest.raises(WireError, match="payload bytes"):
        FrameBlock.parse(memory, StreamSpec("camera", "frames", "<f4", sig=CAMERA.sig))


def test_an_empty_block_can_end_a_scan() -> None:
    memory = memory_of(CAMERA, 0)
    FrameBuffer.over(memory, CAMERA, 0).seal(0, index=9, generation=2, flags=BlockFlag.SCAN_END)
    block = FrameBlock.parse(memory, CAMERA)
    assert block.count == 0
    assert block.flags == BlockFlag.SCAN_END
    assert block.data.shape == (0, 4, 6)


def test_payload_and_columns_are_aligned_and_apart() -> None:
    assert all(data_offset(n) % 64 == 0 for n in range(40))
    buffer = FrameBuffer.allocate(CAMERA, 5)
    assert buffer.data.ctypes.data % 64 == 0
    buffer.data[:] = 1
    buffer.seal(5, index=0, generation=0)
    parts = [buffer.time_ns, buffer.scan_index, buffer.position, buffer.dose, buffer.flags]
    assert all(not part.any() for part in parts)
    assert len({p.ctypes.data for p in parts}) == len(parts)
    with pytest.raises(WireError, match="can't hold"):
        FrameBuffer.over(np.zeros(100, np.uint8), CAMERA, 1)


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_ragged_items_survive(items: list[bytes]) -> None:
    payload = pack_ragged(items)
    memory = memory_of(COUNTED, len(items), extra=len(payload))
    buffer = FrameBuffer.over(memory, COUNTED, len(items))
    buffer.data[: len(payload)] = np.frombuffer(payload, np.uint8)
    buffer.seal(len(items), index=0, generation=0, payload_bytes=len(payload))
    assert FrameBlock.parse(memory, COUNTED).items == items


@given(st.binary(max_size=60), st.integers(0, 10))
def test_offsets_that_lie_are_a_wire_error(payload: bytes, count: int) -> None:
    try:
        items = unpack_ragged(np.frombuffer(payload, np.uint8), count)
    except WireError:
        return
    assert len(items) == count
    assert sum(map(len, items)) <= len(payload)


def test_only_ragged_blocks_have_items() -> None:
    memory = memory_of(CAMERA, 1)
    FrameBuffer.over(memory, CAMERA, 1).seal(1, index=0, generation=0)
    with pytest.raises(WireError, match="not ragged"):
        _ = FrameBlock.parse(memory, CAMERA).items


def test_flags_fit_their_column() -> None:
    assert int(max(FrameFlag)) < 2**16
