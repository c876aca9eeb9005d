"""The two headers of a Merlin's data stream: one for each acquisition, one for each frame.

A message is `MPX,<length, 10 digits>,<body>`; the length counts the comma before the body. The acquisition header is
lines of `key:<tab>value` after `HDR,`; a frame begins with `MQ1,` and comma-separated fields, padded to the length
that its third field names. From the user manual of the Merlin and from files that it wrote.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from probeloop.api import WireError

PREFIX = 15  # bytes of "MPX,0000000000,"
LONGEST_HEADER = 1 << 16  # [bytes] of either kind
_BYTES = {"U08": 1, "U16": 2, "U32": 4}
_DTYPE = {1: "<u1", 6: "<u1", 12: "<u2", 24: "<u4"}
_DEPTH_OF = {"U08": 6, "U16": 12, "U32": 24}
_RAW_BITS = {1: 1, 6: 8, 12: 16, 24: 32}
_KEY = re.compile(r"[^a-z0-9]+")
_UNITS = {"keV": "keV", "V": "V", "C": "C", "MHz": "MHz"}
Scalar = float | int | str


def message(body: bytes) -> bytes:
    """Frame a body for either socket.

    >>> message(b"GET,TEMPERATURE")
    b'MPX,0000000016,GET,TEMPERATURE'
    """
    return b"MPX,%010d,%s" % (len(body) + 1, body)


def pixel_bits(depth: int, raw: bool) -> int:
    """Return how many bits a pixel takes in a message."""
    return _RAW_BITS[depth] if raw else 8 * int(_DTYPE[depth][-1])


def dtype_of(depth: int) -> str:
    """Return the dtype of a stream whose counters have `depth` bits."""
    return _DTYPE[depth]


@dataclass(frozen=True)
class FrameHeader:
    """What the header of a frame says of it.

    width, height: of the frame, or of the chips in a row where it is raw. code: U08, U16, U32 or R64. depth: bits of
    a counter. after_number: the bytes between the frame number and the chip mask, the same in every frame of a run.
    stamp_at: where the time stamp begins, from the end of the number [bytes], -1 = there is none.
    """

    number: int
    header_bytes: int
    width: int
    height: int
    code: str
    layout: str
    depth: int
    after_number: bytes
    stamp_at: int

    @property
    def raw(self) -> bool:
        """True when the pixels are as the chips sent them."""
        return self.code == "R64"

    @property
    def quad(self) -> bool:
        """True for four chips in a square."""
        return self.layout.startswith("2x2")

    @property
    def shape(self) -> tuple[int, int]:
        """The frame once decoded, (ky, kx)."""
        if self.raw and self.quad:
            return 2 * self.height, self.width // 2
        return self.height, self.width

    @property
    def payload_bytes(self) -> int:
        """How long the pixels are, by this header [bytes]."""
        pixels = self.width * self.height
        return pixels * _RAW_BITS[self.depth] // 8 if self.raw else pixels * _BYTES[self.code]

    @property
    def body_bytes(self) -> int:
        """How long header and pixels are together [bytes]."""
        return self.header_bytes + self.payload_bytes


def parse_frame(body: bytes, length: int, raw_depth: int = 0) -> FrameHeader:
    """Read the beginning of a frame's body, the whole header at least.

    length: of the whole body [bytes]. raw_depth: of a raw frame whose header does not say it. Raises WireError with
    what is wrong.
    """
    fields = body[:256].split(b",")
    if len(fields) < 9 or fields[0] != b"MQ1":
        raise WireError("a frame whose header is cut short or no MQ1 header")
    try:
        number, header_bytes = int(fields[1]), int(fields[2])
        width, height = int(fields[4]), int(fields[5])
    except ValueError:
        raise WireError(f"a frame header with a number that is none: {_short(body)}") from None
    code, layout = fields[6].decode("ascii", "replace"), fields[7].decode("ascii", "replace").strip()
    if code != "R64" and code not in _BYTES:
        raise WireError(f"frames of type {code!r}: U08, U16, U32 and R64 are known")
    if not 64 <= header_bytes <= LONGEST_HEADER or number < 0 or width < 1 or height < 1:
        raise WireError(f"a frame header that can't be true: {_short(body)}")
    after_at = len(b",".join(fields[:2]))
    after = body[after_at : after_at + len(b",".join(fields[2:8])) + 2]
    depth, stamp_at = _extension(body[:header_bytes], after_at)
    if code != "R64" and (depth not in _DTYPE or _DTYPE[depth][-1] != str(_BYTES[code])):
        depth = _DEPTH_OF[code]
    depth = depth or raw_depth
    if depth not in _RAW_BITS:
        raise WireError(f"a counter depth of {depth} bits: 1, 6, 12 and 24 are known")
    if code == "R64" and depth == 24 and length - header_bytes == 2 * width * height:
        width //= 2  # both counters are counted, each of 12 bits in two bytes
    return FrameHeader(number, header_bytes, width, height, code, layout, depth, after, stamp_at)


def _extension(header: bytes, number_end: int) -> tuple[int, int]:
    """Return counter depth (0 = not told) and where the time stamp is, from the part of the header called MQ1A."""
    at = header.find(b",MQ1A,")
    if at < 0:
        return 0, -1
    fields = header[at + 6 :].split(b",")
    stamp_at = at + 6 - number_end if len(fields[0]) >= 29 else -1
    try:
        return int(fields[2]), stamp_at
    except (IndexError, ValueError):
        return 0, stamp_at


def parse_acquisition(body: bytes) -> dict[str, Scalar]:
    r"""Return what an acquisition header says, by names such as header_counter_depth; numbers as numbers.

    >>> parse_acquisition(b"HDR,\t\nCounter Depth (number):\t12\nSensor Bias (V):\t120 V\nEnd\t  ")
    {'header_counter_depth': 12, 'header_sensor_bias_V': '120 V'}
    """
    found: dict[str, Scalar] = {}
    for line in body.decode("latin-1").splitlines()[1:]:
        key, tab, value = line.partition("\t")
        if not tab or not key.endswith(":"):
            continue
        name, _, unit = key[:-1].partition("(")
        plain = _KEY.sub("_", name.strip().lower()).strip("_")
        unit = _UNITS.get(unit.rstrip(") "), "")
        if plain:
            found["header_" + plain + (f"_{unit}" if unit else "")] = _value(value.strip())
    return found


def _value(text: str) -> Scalar:
    for kind in (int, float):
        try:
            made = kind(text)
        except ValueError:
            continue
        return made if abs(made) < 1e15 else text[:400]
    return text[:400]


def _short(body: bytes) -> str:
    return repr(bytes(body[:48]))[1:]
