"""What was measured near a place before it was: a voltage pulse or a dose can change what lies around it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]
REACHES = (0.5, 1.0, 2.0)  # of a measurement, in units of what it is thought to be


def history(places: Rows, reach: float) -> Rows:
    """Return of each of n places (n, 2), in the order of their measurement, how much was measured near it before.

    (n, 3), a column for each reach of REACHES times `reach` [unit of places]: earlier measurements, each weighted by
    a Gaussian of its distance. A sum of the columns can follow any effect that falls with distance.

    >>> history(np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 90.0]]), 2.0)[:, 1]
    array([0., 1., 0.])
    """
    squared = ((places[:, None] - places[None]) ** 2).sum(axis=2)
    made: Rows = np.stack([np.tril(np.exp(-0.5 * squared / (each * reach) ** 2), -1).sum(1) for each in REACHES], 1)
    return made
