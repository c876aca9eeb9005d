"""What this machine can do at best, measured in the run that is to be held against it."""

from __future__ import annotations

import time
from typing import Any

import numba as nb
import numpy as np

from .stream_role import FRAME_WORDS, HOT_FRAMES

RING_FRAMES = 32
_COLD_BYTES = 512 << 20  # larger than any cache that a core reaches


@nb.njit(nogil=True, cache=True)
def _sum(words: Any) -> Any:
    total = np.uint64(0)
    for i in range(words.shape[0]):
        total += words[i]
    return total


class Limits:
    """Copying and reading, one thread."""

    def __init__(self) -> None:
        self._hot = np.ones((HOT_FRAMES, FRAME_WORDS), np.uint64)
        self._ring = np.zeros((RING_FRAMES, FRAME_WORDS), np.uint64)
        self._cold = np.ones(_COLD_BYTES // 8, np.uint64)
        _sum(self._cold[:1])

    def memcpy(self, seconds: float) -> float:
        """Return bytes a second of copying hot frames of 128 KiB into a ring of 32."""
        began, frames = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            for _ in range(256):
                np.copyto(self._ring[frames % RING_FRAMES], self._hot[frames % HOT_FRAMES])
                frames += 1
        return frames * FRAME_WORDS * 8 / (time.perf_counter() - began)

    def read(self, seconds: float) -> float:
        """Return bytes a second of reading memory that no cache holds, every byte once."""
        began, passes = time.perf_counter(), 0
        while passes == 0 or time.perf_counter() - began < seconds:
            if _sum(self._cold) != len(self._cold):
                raise AssertionError("the sum is wrong")
            passes += 1
        return passes * _COLD_BYTES / (time.perf_counter() - began)
