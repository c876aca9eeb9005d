"""A short way through all places.

Nearest neighbour first, then 2-opt (Croes, Oper. Res. 6 (1958) 791): wherever two legs of the way are longer than the
two that go between the same four places otherwise, the part between them is walked the other way round. The way is
open: it begins at the given place and ends anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MOST_SWEEPS = 60
_EXACT = 4000  # places beyond which the way stays that of the nearest neighbours: a matrix of them is 128 MB


@dataclass(frozen=True)
class Route:
    """order: of the places, (N,) int. length, greedy: of the way, and of that by nearest neighbours alone [m]."""

    order: NDArray[np.int64]
    length: float
    greedy: float


def shortest(places: Array, start: tuple[float, float] | None = None) -> Route:
    """Return a short way through places (N, 2) [m], from `start` (default: the first of them)."""
    n = len(places)
    if n == 0:
        return Route(np.empty(0, np.int64), 0.0, 0.0)
    whole = np.concatenate([np.asarray(places[:1] if start is None else [start], np.float64), places])
    greedy = _nearest_first(whole)
    order = _untangled(whole, greedy) if n <= _EXACT else greedy
    return Route(order[1:] - 1, _length(whole, order), _length(whole, greedy))


def _length(places: Array, order: NDArray[np.int64]) -> float:
    return float(np.hypot(*np.diff(places[order], axis=0).T).sum())


def _nearest_first(places: Array) -> NDArray[np.int64]:
    free = np.ones(len(places), bool)
    order = [0]
    free[0] = False
    for _ in range(len(places) - 1):
        away = np.hypot(*(places - places[order[-1]]).T)
        away[~free] = np.inf
        order.append(int(np.argmin(away)))
        free[order[-1]] = False
    return np.array(order, np.int64)


def _untangled(places: Array, order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Turn parts of the way round for as long as that makes it shorter; the first place stays first."""
    n = len(order)
    away = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1))
    order = order.copy()
    least = 1e-9 * float(away.max())
    for _ in range(MOST_SWEEPS):
        better = False
        for i in range(n - 2):
            a, b = order[i], order[i + 1]
            after = order[i + 2 :]  # the part i + 1 ... j is turned, for every j
            nexts = np.append(order[i + 3 :], -1)
            now = away[a, b] + np.where(nexts >= 0, away[after, nexts], 0.0)
            then = away[a, after] + np.where(nexts >= 0, away[b, nexts], 0.0)
            gain = now - then
            j = int(np.argmax(gain))
            if gain[j] > least:
                order[i + 1 : i + 3 + j] = order[i + 1 : i + 3 + j][::-1].copy()
                better = True
        if not better:
            break
    return order
