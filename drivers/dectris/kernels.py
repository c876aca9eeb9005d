"""Bit shuffle and LZ4 without another library: for hosts that have no compiler to build dectris-compression.

Every length is held against the ends of both buffers, so no bytes read or write outside. Formats: the LZ4 block
format, bitshuffle's bshuf_h5filter.c, HDF5's LZ4 filter.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

_LEFT = np.uint64(0x00AA00AA00AA00AA)  # bits of an 8 x 8 matrix that are swapped, in three steps
_PAIR = np.uint64(0x0000CCCC0000CCCC)
_QUAD = np.uint64(0x00000000F0F0F0F0)
_7, _14, _28 = np.uint64(7), np.uint64(14), np.uint64(28)
_8, _16, _24, _32 = np.uint64(8), np.uint64(16), np.uint64(24), np.uint64(32)
_40, _48, _56 = np.uint64(40), np.uint64(48), np.uint64(56)
FRAMING = 12


@nb.njit(nogil=True, cache=True)
def unpack(data: Any, element: Any, shuffled: Any, scratch: Any, out: Any) -> bool:
    """Unpack framed `data` into `out`, both uint8; False when it does not fill it exactly.

    element: bytes of a pixel. shuffled: its bits are. scratch: uint64, at least a quarter of a block long.
    """
    size = out.size
    block = np.int64(0)
    for i in range(8, FRAMING):
        block = block << 8 | data[i]
    half = scratch.size // 2
    packed_bits, turned = scratch[:half].view(np.uint8), scratch[half:]
    whole = size - size % (8 * element) if shuffled else size
    at: Any = FRAMING
    to: Any = 0
    while to < whole:
        n = min(block, whole - to)
        if at + 4 > data.size:
            return False
        packed = np.int64(0)
        for i in range(at, at + 4):
            packed = packed << 8 | data[i]
        at += 4
        if packed > data.size - at:
            return False
        if shuffled:
            if not _lz4(data[at : at + packed], packed_bits[:n]):
                return False
            _sort_bits(packed_bits, n // element, element, turned, out[to : to + n])
        elif packed == n:
            out[to : to + n] = data[at : at + n]
        elif not _lz4(data[at : at + packed], out[to : to + n]):
            return False
        at += packed
        to += n
    if data.size - at != size - whole:
        return False
    out[whole:] = data[at:]
    return True


@nb.njit(nogil=True, cache=True)
def _lz4(data: Any, out: Any) -> bool:
    """Unpack one LZ4 block into `out`; False when it does not fill it exactly."""
    at: Any = 0
    to: Any = 0
    length: Any = 0
    more: Any = 0
    end, size = data.size, out.size
    while at < end:
        token = np.int64(data[at])
        at += 1
        length = token >> 4
        if length == 15:
            more = 255
            while more == 255:
                if at >= end:
                    return False
                more = np.int64(data[at])
                at += 1
                length += more
        if length > end - at or length > size - to:
            return False
        for i in range(length):
            out[to + i] = data[at + i]
        at += length
        to += length
        if at == end:
            return bool(to == size)
        if at + 2 > end:
            return False
        back = np.int64(data[at]) | np.int64(data[at + 1]) << 8
        at += 2
        if back == 0 or back > to:
            return False
        length = (token & 15) + 4
        if length == 19:
            more = 255
            while more == 255:
                if at >= end:
                    return False
                more = np.int64(data[at])
                at += 1
                length += more
        if length > size - to:
            return False
        if back == 1:  # most of a dark frame: one byte again and again
            out[to : to + length] = out[to - 1]
        else:
            for i in range(to, to + length):
                out[i] = out[i - back]
        to += length
    return False


@nb.njit(nogil=True, cache=True)
def _sort_bits(planes: Any, count: Any, element: Any, turned: Any, out: Any) -> None:
    """Give `count` pixels their bits back: planes[b * row + k] holds bit b of the pixels 8 k to 8 k + 7.

    turned: scratch, at least count / 8 uint64. Loops are split so that they become vector instructions.
    """
    row = count // 8
    for byte in range(element):
        p = planes[8 * byte * row : 8 * (byte + 1) * row]
        lit = False
        for value in p:
            if value != 0:
                lit = True
                break
        if not lit:  # high bits of most frames
            for i in range(count):
                out[i * element + byte] = 0
            continue
        for k in range(row):
            x = np.uint64(p[k])
            x |= np.uint64(p[row + k]) << _8
            x |= np.uint64(p[2 * row + k]) << _16
            x |= np.uint64(p[3 * row + k]) << _24
            x |= np.uint64(p[4 * row + k]) << _32
            x |= np.uint64(p[5 * row + k]) << _40
            x |= np.uint64(p[6 * row + k]) << _48
            x |= np.uint64(p[7 * row + k]) << _56
            y = (x ^ (x >> _7)) & _LEFT  # an 8 x 8 matrix of bits is turned (Hacker's Delight, 7-3)
            x = x ^ y ^ (y << _7)
            y = (x ^ (x >> _14)) & _PAIR
            x = x ^ y ^ (y << _14)
            y = (x ^ (x >> _28)) & _QUAD
            turned[k] = x ^ y ^ (y << _28)
        pixels = turned[:row].view(np.uint8)
        for i in range(count):
            out[i * element + byte] = pixels[i]
