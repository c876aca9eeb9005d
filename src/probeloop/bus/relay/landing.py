"""One topic of a rig on another host, published again here: same values and indices, stamps on this host's clock."""

from __future__ import annotations

import re
from collections import deque
from typing import Any

import msgspec

from ...data.control import Gap
from ...data.errors import BusError, WireError
from ...data.frame import BlockFlag, block_bytes
from ..ledger import RUN, TOPIC
from ..node import Bus
from ..publish import NEXT_INDEX, Publisher
from ..topic import STANDARD_DEPTHS
from .blocks import check, room_for, unpack
from .clock import Offset
from .wire import Block, Spec

_TOPIC = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,47}")
_LEAST, _STEP = 4096, 64 << 10
_LIKELY, _BLOCK_BYTES = 256, 1 << 20  # frames of a block, and its size, beyond which few sources go
_QUARTER = min(STANDARD_DEPTHS)
CREDIT_S = 0.01  # a reader here that is waited for holds its topic for so long at most in one turn


class Landing:
    """Publishes what arrives. base: local index - index there, 0 until that rig is started anew.

    run: of that rig. A block that a waiting reader here has no room for is kept; its sender waits for the receipt.
    """

    def __init__(self, bus: Bus, topic: str, run: int, first: int) -> None:
        """Take the topic up where this host has it; raises BusError for a name that can't be one."""
        if not _TOPIC.fullmatch(topic) or topic == "events":
            raise BusError(f"{topic!r} is no name of a topic")
        self._bus, self.topic = bus, topic
        with bus.ledger.locked():
            words = bus.ledger.claim(TOPIC, topic, shared=True).words
            memory = bus.ledger.claim(RUN, topic, "relay", shared=True).words
            known = memory[0] == run
            if not known:
                memory[0], memory[1] = run, words[NEXT_INDEX]
            self.base = memory[1]
            if not known:  # who comes now did not lose what was there before
                words[NEXT_INDEX] = self.base + first
            self.next = words[NEXT_INDEX] - self.base
        self.lossless = False
        self.serial = self.done = 0
        self.lost = self.repeated = 0
        self.gaps: list[Gap] = []
        self._spec: Spec | None = None
        self._announced: tuple[Any, int] | None = None
        self._publisher: Publisher | None = None
        self._pending: deque[tuple[Spec, Block, Any, Any]] = deque()
        self.pending_bytes = 0

    def describe(self, spec: Spec) -> None:
        """Take what the blocks from here on are; an idle topic announces it at once. Raises BusError."""
        if not spec.lossless:
            spec = msgspec.structs.replace(spec, spec=msgspec.structs.replace(spec.spec, can_wait=False))
        self.lossless, self._spec = spec.lossless, spec
        if not self._pending:
            self._announce(spec, 0)

    def take(self, head: Block, columns: Any, payload: Any) -> None:
        """Take a block; raises WireError for what is none. Nothing is published or unpacked yet."""
        if self._spec is None:
            raise WireError(f"a block of {self.topic!r} before its description")
        room_for(head, self._spec.spec)
        check(head, columns, payload)
        if self.lossless:
            if head.serial <= self.serial:
                self.repeated += 1
                return
            self.serial = head.serial
        self._pending.append((self._spec, head, columns, payload))
        self.pending_bytes += len(payload) + len(columns)

    @property
    def waiting(self) -> bool:
        """Whether something is not published yet."""
        return bool(self._pending)

    def publish(self, clock: Offset | None, patience_s: float = 0.0) -> None:
        """Publish what there is credit for; raises BusError or WireError for the block that can't be."""
        while self._pending:
            spec, head, columns, payload = self._pending[0]
            publisher = self._announce(spec, room_for(head, spec.spec))
            if not publisher.wait_for_credit(patience_s):
                return
            self._pending.popleft()
            self.pending_bytes -= len(payload) + len(columns)
            self._send(publisher, head, columns, payload, clock)

    def _send(self, publisher: Publisher, head: Block, columns: Any, payload: Any, clock: Offset | None) -> None:
        self.done = max(self.done, head.serial)
        missing = head.index - self.next
        if missing < 0:
            self.repeated += 1
            return
        if missing and self.lossless:
            self.lost += missing
            reason = "lost between the hosts: the link was cut or too slow, and no more was kept"
            self.gaps.append(Gap(topic=self.topic, first=self.next + self.base, count=missing, reason=reason))
        self.next = head.index + head.count
        buffer = publisher.loan(head.count)
        try:
            unpack(head, columns, payload, buffer)
        except WireError:
            publisher.discard(buffer)
            raise
        publisher.skip_to(head.index + self.base)
        publisher.send(
            buffer, head.count, flags=BlockFlag(head.flags), generation=head.generation, revision=head.revision,
            source_index=head.source_index, exposed_ns=_here(clock, head.exposed_ns), payload_bytes=head.size,
            checksum=head.checksum, published_ns=_here(clock, head.published_ns),
        )  # fmt: skip

    def _announce(self, spec: Spec, size: int) -> Publisher:
        """Return the publisher, large enough for a block of `size` bytes, with this description announced."""
        publisher = self._publisher
        if publisher is None:
            likely = block_bytes(spec.spec, max(1, min(_LIKELY, _BLOCK_BYTES // max(1, spec.spec.frame_bytes))))
            waits = spec.spec.can_wait and spec.lossless
            publisher = Publisher(self._bus, self.topic, _rounded(max(size, likely)), source_waits=waits)
            self._publisher = publisher
        publisher.grow(_rounded(size))
        if self._announced != (spec.spec, spec.generation):
            publisher.announce(spec.spec, spec.generation)
            self._announced = (spec.spec, spec.generation)
        return publisher

    def forget(self) -> None:
        """The sender begins its serial numbers again."""
        self.serial = self.done = 0

    def refresh(self) -> None:
        """Give late joiners the newest description."""
        if self._publisher is not None:
            self._publisher.refresh()

    def close(self) -> None:
        """Leave the topic."""
        if self._publisher is not None:
            self._publisher.close()
            self._publisher = None


def _here(clock: Offset | None, stamp: int) -> int:
    """Return a stamp of that host on ours; 0, which is none, while the clocks are not compared."""
    return max(1, clock.to_local(stamp)) if clock is not None and stamp else 0


def _rounded(size: int) -> int:
    """Return the block size to reserve for, so that blocks that grow a little need no new publisher."""
    if size <= _QUARTER:
        return min(_QUARTER, max(_LEAST, 1 << max(0, size - 1).bit_length()))
    return -(-size // _STEP) * _STEP
