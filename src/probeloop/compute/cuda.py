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
_WARPS_WANTED = 8192  # at work at once: as many as the largest GPUs hold
_ROWS = 4  # of a warp, at least
_BATCH_BYTES, _SLOTS = 4 << 20, 3  # gathered, copied, summed
_MOST_BLOCKS = 65_535  # that CUDA launches side by side
_LOAD_BYTES = 16  # that a thread takes at once
_MOST_ROWS = 64  # that narrow sums are kept over, at most

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

# four pixels of 8 or 16 bits times four bytes, in one or two instructions: masks and places are such bytes
QUAD_DOT = """
struct Quad { unsigned int word[sizeof(Pixel)]; };
__device__ Row dot(Quad quad, unsigned int weights, Row sum) {
    if (sizeof(Pixel) == 1) return __dp4a((Row)quad.word[0], (Row)weights, sum);
    sum = __dp2a_lo((Row)quad.word[0], (Row)weights, sum);
    return __dp2a_hi((Row)quad.word[sizeof(Pixel) - 1], (Row)weights, sum);
}
"""

_KERNEL = """
struct __align__(sizeof(Pixel) * PACK) Pack {
#if QUADS
    Quad quad[QUADS];
#else
    Pixel pixel[PACK];
#endif
};
struct __align__(PACK) Inside {
#if QUADS
    unsigned int quad[QUADS];
#else
    unsigned char pixel[PACK];
#endif
};
extern "C" __global__ void __launch_bounds__(LANES * WARPS) frame_sums(
    const Pixel* __restrict__ frames, const unsigned char* __restrict__ masks,
    int height, int width, int stride, int first, int end, Wide* __restrict__ out)
{
    const int lane = threadIdx.x, worker = blockIdx.x * WARPS + threadIdx.y, workers = gridDim.x * WARPS;
    const Pixel* frame = frames + (long long)blockIdx.y * height * width;
    Wide inside[MASKS + 1] = {0}, total = 0, across = 0, down = 0;
    for (int top = first + worker; top < end; top += ROWS * workers) {
        const int left = (end - top + workers - 1) / workers, rows = left < ROWS ? left : ROWS;
        Row sum = 0, by_row = 0, by_step = 0, within = 0, sum_inside[MASKS + 1] = {0};
        #pragma unroll 4
        for (int i = 0; i < rows; ++i) {
            const int y = top + i * workers;
            Row row = 0;
            #pragma unroll 4
            for (int step = 0; step < STEPS; ++step) {
                const int x = (step * LANES + lane) * PACK;
                if (!FULL && x >= width) continue;
                const Pack pack = *reinterpret_cast<const Pack*>(frame + (long long)y * width + x);
                Row part = 0;
                #if QUADS
                #pragma unroll
                for (int q = 0; q < QUADS; ++q) {
                    part = dot(pack.quad[q], 0x01010101u, part);
                    if (MOMENTS) within = dot(pack.quad[q], 0x03020100u + 0x04040404u * q, within);
                }
                #else
                #pragma unroll
                for (int p = 0; p < PACK; ++p) {
                    part += (Row)pack.pixel[p];
                    if (MOMENTS) within += (Row)p * (Row)pack.pixel[p];
                }
                #endif
                #pragma unroll
                for (int k = 0; k < MASKS; ++k) {
                    const Inside ones =
                        *reinterpret_cast<const Inside*>(masks + ((long long)k * height + y) * stride + x);
                    #if QUADS
                    #pragma unroll
                    for (int q = 0; q < QUADS; ++q) sum_inside[k] = dot(pack.quad[q], ones.quad[q], sum_inside[k]);
                    #else
                    #pragma unroll
                    for (int p = 0; p < PACK; ++p) sum_inside[k] += ones.pixel[p] ? (Row)pack.pixel[p] : (Row)0;
                    #endif
                }
                row += part;
                if (MOMENTS && STEPS > 1) by_step += (Row)step * part;
            }
            sum += row;
            if (MOMENTS) by_row += (Row)i * row;
        }
        for (int k = 0; k < MASKS; ++k) inside[k] += (Wide)sum_inside[k];
        if (MOMENTS) {
            total += (Wide)sum;
            across += (Wide)PACK * (LANES * (Wide)by_step + (Wide)lane * (Wide)sum) + (Wide)within;
            down += (Wide)top * (Wide)sum + (Wide)workers * (Wide)by_row;
        }
    }
    Wide* sums = out + ((long long)blockIdx.y * workers + worker) * (MASKS + 3);
    for (int k = 0; k < MASKS; ++k) {
        const Wide value = warp_sum(inside[k]);
        if (lane == 0) sums[k] = value;
    }
    const Wide moments[3] = {warp_sum(total), warp_sum(across), warp_sum(down)};
    if (lane == 0) for (int i = 0; i < 3; ++i) sums[MASKS + i] = moments[i];
}
"""


