"""Rows of one topic that wait for those of other topics, in the order of their exposure."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from ..data.frame import COLUMN_BYTES, FrameBlock, together

Rows = NDArray[np.int64]
_OBJECT_BYTES = 1024  # a block and its six arrays, beside what they hold
_NONE = np.empty(0, np.int64)


class Waiting:
    """A queue of copied rows whose time never falls; any of them can be taken out.

    count, bytes: of what waits. Row numbers count from the oldest.
    """

    def __init__(self) -> None:
        self._blocks: deque[FrameBlock] = deque()
        self.count = self.bytes = 0

    def add(self, block: FrameBlock, which: slice | Rows) -> None:
        """Copy some rows of a block, none of them older than those that wait."""
        rows = block.rows(which)
        rows = rows.copy() if isinstance(which, slice) else rows  # an index array has copied
        self._blocks.append(rows)
        self.count += rows.count
        self.bytes += cost(rows)

    @property
    def oldest(self) -> int | None:
        """Time of the oldest row [ns], None where nothing waits."""
        return int(self._blocks[0].time_ns[0]) if self._blocks else None

    def keys(self, until: int) -> tuple[Rows, Rows]:
        """Return time and pixel of the oldest rows: of all those exposed at or before `until` [ns], and some more."""
        found = self._front(until)
        if len(found) < 2:
            return (found[0].time_ns, found[0].scan_index) if found else (_NONE, _NONE)
        return np.concatenate([b.time_ns for b in found]), np.concatenate([b.scan_index for b in found])

    def _front(self, until: int) -> list[FrameBlock]:
        found = []
        for block in self._blocks:
            if block.time_ns[0] > until:
                break
            found.append(block)
        return found

    def replace(self, block: FrameBlock, which: Rows) -> Rows:
        """Put rows of a block in the place of those of the same time and pixel; return which of them had none."""
        left = which
        for waits in self._front(int(block.time_ns[which].max())):
            mine, theirs = common(block.time_ns[left], block.scan_index[left], waits.time_ns, waits.scan_index)
            waits.data[theirs] = block.data[left[mine]]
            left = np.delete(left, mine)
        return left

    def pick(self, rows: Rows) -> FrameBlock:
        """Take these rows out (M > 0) and return them, in that order."""
        first, start = 0, 0
        for block in self._blocks:
            if start + block.count > int(rows.min()):
                break
            first, start = first + 1, start + block.count
        touched = self.drop(rows)[first:]
        return together(touched).rows(span(rows - start))

    def drop(self, rows: Rows) -> list[FrameBlock]:
        """Take these rows out (M > 0); return the blocks from the oldest to the last one that held any."""
        last, touched, total = int(rows.max()), [], 0
        while total <= last:
            touched.append(self._blocks.popleft())
            total += touched[-1].count
        stays = np.ones(total, bool)
        stays[rows] = False
        for block in reversed(touched):
            total -= block.count
            left = np.flatnonzero(stays[total : total + block.count])
            self.bytes -= cost(block)
            if left.size:
                rest = block if left.size == block.count else block.rows(span(left))
                self._blocks.appendleft(rest)
                self.bytes += cost(rest)
        self.count -= len(rows)
        return touched

    def shed(self) -> Rows:
        """Give up the oldest block; return its pixels."""
        block = self._blocks.popleft()
        self.count -= block.count
        self.bytes -= cost(block)
        return block.scan_index


def cost(block: FrameBlock) -> int:
    """Return the memory that a copied block takes [bytes]."""
    return int(block.data.nbytes) + block.count * COLUMN_BYTES + _OBJECT_BYTES


def span(rows: Rows) -> slice | Rows:
    """Return row numbers as a slice where they follow one another: it copies nothing.

    >>> span(np.array([3, 4, 5])), span(np.array([3, 5]))
    (slice(3, 6, None), array([3, 5]))
    """
    if not len(rows):
        return slice(0, 0)
    first, last = int(rows[0]), int(rows[-1])
    if last - first + 1 == len(rows) and (len(rows) < 3 or bool((np.diff(rows) == 1).all())):
        return slice(first, last + 1)
    return rows


def common(times: Rows, pixels: Rows, other_times: Rows, other_pixels: Rows) -> tuple[Rows, Rows]:
    """Return the row numbers, in both lists, of the rows whose time and pixel are in both; in the first one's order.

    Of rows that are the same within one list the first counts.
    """
    n = len(times)
    if n == len(other_times) and np.array_equal(times, other_times) and np.array_equal(pixels, other_pixels):
        same = np.arange(n)
        if n < 2 or bool((times[1:] > times[:-1]).all()):
            return same, same
    if not n or not len(other_times):
        return _NONE, _NONE
    every = np.unique(np.concatenate([times, other_times]))
    wide = int(max(pixels.max(), other_pixels.max())) + 1
    mine = np.searchsorted(every, times) * wide + pixels
    theirs = np.searchsorted(every, other_times) * wide + other_pixels
    _, at, there = np.intersect1d(mine, theirs, return_indices=True)
    order = np.argsort(at, kind="stable")
    return at[order], there[order]
