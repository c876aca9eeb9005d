"""The sums of `lanes` on a GPU: a warp of 32 threads is the vector, one row of a frame after the other.

Frames in host memory go through pinned buffers: while one batch is summed the next is copied, and the one after that
is gathered by the CPU. Integers are summed exactly here too. A warp writes its own sums and the host adds them in
order, so that a result does not depend on which warp ended first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .backend import array_module
from .lanes import LANES

WARPS = 8  # of a block of threads
_WORKERS = 64  # warps that share a frame, at most
_BATCH_BYTES, _SLOTS = 4 << 20, 3  # gathered, copied, summed
_MOST_BLOCKS = 65_535  # that CUDA launches side by side
_LOAD_BYTES = 8  # that a thread takes at once

_TYPES = {  # pixel -> C type, what a row is summed in, what rows are summed in
    "u1": ("unsigned char", "unsigned int", "long long"),
    "i1": ("signed char", "int", "long long"),
    "u2": ("unsigned short", "unsigned int", "long long"),
    "i2": ("short", "int", "long long"),
    "u4": ("unsigned int", "long long", "long long"),
    "i4": ("int", "long long", "long long"),
    "u8": ("unsigned long long", "double", "double"),
    "i8": ("long long", "double", "double"),
    "f4": ("float", "double", "double"),
    "f8": ("double", "double", "double"),
}

WARP_SUM = """
__device__ Wide warp_sum(Wide value) {
    for (int step = 16; step > 0; step /= 2) value += __shfl_down_sync(0xffffffffu, value, step);
    return value;
}
"""

_KERNEL = """
extern "C" __global__ void frame_sums(
    const Pixel* __restrict__ frames, const unsigned int* __restrict__ bits,
    int height, int width, int words, int first, int end, Wide* __restrict__ out)
{
    const int lane = threadIdx.x, worker = blockIdx.x * WARPS + threadIdx.y, workers = gridDim.x * WARPS;
    const Pixel* frame = frames + (long long)blockIdx.y * height * width;
    const int steps = (width + LANES * PACK - 1) / (LANES * PACK);
    Wide inside[MASKS + 1] = {0}, total = 0, across = 0, down = 0;
    for (int y = first + worker; y < end; y += workers) {
        const Pixel* pixels = frame + (long long)y * width;
        Row row = 0, by_step = 0, within = 0, row_inside[MASKS + 1] = {0};
        #pragma unroll 4
        for (int step = 0; step < steps; ++step) {
            const int x = (step * LANES + lane) * PACK;
            Pack pack = {};
            if (PACK > 1 || x < width) pack = *reinterpret_cast<const Pack*>(pixels + x);
            #pragma unroll
            for (int p = 0; p < PACK; ++p) {
                row += (Row)pack.pixel[p];
                if (MOMENTS) within += (Row)p * (Row)pack.pixel[p];
            }
            by_step += row;
            #pragma unroll
            for (int k = 0; k < MASKS; ++k) {
                const unsigned int word = bits[((long long)k * height + y) * words + x / LANES] >> (x % LANES);
                #pragma unroll
                for (int p = 0; p < PACK; ++p) row_inside[k] += word >> p & 1u ? (Row)pack.pixel[p] : (Row)0;
            }
        }
        for (int k = 0; k < MASKS; ++k) inside[k] += (Wide)row_inside[k];
        if (MOMENTS) {
            total += (Wide)row;
            across += (Wide)PACK * (LANES * ((Wide)steps * (Wide)row - (Wide)by_step) + (Wide)lane * (Wide)row)
                    + (Wide)within;
            down += (Wide)y * (Wide)row;
        }
    }
    Wide* sums = out + ((long long)blockIdx.y * workers + worker) * (MASKS + 3);
    for (int k = 0; k < MASKS; ++k) {
        const Wide sum = warp_sum(inside[k]);
        if (lane == 0) sums[k] = sum;
    }
    const Wide moments[3] = {warp_sum(total), warp_sum(across), warp_sum(down)};
    if (lane == 0) for (int i = 0; i < 3; ++i) sums[MASKS + i] = moments[i];
}
"""


def packed(dtype: np.dtype[Any], width: int) -> int:
    """Return how many pixels a thread takes at once: as many as fill 8 bytes and divide the rows evenly."""
    count = max(1, _LOAD_BYTES // dtype.itemsize)
    return count if width % (LANES * count) == 0 else 1


def source(dtype: np.dtype[Any], masks: int, moments: bool, pack: int, warp_sum: str = WARP_SUM) -> str:
    """Return the CUDA C++ that sums pixels of `dtype` over a number of masks. warp_sum: how a warp adds up."""
    pixel, row, wide = _TYPES[dtype.str[1:]]
    names = {"LANES": LANES, "WARPS": WARPS, "MASKS": masks, "MOMENTS": int(moments), "PACK": pack}
    defined = "".join(f"#define {name} {value}\n" for name, value in names.items())
    types = f"typedef {pixel} Pixel; typedef {row} Row; typedef {wide} Wide;\n"
    return (
        f"{defined}{types}struct __align__(sizeof(Pixel) * PACK) Pack {{ Pixel pixel[PACK]; }};\n{warp_sum}{_KERNEL}"
    )


def overlapped(
    count: int, size: int, slots: int, start: Callable[[int, int, int], None], finish: Callable[[int, int, int], None]
) -> None:
    """Run batches (slot, first, end) of `size` of `count`: up to `slots` are started before the first is finished.

    A slot is finished before it is started again; batches are finished in their order.
    """
    running: deque[tuple[int, int, int]] = deque()
    for number, first in enumerate(range(0, count, size)):
        if len(running) == slots:
            finish(*running.popleft())
        batch = (number % slots, first, min(first + size, count))
        start(*batch)
        running.append(batch)
    while running:
        finish(*running.popleft())


@cache
def _kernel(dtype: np.dtype[Any], masks: int, moments: bool, pack: int) -> Any:
    code = source(dtype, masks, moments, pack)
    return array_module("cuda").RawKernel(code, "frame_sums", options=("-std=c++14",))


class CudaSums:
    """Sums over masks, bits (K, ky, words) as in PackedMasks, of frames in host memory.

    Raises DropInError when there is no GPU.
    """

    def __init__(self, bits: NDArray[np.uint32]) -> None:
        self._cupy: Any = array_module("cuda")
        self._bits = self._cupy.asarray(bits)
        self._slots: dict[tuple[Any, ...], list[_Slot]] = {}

    def __call__(self, frames: NDArray[Any], rows: tuple[int, int], moments: bool, out: NDArray[Any]) -> None:
        """Write the sums of frames (N, ky, kx), `prepared`, into out (N, K + 3), as lanes.frame_sums does."""
        size = max(1, min(len(frames), _BATCH_BYTES // max(1, frames[:1].nbytes), _MOST_BLOCKS))
        shape = (size, *frames.shape[1:])
        slots = self._slots.get((shape, frames.dtype))
        if slots is None:
            self._slots.clear()  # of another stream of frames; pinned memory is dear
            workers = self.workers(frames.shape[1])
            sums = (size, workers, out.shape[1])
            slots = [_Slot(self._cupy, shape, frames.dtype, sums, out.dtype) for _ in range(_SLOTS)]
            self._slots[shape, frames.dtype] = slots

        def start(slot: int, first: int, end: int) -> None:
            slots[slot].start(frames[first:end], lambda here, sums: self.launch(here, sums, rows, moments))

        def finish(slot: int, first: int, end: int) -> None:
            out[first:end] = slots[slot].finish(end - first)

        overlapped(len(frames), size, _SLOTS, start, finish)

    @staticmethod
    def workers(height: int) -> int:
        """Return how many warps share a frame of `height` rows."""
        return WARPS * max(1, min(_WORKERS // WARPS, height // (4 * WARPS)))

    def launch(self, frames: Any, sums: Any, rows: tuple[int, int], moments: bool) -> None:
        """Sum frames (N, ky, kx) on the device into sums (N, workers, K + 3), there too, on the current stream."""
        count, height, width = frames.shape
        kernel = _kernel(frames.dtype, self._bits.shape[0], moments, packed(frames.dtype, width))
        shape = (
            np.int32(height),
            np.int32(width),
            np.int32(self._bits.shape[2]),
            np.int32(rows[0]),
            np.int32(rows[1]),
        )
        kernel((sums.shape[1] // WARPS, count), (LANES, WARPS), (frames, self._bits, *shape, sums))


class _Slot:
    """A batch on its way: pinned memory for its frames and sums, the same on the device, and a stream."""

    def __init__(
        self, cupy: Any, frames: tuple[int, ...], dtype: np.dtype[Any], sums: tuple[int, ...], wide: np.dtype[Any]
    ) -> None:
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._host, self._device = _pinned(cupy, frames, dtype), cupy.empty(frames, dtype)
        self._host_sums, self._sums = _pinned(cupy, sums, wide), cupy.empty(sums, wide)

    def start(self, frames: NDArray[Any], launch: Callable[[Any, Any], None]) -> None:
        """Queue the copy there, the sums, the copy back."""
        count = len(frames)
        np.copyto(self._host[:count], frames)
        with self._stream:
            self._device[:count].set(self._host[:count], stream=self._stream)
            launch(self._device[:count], self._sums[:count])
            self._sums[:count].get(stream=self._stream, out=self._host_sums[:count], blocking=False)

    def finish(self, count: int) -> NDArray[Any]:
        """Wait for the sums, and return them (count, K + 3)."""
        self._stream.synchronize()
        made: NDArray[Any] = self._host_sums[:count].sum(axis=1)
        return made


def _pinned(cupy: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    size = int(np.prod(shape))
    memory = cupy.cuda.alloc_pinned_memory(size * dtype.itemsize)
    return np.frombuffer(memory, dtype, size).reshape(shape)
