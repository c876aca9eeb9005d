"""A measured map as the network is shown it: lines levelled, contrast made local, gaps filled, edges padded.

The published work scales a whole stack of pictures from its minimum to its maximum. One glitch, or one bright corner
of a piezoresponse amplitude, whose values spread over two decades, then leaves the rest of the picture flat. Here
what counts is a pixel against its surroundings: the picture less its local mean, over its local standard deviation,
which is bounded from below by a share of that of the whole picture, so that noise alone isn't blown up.
"""

from __future__ import annotations

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

from probeloop.api import Problem, SettingsError

REACH = 16.0  # of the surroundings [px]
FLOOR = 0.35  # share of the whole picture's spread that bounds the local one from below
CLIP = 3.0
STRIDE = 4
LEAST = 16  # pixels a side that the network is given at least; a smaller picture is mirrored at its edges
_SAME = 0.25  # share of pixels at one extreme value from which on a picture counts as saturated


def fault(values: NDArray[np.floating], there: NDArray[np.bool_] | None = None) -> str:
    """Return what is wrong with a map (ny, nx), with the next move; "" when it can be segmented."""
    seen = np.isfinite(values) if there is None else there & np.isfinite(values)
    count = int(seen.sum())
    if values.shape[0] < 2 or values.shape[1] < 2:
        return f"a map of {values.shape[0]} x {values.shape[1]} pixels has no lines to segment; scan an area"
    if count < 4:
        return "nothing is measured yet: every pixel is NaN; check the channel"
    kept = values[seen]
    low, high = float(kept.min()), float(kept.max())
    if not high > low:
        return f"the map is constant ({low:.4g}); check the channel and the gain"
    for extreme, what in ((high, "highest"), (low, "lowest")):
        share = float((kept == extreme).mean())
        if share > _SAME:
            return f"the map is saturated: {share:.0%} of it has the {what} value, {extreme:.4g}; change the gain"
    return ""


def prepared(values: NDArray[np.floating], there: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """Return what the network sees of a map (ny, nx): float32, about 0 +- 1, 0 where nothing is measured.

    Raises SettingsError for a map that can't be segmented, with the reason and the next move.
    """
    why = fault(values, there)
    if why:
        raise SettingsError([Problem("map", why)])
    seen = np.isfinite(values) if there is None else there & np.isfinite(values)
    low, high = np.percentile(values[seen], [0.5, 99.5])
    if not high > low:
        low, high = float(values[seen].min()), float(values[seen].max())
    scaled = np.where(seen, (values.astype(np.float64) - low) / (high - low), 0.0)
    scaled = np.arcsinh(3 * np.clip(scaled, -1.0, 3.0)) / np.arcsinh(3.0)  # what is bright hides what is not
    scaled = levelled(scaled, seen)
    weight = seen.astype(np.float64)
    whole = np.maximum(_blurred(weight), 1e-6)
    centred = np.where(seen, scaled - _blurred(scaled * weight) / whole, 0.0)
    spread = np.sqrt(np.maximum(_blurred(centred**2) / whole, 0.0))
    floor = FLOOR * float(np.sqrt((centred[seen] ** 2).mean()))
    made = centred / np.maximum(np.hypot(spread, floor), 1e-9)
    return np.clip(made, -CLIP, CLIP).astype(np.float32)


def logarithm(values: NDArray[np.float64], seen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the logarithm of magnitudes (ny, nx) above their noise floor, so that a wall's contrast is a ratio.

    The floor is 1.4826 times the median deviation from medians of 5 x 5 pixels: the standard deviation of noise.
    """
    size = np.where(seen, np.abs(values), 0.0)
    off = np.abs(size - ndi.median_filter(size, 5, mode="nearest"))[seen]
    noise = 1.4826 * float(np.median(off)) if off.size else 0.0
    made = np.log(size + (noise or 1e-3 * float(size.max()) or 1.0))
    return np.where(seen, made, np.nan)


def levelled(values: NDArray[np.float64], seen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the map with the steps between its lines taken out: the median of what changes from a line to the next.

    Slow changes along the scan stay, or a picture of horizontal walls would lose them.
    """
    both = seen[1:] & seen[:-1]
    enough = both.sum(axis=1) >= max(2, values.shape[1] // 4)
    steps = np.zeros(len(values))
    change = np.diff(values, axis=0)
    if both.all():
        steps[1:] = np.median(change, axis=1)
    elif enough.any():
        steps[1:][enough] = np.nanmedian(np.where(both, change, np.nan)[enough], axis=1)
    offset = np.cumsum(steps)
    offset -= ndi.median_filter(offset, 9, mode="nearest")
    return np.where(seen, values - offset[:, None], 0.0)


def padded(prepared: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the map mirrored at its far edges to multiples of the network's stride, at least `LEAST` a side."""
    missing = [(0, max(LEAST, -(-size // STRIDE) * STRIDE) - size) for size in prepared.shape]
    return np.pad(prepared, missing, mode="symmetric") if any(after for _, after in missing) else prepared


def _blurred(values: NDArray[np.float64]) -> NDArray[np.float64]:
    # three boxes make a Gaussian to 3 %, at a fifth of its cost
    size = max(3, round(np.sqrt(4 * REACH**2 + 1)) | 1)
    for _ in range(2):
        values = ndi.uniform_filter(values, size, mode="nearest")
    return values
