"""What the checkup looks at: the pixels around the bright disc at every place, and the mean pattern of a scan."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import msgspec
import numba as nb
import numpy as np
from numpy.typing import NDArray

from probeloop.api import (
    Axis,
    CalibrationError,
    CalibrationSet,
    Channel,
    FrameBlock,
    FrameFlag,
    FrameTransform,
    Outputs,
    ScanTransform,
    StreamSpec,
    VirtualDetectors,
)

MARGIN = 0.05  # of the camera's side: how far the disc may be from where it is believed to be
SIDE = 48  # superpixels of the box, at most


@dataclass(frozen=True)
class Box:
    """A part of the camera in superpixels of `bin` pixels. top, left: its first pixel; side: superpixels a side."""

    top: int
    left: int
    side: int
    bin: int

    @classmethod
    def of(cls, shape: tuple[int, int], calibrations: CalibrationSet) -> Box:
        """Return the box around the disc where the calibrations see it, with a margin; without them, all."""
        least = min(shape)
        centre, scale = calibrations.find("pattern_centre"), calibrations.find("detector_scale")
        alpha = calibrations.find("convergence_angle")
        middle, half = (shape[0] / 2, shape[1] / 2), float(least) / 2
        if centre is not None and scale is not None and alpha is not None and scale.value[0] > 0:
            middle = (centre.value[0], centre.value[-1])
            half = min(half, 1.15 * alpha.value[0] / scale.value[0] + MARGIN * least + 1)
        wide = max(1, min(least, 2 * math.ceil(half)))
        bin_ = -(-wide // SIDE)
        side = max(1, wide // bin_)
        top, left = (
            min(max(0, round(m - side * bin_ / 2)), s - side * bin_) for m, s in zip(middle, shape, strict=True)
        )
        return cls(top, left, side, bin_)

    def pixels(self, centre: tuple[float, float]) -> NDArray[np.float64]:
        """Return (x, y) of every superpixel from `centre` (ky, kx), in pixels of the camera, (side * side, 2)."""
        at = self.bin * np.arange(self.side) + (self.bin - 1) / 2
        y, x = np.meshgrid(self.top + at - centre[0], self.left + at - centre[1], indexing="ij")
        return np.stack([x.ravel(), y.ravel()], axis=1)


def _is_camera(spec: StreamSpec, who: str) -> tuple[int, int]:
    """Return (ky, kx); raises CalibrationError for what is no stream of patterns."""
    if spec.kind != "frames" or len(spec.frame_shape) != 2:
        what = f"{who} needs diffraction patterns; {spec.name!r} has {spec.kind} of shape {spec.frame_shape}"
        raise CalibrationError(what, "choose another input")
    return spec.frame_shape[0], spec.frame_shape[1]


class DiscPixels(FrameTransform):
    """Counts in the superpixels around the bright disc, and the sum and the first moments of the whole pattern."""

    def outputs(self, spec: StreamSpec) -> dict[str, StreamSpec]:
        """Return the stream of side^2 + 3 values; raises CalibrationError."""
        shape = _is_camera(spec, "disc_pixels")
        self._box = Box.of(shape, self.context.calibrations)
        self._moments = VirtualDetectors(np.empty((0, *shape)))
        side = range(self._box.side)
        names = [*(f"y{y}x{x}" for y in side for x in side), "total", "moment_x", "moment_y"]
        channels = tuple(Channel(name, "intensity", spec.units) for name in names)
        made = msgspec.structs.replace(
            spec, name="pixels", kind="values", dtype="<f4", sig=(), channels=channels, aux={}, units=spec.units
        )
        return {"pixels": made}

    def process(self, block: FrameBlock) -> Outputs:
        """Return (N, side^2 + 3); moments about pixel (0, 0)."""
        box, n = self._box, block.count
        end_y, end_x = box.top + box.side * box.bin, box.left + box.side * box.bin
        part = block.data[:, box.top : end_y, box.left : end_x]
        made = np.empty((n, box.side**2 + 3), np.float32)
        if box.bin > 1:
            part = part.reshape(n, box.side, box.bin, box.side, box.bin).sum(axis=(2, 4), dtype=np.float64)
        made[:, :-3] = part.reshape(n, -1)
        _, moments = self._moments.sums_and_moments(block.data, (0.0, 0.0))
        made[:, -3:] = moments
        return {"pixels": made}


class MeanPattern(ScanTransform):
    """Mean and variance of every pixel over a scan or a reference, and its totals, when it has ended.

    `totals`: frames, exposure [s], mean time on the instrument's clock [s], counts a frame and their variance,
    electrons that the instrument says it sent in a frame, frames flagged as saturated.
    """

    every = "scan"
    takes = "blocks"

    def outputs(self, spec: StreamSpec) -> dict[str, StreamSpec]:
        """Return `pattern`, (2, ky, kx) float64, and `totals`, (7,); raises CalibrationError."""
        shape = _is_camera(spec, "mean_pattern")
        self._exposure = spec.exposure_ns * 1e-9
        self._sums = np.zeros((2, *shape))
        plane = (Axis("moment", 2), *spec.sig)
        return {
            "pattern": StreamSpec("pattern", "image", "<f8", sig=plane, units=spec.units),
            "totals": StreamSpec("totals", "image", "<f8", sig=(Axis("total", 7),)),
        }

    def begin(self, spec: StreamSpec) -> None:
        """Begin anew."""
        self._sums[:] = 0
        self._totals = np.zeros(7)

    def update(self, data: Any, mask: NDArray[np.bool_] | None = None) -> Outputs | None:
        """Add a block; nothing comes before the end."""
        flags = data.frame_flags
        keep = (flags & int(FrameFlag.SETTLING)) == 0
        if not keep.any():
            return None
        counts = accumulate(data.data, keep, self._sums)
        kept = counts[keep]
        saturated = np.count_nonzero(flags[keep] & int(FrameFlag.SATURATED))
        self._totals += [
            kept.size, 0.0, float(data.time_ns[keep].sum()) * 1e-9, kept.sum(), (kept**2).sum(),
            data.dose[keep].sum(), saturated,
        ]  # fmt: skip
        return None

    def end(self, aborted: bool) -> Outputs | None:
        """Return the means; None when no frame counted."""
        n = self._totals[0]
        if not n:
            return None
        mean = self._sums[0] / n
        variance = np.maximum(self._sums[1] / n - mean**2, 0.0)
        counts = self._totals[3] / n
        totals = [n, self._exposure, self._totals[2] / n, counts, max(self._totals[4] / n - counts**2, 0.0),
                  self._totals[5] / n, self._totals[6]]  # fmt: skip
        return {"pattern": np.stack([mean, variance])[None], "totals": np.array(totals)[None]}


@nb.njit(nogil=True, cache=True)
def accumulate(frames: Any, keep: Any, sums: Any) -> Any:
    """Add the kept frames (N, ky, kx) and their squares to sums (2, ky, kx); return the counts of each, (N,)."""
    counts = np.zeros(frames.shape[0])
    for i in range(frames.shape[0]):
        if not keep[i]:
            continue
        total = 0.0
        for y in range(frames.shape[1]):
            for x in range(frames.shape[2]):
                value = float(frames[i, y, x])
                total += value
                sums[0, y, x] += value
                sums[1, y, x] += value * value
        counts[i] = total
    return counts
