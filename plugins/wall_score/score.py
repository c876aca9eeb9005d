"""A map of walls against a reference, at fixed areas: what it finds, what of it is true, and what chance would find.

A map is only asked for an order of its pixels. Its lines are the skeleton of what lies above a threshold, widened by
one pixel; the threshold is put where they cover 2, 5 and 10 % of the field, so that no map gains by predicting more.
Chance: the same lines, shifted around the field as a whole (a torus), so that their shape and clustering stay.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

AREAS = (0.02, 0.05, 0.10)  # of the field that the lines cover
SHIFTS = 200
_AROUND = np.ones((3, 3), bool)
_THRESHOLDS = 48


@dataclass(frozen=True)
class Agreement:
    """recall: share of the reference under the lines. precision: share of the lines' middle within 1 px of it.

    chance: mean recall of the same lines shifted around the field. area: share of the field the lines do cover.
    """

    area: float
    recall: float
    precision: float
    chance: float


def widened(lines: Mask) -> Mask:
    """Return lines (ny, nx) with the eight neighbours of every pixel."""
    made: Mask = ndi.binary_dilation(lines, _AROUND)
    return made


def best_lines(values: Array, area: float) -> tuple[Mask, Mask]:
    """Return the skeleton of the highest values (ny, nx), and it widened, which covers `area` of the field at most.

    The lowest threshold whose lines cover that much is searched among the quantiles of the values above 0; what is
    too much then goes, the lowest values of the skeleton first.
    """
    from skimage.morphology import skeletonize

    field = values.size
    known = np.where(np.isfinite(values), values, 0.0)
    positive = known[known > 0]
    empty = np.zeros(values.shape, bool)
    if not positive.size:
        return empty, empty
    largest = min(1.0, 6 * area * field / positive.size)  # a blob has less skeleton than a line has
    best: Mask | None = None
    for share in np.linspace(area / 4 * field / positive.size, largest, _THRESHOLDS):
        threshold = np.quantile(positive, max(0.0, 1 - min(share, 1.0)))
        lines = skeletonize(known >= threshold)
        if best is None or widened(lines).sum() > widened(best).sum():
            best = lines
        if widened(lines).sum() >= area * field:
            break
    assert best is not None
    return _trimmed(best, known, int(area * field))


def _trimmed(lines: Mask, values: Array, most: int) -> tuple[Mask, Mask]:
    """Return the highest pixels of the lines that cover `most` pixels when widened, and those."""
    places = np.flatnonzero(lines)
    order = places[np.argsort(-values.ravel()[places], kind="stable")]
    low, high = 0, len(order)

    def kept(n: int) -> Mask:
        made = np.zeros(lines.shape, bool)
        made.ravel()[order[:n]] = True
        return made

    while low < high:
        middle = (low + high + 1) // 2
        if widened(kept(middle)).sum() <= most:
            low = middle
        else:
            high = middle - 1
    return kept(low), widened(kept(low))


def agreement(values: Array, reference: Mask, area: float, *, shifts: int = SHIFTS, seed: int = 0) -> Agreement:
    """Return how the lines of a map (ny, nx) agree with those of a reference (ny, nx), one pixel wide.

    Without a reference nothing can be found: recall, precision and chance are NaN.
    """
    lines, wide = best_lines(values, area)
    covers = float(wide.mean())
    y, x = np.nonzero(reference)
    if not len(y):
        return Agreement(covers, float("nan"), float("nan"), float("nan"))
    recall = float(wide[y, x].mean())
    precision = float(widened(reference)[lines].mean()) if lines.any() else 0.0
    ny, nx = reference.shape
    rng = np.random.default_rng(seed)
    away = zip(rng.integers(0, ny, shifts).tolist(), rng.integers(0, nx, shifts).tolist(), strict=True)
    found = [float(wide[(y + dy) % ny, (x + dx) % nx].mean()) for dy, dx in away]
    return Agreement(covers, recall, precision, float(np.mean(found)))


def above_chance(found: tuple[Agreement, ...]) -> float:
    """Return the mean over the areas of recall minus chance."""
    return float(np.mean([each.recall - each.chance for each in found]))
