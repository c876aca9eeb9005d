"""The bus as a transport under test: `python -m probeloop.bench.bus_role sender|reader`."""

from __future__ import annotations

import sys

from ..bus.node import Bus
from ..bus.publish import Publisher
from ..bus.subscribe import Subscriber
from ..data.axes import Axis, StreamSpec
from ..data.copying import copy_into
from ..data.errors import BusError
from ..data.frame import block_bytes
from .stream_role import FRAME_WORDS, Words, serve

_JOIN_S = 0.001
SPEC = StreamSpec("frames", "frames", "<u8", (), (Axis("word", FRAME_WORDS),), sync="none", can_wait=True)


class BusSender:
    """A publisher whose source waits for credit."""

    def __init__(self, rig: str, n: int) -> None:
        self._bus = Bus(rig, "sender")
        self._topic = Publisher(self._bus, "frames", block_bytes(SPEC, n), source_waits=True)
        self._topic.announce(SPEC, 1)
        self._n = n

    def wait_for_readers(self, count: int) -> None:
        """Return when so many readers are joined; they join before the run is told to the sender."""
        self._topic.refresh()
        if self._topic.readers < count:
            raise BusError(f"{self._topic.readers} of {count} readers have joined", "start them first")

    def send(self, words: Words) -> None:
        """Fill loaned memory and send it."""
        while not self._topic.wait_for_credit(1.0):
            pass
        buffer = self._topic.loan(self._n)
        copy_into(buffer.data, words)
        self._topic.send(buffer, self._n, 1)

    def close(self) -> None:
        """Leave."""
        self._topic.close()
        self._bus.close()


class BusReader:
    """A lossless reader that gives credit."""

    def __init__(self, rig: str, n: int) -> None:
        self._bus = Bus(rig, "reader")
        self._topic = Subscriber(self._bus, "frames", "lossless", credit=True)

    def receive(self, timeout_s: float) -> Words | None:
        """Return the frames of the next block, in place."""
        block = self._topic.receive(timeout_s)
        return None if block is None else block.data

    def close(self) -> None:
        """Leave."""
        self._topic.close()
        self._bus.close()


if __name__ == "__main__":
    sys.exit(serve(BusSender, BusReader, sys.argv[1:]))
