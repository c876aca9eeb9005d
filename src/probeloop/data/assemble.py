"""The one place where a stream becomes a map: values are written at `scan_index`, never in arrival order."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .axes import StreamSpec
from .errors import WireError
from .frame import FrameBlock, FrameFlag

_NOT_A_PIXEL = int(FrameFlag.FLYBACK | FrameFlag.SETTLING | FrameFlag.TRIGGER_MISSED)


def empty_map(spec: StreamSpec) -> NDArray[Any]:
    """Return a NaN-filled map for the stream, (*nav, *frame_shape); integers become float32.

    Raises WireError where the source can't say which frame is which pixel (`sync` none) or there is no scan.
    """
    if spec.sync == "none" or not spec.nav:
        raise WireError(f"{spec.name!r} has no scan to make a map of", "look at it as a stream of frames")
    dtype = spec.numpy_dtype if np.issubdtype(spec.numpy_dtype, np.inexact) else np.dtype(np.float32)
    return np.full(spec.nav_shape + spec.frame_shape, np.nan, dtype)


def is_pixel(block: FrameBlock) -> NDArray[np.bool_]:
    """Return which frames of the block belong to a pixel, (N,) bool."""
    inside = (block.scan_index >= 0) & (block.scan_index < math.prod(block.spec.nav_shape))
    wanted: NDArray[np.bool_] = inside & ((block.frame_flags & _NOT_A_PIXEL) == 0)
    return wanted


def assemble(spec: StreamSpec, block: FrameBlock, out: NDArray[Any]) -> NDArray[np.int64]:
    """Write the block's frames into the map `out` (from `empty_map`) and return the pixels written, (M,) int64.

    A frame without a pixel (scan_index -1, flyback, settling) is left out; a missing pixel stays NaN.
    Raises WireError when `out` has not the shape of the spec.
    """
    if out.shape != spec.nav_shape + spec.frame_shape:
        raise WireError(
            f"a map of shape {out.shape} for {spec.name!r}, which needs {spec.nav_shape + spec.frame_shape}"
        )
    wanted = is_pixel(block)
    pixels = block.scan_index[wanted]
    out.reshape((-1, *spec.frame_shape))[pixels] = block.data[wanted]
    return pixels
