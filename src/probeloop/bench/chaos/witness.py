"""Reads a rig's topics beside everybody else, and verifies sequence number and check sum of every block.

A block is summed when it arrives and once more before it is given back, so that memory which somebody writes while it
is being read is found too. Of each camera frame the sum is kept, for the record to be held against.
"""

from __future__ import annotations

import threading
import time
import zlib
from dataclasses import dataclass, field

from ...bus.checksum import sum_of_block
from ...bus.node import Bus
from ...bus.subscribe import Subscriber
from ...bus.wait import Poller
from ...data.frame import FrameBlock

_TURN_S = 0.05


@dataclass
class Tally:
    """What was seen of one topic. corrupt: wrong sum, no sum, an index used again, or no block at all.

    newest_ns: when its newest block was published. generation: of that block. largest: frames of the largest block.
    """

    frames: int = 0
    blocks: int = 0
    lost: int = 0
    corrupt: int = 0
    newest_ns: int = 0
    generation: int = -1
    expected: int = -1
    largest: int = 0
    found: list[str] = field(default_factory=list)


class Witness:
    """A thread with a reader on each topic. credit: a source that can wait stays behind it, so it misses nothing.

    sums: of the camera's frames, by (generation, scan index).
    """

    def __init__(self, bus: Bus, topics: tuple[str, ...], *, credit: bool, camera: str = "camera") -> None:
        self._bus, self._camera = bus, camera
        self._poller = Poller(bus)
        self._readers = {name: Subscriber(bus, name, "lossless", credit=credit) for name in topics}
        for reader in self._readers.values():
            self._poller.add(reader)
        self.tallies = {name: Tally() for name in topics}
        self.sums: dict[tuple[int, int], int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="witness", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def corrupt(self) -> int:
        """Blocks of all topics that were not what was sent."""
        return sum(tally.corrupt for tally in self.tallies.values())

    def _loop(self) -> None:
        while not self._over.is_set():
            self._poller.wait(_TURN_S)
            self.look()

    def look(self) -> None:
        """Read and verify all that has arrived; for the thread, or for a test without one."""
        for name, reader in self._readers.items():
            tally = self.tallies[name]
            for block in reader.drain():
                self._verify(name, tally, block)
            stats = reader.stats
            malformed = stats.wire_errors - sum(1 for each in tally.found if each == "malformed")
            for _ in range(malformed):
                self._note(tally, "malformed")
            tally.lost = stats.lost

    def _verify(self, name: str, tally: Tally, block: FrameBlock) -> None:
        wrong = ""
        if block.index < tally.expected:
            wrong = f"index {block.index} after {tally.expected}: used again"
        if sum_of_block(block) != block.checksum:
            wrong = f"wrong sum at index {block.index}" if block.checksum else f"no sum at index {block.index}"
        if name == self._camera:
            for row, cell in enumerate(block.scan_index.tolist()):
                if cell >= 0:
                    self.sums[block.generation, cell] = zlib.crc32(block.data[row])
        if not wrong and sum_of_block(block) != block.checksum:
            wrong = f"changed while it was read, at index {block.index}"
        if wrong:
            self._note(tally, wrong)
        tally.blocks += 1
        tally.frames += block.count
        tally.largest = max(tally.largest, block.count)
        tally.newest_ns, tally.generation = block.published_ns, block.generation
        tally.expected = block.index + block.count

    @staticmethod
    def _note(tally: Tally, what: str) -> None:
        tally.corrupt += 1
        tally.found.append(what)

    def close(self) -> None:
        """Read what is there, and leave."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(5.0)
        deadline = time.monotonic() + 1.0
        while any(reader.pending() for reader in self._readers.values()) and time.monotonic() < deadline:
            self.look()
        for reader in self._readers.values():
            self._poller.remove(reader)
            reader.close()
        self._poller.close()
