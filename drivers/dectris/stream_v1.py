"""Stream v1: JSON and binary parts. Servers group parts into messages in different ways, so only their order counts.

    dheader-1.0, its configuration (which has no htype), then a header and a table for each table, an appendix
    dimage-1.0, dimage_d-1.0, the packed frame, dconfig-1.0, an appendix
    dseries_end-1.0

Source: SIMPLON API reference; how two other servers group the parts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from .decompress import FRAMING
from .messages import Algorithm, End, Event, Garbage, Header, Image, Packed, Refused

_ENCODING = re.compile(r"(?:bs(8|16|32))?-?(lz4)?([<>])")
_BYTES = {"uint8": 1, "uint16": 2, "uint32": 4}
_TABLES = ("dflatfield-1.0", "flatfield-1.0", "dpixelmask-1.0", "dcountrate_table-1.0")
_BEGINS = b'{"htype"'
_TORN = "parts of it are missing"


class _Part(msgspec.Struct, frozen=True):
    """Every field of every part that has an htype."""

    htype: str = ""
    series: int = -1
    header_detail: str = ""
    frame: int = -1
    hash: str = ""
    shape: tuple[int, ...] = ()
    type: str = ""
    encoding: str = ""
    size: int = -1


_NOTHING = _Part()
_decode = msgspec.json.Decoder(_Part).decode


class PartsV1:
    """Reads parts in their order.

    appendices: whether the DCU adds a part to headers, and to images. verify: keep the md5 of each frame.
    """

    def __init__(self, appendices: tuple[bool, bool] = (False, False), verify: bool = False) -> None:
        self._appendix_to_header, self._appendix_to_image = appendices
        self._verify = verify
        self._next: Literal["head", "config", "table", "image_d", "frame", "times"] = "head"
        self._about = self._image = _NOTHING
        self._appendix_due = self._torn = False

    def feed(self, parts: Sequence[bytes]) -> list[Event]:
        """Take the parts of a message; return what they complete."""
        events: list[Event] = []
        for part in parts:
            self._take(part, events)
        return events

    def _take(self, part: bytes, events: list[Event]) -> None:
        expected, self._next = self._next, "head"
        if expected == "table":
            return
        if expected == "frame" and not part.startswith(_BEGINS):
            self._next = "times"
            self._appendix_due = self._appendix_to_image
            events.append(self._frame(part))
            return
        if expected == "config":
            config = _plain(part)
            if config is not None and "htype" not in config:
                events.append(Header(self._about.series, config))
                return
            events.append(Header(self._about.series, {}))
        about = _read(part)
        if expected == "image_d" and about.htype == "dimage_d-1.0":
            self._about, self._next = about, "frame"
            return
        if expected in ("image_d", "frame"):
            events.append(Refused(self._image.series, self._image.frame, _TORN))
            self._torn = True
        if expected == "times" and about.htype == "dconfig-1.0":
            return
        self._head(part, about, events)

    def _head(self, part: bytes, about: _Part, events: list[Event]) -> None:
        """Take a part that begins something."""
        match about.htype:
            case "dimage-1.0":
                self._image, self._next = about, "image_d"
            case "dheader-1.0":
                self._about, self._appendix_due, self._torn = about, self._appendix_to_header, False
                if about.header_detail == "none":
                    events.append(Header(about.series, {}))
                else:
                    self._next = "config"
                return
            case "dseries_end-1.0":
                events.append(End(about.series))
            case htype if htype in _TABLES:
                self._next = "table"
                return
            case _ if self._torn:
                return  # what is left of that frame
            case _ if self._appendix_due:
                pass
            case "dconfig-1.0" | "dimage_d-1.0":
                events.append(Refused(-1, -1, _TORN))
                self._torn = True
                return
            case _:
                events.append(Garbage(f"{len(part)} bytes that are no part of stream v1"))
        self._appendix_due = self._torn = False

    def _frame(self, blob: bytes) -> Event:
        image, about = self._image, self._about
        encoding = _ENCODING.fullmatch(about.encoding)
        size = _BYTES.get(about.type)
        if encoding is None or size is None:
            why = f"pixels of type {about.type[:20]!r} in the encoding {about.encoding[:20]!r}"
        elif len(about.shape) != 2:
            why = f"a shape of {len(about.shape)} numbers"
        elif about.size not in (-1, len(blob)):
            why = f"{len(blob)} bytes came, {about.size} were announced"
        elif encoding[1] and not encoding[2]:
            why = f"the encoding {about.encoding!r}"
        else:
            width, height = about.shape
            algorithm: Algorithm = "none"
            if encoding[1]:
                algorithm = "bslz4"
            elif encoding[2]:
                algorithm = "lz4" if _is_framed(blob, width * height * size) else "raw_lz4"
            element = int(encoding[1]) // 8 if encoding[1] else size
            packed = Packed(algorithm, element, f"{encoding[3]}u{size}", (height, width), blob)
            md5 = image.hash if self._verify and len(image.hash) == 32 else ""
            return Image(image.series, image.frame, (packed,), md5)
        return Refused(image.series, image.frame, why)


def _is_framed(blob: bytes, size: int) -> bool:
    """True for the HDF5 filter's framing: no bare LZ4 block begins like it, its first offset would be 0."""
    return len(blob) >= FRAMING.size and bool(FRAMING.unpack_from(blob)[0] == size)


def _read(part: bytes) -> _Part:
    try:
        return _decode(part)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return _NOTHING


def _plain(part: bytes) -> dict[str, Any] | None:
    try:
        config = msgspec.json.decode(part)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    return config if isinstance(config, dict) else None
