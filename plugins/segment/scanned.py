"""Scans of simulators as maps, for scoring: in this process, as fast as it can."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from probeloop.api import Acquisition, FrameBuffer, StreamSpec

_FRAMES = 4096


def scanned(taken: Acquisition) -> tuple[NDArray[Any], StreamSpec]:
    """Return the map of an acquisition, (ny, nx) or (ny, nx, k), NaN where no frame came, and its description."""
    spec = taken.spec
    made = np.full((int(np.prod(spec.nav_shape)), *spec.frame_shape), np.nan, spec.numpy_dtype)
    buffer = FrameBuffer.allocate(spec, _FRAMES)
    next(taken.frames)
    while True:
        try:
            count = taken.frames.send(buffer)
        except StopIteration:
            return made.reshape(*spec.nav_shape, *spec.frame_shape), spec
        pixel = buffer.scan_index[:count]
        made[pixel[pixel >= 0]] = buffer.data[:count][pixel >= 0]
