"""Joins rows of several topics that are one measurement: of one generation, one pixel, one exposure.

Every topic of a generation descends from one acquisition and copies its columns, so the start of exposure says which
visit of a pixel a row is (`Scan.frames`), however many rows were lost in between. It never falls within a topic,
except where finished cells are done again: so what another topic has passed can never be joined, and is named.
Pure: no bus, no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..data.assemble import is_pixel
from ..data.axes import StreamSpec
from ..data.frame import BlockFlag, FrameBlock
from .waiting import Rows, Waiting, common, cost, span

Blocks = tuple[FrameBlock, ...]
Why = Literal["never came", "not read yet", "no room", "other frames", "old scan"]
MOST_BYTES = 128 << 20
MOST_SCANS = 1024  # that one topic may be ahead of another; more than a lossless reader may lag behind
_NO_ROWS = np.empty(0, np.int64)
_NOTHING = BlockFlag(0)
_BEFORE, _AFTER = np.iinfo(np.int64).min, np.iinfo(np.int64).max


@dataclass(frozen=True)
class Unmatched:
    """Rows that are joined with nothing. topic: whose; missing: the topic that lacks them, "" where no one does."""

    generation: int
    topic: str
    missing: str
    why: Why
    pixels: NDArray[np.int64]


def refusal(topics: Sequence[str], specs: Sequence[StreamSpec | None]) -> str:
    """Return in words why these topics can't be joined pixel by pixel, "" when they can; None = not known yet."""
    known = [(topic, spec) for topic, spec in zip(topics, specs, strict=True) if spec is not None]
    for topic, spec in known:
        if spec.kind in ("image", "ragged"):
            return (
                f"{topic} is {'an image' if spec.kind == 'image' else 'ragged'}: it has not one row a pixel to join"
            )
        if spec.sync == "none":
            return f"{topic} does not say which frame is which pixel, so it can't be joined"
    for topic, spec in known[1:]:
        if spec.nav_shape != known[0][1].nav_shape:
            shapes = (" x ".join(map(str, each.nav_shape)) or "one pixel" for each in (known[0][1], spec))
            return f"{known[0][0]} is a scan of {next(shapes)}, {topic} one of {next(shapes)}: they can't be joined"
    return ""


class _Side:
    """What one topic gave of one generation.

    mark: time of its newest row [ns]. start: of the first row that could be read, when it was read from the middle
    on. newest: index in the topic of the newest frame of each pixel, -1 = none.
    """

    def __init__(self) -> None:
        self.spec: StreamSpec | None = None
        self.nothing: FrameBlock | None = None
        self.waiting = Waiting()
        self.start = self.mark = _BEFORE
        self.ended = False
        self.newest = self._at_mark = _NO_ROWS

    def describe(self, block: FrameBlock) -> None:
        """Take a new description of the topic's frames."""
        self.spec = block.spec
        self.nothing = block.rows(slice(0, 0)).copy()
        cells = int(np.prod(block.spec.nav_shape, dtype=np.int64))
        if self.newest.size != cells:
            self.newest = np.full(cells, -1, np.int64)

    def take(self, block: FrameBlock) -> tuple[slice | Rows, Rows]:
        """Move the mark; return the rows that are new, and those that are done again."""
        times, wanted = block.time_ns, is_pixel(block)
        rows = np.flatnonzero(wanted)
        self.newest[block.scan_index[rows]] = block.index + rows
        late = wanted
        if not self.ended:
            before = np.maximum.accumulate(np.concatenate([[self.mark], times[:-1]]))
            late = wanted & (times <= before)
            if late.any():
                late[self._of_one_stamp(block, rows, times == before)] = False
            newest = int(times.max())
            at_mark = block.scan_index[wanted & (times == newest)]
            if newest >= self.mark:
                self._at_mark = np.concatenate([self._at_mark, at_mark]) if newest == self.mark else at_mark.copy()
                self.mark = newest
        if not late.any():
            return span(rows), rows[:0]
        return span(np.flatnonzero(wanted & ~late)), np.flatnonzero(late)

    def _of_one_stamp(self, block: FrameBlock, rows: Rows, equal: NDArray[np.bool_]) -> Rows:
        """Return which rows are new though their time is that of the row before: a line may have one stamp.

        The same pixel with the same stamp is the same frame, done again.
        """
        times, pixels = block.time_ns[rows], block.scan_index[rows]
        first = np.zeros(len(rows), bool)
        first[np.unique(np.stack([times, pixels]), axis=1, return_index=True)[1]] = True
        first &= equal[rows] & ~((times == self.mark) & np.isin(pixels, self._at_mark))
        return rows[first]


