"""A check sum over everything in a block, for who wants to know that what was read is what was sent.

Senders write it into the header when the environment says PROBELOOP_CHECKSUMS=1 (zlib's crc32, some 1 GB/s: fine for
a bench or a machine under suspicion, not for a fast camera); without it the header has 0.
"""

from __future__ import annotations

import os
import zlib
from typing import Any

from ..data.frame import FrameBlock, FrameBuffer

_THERE = 1 << 32  # so that a sum is never 0, which stands for none


def wanted() -> bool:
    """Return whether senders of this process write check sums."""
    return os.environ.get("PROBELOOP_CHECKSUMS") == "1"


def sum_of_buffer(buffer: FrameBuffer, count: int, payload_bytes: int) -> int:
    """Return the check sum of rows [0, count) of a buffer that is about to be sent."""
    data = buffer.data[:payload_bytes] if buffer.spec.kind == "ragged" else buffer.data[:count]
    columns = (buffer.time_ns, buffer.scan_index, buffer.position, buffer.dose, buffer.flags)
    return _sum(data, *(column[:count] for column in columns))


def sum_of_block(block: FrameBlock) -> int:
    """Return the check sum of a block as it is in memory now; it equals `block.checksum` when that was written."""
    return _sum(block.data, block.time_ns, block.scan_index, block.position, block.dose, block.frame_flags)


def _sum(*arrays: Any) -> int:
    crc = 0
    for array in arrays:
        crc = zlib.crc32(array, crc)
    return _THERE | crc
