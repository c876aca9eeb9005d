"""Frames for a simulated camera to send: of the simulated 4D-STEM, or Poisson counts at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from probeloop.api import FrameBuffer, Region, Scan

from ..stem import StemSettings, StemSimulator

FIELD = 3.2e-9  # [m] that the simulated scan sees across


def poisson_frames(count: int, shape: tuple[int, int], mean: float, seed: int) -> NDArray[np.uint16]:
    """Return (count, height, width) Poisson counts about a bright disc, `mean` counts a pixel."""
    height, width = shape
    y, x = np.ogrid[:height, :width]
    disc = np.hypot((y - height / 2) / height, (x - width / 2) / width) < 0.2
    intensity = np.where(disc, 1.0, 0.1)
    intensity *= mean / intensity.mean()
    return np.random.default_rng(seed).poisson(intensity, (count, height, width)).astype(np.uint16)


def stem_frames(side: int, pixels: int, seed: int) -> NDArray[np.uint16]:
    """Return the patterns of a scan of side x side places, (side * side, pixels, pixels) counts."""
    column = StemSimulator(StemSettings(pixels=pixels, pixel_angle=300.0 / pixels, seed=seed, pace=None))
    try:
        made = column.scan(Scan(Region(0.0, 0.0, FIELD, FIELD), (side, side), 1e-3))
        frames = np.zeros((side * side, pixels, pixels), np.uint16)
        next(made.frames)
        while True:
            buffer = FrameBuffer.allocate(made.spec, 64)
            try:
                n = made.frames.send(buffer)
            except StopIteration:
                return frames
            inside = buffer.scan_index[:n] >= 0
            frames[buffer.scan_index[:n][inside]] = buffer.data[:n][inside]
    finally:
        column.close()