class _Scan:
    """One generation: the rows of its topics that wait for one another, and how far each topic is."""

    def __init__(self, generation: int, topics: tuple[str, ...]) -> None:
        self.generation, self.topics = generation, topics
        self.sides = [_Side() for _ in topics]
        self.unmatched: list[Unmatched] = []
        self.late: list[Rows] = []
        self.refusal = ""
        self._seen = self._told = _NOTHING

    @property
    def bytes(self) -> int:
        return sum(side.waiting.bytes for side in self.sides)

    def take(self, which: int, block: FrameBlock, from_start: bool) -> list[Blocks]:
        side, made = self.sides[which], []
        self._seen |= block.flags
        if block.spec is not side.spec and block.spec != side.spec:
            self._describe(which, block, from_start or bool(block.flags & BlockFlag.SCAN_BEGIN))
        if block.count and not self.refusal:
            new, late = side.take(block)
            if late.size and (late := side.waiting.replace(block, late)).size:
                self.late.append(block.scan_index[late])
            made = self._match(which, block, new)
        if block.flags & BlockFlag.SCAN_END:
            side.ended = True
        self._expire()
        return self._flagged(made)

    def leave(self, which: int) -> list[Blocks]:
        """The topic has gone on to a newer generation."""
        self.sides[which].newest = _NO_ROWS
        if self.sides[which].ended:
            return []
        self.sides[which].ended = True
        self._expire()
        return self._flagged([])

    def _describe(self, which: int, block: FrameBlock, from_start: bool) -> None:
        side = self.sides[which]
        if side.spec is None and not from_start and block.count:
            side.start = int(block.time_ns[0])
        while side.waiting.count:  # frames of another description can't go into one block with these
            self._lose(which, side.waiting.shed(), "other frames")
        side.describe(block)
        self.refusal = refusal(self.topics, [each.spec for each in self.sides])
        for each in self.sides if self.refusal else ():
            each.waiting = Waiting()

    def _match(self, which: int, block: FrameBlock, new: slice | Rows) -> list[Blocks]:
        """Return the rows that are complete with these, the order being theirs; the others wait."""
        rows = np.arange(block.count)[new]
        whole, last = len(rows), int(block.time_ns.max())
        theirs: dict[int, Rows] = {}
        for other, side in enumerate(self.sides):
            if other != which and len(rows):
                mine, places = common(block.time_ns[rows], block.scan_index[rows], *side.waiting.keys(last))
                rows, theirs = rows[mine], {key: each[mine] for key, each in theirs.items()}
                theirs[other] = places
        made = []
        if len(rows):
            parts = {other: self.sides[other].waiting.pick(places) for other, places in theirs.items()}
            parts[which] = block.rows(span(rows))
            made.append(tuple(parts[each] for each in range(len(self.sides))))
        if len(rows) < whole:
            rest = np.setdiff1d(np.arange(block.count)[new], rows, assume_unique=True)
            self.sides[which].waiting.add(block, span(rest))
        return made

    def _expire(self) -> None:
        """Give up the rows that a topic has passed without having them."""
        for i, side in enumerate(self.sides):
            for j, other in enumerate(self.sides):
                passed = _AFTER if other.ended else other.mark
                oldest = side.waiting.oldest
                if i == j or oldest is None or oldest >= passed:
                    continue
                times, pixels = side.waiting.keys(passed)
                rows = np.arange(np.searchsorted(times, passed))
                if len(self.sides) > 2:  # what waits there too may still find the third
                    rows = np.delete(rows, common(times[rows], pixels[rows], *other.waiting.keys(passed))[0])
                if rows.size:
                    side.waiting.drop(rows)
                    unread = times[rows] < other.start
                    self._lose(i, pixels[rows[~unread]], "never came", j)
                    self._lose(i, pixels[rows[unread]], "not read yet", j)

    def _lose(self, which: int, pixels: Rows, why: Why, missing: int | None = None) -> None:
        if pixels.size:
            lacks = "" if missing is None else self.topics[missing]
            self.unmatched.append(Unmatched(self.generation, self.topics[which], lacks, why, pixels))

    def shed(self) -> None:
        """Give up what has waited longest, of the topic of which most waits."""
        which = max(range(len(self.sides)), key=lambda i: self.sides[i].waiting.bytes)
        self._lose(which, self.sides[which].waiting.shed(), "no room")

    def _flagged(self, made: list[Blocks]) -> list[Blocks]:
        """Put SCAN_BEGIN on the first rows of the scan, and SCAN_END behind the last of every topic; once."""
        nothing = [side.nothing for side in self.sides if side.nothing is not None]
        over = all(side.ended for side in self.sides) and bool(self._seen & BlockFlag.SCAN_END)
        ends = over and not self._told & BlockFlag.SCAN_END and len(nothing) == len(self.sides) and not self.refusal
        if ends and not made:
            made = [tuple(nothing)]
        flags = [_NOTHING] * len(made)
        if made and not self._told:
            flags[0] |= self._seen & BlockFlag.SCAN_BEGIN
            self._told |= BlockFlag.SCAN_BEGIN
        if ends:
            flags[-1] |= self._seen & (BlockFlag.SCAN_END | BlockFlag.ABORTED)
            self._told |= BlockFlag.SCAN_END
        return [
            tuple(msgspec.structs.replace(each, flags=flag) for each in blocks)
            for blocks, flag in zip(made, flags, strict=True)
        ]


