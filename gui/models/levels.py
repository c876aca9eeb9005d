"""Black and white of a picture: followed, taken once, or locked. Display only; no data are touched."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Mode = Literal["auto", "locked"]
_SAMPLES = 65_536
_OUTSIDE = (0.5, 99.5)


def robust_range(picture: NDArray[Any]) -> tuple[float, float] | None:
    """Return the range that holds all but 0.5 % on either side, or None when nothing is measured.

    Large pictures are looked at on a regular subset, which is enough for a percentile.
    """
    step = max(1, int(np.ceil(np.sqrt(picture.size / _SAMPLES))))
    some = np.asarray(picture[::step, ::step], np.float64)
    some = some[np.isfinite(some)]
    if not some.size:
        some = np.asarray(picture, np.float64)
        some = some[np.isfinite(some)]
        if not some.size:
            return None
    low, high = np.percentile(some, _OUTSIDE)
    if low == high:
        low, high = float(some.min()), float(some.max())
    if low == high:
        high = low + (abs(low) * 1e-3 or 1.0)
    return float(low), float(high)


class Levels:
    """Black and white. mode "auto" follows the picture, "locked" stays."""

    def __init__(self) -> None:
        self.mode: Mode = "auto"
        self.low, self.high = 0.0, 1.0

    def once(self, picture: NDArray[Any]) -> None:
        """Take the range of this picture, and stay there."""
        self._take(picture)
        self.mode = "locked"

    def follow(self, picture: NDArray[Any]) -> bool:
        """Take the range of this picture in mode auto; return whether the levels moved."""
        before = (self.low, self.high)
        if self.mode == "auto":
            found = robust_range(picture)
            # less than one grey level would draw the whole picture again for nothing
            least = (self.high - self.low) / 255
            if found is not None and max(abs(found[0] - self.low), abs(found[1] - self.high)) > least:
                self.low, self.high = found
        return before != (self.low, self.high)

    def set(self, low: float, high: float) -> None:
        """Take a person's choice, and stay there; the wrong way round is turned, equal values are spread."""
        low, high = min(low, high), max(low, high)
        if high == low:
            high = low + (abs(low) * 1e-6 or 1e-12)
        self.low, self.high, self.mode = low, high, "locked"

    def _take(self, picture: NDArray[Any]) -> None:
        found = robust_range(picture)
        if found is not None:
            self.low, self.high = found
