"""The 128-byte block header of data/frame.py as one struct call (0.4 us; a numpy record takes 3)."""

from __future__ import annotations

import struct

from ..data.frame import HEADER_BYTES, BlockFlag

HEADER = struct.Struct("<IIqIIqqqqqqQ48x")
assert HEADER.size == HEADER_BYTES

# creating an IntFlag costs 0.5 us, so the sixteen possible values exist once
FLAGS = tuple(BlockFlag(value) for value in range(16))
