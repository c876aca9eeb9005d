"""Finished cells of a scan that are done again: which, from what is on disk, and when to look again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..data.axes import StreamSpec
from ..data.errors import ProbeloopError
from ..data.frame import FrameBlock, together
from .join import Blocks
from .waiting import Rows, common, span

Pixels = NDArray[np.int64] | NDArray[np.bool_] | slice
EVERY = slice(None)
ATTEMPTS = 20
_AGAIN_NS = 300_000_000  # until the recorder has written what it had in memory


class History(Protocol):
    """The recorder's side, read while it writes: `record.history.SessionHistory`."""

    def blocks(self, topic: str, generation: int, wanted: NDArray[np.bool_]) -> Iterator[FrameBlock]:
        """Yield the wanted pixels (cells,) of a scan that are on disk, in the order of the scan, piece by piece."""
        ...

    def kept(self, topic: str, generation: int, cells: int) -> tuple[Rows, Rows] | None:
        """Return index in its topic (-1 = not there) and exposure [ns] of every pixel's frame, (cells,) each."""
        ...


class Past:
    """The finished cells that are owed; low priority: one piece a call. Without a history nothing is ever owed.

    A cell of several topics is read when each of them has on disk what was last seen of it, all of one exposure.
    """

    def __init__(self, history: History | None, topics: tuple[str, ...]) -> None:
        self.history, self.topics = history, topics
        self.begin(-1, (), 0)

    def begin(self, generation: int, specs: Sequence[StreamSpec], cells: int) -> None:
        """Another scan: nothing of it is owed. cells: its pixels, 0 where no map can be made."""
        self._generation = generation
        self._largest = max(range(len(specs)), key=lambda i: specs[i].frame_bytes, default=0)
        self._owed = np.zeros(cells, bool)
        self._reading = np.zeros(cells, bool)
        self.forget()

    def forget(self) -> None:
        """Owe nothing any more."""
        self._owed[:] = False
        self._pieces: Iterator[Blocks] | None = None
        self._left = self._again_ns = 0

    @property
    def busy(self) -> bool:
        """Whether a cell is owed, and hope is left."""
        return self._left > 0

    @property
    def owed(self) -> NDArray[np.bool_]:
        """Which cells are owed, those given up too, (cells,)."""
        return self._owed

    @property
    def due(self) -> bool:
        """Whether it is time to look."""
        return self.busy and time.monotonic_ns() >= self._again_ns

    def ask(self, pixels: Pixels, attempts: int = ATTEMPTS) -> None:
        """Owe these cells; look for them up to `attempts` times."""
        if self.history is not None and self._owed.size:
            self._owed[pixels] = True
            self._reading[pixels] = False  # what is being read of them may be older than what was asked for
            self._left = attempts if self._owed.any() else 0

    def done(self, pixels: Pixels) -> None:
        """Owe these no more: they were done anew."""
        self._owed[pixels] = False

    def next(self, newest: Sequence[Rows | None]) -> Blocks | None:
        """Return owed rows, a block a topic, all of the same pixels; None when it is too early, or all is read.

        newest: by topic, the index of the newest frame seen of every pixel, None = none was. Raises ProbeloopError
        for a damaged record, after which nothing is owed.
        """
        if not self.due:
            return None
        try:
            if self._pieces is None:
                self._pieces = self._read(newest)
            for blocks in self._pieces:
                rows = np.flatnonzero(self._reading[blocks[0].scan_index] & self._owed[blocks[0].scan_index])
                if rows.size:
                    self._owed[blocks[0].scan_index[rows]] = False
                    return tuple(each.rows(span(rows)) for each in blocks)
        except ProbeloopError:
            self.forget()
            raise
        self._pieces = None
        self._left = self._left - 1 if self._owed.any() else 0
        self._again_ns = time.monotonic_ns() + _AGAIN_NS
        return None

    def _read(self, newest: Sequence[Rows | None]) -> Iterator[Blocks]:
        assert self.history is not None
        generation, self._reading = self._generation, self._owed.copy()
        if len(self.topics) > 1:
            self._reading &= self._ready(newest)
        for block in self.history.blocks(self.topics[self._largest], generation, self._reading):
            blocks = (block,) if len(self.topics) == 1 else self._with_others(block)
            if blocks[0].count:
                yield tuple(self._of_generation(each) for each in blocks)

    def _ready(self, newest: Sequence[Rows | None]) -> NDArray[np.bool_]:
        """Return which cells are on disk as they were last seen, in every topic, and of one exposure."""
        assert self.history is not None
        ready, times = np.ones(self._owed.size, bool), None
        for topic, seen in zip(self.topics, newest, strict=True):
            kept = self.history.kept(topic, self._generation, ready.size)
            if kept is None:
                return np.zeros_like(ready)
            index, time_ns = kept
            ready &= (index >= 0) & (index >= (0 if seen is None else seen))
            times = time_ns if times is None else times
            ready &= time_ns == times
        return ready

    def _with_others(self, block: FrameBlock) -> Blocks:
        """Return the rows of a block that the other topics have too, a block a topic."""
        assert self.history is not None
        wanted = np.zeros(self._owed.size, bool)
        wanted[block.scan_index] = True
        found: list[Any] = [block] * len(self.topics)
        for i, topic in enumerate(self.topics):
            if i != self._largest:
                others = list(self.history.blocks(topic, self._generation, wanted))
                if not others:
                    return (block.rows(slice(0, 0)),)
                found[i] = together(others)
        times, pixels = block.time_ns, block.scan_index
        rows = [np.arange(block.count)] * len(found)
        for i, each in enumerate(found):
            mine, theirs = common(times, pixels, each.time_ns, each.scan_index)
            times, pixels = times[mine], pixels[mine]
            rows[:i], rows[i] = [some[mine] for some in rows[:i]], theirs
        return tuple(each.rows(span(some)) for each, some in zip(found, rows, strict=True))

    def _of_generation(self, block: FrameBlock) -> FrameBlock:
        """Return a block of the record as one of the generation it was read for."""
        same = block.generation == self._generation
        return block if same else msgspec.structs.replace(block, generation=self._generation)
