"""The 128-byte block header of data/frame.py as one struct call, and the views over a received block.

Both are on the path of every block: the struct call takes 0.4 us (a numpy record 3), views are laid once a slot.
"""

from __future__ import annotations

import ctypes
import struct
from typing import Any, TypeAlias

import numpy as np

from ..data.axes import StreamSpec
from ..data.errors import WireError
from ..data.frame import HEADER_BYTES, BlockFlag, FrameBuffer, block_bytes, data_offset

HEADER = struct.Struct("<IIqIIqqqqqqQqqq24x")
assert HEADER.size == HEADER_BYTES
HeaderMemory = ctypes.c_char * HEADER_BYTES

# creating an IntFlag costs 0.5 us, so the sixteen possible values exist once
FLAGS = tuple(BlockFlag(value) for value in range(16))

# capacity, bytes of the sample, its header, bytes for the payload, bytes a frame (None: ragged), then the arrays of
# FrameBlock
Layout: TypeAlias = tuple[int, int, Any, int, int | None, Any, Any, Any, Any, Any, Any]


def lay_out(address: int, capacity: int, room: int, spec: StreamSpec) -> Layout:
    """Lay read-only views over the `room` bytes of a block at `address`; raises WireError when it can't be one."""
    ragged = spec.kind == "ragged"
    if room < data_offset(capacity) or (not ragged and room < block_bytes(spec, capacity)):
        raise WireError(f"{room} bytes can't hold {capacity} frames of {spec.name!r}")
    memory = np.frombuffer(memoryview((ctypes.c_uint8 * room).from_address(address)), np.uint8)
    memory.flags.writeable = False
    one = FrameBuffer.over(memory, spec, capacity)
    columns = (one.data, one.time_ns, one.scan_index, one.position, one.dose, one.flags)
    header = HeaderMemory.from_address(address)
    return (capacity, room, header, room - data_offset(capacity), None if ragged else spec.frame_bytes, *columns)
