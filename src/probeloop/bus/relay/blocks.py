"""A block as parts of a message, and back into a loaned buffer of another bus. One copy each way.

Compression is bitshuffle + lz4 in a Blosc frame, as the recorder's; on counted frames it halves what plain lz4 leaves
(measured: 8.9 against 4.3 times at 0.15 electrons a pixel).
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from ...data.axes import StreamSpec
from ...data.errors import WireError
from ...data.frame import COLUMN_BYTES, FrameBlock, FrameBuffer, block_bytes, data_offset
from .wire import MOST_PART, Block, encode

_WORTH_PACKING = 512
_BLOSC_HEAD = struct.Struct("<4xIII")
_codec: Any = None


def _blosc() -> Any:
    global _codec
    if _codec is None:
        import numcodecs

        numcodecs.blosc.set_nthreads(1)
        _codec = numcodecs.Blosc(cname="lz4", clevel=1, shuffle=numcodecs.Blosc.BITSHUFFLE)
    return _codec


def prepare() -> None:
    """Load the codec: in the middle of things that would hold up a STOP [0.2 s]."""
    _blosc()


def pack(block: FrameBlock, topic: str, serial: int, compress: bool) -> tuple[bytes, bytes, bytes]:
    """Return head, columns and payload; they share no memory with the block."""
    columns = b"".join(
        each.tobytes() for each in (block.time_ns, block.scan_index, block.position, block.dose, block.frame_flags)
    )
    size = block.data.nbytes
    payload, packed = b"", False
    if compress and size >= _WORTH_PACKING:
        payload = bytes(_blosc().encode(np.ascontiguousarray(block.data)))
        packed = len(payload) < size
    if not packed:
        payload = block.data.tobytes()
    head = Block(
        topic, serial, block.index, block.count, int(block.flags), block.generation, block.revision,
        block.source_index, block.published_ns, block.exposed_ns, block.checksum, size, packed,
    )  # fmt: skip
    return encode(head), columns, payload


def room_for(head: Block, spec: StreamSpec) -> int:
    """Return how large the block is in shared memory [bytes]; raises WireError when it can't be one of this spec."""
    if spec.kind == "ragged":
        total = data_offset(head.count) + head.size
    else:
        total = block_bytes(spec, head.count)
        if head.size != head.count * spec.frame_bytes:
            raise WireError(f"{head.size} payload bytes, {spec.name!r} says {head.count * spec.frame_bytes}")
    if total > MOST_PART:
        raise WireError(f"a block of {total} bytes, at most {MOST_PART} are taken")
    return total


def check(head: Block, columns: Any, payload: Any) -> None:
    """Raise WireError when the parts are not of the sizes that the head names; nothing is unpacked for that."""
    if len(columns) != head.count * COLUMN_BYTES:
        raise WireError(f"{len(columns)} bytes of columns for {head.count} frames")
    if not head.packed:
        if len(payload) != head.size:
            raise WireError(f"{len(payload)} bytes of payload, the head says {head.size}")
        return
    if len(payload) < 16:
        raise WireError(f"a packed payload of {len(payload)} bytes is torn")
    raw, _, stored = _BLOSC_HEAD.unpack_from(payload)
    if raw != head.size or stored != len(payload):
        raise WireError(f"a packed payload of {raw} bytes in {stored}, the head says {head.size} in {len(payload)}")


def unpack(head: Block, columns: Any, payload: Any, buffer: FrameBuffer) -> None:
    """Fill a loaned buffer of at least `count` frames, after `check`; raises WireError for a damaged payload."""
    at, count = 0, head.count
    for column in (buffer.time_ns, buffer.scan_index, buffer.position, buffer.dose, buffer.flags):
        part = column[:count]
        part[...] = np.frombuffer(columns, part.dtype, part.size, at).reshape(part.shape)
        at += part.nbytes
    target = buffer.data.reshape(-1).view(np.uint8)[: head.size]
    if not head.packed:
        target[...] = np.frombuffer(payload, np.uint8)
        return
    try:
        _blosc().decode(payload, target)
    except (RuntimeError, ValueError) as error:
        raise WireError(f"a packed payload is damaged: {error}") from error
