"""Fewer numbers for a place: principal components of its patch, or its position in units of the map."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]
_SAID = 0.999  # of the variance that components have to tell; later ones are left out


class Reduction(msgspec.Struct, frozen=True):
    """x -> (x - middle) @ axes, (n, d) to (n, width)."""

    middle: Rows
    axes: Rows

    @property
    def width(self) -> int:
        """How many numbers are left."""
        return int(self.axes.shape[1])

    def __call__(self, x: Rows) -> Rows:
        """Return (n, width) of x (n, d)."""
        made: Rows = np.ascontiguousarray((x - self.middle) @ self.axes)
        return made


def components(rows: Rows, most: int, whiten: float = 1.0) -> Reduction:
    """Return the reduction to the `most` first principal components of rows (N, d), fewer where they tell all.

    whiten: 1 gives every component a deviation of 1, 0 leaves their ratios as they are; the first one always gets 1.
    The sign of a component is such that its largest entry is positive.
    """
    middle = rows.mean(axis=0)
    off = rows - middle
    values, vectors = np.linalg.eigh(off.T @ off / len(rows))
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    told = np.cumsum(values) / max(float(values.sum()), 1e-300)
    count = max(1, min(most, len(values), int(np.searchsorted(told, _SAID)) + 1))
    values, vectors = values[:count], vectors[:, :count]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(count)])
    deviations = np.sqrt(np.maximum(values, 1e-12 * max(float(values[0]), 1e-300)))
    largest = max(float(deviations[0]), 1e-150)
    return Reduction(middle, vectors / (largest * (deviations / largest) ** whiten))


def places(rows: Rows) -> Reduction:
    """Return positions (N, 2) about their centre, in units of the larger side's deviation."""
    largest = float(rows.std(axis=0).max()) or 1.0
    return Reduction(rows.mean(axis=0), np.eye(rows.shape[1]) / largest)