def packed(dtype: np.dtype[Any], width: int) -> int:
    """Return how many pixels a thread takes at once: a power of two that fills 16 bytes and divides the rows."""
    count = _LOAD_BYTES // dtype.itemsize
    while width % count:
        count //= 2
    return count


def rows_together(dtype: np.dtype[Any], pack: int, steps: int) -> int:
    """Return how many rows of `steps` loads a thread may sum before its narrow sums could run over.

    At least one: what does not even hold a row is not `kernels.prepared`.
    """
    if dtype.kind == "f" or dtype.itemsize > 2:
        return _MOST_ROWS
    room = 2**32 >> 8 * dtype.itemsize  # so many of the largest pixel
    a_row = pack * steps * max(pack - 1, steps - 1, 2) // 2
    rows = min(_MOST_ROWS, max(1, room // a_row))
    while rows > 1 and rows * (rows - 1) // 2 * pack * steps > room:
        rows -= 1
    return rows


def source(dtype: np.dtype[Any], masks: int, moments: bool, width: int, warp_sum: str = WARP_SUM) -> str:
    """Return the CUDA C++ that sums pixels of `dtype` over a number of masks. warp_sum: how a warp adds up."""
    pixel, row, wide = _TYPES[dtype.str[1:]]
    pack = packed(dtype, width)
    steps = -(-width // (LANES * pack))
    quads = pack // 4 if dtype.itemsize <= 2 else 0
    names = {"LANES": LANES, "WARPS": WARPS, "MASKS": masks, "MOMENTS": int(moments), "PACK": pack, "QUADS": quads,
             "STEPS": steps, "FULL": int(steps * LANES * pack == width),
             "ROWS": rows_together(dtype, pack, steps)}  # fmt: skip
    defined = "".join(f"#define {name} {value}\n" for name, value in names.items())
    types = f"typedef {pixel} Pixel; typedef {row} Row; typedef {wide} Wide;\n"
    return f"{defined}{types}{QUAD_DOT if quads else ''}{warp_sum}{_KERNEL}"


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
def _kernel(dtype: np.dtype[Any], masks: int, moments: bool, width: int) -> Any:
    code = source(dtype, masks, moments, width)
    return array_module("cuda").RawKernel(code, "frame_sums", options=("-std=c++14",))


class CudaSums:
    """Sums over masks, bits (K, ky, words) as in PackedMasks, of frames in host memory.

    Raises DropInError when there is no GPU.
    """

    def __init__(self, bits: NDArray[np.uint32]) -> None:
        self._cupy: Any = array_module("cuda")
        pixels = np.unpackbits(bits.astype("<u4").view(np.uint8), axis=-1, bitorder="little")
        self._masks = self._cupy.asarray(pixels)  # a byte each, (K, ky, kx and some more)
        self._slots: dict[tuple[Any, ...], list[_Slot]] = {}

    def __call__(self, frames: NDArray[Any], rows: tuple[int, int], moments: bool, out: NDArray[Any]) -> None:
        """Write the sums of frames (N, ky, kx), `prepared`, into out (N, K + 3), as lanes.frame_sums does."""
        size = max(1, min(len(frames), _BATCH_BYTES // max(1, frames[:1].nbytes), _MOST_BLOCKS))
        shape = (size, *frames.shape[1:])
        slots = self._slots.get((shape, frames.dtype))
        if slots is None:
            self._slots.clear()  # of another stream of frames; pinned memory is dear
            workers = self.workers(frames.shape[1], size)
            sums = (size, workers, out.shape[1])
            slots = [_Slot(self._cupy, shape, frames.dtype, sums, out.dtype) for _ in range(_SLOTS)]
            self._slots[shape, frames.dtype] = slots

        def start(slot: int, first: int, end: int) -> None:
            slots[slot].start(frames[first:end], lambda here, sums: self.launch(here, sums, rows, moments))

        def finish(slot: int, first: int, end: int) -> None:
            out[first:end] = slots[slot].finish(end - first)

        overlapped(len(frames), size, _SLOTS, start, finish)

    @staticmethod
    def workers(height: int, count: int) -> int:
        """Return how many warps share each of `count` frames of `height` rows: no more than needed."""
        blocks = -(-_WARPS_WANTED // (WARPS * max(1, count)))
        return WARPS * max(1, min(blocks, height // (_ROWS * WARPS)))

    def launch(self, frames: Any, sums: Any, rows: tuple[int, int], moments: bool) -> None:
        """Sum frames (N, ky, kx) on the device into sums (N, workers, K + 3), there too, on the current stream."""
        count, height, width = frames.shape
        masks, _, stride = self._masks.shape
        kernel = _kernel(frames.dtype, masks, moments, width)
        given = [np.int32(each) for each in (height, width, stride, *rows)]
        kernel((sums.shape[1] // WARPS, count), (LANES, WARPS), (frames, self._masks, *given, sums))


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
