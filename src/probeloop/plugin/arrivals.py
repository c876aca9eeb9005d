"""When a plug-in's host took its blocks in, and how long they were on their way, by topic."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from ..data.frame import FrameBlock
from ..data.latency import Timings


class Arrivals:
    """Stamps blocks as they come; one thread. taken_ns: of the newest, host CLOCK_MONOTONIC."""

    def __init__(self) -> None:
        self.taken_ns = 0
        self._transport: dict[str, Timings] = {}

    def take(self, block: FrameBlock) -> None:
        """Note a block; one of the record was never published, and says nothing of transport."""
        self.taken_ns = time.monotonic_ns()
        if not block.published_ns:
            return
        timings = self._transport.get(block.spec.name)
        if timings is None:
            timings = self._transport[block.spec.name] = Timings()
        timings.add(self.taken_ns - block.published_ns)

    def told(self) -> dict[str, Any]:
        """Return published -> taken by topic, as plain data for Describe."""
        return {topic: msgspec.to_builtins(timings.counted) for topic, timings in self._transport.items()}
