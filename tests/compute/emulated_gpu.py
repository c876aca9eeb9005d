"""A stand-in for cupy: its kernels are the real CUDA C++, compiled for the CPU; its streams really are late.

What a stream is told to do is done when somebody waits for it, at the last moment that the hardware could. So a
pinned buffer that is filled again too early, or read before it was waited for, shows in the sums. Only the sum over a
warp is another one: the threads run one after the other, the last lane first, and lane 0 finds all of it.
"""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probeloop.compute.cuda import WARP_SUM

WARP_BY_TURNS = """
static Wide sums_[64];
static int turn_;
static Wide warp_sum(Wide value) { Wide& sum = sums_[turn_++]; sum += value; return sum; }
"""
SHIM = """
#include <cstring>
#define __global__
#define __device__
#define __launch_bounds__(threads)
#define __align__(bytes) alignas(bytes)
struct Index { int x, y, z; };
static Index threadIdx, blockIdx, gridDim;
// what the CUDA C++ Programming Guide says of them: 4 bytes times 4 bytes; 2 x 16 bits times the low, the high bytes
template <class Byte, class Half, class Int> Int dotted(Int a, Int b, Int sum, int first, int count) {
    for (int i = 0; i < count; ++i) {
        const Int pixel = count == 4 ? (Int)(Byte)(a >> 8 * i) : (Int)(Half)(a >> 16 * i);
        sum += pixel * (Int)(Byte)(b >> 8 * (first + i));
    }
    return sum;
}
#define DOTTED(name, first, count) \\
static unsigned name(unsigned a, unsigned b, unsigned c) \\
    { return dotted<unsigned char, unsigned short>(a, b, c, first, count); } \\
static int name(int a, int b, int c) { return dotted<signed char, short>(a, b, c, first, count); }
DOTTED(__dp4a, 0, 4) DOTTED(__dp2a_lo, 0, 2) DOTTED(__dp2a_hi, 2, 2)
"""
RUN = """
extern "C" void run(int across, int down, const void* frames, const void* masks, int height, int width, int stride,
                    int first, int end, void* out) {
    gridDim = {across, down, 1};
    for (int y = 0; y < down; ++y) for (int x = 0; x < across; ++x) for (int warp = 0; warp < WARPS; ++warp) {
        std::memset(sums_, 0, sizeof sums_);
        blockIdx = {x, y, 0};
        for (int lane = 31; lane >= 0; --lane) {
            turn_ = 0;
            threadIdx = {lane, warp, 0};
            frame_sums((const Pixel*)frames, (const unsigned char*)masks, height, width, stride, first, end,
                       (Wide*)out);
        }
    }
}
"""
COMPILER = shutil.which("g++") or shutil.which("clang++")


class Array:
    """Memory of the device."""

    def __init__(self, memory: np.ndarray) -> None:
        self.memory = memory

    @property
    def shape(self) -> tuple[int, ...]:
        return self.memory.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.memory.dtype

    def __getitem__(self, part: slice) -> Array:
        return Array(self.memory[part])

    def set(self, host: np.ndarray, stream: Stream) -> None:
        assert host.flags.c_contiguous
        stream.later("copy in", lambda: np.copyto(self.memory, host))

    def get(self, *, stream: Stream, out: np.ndarray, blocking: bool) -> None:
        assert not blocking
        assert out.flags.c_contiguous
        stream.later("copy out", lambda: np.copyto(out, self.memory))


class Stream:
    """Does what it is told when it is waited for."""

    current: Stream | None = None
    most_waiting = 0
    streams: list[Stream] = []
    orders: set[tuple[str, ...]] = set()

    def __init__(self, non_blocking: bool) -> None:
        assert non_blocking
        self.waiting: list[tuple[str, Callable[[], None]]] = []
        Stream.streams.append(self)

    def __enter__(self) -> None:
        Stream.current = self

    def __exit__(self, *_: object) -> None:
        Stream.current = None

    def later(self, what: str, do: Callable[[], None]) -> None:
        self.waiting.append((what, do))
        Stream.most_waiting = max(Stream.most_waiting, sum(bool(stream.waiting) for stream in Stream.streams))

    def synchronize(self) -> None:
        Stream.orders.add(tuple(what for what, _ in self.waiting))
        for _, do in self.waiting:
            do()
        self.waiting.clear()


def put_in_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> type[Stream]:
    """Put the stand-in where cupy is looked for, or skip."""
    if COMPILER is None:
        pytest.skip("no C++ compiler to run the GPU's kernels on the CPU: g++ or clang++")
    monkeypatch.setitem(sys.modules, "cupy", cupy(folder))
    monkeypatch.setattr(Stream, "streams", [])
    monkeypatch.setattr(Stream, "orders", set())
    monkeypatch.setattr(Stream, "most_waiting", 0)
    return Stream


def cupy(folder: Path) -> types.ModuleType:
    """Return the stand-in for the module; what it compiles goes into `folder`."""

    class RawKernel:
        def __init__(self, code: str, name: str, options: tuple[str, ...]) -> None:
            assert name == "frame_sums"
            assert WARP_SUM in code
            text = SHIM + code.replace(WARP_SUM, WARP_BY_TURNS) + RUN
            made = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.so"
            if not made.exists():
                made.with_suffix(".cpp").write_text(text)
                assert COMPILER is not None
                command = [COMPILER, *options, "-O1", "-w", "-shared", "-fPIC", "-o", made, made.with_suffix(".cpp")]
                subprocess.run(command, check=True, timeout=60)
            self.run = ctypes.CDLL(str(made)).run

        def __call__(self, grid: tuple[int, int], block: tuple[int, int], given: tuple[Any, ...]) -> None:
            assert block == (32, 8)
            assert Stream.current is not None
            assert all(isinstance(each, Array | np.int32) for each in given)
            values = [
                ctypes.c_void_p(each.memory.ctypes.data) if isinstance(each, Array) else int(each) for each in given
            ]
            Stream.current.later("kernel", lambda: self.run(*grid, *values))

    def copyto(there: Array, here: Array) -> None:
        assert Stream.current is not None
        Stream.current.later("copy", lambda: np.copyto(there.memory, here.memory))

    made = types.ModuleType("cupy")
    made.copyto = copyto  # type: ignore[attr-defined]
    made.RawKernel = RawKernel  # type: ignore[attr-defined]
    made.empty = lambda shape, dtype: Array(np.full(shape, 77, dtype))  # type: ignore[attr-defined]
    made.asarray = lambda array: Array(np.array(array))  # type: ignore[attr-defined]
    made.cuda = types.SimpleNamespace(  # type: ignore[attr-defined]
        Stream=Stream, alloc_pinned_memory=bytearray, runtime=types.SimpleNamespace(getDeviceCount=lambda: 1)
    )
    return made