class Join:
    """Takes blocks of several topics in any interleaving and returns the rows that all of them have, once each.

    most_bytes: how much may wait; beyond it the oldest rows are given up, and named.
    """

    def __init__(self, topics: tuple[str, ...], most_bytes: int = MOST_BYTES) -> None:
        self.topics, self.most_bytes = topics, most_bytes
        self._scans: dict[int, _Scan] = {}
        self._at = [_BEFORE] * len(topics)
        self._largest = 0
        self._refused: list[tuple[int, str]] = []
        self._unmatched: list[Unmatched] = []

    def take(self, which: int, block: FrameBlock) -> list[Blocks]:
        """Take a block of topic number `which`; return what it completes: blocks of the same N rows, one a topic.

        They may be views of `block`, so they are valid as long as it is. N = 0 carries SCAN_END alone.
        """
        at = self._at[which]
        if block.generation < at:
            pixels = block.scan_index[is_pixel(block)]
            if pixels.size:
                self._unmatched.append(Unmatched(block.generation, self.topics[which], "", "old scan", pixels.copy()))
            return []
        made: list[Blocks] = []
        if block.generation > at:
            self._at[which] = block.generation
            for generation in sorted(self._scans):
                if generation < block.generation:
                    made += self._scans[generation].leave(which)
        scan = self._scan(block.generation)
        refused = scan.refusal
        made += scan.take(which, block, at != _BEFORE)
        if scan.refusal != refused:
            self._refused.append((block.generation, scan.refusal))
        self._largest = max(self._largest, cost(block))
        while self.bytes > self.most_bytes:
            next(each for _, each in sorted(self._scans.items()) if each.bytes).shed()
        self._forget()
        return made

    def _scan(self, generation: int) -> _Scan:
        scan = self._scans.get(generation)
        if scan is None:
            scan = self._scans[generation] = _Scan(generation, self.topics)
            for side, at in zip(scan.sides, self._at, strict=True):
                side.ended = at > generation
        return scan

    def _forget(self) -> None:
        """Let go of the scans that every topic has left, and of the oldest where one topic gives nothing at all."""
        too_many = sorted(self._scans)[:-MOST_SCANS]
        for generation in [g for g in self._scans if g < min(self._at) or g in too_many]:
            scan = self._scans.pop(generation)
            while scan.bytes:
                scan.shed()
            self._unmatched += scan.unmatched

    @property
    def bytes(self) -> int:
        """Memory of all that waits [bytes]."""
        return sum(scan.bytes for scan in self._scans.values())

    def waiting(self, which: int) -> int:
        """Return how many rows of a topic wait for the others."""
        return sum(scan.sides[which].waiting.count for scan in self._scans.values())

    def is_full(self) -> bool:
        """Whether the next block of a topic that is ahead might cost rows that wait."""
        return self.bytes + self._largest > self.most_bytes

    def newest(self, generation: int) -> list[Rows | None]:
        """Return by topic the index in it of the newest frame seen of every pixel, (cells,) or None, -1 = none."""
        scan = self._scans.get(generation)
        if scan is None:
            return [None] * len(self.topics)
        return [side.newest if side.newest.size else None for side in scan.sides]

    def late(self, generation: int) -> Rows:
        """Return the pixels of which a topic gave another result since the last call: they are to be joined again."""
        scan = self._scans.get(generation)
        if scan is None or not scan.late:
            return _NO_ROWS
        found, scan.late = np.unique(np.concatenate(scan.late)), []
        return found

    def refused(self) -> list[tuple[int, str]]:
        """Return (generation, why in words) of every scan that since the last call proved not to be joined."""
        found, self._refused = self._refused, []
        return found

    def unmatched(self) -> list[Unmatched]:
        """Return the rows that since the last call were given up."""
        found, self._unmatched = self._unmatched, []
        for scan in self._scans.values():
            found += scan.unmatched
            scan.unmatched = []
        return found


__all__ = ["MOST_BYTES", "Blocks", "Join", "Unmatched", "refusal"]
