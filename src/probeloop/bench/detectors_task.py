"""What the detectors' bench computes, and the check that every contestant's sums go through."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compute.detector import DetectorGeometry
from ..data.errors import ProbeloopError

SIDE, CENTRE = 256, (127.3, 128.6)
ANNULI = {
    "bf": (0.0, 30.0),
    "adf": (72.0, 128.0),
}  # [px], a usual camera length: the disc fills a quarter of the width
UNIQUE = 64  # frames; repeated until they fill more than the cache
LEAST_BYTES, CACHES = 256 << 20, 4
FIGURES = ("bf", "adf", "total", "moment x", "moment y")
NOTHING_COUNTS = "a kernel or the memory is wrong, so nothing measured here counts"


@dataclass(frozen=True)
class Task:
    """frames (N, ky, kx): `unique` of them, again and again. masks (K, ky, kx). expected (unique, K + 3).

    scale (K + 3,): what an error is compared with; of a moment, the largest sum of its terms without their signs.
    """

    frames: NDArray[Any]
    masks: NDArray[np.bool_]
    expected: NDArray[np.float64]
    scale: NDArray[np.float64]

    @classmethod
    def of(cls, count: int, dtype: str = "<u2", seed: int = 0) -> Task:
        """Make `count` frames that use the whole range of `dtype`, and the naive sums of them."""
        kind, rng = np.dtype(dtype), np.random.default_rng(seed)
        shape = (min(UNIQUE, count), SIDE, SIDE)
        if kind.kind == "f":
            unique = rng.standard_exponential(shape, kind) * 1000
        else:
            unique = rng.integers(0, np.iinfo(kind).max, shape, kind, endpoint=True)
        geometry = DetectorGeometry((SIDE, SIDE), CENTRE, (1.0, 1.0))
        masks = np.stack([geometry.annulus(*radii) for radii in ANNULI.values()])
        frames = np.concatenate([unique] * -(-count // len(unique)))[:count]
        return cls(frames, masks, naive(unique, masks), naive(unique, masks, signed=False).max(axis=0))

    def check(self, who: str, found: NDArray[Any], tolerance: float) -> float:
        """Return the largest relative error of (N, K + 3) sums; raises ProbeloopError where one is beyond."""
        unique = len(self.expected)
        if found.shape != (len(self.frames), self.expected.shape[1]):
            raise ProbeloopError(f"{who} returned sums of shape {found.shape}", NOTHING_COUNTS)
        expected = self.expected[np.arange(len(found)) % unique]
        errors = np.abs(found - expected) / self.scale
        errors[np.isnan(errors)] = np.inf
        frame, figure = np.unravel_index(int(errors.argmax()), errors.shape)
        if errors[frame, figure] > tolerance:
            raise ProbeloopError(
                f"{who}: {FIGURES[figure]} of frame {frame} is {found[frame, figure]:.17g}, "
                f"should be {expected[frame, figure]:.17g}",
                NOTHING_COUNTS,
            )
        return float(errors.max())


def naive(frames: NDArray[Any], masks: NDArray[np.bool_], signed: bool = True) -> NDArray[np.float64]:
    """Return (N, K + 3): the sums and moments that numpy makes, one line each; signed: of the distances."""
    wide = frames.astype(np.float64 if frames.dtype.kind == "f" else np.int64)
    y, x = np.mgrid[: frames.shape[1], : frames.shape[2]]
    from_centre = (x - CENTRE[1], y - CENTRE[0]) if signed else (abs(x - CENTRE[1]), abs(y - CENTRE[0]))
    sums = [(wide * mask).sum(axis=(1, 2)) for mask in masks]
    moments = [(wide * distance).sum(axis=(1, 2)) for distance in from_centre]
    return np.stack([*sums, wide.sum(axis=(1, 2)), *moments], axis=-1).astype(np.float64)


def cold_frames() -> int:
    """Return how many frames are surely more than the caches hold; raises ProbeloopError when there is no room."""
    caches = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    largest = max((int(path.read_text().strip().removesuffix("K")) << 10 for path in caches), default=32 << 20)
    needed = max(LEAST_BYTES, CACHES * largest)
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if free < 3 * needed:
        raise ProbeloopError(
            f"{free >> 20} MiB of memory are free, frames beyond the cache of {largest >> 20} MiB and their copies "
            f"need {3 * needed >> 20} MiB",
            "close what else runs",
        )
    return needed // (SIDE * SIDE * 2)
