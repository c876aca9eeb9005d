"""Counters of readers and publishers, and the rates between two readings."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

_KEPT_GAPS = 256


@dataclass(frozen=True, slots=True)
class ReaderStats:
    """What a reader got. lost: frames missing by index; gaps: the newest (first index, count), bounded.

    wire_errors: blocks that were no valid block; unspecified: blocks that came before anybody said what they are.
    """

    blocks: int = 0
    frames: int = 0
    bytes: int = 0
    lost: int = 0
    gaps: tuple[tuple[int, int], ...] = ()
    wire_errors: int = 0
    unspecified: int = 0


class Missed:
    """What a reader did not get, as it counts it; see ReaderStats."""

    __slots__ = ("gaps", "lost", "unspecified", "wire_errors")

    def __init__(self) -> None:
        self.lost = self.wire_errors = self.unspecified = 0
        self.gaps: deque[tuple[int, int]] = deque(maxlen=_KEPT_GAPS)

    def gap(self, first: int, count: int) -> None:
        """Note that `count` frames from `first` on did not come; of none or fewer (frames come again) nothing."""
        if count > 0:
            self.lost += count
            self.gaps.append((first, count))


@dataclass(frozen=True, slots=True)
class PublisherStats:
    """What a publisher sent. reserved_bytes: shared memory that it holds."""

    blocks: int = 0
    frames: int = 0
    bytes: int = 0
    reserved_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Rates:
    """Per second, between two readings."""

    frames_per_s: float
    megabytes_per_s: float
    lost_per_s: float


def rates(before: ReaderStats | PublisherStats, after: ReaderStats | PublisherStats, elapsed_s: float) -> Rates:
    """Return the rates between two readings of the same counters, `elapsed_s` apart; zeros when no time passed."""
    if elapsed_s <= 0:
        return Rates(0.0, 0.0, 0.0)
    lost = after.lost - before.lost if isinstance(after, ReaderStats) and isinstance(before, ReaderStats) else 0
    return Rates(
        (after.frames - before.frames) / elapsed_s,
        (after.bytes - before.bytes) / elapsed_s / 1e6,
        lost / elapsed_s,
    )


def newest_gaps(gaps: tuple[tuple[int, int], ...], lost: int, most: int = 16) -> list[tuple[int, int]]:
    """Return the gaps (first index, count) that make up the newest `lost` frames, oldest first.

    Those beyond `most`, and those too old to be remembered, are one gap with first -1.

    >>> newest_gaps(((3, 2), (10, 1), (20, 4)), 5), newest_gaps(((20, 4),), 6)
    ([(10, 1), (20, 4)], [(-1, 2), (20, 4)])
    """
    found: list[tuple[int, int]] = []
    for first, count in reversed(gaps[-most:]):
        if lost <= 0:
            break
        found.append((first, count))
        lost -= count
    return [*([(-1, lost)] if lost > 0 else []), *reversed(found)]
