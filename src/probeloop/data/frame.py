"""Blocks: a 128-byte header, per-frame columns, the payload. One layout for bus, disk and tests.

    0        128                        data_offset(capacity)
    | header | time_ns scan_index position dose flags | payload (capacity frames)

Columns are laid out for `capacity`, so a producer can fill a block before it knows how many frames will fit in
its 2 ms; `count` says how many are valid.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from .axes import StreamSpec
from .errors import WireError

LAYOUT = 1
HEADER = np.dtype(
    [
        ("layout", "<u4"),
        ("flags", "<u4"),
        ("index", "<i8"),
        ("count", "<u4"),
        ("capacity", "<u4"),
        ("generation", "<i8"),
        ("revision", "<i8"),
        ("source_index", "<i8"),
        ("published_ns", "<i8"),
        ("exposed_ns", "<i8"),
        ("payload_bytes", "<i8"),
        ("checksum", "<u8"),
        ("announced", "<i8"),
        ("source_published_ns", "<i8"),
        ("taken_ns", "<i8"),
        ("spare", "V24"),
    ]
)
HEADER_BYTES = 128
assert HEADER.itemsize == HEADER_BYTES
COLUMN_BYTES = 8 + 8 + 16 + 8 + 2


class BlockFlag(enum.IntFlag):
    """What a block says about its scan."""

    SCAN_BEGIN = 1
    SCAN_END = 2
    ABORTED = 4
    LAST_ROWS = 8


class FrameFlag(enum.IntFlag):
    """What a frame says about itself (CONVENTIONS.md 3)."""

    LINE_START = 1
    LINE_END = 2
    FLYBACK = 4
    SATURATED = 8
    SETTLING = 16
    PATTERN_REPEAT = 32
    TRIGGER_MISSED = 64
    REPEAT_VISIT = 128


def data_offset(capacity: int) -> int:
    """Return where the payload begins [bytes], a multiple of 64."""
    return -(-(HEADER_BYTES + COLUMN_BYTES * capacity) // 64) * 64


def block_bytes(spec: StreamSpec, capacity: int) -> int:
    """Return the size of a block of `capacity` frames [bytes] (ragged: without its byte strings)."""
    return data_offset(capacity) + capacity * spec.frame_bytes


@dataclass(frozen=True, slots=True)
class FrameBuffer:
    """Memory that a source fills in place: rows [0, n) of every column and of `data`.

    data (capacity, *frame_shape); time_ns (capacity,) int64 start of exposure [ns]; scan_index (capacity,) int64;
    position (capacity, 2) float64 (x, y) [m]; dose (capacity,) float64 incident electrons; flags (capacity,) uint16.
    """

    spec: StreamSpec
    capacity: int
    header: NDArray[Any]
    data: NDArray[Any]
    time_ns: NDArray[np.int64]
    scan_index: NDArray[np.int64]
    position: NDArray[np.float64]
    dose: NDArray[np.float64]
    flags: NDArray[np.uint16]

    @classmethod
    def over(cls, memory: NDArray[np.uint8], spec: StreamSpec, capacity: int) -> FrameBuffer:
        """Lay a block of `capacity` frames over `memory`; raises WireError when it is too short."""
        if capacity < 0 or memory.size < block_bytes(spec, capacity):
            raise WireError(f"{memory.size} bytes can't hold {capacity} frames of {spec.name!r}")
        at = HEADER_BYTES

        def column(dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
            nonlocal at
            size = math.prod(shape) * np.dtype(dtype).itemsize
            view = memory[at : at + size].view(dtype).reshape(shape)
            at += size
            return view

        columns = (
            column("<i8", (capacity,)),
            column("<i8", (capacity,)),
            column("<f8", (capacity, 2)),
            column("<f8", (capacity,)),
            column("<u2", (capacity,)),
        )
        start = data_offset(capacity)
        if spec.kind == "ragged":
            data = memory[start:]
        else:
            raw = memory[start : start + capacity * spec.frame_bytes]
            data = raw.view(spec.numpy_dtype).reshape((capacity, *spec.frame_shape))
        return cls(spec, capacity, memory[:HEADER_BYTES].view(HEADER), data, *columns)

    @classmethod
    def allocate(cls, spec: StreamSpec, capacity: int) -> FrameBuffer:
        """Return a zeroed private buffer, 64-byte aligned."""
        size = block_bytes(spec, capacity)
        memory = np.zeros(size + 64, np.uint8)
        start = -memory.ctypes.data % 64
        return cls.over(memory[start : start + size], spec, capacity)

    def seal(
        self,
        count: int,
        *,
        index: int,
        generation: int,
        flags: int = 0,
        revision: int = 0,
        source_index: int = -1,
        published_ns: int = 0,
        exposed_ns: int = 0,
        payload_bytes: int | None = None,
        checksum: int = 0,
        source_published_ns: int = 0,
        taken_ns: int = 0,
    ) -> None:
        """Write the header: rows [0, count) are now a block."""
        size = count * self.spec.frame_bytes if payload_bytes is None else payload_bytes
        self.header[0] = (
            LAYOUT, flags, index, count, self.capacity, generation, revision, source_index,
            published_ns, exposed_ns, size, checksum, 0, source_published_ns, taken_ns, b"",
        )  # fmt: skip


class FrameBlock(msgspec.Struct, frozen=True, eq=False):  # made once a block: 0.2 us, a frozen dataclass takes 3
    """N frames as a reader sees them: read-only views, valid until the reader's `process` returns.

    data (N, *frame_shape); time_ns, scan_index, position, dose, frame_flags: see FrameBuffer.
    index: sequence number of the first frame in its topic. exposed_ns, published_ns: host CLOCK_MONOTONIC.
    Of a derived block, source_published_ns: when the camera's block was published, taken_ns: when the first plug-in
    took it in; 0 for a block that no plug-in made.
    """

    spec: StreamSpec
    index: int
    count: int
    flags: BlockFlag
    generation: int
    revision: int
    source_index: int
    published_ns: int
    exposed_ns: int
    checksum: int
    data: NDArray[Any]
    time_ns: NDArray[np.int64]
    scan_index: NDArray[np.int64]
    position: NDArray[np.float64]
    dose: NDArray[np.float64]
    frame_flags: NDArray[np.uint16]
    source_published_ns: int = 0
    taken_ns: int = 0

    @classmethod
    def parse(cls, memory: NDArray[np.uint8], spec: StreamSpec) -> FrameBlock:
        """Read a block out of `memory` without copying it; raises WireError when it can't be one."""
        if memory.size < HEADER_BYTES:
            raise WireError(f"{memory.size} bytes are no block", "a header has 128")
        head = memory[:HEADER_BYTES].view(HEADER)[0]
        count, capacity, size = int(head["count"]), int(head["capacity"]), int(head["payload_bytes"])
        if int(head["layout"]) != LAYOUT:
            raise WireError(f"block layout {int(head['layout'])}, this is version {LAYOUT}", "restart every process")
        if count > capacity or size < 0 or data_offset(capacity) + size > memory.size:
            raise WireError(f"header claims {count} of {capacity} frames, {size} bytes in {memory.size}")
        if spec.kind != "ragged" and size != count * spec.frame_bytes:
            raise WireError(f"{size} payload bytes, {spec.name!r} says {count * spec.frame_bytes}")
        view = memory.view()
        view.flags.writeable = False
        buffer = FrameBuffer.over(view, spec, capacity)
        return cls(
            spec,
            int(head["index"]),
            count,
            BlockFlag(int(head["flags"])),
            int(head["generation"]),
            int(head["revision"]),
            int(head["source_index"]),
            int(head["published_ns"]),
            int(head["exposed_ns"]),
            int(head["checksum"]),
            buffer.data[:size] if spec.kind == "ragged" else buffer.data[:count],
            buffer.time_ns[:count],
            buffer.scan_index[:count],
            buffer.position[:count],
            buffer.dose[:count],
            buffer.flags[:count],
            int(head["source_published_ns"]),
            int(head["taken_ns"]),
        )

    def copy(self) -> FrameBlock:
        """Return a block with memory of its own, to keep after `process` returned."""
        return msgspec.structs.replace(
            self,
            data=self.data.copy(),
            time_ns=self.time_ns.copy(),
            scan_index=self.scan_index.copy(),
            position=self.position.copy(),
            dose=self.dose.copy(),
            frame_flags=self.frame_flags.copy(),
        )

    def rows(self, which: slice | NDArray[np.intp]) -> FrameBlock:
        """Return some of its frames, in the order of `which`: (M,) row numbers, or a slice, which copies nothing.

        Its `index` is that of the first of them. Raises WireError for a ragged block.
        """
        if self.spec.kind == "ragged":
            raise WireError(f"{self.spec.name!r} is ragged: its frames can't be told apart", "use its items")
        time_ns = self.time_ns[which]
        first = which.start or 0 if isinstance(which, slice) else int(which[0]) if len(which) else 0
        return msgspec.structs.replace(
            self,
            index=self.index + first,
            count=len(time_ns),
            data=self.data[which],
            time_ns=time_ns,
            scan_index=self.scan_index[which],
            position=self.position[which],
            dose=self.dose[which],
            frame_flags=self.frame_flags[which],
        )

    @property
    def items(self) -> list[bytes]:
        """The byte strings of a ragged block; raises WireError when its offsets lie."""
        if self.spec.kind != "ragged":
            raise WireError(f"{self.spec.name!r} is not ragged")
        return unpack_ragged(self.data, self.count)


