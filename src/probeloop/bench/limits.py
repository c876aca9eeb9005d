"""What this machine can do at best, measured in the run that is to be held against it."""

from __future__ import annotations

import threading
import time
from typing import Any

import numba as nb
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from .stream_role import FRAME_WORDS, HOT_FRAMES

RING_FRAMES = 32
_HANDED = 16384  # frames from one core to the other before the clock is looked at
_COLD_BYTES = 512 << 20  # larger than any cache that a core reaches


@nb.njit(nogil=True, cache=True)
def _sum(words: Any) -> Any:
    total = np.uint64(0)
    for i in range(words.shape[0]):
        total += words[i]
    return total


def _load(typing: Any, marks: Any, which: Any) -> Any:
    """Load a mark that another thread writes, and all that it wrote before."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        data = make_array(signature.args[0])(context, builder, given[0]).data  # type: ignore[no-untyped-call]
        return builder.load_atomic(builder.gep(data, [given[1]]), "acquire", 8)

    return types.int64(marks, which), generate


def _store(typing: Any, marks: Any, which: Any, value: Any) -> Any:
    """Store a mark for another thread, behind all that was written before."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        data = make_array(signature.args[0])(context, builder, given[0]).data  # type: ignore[no-untyped-call]
        builder.store_atomic(given[2], builder.gep(data, [given[1]]), "release", 8)
        return ir.Constant(ir.IntType(8).as_pointer(), None)

    return types.none(marks, which, types.int64), generate


def _copy(typing: Any, ring: Any, slot: Any, hot: Any, frame: Any) -> Any:
    """Copy a frame of (n, FRAME_WORDS) by the C library, as numpy does.

    Plain stores into what another core has read take up to five times as long.
    """

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        def row(which: int) -> Any:
            made = make_array(signature.args[which])  # type: ignore[no-untyped-call]
            start = builder.mul(given[which + 1], ir.Constant(ir.IntType(64), FRAME_WORDS))
            return builder.gep(made(context, builder, given[which]).data, [start])

        cgutils.raw_memcpy(builder, row(0), row(2), ir.Constant(ir.IntType(64), FRAME_WORDS), 8)  # type: ignore[no-untyped-call]
        return ir.Constant(ir.IntType(8).as_pointer(), None)

    return types.none(ring, slot, hot, frame), generate


_told: Any = intrinsic(_load)
_tell: Any = intrinsic(_store)
_copied: Any = intrinsic(_copy)
_WRITTEN, _READ = 0, 16  # marks, on cache lines of their own


@nb.njit(nogil=True, cache=True)
def _write(hot: Any, ring: Any, marks: Any, frames: Any) -> None:
    for n in range(frames):
        while n - _told(marks, _READ) >= ring.shape[0]:
            pass
        _copied(ring, n % ring.shape[0], hot, n % hot.shape[0])
        _tell(marks, _WRITTEN, n + 1)


@nb.njit(nogil=True, cache=True)
def _read(ring: Any, marks: Any, frames: Any) -> Any:
    total = np.uint64(0)
    for n in range(frames):
        while _told(marks, _WRITTEN) <= n:
            pass
        total += _sum(ring[n % ring.shape[0]])
        _tell(marks, _READ, n + 1)
    return total


class Limits:
    """Copying and reading by one thread; by two, one that copies and one that reads what the other has copied."""

    def __init__(self) -> None:
        self._hot = np.ones((HOT_FRAMES, FRAME_WORDS), np.uint64)
        self._ring = np.zeros((RING_FRAMES, FRAME_WORDS), np.uint64)
        self._cold = np.ones(_COLD_BYTES // 8, np.uint64)
        _sum(self._cold[:1])
        self.cross_core(0.0)  # compiles

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

    def cross_core(self, seconds: float) -> float:
        """Return bytes a second of copying hot frames into the ring on one core while another one sums them.

        It is what a bus could reach that costs nothing. On a virtual machine it changes with where the two cores lie.
        """
        began, frames = time.perf_counter(), 0
        while frames == 0 or time.perf_counter() - began < seconds:
            marks = np.zeros(32, np.int64)
            writer = threading.Thread(target=_write, args=(self._hot, self._ring, marks, _HANDED))
            writer.start()
            if _read(self._ring, marks, _HANDED) != _HANDED * FRAME_WORDS:
                raise AssertionError("the sum is wrong")
            writer.join()
            frames += _HANDED
        return frames * FRAME_WORDS * 8 / (time.perf_counter() - began)
