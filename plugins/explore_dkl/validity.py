"""Where a measurement is likely to fail, learned from those that did: failed spectra come in clusters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]
_BELIEF = 1.0  # observations that the overall share counts for everywhere


def probability_valid(places: Rows, measured: NDArray[np.int64], valid: NDArray[np.bool_], reach: Rows) -> Rows:
    """Return the probability (N,) that a measurement at each candidate is valid; 1 where none ever failed.

    places (N, q): of the candidates in some space, measured (n,): indices of those that were, valid (n,). reach (q,):
    how far one measurement speaks for its surroundings. A share of successes about each place, weighted by distance,
    drawn to the overall share where little is known.
    """
    if valid.all():
        return np.ones(len(places))
    overall = (valid.sum() + 1) / (len(valid) + 2)
    scaled = places / reach
    near = scaled[measured]
    squared = (scaled**2).sum(1)[:, None] + (near**2).sum(1) - 2 * scaled @ near.T
    weight = np.exp(-0.5 * np.maximum(squared, 0.0))
    made: Rows = (_BELIEF * overall + weight @ valid.astype(float)) / (_BELIEF + weight.sum(axis=1))
    return made
