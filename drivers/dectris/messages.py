"""What comes over a stream, whichever version it has."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Algorithm = Literal["bslz4", "lz4", "raw_lz4", "none"]


class Packed(msgspec.Struct, frozen=True):
    """A compressed frame.

    algorithm: bslz4 and lz4 have the framing of their HDF5 filters, raw_lz4 is one bare block. element: of the bit
    shuffle [bytes]. dtype: of the pixels ("<u2"). shape: (height, width) as it says. data: as it came.
    """

    algorithm: Algorithm
    element: int
    dtype: str
    shape: tuple[int, int]
    data: bytes


class Header(msgspec.Struct, frozen=True):
    """A series begins. config: what the DCU says about it."""

    series: int
    config: dict[str, Any]


class Image(msgspec.Struct, frozen=True):
    """A frame. number: in its series, from 0. channels: one Packed each, in the order that was asked for."""

    series: int
    number: int
    channels: tuple[Packed, ...]
    md5: str = ""


class End(msgspec.Struct, frozen=True):
    """A series is over."""

    series: int


class Refused(msgspec.Struct, frozen=True):
    """A frame that can't be one. series, number: -1 = not even that is known."""

    series: int
    number: int
    why: str


class Garbage(msgspec.Struct, frozen=True):
    """A part or message that is nothing of the protocol."""

    why: str


Event = Header | Image | End | Refused | Garbage
