"""Where to measure before anything is known."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]
Name = Literal["latin_hypercube", "class_balanced"]
_ROUNDS = 25  # of k-means


def latin_hypercube(n: int, places: Rows, free: NDArray[np.bool_], rng: np.random.Generator) -> list[int]:
    """Return n free candidates near the points of a Latin hypercube over the map (McKay et al., 1979).

    places (N, 2); every row and column of an n x n division of the map holds one.
    """
    low, high = places[free].min(axis=0), places[free].max(axis=0)
    strata = np.stack([rng.permutation(n), rng.permutation(n)], axis=1)
    wanted = low + (strata + rng.random((n, 2))) / n * (high - low)
    return nearest(wanted, places, free)


def class_balanced(n: int, latent: Rows, free: NDArray[np.bool_], rng: np.random.Generator) -> list[int]:
    """Return n free candidates, the most typical one of each of n classes of what the image shows.

    latent (N, q): features in units of their own spread. Classes by k-means, begun far apart, so that a rare kind of
    place has its class too.
    """
    points = latent[free]
    centres = points[[int(rng.integers(len(points)))]]
    distance = ((points - centres[0]) ** 2).sum(axis=1)
    while len(centres) < n:
        share = distance / distance.sum() if distance.sum() > 0 else np.full(len(points), 1 / len(points))
        centres = np.vstack([centres, points[int(rng.choice(len(points), p=share))]])
        distance = np.minimum(distance, ((points - centres[-1]) ** 2).sum(axis=1))
    for _ in range(_ROUNDS):
        squared = (points**2).sum(1)[:, None] + (centres**2).sum(1) - 2 * points @ centres.T
        own = squared.argmin(axis=1)
        moved = np.stack([points[own == k].mean(axis=0) if (own == k).any() else centres[k] for k in range(n)])
        if np.allclose(moved, centres):
            break
        centres = moved
    return nearest(centres, latent, free)


def nearest(wanted: Rows, places: Rows, free: NDArray[np.bool_]) -> list[int]:
    """Return for each wanted place the nearest free candidate that is not taken by an earlier one."""
    left, chosen = free.copy(), list[int]()
    for place in wanted:
        if not left.any():
            break
        distance = np.where(left, ((places - place) ** 2).sum(axis=1), np.inf)
        chosen.append(int(distance.argmin()))
        left[chosen[-1]] = False
    return chosen
