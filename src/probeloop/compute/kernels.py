"""Virtual detectors: sums over any pixels of every frame and its first moments, from one read of the memory.

Integers of up to 32 bits are summed exactly. Floats and 64-bit integers are summed in double; each sum of n pixels is
within n 2**-53 sum|I| of the exact one (a moment: that times the size of the detector), in practice far nearer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .backend import Device
from .cuda import CudaSums
from .lanes import LANES, frame_sums

_BAND_BYTES, _BAND_ROWS = 8192, 16  # stays in the nearest cache, beside the one that is fetched meanwhile
_ROOM = {1: 1 << 24, 2: 1 << 16}  # so many of the largest pixel of so many bytes fit into a lane


@dataclass(frozen=True)
class PackedMasks:
    """K masks as the kernels read them.

    bits (K, ky, chunks) uint32: 32 pixels a word, lowest bit first. spans (K, ky, 2): first and end chunk in use.
    rows: first and end row in which any mask has a pixel.
    """

    bits: NDArray[np.uint32]
    spans: NDArray[np.int64]
    rows: tuple[int, int]
    shape: tuple[int, int]

    @classmethod
    def of(cls, masks: NDArray[Any]) -> PackedMasks:
        """Pack masks (K, ky, kx); a pixel counts where its value is not 0. Raises ValueError for another shape."""
        if masks.ndim != 3:
            raise ValueError(f"masks are (K, ky, kx), not of shape {masks.shape}")
        count, height, width = masks.shape
        chunks = -(-width // LANES)
        padded = np.zeros((count, height, chunks * LANES), np.bool_)
        padded[..., :width] = masks != 0
        bits = np.packbits(padded, axis=-1, bitorder="little").view("<u4").astype(np.uint32, copy=False)
        used = bits != 0
        some = used.any(axis=-1)
        spans = np.zeros((count, height, 2), np.int64)
        if chunks:
            spans[..., 0] = np.where(some, used.argmax(axis=-1), 0)
            spans[..., 1] = np.where(some, chunks - used[..., ::-1].argmax(axis=-1), 0)
        rows = np.flatnonzero(some.any(axis=0))
        return cls(bits, spans, (int(rows[0]), int(rows[-1]) + 1) if rows.size else (0, 0), (height, width))


class VirtualDetectors:
    """Detectors made of pixels: K masks (K, ky, kx) laid over every frame, and its first moments.

    device: "cpu", or "cuda", which raises DropInError where there is no GPU.

    >>> masks = np.zeros((1, 4, 5)); masks[0, 1:3] = 1
    >>> VirtualDetectors(masks).sums(np.ones((2, 4, 5), np.uint16)).tolist()
    [[10.0], [10.0]]
    """

    def __init__(self, masks: NDArray[Any], device: Device = "cpu") -> None:
        self._masks = PackedMasks.of(masks)
        self._sum_on_gpu = CudaSums(self._masks.bits) if device == "cuda" else None

    def sums(self, frames: NDArray[Any]) -> NDArray[np.float64]:
        """Return the sum over each mask of frames (N, ky, kx) of any real dtype: (N, K). Only its rows are read."""
        masks = self._masks
        made = self._run(frames, masks.rows, False)
        return made[:, : len(masks.bits)].astype(np.float64)

    def sums_and_moments(
        self, frames: NDArray[Any], centre: tuple[float, float]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the sums (N, K), and (N, 3): sum(I), sum(I (kx - centre[1])), sum(I (ky - centre[0])) of a frame."""
        masks = self._masks
        made = self._run(frames, (0, masks.shape[0]), True).astype(np.float64)
        sums, moments = made[:, : len(masks.bits)], made[:, len(masks.bits) :]
        moments[:, 1] -= moments[:, 0] * centre[1]
        moments[:, 2] -= moments[:, 0] * centre[0]
        return sums, moments

    def _run(self, frames: NDArray[Any], rows: tuple[int, int], moments: bool) -> NDArray[Any]:
        masks = self._masks
        frames, band = prepared(frames, masks.shape)
        out = np.zeros((len(frames), len(masks.bits) + 3), np.int64 if sums_exactly(frames.dtype) else np.float64)
        if self._sum_on_gpu is not None:
            self._sum_on_gpu(frames, rows, moments, out)
            return out
        pixels = frames.reshape(-1)
        edge = np.zeros(LANES, frames.dtype)
        cut = frames.shape[2] % LANES
        if cut and pixels.size:
            edge[:cut] = pixels[-cut:]
        pixels.flags.writeable = edge.flags.writeable = False  # one type for both, whoever owns the memory
        frame_sums(pixels, edge, frames.shape, masks.bits, masks.spans, rows, band, moments, out)
        return out


def sums_exactly(dtype: np.dtype[Any]) -> bool:
    """Say whether pixels of `dtype` are summed as integers."""
    return dtype.kind in "ui" and dtype.itemsize <= 4


def prepared(frames: NDArray[Any], shape: tuple[int, int]) -> tuple[NDArray[Any], int]:
    """Return the frames as the kernel reads them, and how many rows it may sum before a lane could run over.

    A copy is made only of what is not in one piece in memory or in this machine's byte order, narrower than LANES, or
    too wide for a lane's room (11,552 pixels of 16 bits). Raises ValueError for another shape than (N, *shape),
    TypeError for what is neither integer nor real.
    """
    if frames.ndim != 3 or frames.shape[1:] != shape:
        raise ValueError(f"frames are (N, {shape[0]}, {shape[1]}), not of shape {frames.shape}")
    dtype = frames.dtype
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        raise TypeError(f"virtual detectors sum integers and reals, not {dtype}")
    if dtype.kind == "b":
        dtype = np.dtype(np.uint8)
    elif dtype.kind == "f" and dtype.itemsize == 2:
        dtype = np.dtype(np.float32)
    chunks = -(-shape[1] // LANES)
    room = _ROOM.get(dtype.itemsize)
    if room is not None and chunks * (chunks + 1) // 2 > room:
        dtype, room = np.dtype(f"{dtype.kind}4"), None
    dtype = dtype.newbyteorder("=")
    if shape[1] < LANES:
        padded = np.zeros((*frames.shape[:2], LANES), dtype)
        padded[..., : shape[1]] = frames
        frames = padded
    frames = np.ascontiguousarray(frames, dtype)
    band = max(1, min(_BAND_ROWS, _BAND_BYTES // max(1, shape[1] * dtype.itemsize)))
    while room is not None and band > 1 and band * (band + 1) * chunks * (chunks + 1) // 2 > room:
        band -= 1
    return frames, band