def together(blocks: Sequence[FrameBlock]) -> FrameBlock:
    """Return the frames of several blocks of one spec, one after another, with the last one's header.

    One block is returned as it is, of several all is copied.
    """
    if len(blocks) == 1:
        return blocks[0]

    def column(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(block, name) for block in blocks])

    return msgspec.structs.replace(
        blocks[-1], index=blocks[0].index, count=sum(block.count for block in blocks), data=column("data"),
        time_ns=column("time_ns"), scan_index=column("scan_index"), position=column("position"),
        dose=column("dose"), frame_flags=column("frame_flags"),
    )  # fmt: skip


def pack_ragged(items: list[bytes]) -> bytes:
    """Return the payload of a ragged block: N + 1 uint32 offsets, then the bytes."""
    offsets = np.zeros(len(items) + 1, "<u4")
    np.cumsum([len(item) for item in items], out=offsets[1:]) if items else None
    return offsets.tobytes() + b"".join(items)


def unpack_ragged(payload: NDArray[np.uint8], count: int) -> list[bytes]:
    """Read what `pack_ragged` wrote; raises WireError when the offsets are not inside the payload."""
    start = 4 * (count + 1)
    if payload.size < start:
        raise WireError("ragged payload shorter than its offsets")
    offsets = np.frombuffer(payload[:start].tobytes(), "<u4").astype(np.int64)
    if offsets[0] != 0 or np.any(np.diff(offsets) < 0) or offsets[-1] > payload.size - start:
        raise WireError("ragged offsets point outside their payload")
    body = payload[start:].tobytes()
    return [body[a:b] for a, b in itertools.pairwise(offsets)]
