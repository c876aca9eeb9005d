"""From the bytes of frames in the ring to native pixels in the block that the pump lends: one pass, no copy between.

Processed pixels are big-endian. Raw ones come as the chips send them, in 64-bit words whose first pixel is lowest: 64
pixels of 1 bit, 8 of 6 bits in a byte each, 4 of 12 bits in two bytes each; 24 bits are two frames of 12, the more
significant one first. Of a quad each row holds one of every chip: the last two are the upper half of the image, the
first two the lower one, turned by 180 degrees. The layout is the one that LiberTEM's reader of raw MIB files has.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

GOOD, REPEATED, SURPLUS, IMPOSSIBLE = 0, 1, 2, 3


@nb.njit(nogil=True, cache=True)
def _processed(memory: Any, at: int, size: int, frame: Any) -> Any:
    """Turn big-endian pixels of `size` bytes into the flat frame; return all of them ored."""
    every = np.uint32(0)
    if size == 1:
        for i in range(len(frame)):
            value = memory[at + i]
            frame[i] = value
            every |= np.uint32(value)
    elif size == 2:
        for i in range(len(frame)):
            value = (np.uint16(memory[at + 2 * i]) << np.uint16(8)) | np.uint16(memory[at + 2 * i + 1])
            frame[i] = value
            every |= np.uint32(value)
    else:
        for i in range(len(frame)):
            p = at + 4 * i
            high = (np.uint32(memory[p]) << np.uint32(24)) | (np.uint32(memory[p + 1]) << np.uint32(16))
            value = high | (np.uint32(memory[p + 2]) << np.uint32(8)) | np.uint32(memory[p + 3])
            frame[i] = value
            every |= value
    return every


@nb.njit(nogil=True, cache=True, inline="always")
def _pair(memory: Any, at: int, j: int) -> Any:
    """Return pixel j of words of four pixels of 16 bits."""
    p = at + 2 * ((j & ~3) + 3 - (j & 3))
    return (np.uint32(memory[p]) << np.uint32(8)) | np.uint32(memory[p + 1])


@nb.njit(nogil=True, cache=True)
def _raw_row(memory: Any, at: int, depth: int, second: int, frame: Any, begin: int, step: int, count: int) -> Any:
    """Turn `count` pixels of a chip's row into frame[begin], frame[begin + step] ...; return all of them ored.

    frame: flat. second: how far behind the less significant 12 bits of 24 are [bytes].
    """
    every = np.uint32(0)
    if depth == 1:
        for j in range(count):
            byte = memory[at + (j >> 6) * 8 + 7 - ((j >> 3) & 7)]
            frame[begin + step * j] = (byte >> np.uint8(j & 7)) & 1
    elif depth == 6:
        for j in range(count):
            value = memory[at + (j & ~7) + 7 - (j & 7)]
            frame[begin + step * j] = value
            every |= np.uint32(value)
    else:
        for j in range(count):
            p = at + 2 * ((j & ~3) + 3 - (j & 3))
            pixel = (np.uint32(memory[p]) << np.uint32(8)) | np.uint32(memory[p + 1])
            if depth == 24:
                low = (np.uint32(memory[p + second]) << np.uint32(8)) | np.uint32(memory[p + second + 1])
                every |= (low >> np.uint32(12)) << np.uint32(24)  # what 12 bits can't hold, 24 can't
                pixel = (pixel << np.uint32(12)) | low
            frame[begin + step * j] = pixel
            every |= pixel
    return every


@nb.njit(nogil=True, cache=True)
def _raw(memory: Any, at: int, depth: int, quad: bool, ky: int, kx: int, frame: Any) -> Any:
    """Turn raw pixels into the flat frame of (ky, kx); return all of them ored."""
    bits = 1 if depth == 1 else 8 if depth == 6 else 16
    second = ky * kx * 2
    every = np.uint32(0)
    if not quad:
        width = kx * bits // 8
        for y in range(ky):
            every |= _raw_row(memory, at + y * width, depth, second, frame, y * kx, 1, kx)
        return every
    side = kx // 2
    width = side * bits // 8
    for y in range(ky // 2):
        row = at + 4 * y * width
        for chip in range(4):
            begin, step = y * kx + (3 - chip) * side, 1
            if chip < 2:
                begin, step = (ky - y) * kx - 1 - chip * side, -1
            every |= _raw_row(memory, row + chip * width, depth, second, frame, begin, step, side)
    return every


@nb.njit(nogil=True, cache=True)
def place(
    memory: Any, at: int, stride: int, count: int, numbers: Any, base: int, highest: int, seen: Any, kinds: Any,
    index: Any, rows: Any, out: Any, row: int, size: int, depth: int, quad: bool, limit: int,
) -> tuple[int, int]:  # fmt: skip
    """Decode `count` frames into rows of `out` from `row` on; return the next row, and the highest index so far.

    at: of the first frame's pixels in memory, stride: to the next frame's [bytes]. numbers: as in the headers, whose
    six digits begin again after 999,999; base: of the run's first frame. seen (n,): the run's frames that came
    already; marked. size: bytes of a processed pixel, 0 = raw. limit: what no pixel exceeds.
    Written: kinds (count,), GOOD to IMPOSSIBLE; index (count,) in the run; rows (count,), -1 = it has none.
    """
    for k in range(count):
        rows[k] = -1
        i = numbers[k] - base
        while i < highest - 500_000:
            i += 1_000_000
        index[k] = i
        if i < 0 or i >= len(seen):
            kinds[k] = SURPLUS
            continue
        p = at + k * stride
        if size == 0:
            every = _raw(memory, p, depth, quad, out.shape[1], out.shape[2], out[row].reshape(-1))
        else:
            every = _processed(memory, p, size, out[row].reshape(-1))
        highest = max(highest, i)
        if every > limit:
            kinds[k] = IMPOSSIBLE
            continue
        kinds[k] = REPEATED if seen[i] else GOOD
        seen[i] = True
        rows[k] = row
        row += 1
    return row, highest


@nb.njit(nogil=True, cache=True)
def stamp(
    stamps: Any, arrivals: Any, rows: Any, count: int, offset: int, last: int, exposure: int, out: Any
) -> tuple[int, int]:  # fmt: skip
    """Write the start of exposure of each frame on the host's clock, out[rows] [ns]; return offset and last time.

    stamps: the detector's own, -1 = none; arrivals: when it came. offset: from the detector's clock to the host's, as
    the least delayed frame so far shows it. A stamp that falls behind its arrival by a second is not believed.
    """
    for k in range(count):
        if rows[k] < 0:
            continue
        time = arrivals[k]
        if stamps[k] >= 0:
            if time - stamps[k] < offset or time - stamps[k] - offset > 1_000_000_000:
                offset = time - stamps[k]
            time = stamps[k] + offset
        last = max(last, time - exposure)
        out[rows[k]] = last
    return offset, last


def warm_up(dtype: str) -> None:
    """Have the kernels compiled for frames of a dtype, before the detector sends any."""
    memory, few = np.zeros(64, np.uint8), np.zeros(1, np.int64)
    out: NDArray[Any] = np.zeros((1, 1, 1), dtype)
    place(memory, 0, 0, 0, few, 0, 0, np.zeros(1, np.bool_), few, few, few, out, 0, 1, 1, False, 0)
    stamp(few, few, few, 0, 0, 0, 0, few)
