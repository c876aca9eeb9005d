"""Exact Poisson counts, one random stream for each frame.

Small means: arrivals of a unit-rate Poisson process along the summed intensity; the waiting time that is left
carries on into the next pixel (memoryless), so a dark pixel costs one comparison. Large means: PTRS of Hörmann,
Insurance: Mathematics and Economics 12 (1993) 39. Random numbers: splitmix64 of (seed, frame number), so the counts
of a frame depend neither on the number of threads nor on the frames before it.
"""

from __future__ import annotations

import math
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

_ARRIVALS_BELOW = 12.0
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)


@nb.njit(nogil=True, cache=True, inline="always")
def _mix(z: Any) -> Any:
    z = (z ^ (z >> np.uint64(30))) * _MIX1
    z = (z ^ (z >> np.uint64(27))) * _MIX2
    return z ^ (z >> np.uint64(31))


@nb.njit(nogil=True, cache=True, inline="always")
def _uniform(state: Any) -> Any:
    """Return a number in (0, 1) and advance `state`, a one-element uint64 array."""
    state[0] += _GOLDEN
    return (float(_mix(state[0]) >> np.uint64(11)) + 0.5) * (1.0 / 9007199254740992.0)


@nb.njit(nogil=True, cache=True)
def _ptrs(mean: Any, state: Any) -> Any:
    log_mean = math.log(mean)
    b = 0.931 + 2.53 * math.sqrt(mean)
    a = -0.059 + 0.02483 * b
    inverse_alpha = 1.1239 + 1.1328 / (b - 3.4)
    v_r = 0.9277 - 3.6224 / (b - 2.0)
    while True:
        u = _uniform(state) - 0.5
        v = _uniform(state)
        us = 0.5 - abs(u)
        k = math.floor((2.0 * a / us + b) * u + mean + 0.43)
        if us >= 0.07 and v <= v_r:
            return k
        if k < 0 or (us < 0.013 and v > us):
            continue
        left = math.log(v) + math.log(inverse_alpha) - math.log(a / (us * us) + b)
        if left <= -mean + k * log_mean - math.lgamma(k + 1.0):
            return k


@nb.njit(nogil=True, cache=True)
def count_electrons(amplitude: Any, scale: Any, seed: Any, frame: Any, out: Any) -> int:
    """Write Poisson counts of `scale` |amplitude|^2 into `out`, zero frequency moved to the centre.

    amplitude: (n, n) complex64 in FFT order. scale: electrons per unit of intensity. out: (n, n) uint16.
    seed, frame: uint64, they name the random stream. Returns how many pixels were clipped at 65535.
    """
    n = amplitude.shape[0]
    half = n // 2
    state = np.empty(1, np.uint64)
    state[0] = _mix(_mix(seed + _GOLDEN) + frame * _GOLDEN)
    wait = -math.log(_uniform(state))
    saturated = 0
    for y in range(n):
        yy = (y + half) % n
        for x in range(n):
            xx = (x + half) % n
            value = amplitude[yy, xx]
            mean = scale * (value.real * value.real + value.imag * value.imag)
            count = 0.0
            if mean < _ARRIVALS_BELOW:
                while wait < mean:
                    count += 1.0
                    wait -= math.log(_uniform(state))
                wait -= mean
            else:
                count = _ptrs(mean, state)
            if count > 65535.0:
                count = 65535.0
                saturated += 1
            out[y, x] = np.uint16(count)
    return saturated


@nb.njit(nogil=True, cache=True)
def draw_counts(mean: Any, seed: Any, frame: Any, out: Any) -> None:
    """Write Poisson counts of `mean` (N,) float32 into `out` (N,) float32; seed, frame: as of count_electrons."""
    state = np.empty(1, np.uint64)
    state[0] = _mix(_mix(seed + _GOLDEN) + frame * _GOLDEN)
    wait = -math.log(_uniform(state))
    for i in range(mean.size):
        if mean[i] >= _ARRIVALS_BELOW:
            out[i] = _ptrs(mean[i], state)
            continue
        count = 0.0
        while wait < mean[i]:
            count += 1.0
            wait -= math.log(_uniform(state))
        wait -= mean[i]
        out[i] = count


@nb.njit(nogil=True, cache=True)
def draw_normals(seed: Any, frame: Any, out: Any) -> None:
    """Write standard normal numbers into `out` (N,) float32 (Box and Muller); seed, frame: as of count_electrons."""
    state = np.empty(1, np.uint64)
    state[0] = _mix(_mix(seed + _MIX1) + frame * _GOLDEN)
    for i in range(0, out.size, 2):
        radius = math.sqrt(-2.0 * math.log(_uniform(state)))
        angle = 2.0 * math.pi * _uniform(state)
        out[i] = radius * math.cos(angle)
        if i + 1 < out.size:
            out[i + 1] = radius * math.sin(angle)


@nb.njit(nogil=True, cache=True)
def expected_counts(amplitude: Any, scale: Any, out: Any) -> None:
    """Write `scale` |amplitude|^2 into `out` (n, n) float32, zero frequency moved to the centre."""
    n = amplitude.shape[0]
    half = n // 2
    for y in range(n):
        for x in range(n):
            value = amplitude[(y + half) % n, (x + half) % n]
            out[y, x] = scale * (value.real * value.real + value.imag * value.imag)


@nb.njit(nogil=True, cache=True)
def _chances(numbers: Any, seed: Any, out: Any) -> None:
    for i in range(numbers.size):
        out[i] = (_mix(_mix(seed + _MIX2) + numbers[i] * _GOLDEN) >> np.uint64(11)) / 9007199254740992.0


def trigger_chance(numbers: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each trigger number (N,), always the same one."""
    out = np.empty(numbers.size)
    _chances(numbers.astype(np.uint64), stream_seed(seed), out)
    return out


def stream_seed(seed: int) -> np.uint64:
    """Return `seed` as the kernels take it."""
    return np.uint64(seed & 0xFFFFFFFFFFFFFFFF)


Counts = NDArray[np.uint16]
Stream = tuple[np.uint64, np.uint64]  # seed and number of a frame, as the kernels take them
