"""What a simulated Merlin does wrong on purpose, so that a reader's counts can be held against it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from probeloop.api import Problem, SettingsError

KINDS = ("header", "length", "payload")
_WIDTH = re.compile(rb"(MQ1,\d{6},\d{5},\d\d,)(\d{4})")


@dataclass(frozen=True)
class Faults:
    """Numbers of frames, from 1 in every run as in their headers.

    drop: never sent. duplicate: sent twice. corrupt: number -> kind; header = another width than the pixels have,
    length = a message 7 bytes longer than it is, payload = the highest bit of a pixel turned, beyond what the counter
    can hold. garbage: number -> bytes sent before it (0 = before the acquisition header). stall: number -> seconds of
    silence before it. close: the data connection ends in the middle of this frame. surplus: frames beyond those asked
    for, negative = so many less.
    """

    drop: frozenset[int] = frozenset()
    duplicate: frozenset[int] = frozenset()
    corrupt: Mapping[int, str] = field(default_factory=dict)
    garbage: Mapping[int, int] = field(default_factory=dict)
    stall: Mapping[int, float] = field(default_factory=dict)
    close: int = 0
    surplus: int = 0

    def touches(self, first: int, count: int) -> bool:
        """True when any of frames [first, first + count) is not sent as it is."""
        numbers = range(first, first + count)
        every = (self.drop, self.duplicate, self.corrupt, self.garbage, self.stall, (self.close,))
        return any(number in numbers for each in every for number in each)

    @classmethod
    def parse(
        cls, drop: str = "", duplicate: str = "", corrupt: str = "", garbage: str = "", stall: str = "",
        close: int = 0, surplus: int = 0,
    ) -> Faults:  # fmt: skip
        """Read the options of the command line: "3,17", "header:9,payload:12", "0:4096", "20:0.5"."""
        kinds = [(_number("corrupt", number), kind) for kind, number in _pairs("corrupt", corrupt)]
        for _, kind in kinds:
            if kind not in KINDS:
                raise SettingsError([Problem("corrupt", f"{kind!r}", " | ".join(KINDS))])
        return cls(
            frozenset(_number("drop", each) for each in _parts(drop)),
            frozenset(_number("duplicate", each) for each in _parts(duplicate)),
            dict(kinds),
            {_number("garbage", a): _number("garbage", b) for a, b in _pairs("garbage", garbage)},
            {_number("stall", a): _seconds(b) for a, b in _pairs("stall", stall)},
            close,
            surplus,
        )


def corrupted(message: NDArray[np.uint8], kind: str, header_bytes: int, raw: bool) -> bytes:
    """Return a message with a fault of this kind."""
    wrong = bytearray(message.tobytes())
    if kind == "length":
        wrong[4:14] = b"%010d" % (int(wrong[4:14]) + 7)
    elif kind == "header":
        wrong[:] = _WIDTH.sub(lambda found: found[1] + b"%04d" % (int(found[2]) + 1), bytes(wrong), count=1)
    else:
        wrong[15 + header_bytes] ^= 0x80
    return bytes(wrong)


def rubbish(count: int, seed: int) -> bytes:
    """Return bytes that mean nothing."""
    return np.random.default_rng(seed).integers(0, 256, count, np.uint8).tobytes()


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _pairs(name: str, text: str) -> list[tuple[str, str]]:
    pairs = [part.partition(":") for part in _parts(text)]
    if any(not colon for _, colon, _ in pairs):
        raise SettingsError([Problem(name, f"{text!r}", "pairs with a colon, such as 9:4096")])
    return [(a, b) for a, _, b in pairs]


def _number(name: str, text: str) -> int:
    if not text.isdigit():
        raise SettingsError([Problem(name, f"{text!r}", "a whole number")])
    return int(text)


def _seconds(text: str) -> float:
    try:
        made = float(text)
    except ValueError:
        made = -1.0
    if not 0 <= made <= 3600:
        raise SettingsError([Problem("stall", f"{text!r}", "0 <= seconds <= 3600")])
    return made
