"""Stream v2: one CBOR map a message; its `type` is start, image or end.

An image's `data` maps channels to multi-dimensional arrays (tag 40: [height, width] and a typed array, tag 64 uint8,
69 uint16, 70 uint32, 65 and 66 big-endian), whose bytes may be packed (tag 56500: algorithm, element size, bytes).
Sources: DECTRIS' description of stream V2 and of its compression tag; RFC 8949, RFC 8746.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from probeloop.api import DriverError

from .messages import End, Event, Garbage, Header, Image, Packed, Refused

_ARRAY, _PACKED = 40, 56500
_LISTS, _MAPS = (list, tuple), (dict, Mapping)  # dict first: to ask the abstract one takes 10 times as long
_DTYPES = {64: "<u1", 65: ">u2", 66: ">u4", 69: "<u2", 70: "<u4"}


class MessagesV2:
    """Reads messages. channels: those that are kept, in this order.

    Raises DriverError where cbor2 is missing.
    """

    def __init__(self, channels: Sequence[str]) -> None:
        try:
            import cbor2
        except ImportError:
            raise DriverError("stream v2 needs cbor2", "pip install 'probeloop[dectris]', or stream = 'v1'") from None
        self._loads: Callable[[bytes], Any] = cbor2.loads
        self._channels = tuple(channels)

    def feed(self, parts: Sequence[bytes]) -> list[Event]:
        """Take the parts of a message (one each, or it is none); return what it is."""
        return [self._event(part) for part in parts]

    def _event(self, part: bytes) -> Event:
        try:
            message = self._loads(part)
        except Exception as error:  # what a decoder raises for bytes that lie differs between its versions
            return Garbage(f"{len(part)} bytes that are no CBOR ({type(error).__name__})")
        if not isinstance(message, _MAPS):
            return Garbage(f"{len(part)} bytes of CBOR that are no message")
        series, kind = _number(message.get("series_id")), message.get("type")
        if kind == "image":
            return self._image(message, series)
        if kind == "start":
            return Header(series, {str(name): value for name, value in message.items()})
        return End(series) if kind == "end" else Garbage(f"a message of type {str(kind)[:20]!r}")

    def _image(self, message: Mapping[str, Any], series: int) -> Event:
        number, data = _number(message.get("image_id")), message.get("data")
        if not isinstance(data, _MAPS):
            return Refused(series, number, "it carries no data")
        packed = []
        for channel in self._channels:
            if channel not in data:
                there = ", ".join(str(name)[:20] for name in list(data)[:8]) or "none"
                return Refused(series, number, f"no channel {channel!r} in it, only {there}")
            one = _packed(data[channel])
            if isinstance(one, str):
                return Refused(series, number, one)
            packed.append(one)
        return Image(series, number, tuple(packed))


def _packed(array: Any) -> Packed | str:
    """Read a multi-dimensional array without unpacking it; a string says what is wrong with it."""
    dims, typed = _pair(array)
    dtype = _DTYPES.get(getattr(typed, "tag", -1))
    if dims is None or dtype is None:
        return "its data are no array of 8, 16 or 32 bit"
    data, algorithm, element = typed.value, "none", int(dtype[2])
    if getattr(data, "tag", -1) == _PACKED:
        inside = data.value
        if not isinstance(inside, _LISTS) or len(inside) != 3:
            return "its data are packed in no known way"
        algorithm, element, data = inside
        if algorithm == "lz4":
            element = 1
        if algorithm not in ("bslz4", "lz4") or element not in (1, 2, 4):
            return f"its data are packed as {str(algorithm)[:20]!r} in elements of {str(element)[:20]} bytes"
    if not isinstance(data, bytes):
        return "its data are no bytes"
    return Packed(algorithm, int(element), dtype, dims, data)  # type: ignore[arg-type]


def _pair(array: Any) -> tuple[tuple[int, int] | None, Any]:
    value = getattr(array, "value", None) if getattr(array, "tag", -1) == _ARRAY else None
    if not isinstance(value, _LISTS) or len(value) != 2:
        return None, None
    dims = value[0]
    if not isinstance(dims, _LISTS) or len(dims) != 2:
        return None, None
    height, width = _number(dims[0]), _number(dims[1])
    return ((height, width), value[1]) if height > 0 and width > 0 else (None, None)


def _number(value: Any) -> int:
    return value if type(value) is int else -1
