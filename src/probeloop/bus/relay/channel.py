"""One topic on its way to one remote reader: read from the bus, kept until it is published there, bounded."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

from ...data.axes import StreamSpec
from ...data.control import Gap
from ...data.control import encode as encode_event
from ..node import Bus
from ..subscribe import Subscriber
from .blocks import pack
from .wire import Spec, encode

Mode = Literal["newest", "lossless", "by_kind"]
_A_TURN = 8  # blocks read in one go, so that no topic keeps the others waiting


@dataclass(frozen=True, slots=True)
class Parcel:
    """A block, packed. spec: to be announced before it, when that has changed."""

    serial: int
    spec: StreamSpec
    generation: int
    parts: tuple[bytes, bytes, bytes]

    @property
    def size(self) -> int:
        """Bytes on the wire."""
        return sum(map(len, self.parts))


class Channel:
    """A topic, in one of three modes.

    newest: the newest block when there is room on the link. lossless: every block, in order. by_kind: of frames the
    newest, of everything else all; undecided until the topic has said what it carries.

    A lossless channel keeps what is on its way, up to `most_bytes`; then it stops reading. A source that can wait is
    held by that, as by any slow reader; of another the bus overwrites the oldest, which shows as a gap of indices.
    As a Poller's source it is silent while it wants nothing.
    """

    def __init__(self, bus: Bus, topic: str, mode: Mode, most_bytes: int, compress: bool, *, whole: bool) -> None:
        """Join the topic. whole: it began after the reader came, so its first frames should be there too."""
        self.topic, self.lossless, self.undecided = topic, mode != "newest", mode == "by_kind"
        self._most, self._compress = most_bytes, compress
        self.reader = Subscriber(bus, topic, "lossless" if self.lossless else "newest", credit=mode == "lossless")
        self.first = 0 if whole else self.reader.start
        self.listener: Any = self.reader.listener
        self.open = True  # a newest channel: whether there is room on the link now
        self._waiting: deque[Parcel] = deque()
        self._flying: deque[Parcel] = deque()
        self._held = 0
        self._serial = 0
        self._told: tuple[StreamSpec | None, int] = (None, -1)
        self.sent = self.bytes = 0

    def hear(self) -> None:
        """Empty the wake-up event."""
        self.reader.hear()

    def pending(self) -> bool:
        """Whether there is something to read that there is room for."""
        if self.undecided:
            return self.reader.pending() and self.reader.spec is not None
        return (self._held < self._most if self.lossless else self.open) and self.reader.pending()

    @property
    def held(self) -> int:
        """Bytes kept until they are published at the other end."""
        return self._held

    @property
    def lost(self) -> int:
        """Frames that the bus overwrote before they were read (of a newest channel most are)."""
        return self.reader.stats.lost

    def decide(self) -> bool:
        """Settle what is undecided; False when this should be a newest channel."""
        spec = self.reader.spec
        if self.undecided and spec is not None:
            if spec.kind == "frames":
                return False
            self.undecided = False
            self.reader.give_credit(True)
        return True

    def fill(self) -> None:
        """Read what there is room for."""
        for _ in range(_A_TURN if self.lossless and not self.undecided else 0):
            if not self._read():
                return

    def _read(self) -> bool:
        block = self.reader.receive() if self._held < self._most else None
        if block is None:
            return False
        self._serial += 1
        parts = pack(block, self.topic, self._serial, self._compress)
        parcel = Parcel(self._serial, block.spec, block.generation, parts)
        self._waiting.append(parcel)
        self._held += parcel.size
        return True

    def next(self) -> Parcel | None:
        """Return the next parcel to send, None when there is none; a lossless one is kept until `done`."""
        if self.undecided or (not self._waiting and not self._read()):
            return None
        parcel = self._waiting.popleft()
        if self.lossless:
            self._flying.append(parcel)
        else:
            self._held -= parcel.size
        self.sent += 1
        self.bytes += parcel.size
        return parcel

    def put_back(self, parcel: Parcel) -> None:
        """Take back a parcel that could not be sent."""
        if self.lossless:
            self._flying.pop()
        else:
            self._held += parcel.size
        self._waiting.appendleft(parcel)

    def done(self, serial: int) -> None:
        """Forget what is published at the other end, up to this serial number."""
        while self._flying and self._flying[0].serial <= serial:
            self._held -= self._flying.popleft().size

    def again(self, serial: int) -> None:
        """After a cut: send again what comes after this serial number, and announce it again."""
        while self._flying:
            self._waiting.appendleft(self._flying.pop())
        while self._waiting and self._waiting[0].serial <= serial:
            self._held -= self._waiting.popleft().size
        if not self.lossless:
            self._waiting.clear()
            self._held = 0
        self._told = (None, -1)

    def news(self, parcel: Parcel | None = None) -> bytes | None:
        """Return the announcement that precedes this parcel, or that an idle topic owes; None when none is due."""
        if parcel is None:
            if self._waiting or self._flying or self.reader.spec is None:
                return None
            spec, generation = self.reader.spec, self.reader.generation
        else:
            spec, generation = parcel.spec, parcel.generation
        if self._told == (spec, generation):
            return None
        self._told = (spec, generation)
        return encode(Spec(self.topic, self.lossless, self.first, generation, spec))

    def forget_news(self) -> None:
        """An announcement was not sent after all."""
        self._told = (None, -1)

    def close(self) -> None:
        """Leave the topic."""
        self.reader.close()


class EventQueue:
    """The rig's events for one reader, in order, at most `most_bytes`; what does not fit is counted."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._flying: deque[tuple[int, bytes]] = deque()
        self._held = self._serial = self._unsaid = 0
        self.lost = 0

    @property
    def full(self) -> bool:
        """Whether the next one would be lost."""
        return self._held >= self._most

    def put(self, body: bytes) -> None:
        """Keep an event, or count it as lost."""
        if self.full:
            self.lost += 1
            self._unsaid += 1
            return
        if self._unsaid:
            count, self._unsaid = self._unsaid, 0
            reason = "more events than the link to this host takes"
            self.put(encode_event(Gap(topic="events", first=self._serial + 1, count=count, reason=reason)))
        self._serial += 1
        self._held += len(body)
        self._waiting.append((self._serial, body))

    def next(self) -> tuple[int, bytes] | None:
        """Return the next (serial number, event) to send."""
        if not self._waiting:
            return None
        self._flying.append(self._waiting.popleft())
        return self._flying[-1]

    def put_back(self) -> None:
        """Take the last one back."""
        self._waiting.appendleft(self._flying.pop())

    def done(self, serial: int) -> None:
        """Forget what is published at the other end."""
        while self._flying and self._flying[0][0] <= serial:
            self._held -= len(self._flying.popleft()[1])

    def again(self, serial: int) -> None:
        """After a cut: send again what comes after this serial number."""
        while self._flying:
            self._waiting.appendleft(self._flying.pop())
        while self._waiting and self._waiting[0][0] <= serial:
            self._held -= len(self._waiting.popleft()[1])


def now_ns() -> int:
    """Return CLOCK_MONOTONIC [ns]."""
    return time.monotonic_ns()
