"""The topics that a plug-in reads: one as it comes, several joined. What never came is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from ..bus.node import Bus
from ..bus.stats import newest_gaps
from ..bus.subscribe import Subscriber
from ..data.axes import StreamSpec
from ..data.control import Event, Gap
from ..data.errors import BusError
from ..data.frame import FrameBlock
from .instance import PluginInstance
from .join import MOST_BYTES, Blocks, Join, Unmatched
from .waiting import Rows

Report = Callable[[Event], None]
NAMED_PIXELS = 256  # an event names no more than these
PATIENCE_S = 2.0  # how long a source that can wait is kept waiting for a topic that gives nothing
_TELL_S = 1.0
_WORDS = {
    "never came": "{name} joins it with {topic}, and it never came",
    "not read yet": "{name} joins it with {topic}, and did not read it yet",
    "no room": "{name} had no more room for them to wait in",
    "other frames": "{name} can't join them: other frames followed in mid-scan",
    "old scan": "{name} can't join them: their scan is over",
}


class Intake:
    """Readers of one plug-in instance's topics; one thread.

    next: by topic, the index of the next frame. holding: something is left unread on purpose. filled_in: what was
    before this began to read comes from the record, so it isn't told as missing.
    """

    def __init__(self, bus: Bus, instance: PluginInstance, report: Report, most_bytes: int = MOST_BYTES) -> None:
        self._bus, self._instance, self._report, self._most_bytes = bus, instance, report, most_bytes
        self.topics = instance.input
        self.readers: list[Subscriber] = []
        self.next = dict.fromkeys(self.topics, 0)
        self.filled_in = self.holding = False
        self._lost = dict.fromkeys(self.topics, 0)
        self._unmatched = dict.fromkeys(self.topics, 0)
        self._given_up: list[Unmatched] = []
        self._promised: list[Unmatched] = []
        self._told = 0.0
        self._join: Join | None = None
        self._heard = [0.0] * len(self.topics)
        self._held: dict[int, float] = {}

    def open(self) -> None:
        """Begin to read; raises BusError, and then reads nothing."""
        lossless = self._instance.lossless
        try:
            for topic in self.topics:
                self._lost[topic] = 0
                mode: Literal["lossless", "newest"] = "lossless" if lossless else "newest"
                self.readers.append(Subscriber(self._bus, topic, mode, credit=lossless))
        except BusError:
            self.close()
            raise
        self._join = Join(self.topics, self._most_bytes) if len(self.topics) > 1 else None

    def close(self) -> None:
        """Stop reading; what waits for other topics is let go."""
        self.report_gaps(at_once=True)
        for reader in self.readers:
            reader.close()
        self.readers.clear()

    def read(self) -> list[Blocks] | None:
        """Take a block of every topic that has one; None when none had.

        Returns sets of rows, a block a topic: the same N pixels in the same order, valid until the next call.
        """
        if self._join is None:
            block = self.readers[0].receive()
            return None if block is None else [(block,)] if self._is_next(self.topics[0], block) else []
        made: list[Blocks] = []
        idle, self.holding = True, False
        # large frames last: what completes a set is not copied
        for which in sorted(range(len(self.readers)), key=self._frame_bytes):
            if self._holds(which):
                self.holding = True
                continue
            block = self.readers[which].receive()
            if block is not None:
                idle = False
                self._heard[which] = time.monotonic()
                if self._is_next(self.topics[which], block):
                    made += self._join.take(which, block)
        return None if idle else made

    def _frame_bytes(self, which: int) -> int:
        spec = self.readers[which].spec
        return spec.frame_bytes if spec is not None else 0

    def _is_next(self, topic: str, block: FrameBlock) -> bool:
        """Move on to the frame behind a block; False when it was read before a hand-over."""
        end = block.index + block.count
        if block.count and end <= self.next[topic]:
            return False
        self.next[topic] = max(self.next[topic], end)
        return True

    def _holds(self, which: int) -> bool:
        """Whether a topic that is ahead is left unread, so that its source waits, until the others have caught up.

        Not when they have given nothing for a while: one of them may have lost what is waited for.
        """
        spec, join = self.readers[which].spec, self._join
        if join is None or not join.is_full() or not join.waiting(which) or spec is None or not spec.can_wait:
            self._held.pop(which, None)
            return False
        now = time.monotonic()
        heard = max(each for i, each in enumerate(self._heard) if i != which)
        return now - max(heard, self._held.setdefault(which, now)) < PATIENCE_S

    # --- what the join noticed ---

    def late(self, generation: int) -> Rows | None:
        """Return the pixels of a scan of which a topic gave another result, or None."""
        found = self._join.late(generation) if self._join is not None else None
        return found if found is not None and found.size else None

    def promised(self, generation: int) -> Rows | None:
        """Return the pixels of a scan that were not told as missing because the record fills them in, or None."""
        found, self._promised = [each.pixels for each in self._promised if each.generation == generation], []
        return np.concatenate(found) if found else None

    def refused(self) -> list[tuple[int, str]]:
        """Return (generation, why) of the scans that proved not to be joined."""
        return self._join.refused() if self._join is not None else []

    def newest(self, generation: int) -> list[Rows | None]:
        """Return by topic the index of the newest frame seen of every pixel of a scan; see Join.newest."""
        return self._join.newest(generation) if self._join is not None else [None]

    def now_on(self) -> tuple[int, tuple[StreamSpec, ...]] | None:
        """Return the generation that all topics announced last, and what their frames are; None where they differ."""
        for reader in self.readers:
            reader.pending()  # reads what was announced
        specs = tuple(reader.spec for reader in self.readers if reader.spec is not None)
        generations = {reader.generation for reader in self.readers}
        if len(generations) != 1 or len(specs) != len(self.topics):
            return None
        return generations.pop(), specs

    # --- what was lost ---

    def report_gaps(self, at_once: bool = False) -> None:
        """Tell what was overwritten unread, and once a second what was joined with nothing."""
        for topic, reader in zip(self.topics, self.readers, strict=False):
            stats = reader.stats
            if stats.lost > self._lost[topic]:
                reason = f"{self._instance.name} was too slow"
                for first, count in newest_gaps(stats.gaps, stats.lost - self._lost[topic]):
                    self._report(Gap(topic=topic, first=first, count=count, reason=reason))
                self._lost[topic] = stats.lost
        if self._join is not None:
            self._given_up += self._join.unmatched()
        now = time.monotonic()
        if self._given_up and (at_once or now - self._told > _TELL_S):
            self._told = now
            self._tell_given_up()

    def _tell_given_up(self) -> None:
        alike: dict[tuple[Any, ...], list[int]] = {}
        for each in self._given_up:
            self._unmatched[each.topic] += each.pixels.size
            if self.filled_in and each.why == "not read yet":
                self._promised.append(each)
            else:
                key = (each.generation, each.topic, each.missing, each.why)
                alike.setdefault(key, []).extend(each.pixels.tolist())
        self._given_up = []
        for (generation, topic, missing, why), pixels in alike.items():
            reason = _WORDS[why].format(name=self._instance.name, topic=topic)
            self._report(Gap(topic=missing or topic, first=pixels[0], count=len(pixels), reason=reason,
                             generation=generation, pixels=tuple(pixels[:NAMED_PIXELS])))  # fmt: skip

    @property
    def lost(self) -> int:
        """Frames that were overwritten unread, on all topics."""
        return sum(self.counts(topic)["lost"] for topic in self.topics)

    def counts(self, topic: str) -> Mapping[str, int]:
        """Return of one topic what was overwritten unread, what was joined with nothing, and what waits [frames]."""
        which = self.topics.index(topic)
        lost = self.readers[which].stats.lost if self.readers else self._lost[topic]
        waiting = self._join.waiting(which) if self._join is not None and self.readers else 0
        return {"lost": lost, "unmatched": self._unmatched[topic], "waiting": waiting}
