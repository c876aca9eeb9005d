"""What a learned map shows: the connected parts of its highest values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from probeloop.api import Position

CLEAR = 2.0  # standard deviations above the map's median
_MOST = 64  # told of, the highest first


class Found(msgspec.Struct, frozen=True):
    """One part. position: of its highest pixel (x, y) [m]. pixels: how many. predicted, uncertainty: there.

    measured: how many measurements lie in it. clear: it is above the map's median by two standard deviations.
    """

    position: Position
    pixels: int
    predicted: float
    uncertainty: float | None
    measured: int
    clear: bool


class Objects(msgspec.Struct, frozen=True):
    """Parts of the top `share` of a map, the highest first; share 0 = there was no map.

    linked: whether the policy saw a link between structure and value, None = it does not test that. Without one,
    nothing is clear.
    """

    share: float = 0.0
    found: tuple[Found, ...] = ()
    linked: bool | None = None

    def words(self) -> str:
        """Return it in a line."""
        clear = sum(each.clear for each in self.found)
        many = f"{len(self.found)} object{'s' * (len(self.found) != 1)} in the predicted top {self.share:.3g}"
        if self.linked is False:
            return f"{many}, none of them claimed: no link between structure and value was seen"
        return f"{many}, {clear} of them clearly above the rest"

    def summary(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "objects": None if not self.share else len(self.found),
            "objects_clear": None if not self.share else sum(each.clear for each in self.found),
            "link_seen": self.linked,
            "objects_found": [msgspec.to_builtins(each) for each in self.found[:_MOST]],
        }


def find(
    prediction: NDArray[np.float64], uncertainty: NDArray[np.float64] | None, candidates: NDArray[np.float64],
    share: float, measured: Sequence[Position], linked: bool | None = None,
) -> Objects:  # fmt: skip
    """Return the parts, connected by sides or corners, of the highest `share` of a map (ny, nx).

    candidates: places of its pixels (N, 2) (x, y) [m]. uncertainty: one standard deviation, None = not known; then no
    part is clear. A map that is the same everywhere has no parts.
    """
    known = np.isfinite(prediction)
    if not known.any():
        return Objects(share, (), linked)
    middle = float(np.median(prediction[known]))
    level = float(np.quantile(prediction[known], 1 - share))
    high = known & (prediction >= level) & (prediction > middle)
    labels, count = ndimage.label(high, np.ones((3, 3)))
    flat = labels.ravel()
    cells = [int(np.argmin(np.sum((candidates - place) ** 2, axis=1))) for place in measured]
    inside = np.bincount(flat[cells], minlength=count + 1) if cells else np.zeros(count + 1, int)
    sizes = np.bincount(flat, minlength=count + 1)
    found = []
    for number in range(1, count + 1):
        part = np.flatnonzero(flat == number)
        top = int(part[np.argmax(prediction.ravel()[part])])
        value = float(prediction.ravel()[top])
        sigma = float(uncertainty.ravel()[top]) if uncertainty is not None else np.nan
        x, y = candidates[top].tolist()
        found.append(
            Found((x, y), int(sizes[number]), value, sigma if np.isfinite(sigma) else None, int(inside[number]),
                  bool(value - middle > CLEAR * sigma) and linked is not False)
        )  # fmt: skip
    return Objects(share, tuple(sorted(found, key=lambda each: -each.predicted)), linked)
