"""Memory for the frames of a run: equal slots, one message each, which a thread fills and another one empties.

In step with the detector every slot holds one message and nothing is moved. Bytes that are no frame of the run are
skipped and counted, and what follows them is moved up to the slot's beginning.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

START = 19  # bytes by which the beginning of a message is known
_MPX, _KINDS = np.frombuffer(b"MPX,", np.uint8), np.frombuffer(b"MQ1,HDR,", np.uint8)


@nb.njit(nogil=True, cache=True)
def find_start(memory: Any, begin: int, end: int) -> int:
    """Return where in memory[begin:end] a message may begin, or `end`; one that `end` cuts off counts."""
    for p in range(begin, end):
        if memory[p] != _MPX[0]:
            continue
        known = min(START, end - p)
        fits = True
        for i in range(known):
            byte = memory[p + i]
            if i < 4:
                fits = byte == _MPX[i]
            elif i < 14:
                fits = 48 <= byte <= 57
            elif i == 14:
                fits = byte == 44
            else:
                fits = byte == _KINDS[i - 15] or byte == _KINDS[i - 11]
            if not fits:
                break
        if fits:
            return p
    return end


@nb.njit(nogil=True, cache=True)
def _digits(memory: Any, at: int, count: int) -> int:
    """Return the number in `count` digits, -1 when they are none."""
    value = 0
    for i in range(count):
        digit = memory[at + i] - 48
        if digit < 0 or digit > 9:
            return -1
        value = value * 10 + digit
    return value


@nb.njit(nogil=True, cache=True)
def _time_ns(memory: Any, at: int) -> int:
    """Return 2021-04-15T14:03:32.852759401 as nanoseconds since 1970, -1 when it is no time."""
    year, month, day = _digits(memory, at, 4), _digits(memory, at + 5, 2), _digits(memory, at + 8, 2)
    hour, minute, second = _digits(memory, at + 11, 2), _digits(memory, at + 14, 2), _digits(memory, at + 17, 2)
    fraction = _digits(memory, at + 20, 9)
    if min(min(min(year, month), min(day, hour)), min(min(minute, second), fraction)) < 0:
        return -1
    shifted = year - (1 if month <= 2 else 0)  # days since 1970 by eras of 400 years that begin in March
    era, of_era = shifted // 400, shifted % 400
    of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    days = era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468
    return ((days * 24 + hour) * 60 + minute) * 60_000_000_000 + second * 1_000_000_000 + fraction


@nb.njit(nogil=True, cache=True)
def check_slots(
    memory: Any, at: int, slot: int, count: int, prefix: Any, after: Any, stamp_at: int, numbers: Any, stamps: Any
) -> int:  # fmt: skip
    """Return how many slots from `at` on hold frames of the run; their numbers and time stamps [ns] are written.

    prefix: the 19 bytes before a frame's number. after: those behind it. stamp_at: see FrameHeader.
    """
    for k in range(count):
        p = at + k * slot
        for i in range(len(prefix)):
            if memory[p + i] != prefix[i]:
                return k
        q = p + len(prefix)
        number = 0
        while q < p + 32 and 48 <= memory[q] <= 57:
            number = number * 10 + (memory[q] - 48)
            q += 1
        if q == p + len(prefix):
            return k
        for i in range(len(after)):
            if memory[q + i] != after[i]:
                return k
        numbers[k] = number
        stamps[k] = _time_ns(memory, q + stamp_at) if stamp_at >= 0 else -1
    return count


def warm_up() -> None:
    """Have the kernels compiled, before the detector sends anything."""
    memory, few = np.zeros(64, np.uint8), np.zeros(1, np.int64)
    prefix, after = np.frombuffer(b"MPX", np.uint8), np.frombuffer(b",", np.uint8)
    find_start(memory, 0, 64)
    check_slots(memory, 0, 64, 1, prefix, after, 0, few, few)
    length_of(memory, 0)


def length_of(memory: NDArray[np.uint8], at: int) -> int:
    """Return how long the message at `at` says it is in all, prefix included [bytes]."""
    return 14 + int(_digits(memory, at + 4, 10))
