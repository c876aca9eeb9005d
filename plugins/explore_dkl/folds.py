"""Which observations each member of an ensemble is not trained on."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


class Folds(msgspec.Struct, frozen=True):
    """Of n observations over m members.

    held: those that a member never sees, every one in one member's, (m,) arrays; each alone where m = 1. rest: (m, k)
    what it may see, as many for each; None where there are too few to leave any out.
    """

    n: int
    members: int
    held: tuple[Indices, ...]
    rest: Indices | None

    def trained(self, most: int, seed: int) -> Indices:
        """Return (m, k) what each member is trained on: at most `most` of what it may see, chosen by `seed`."""
        rows = self.rest if self.rest is not None else np.tile(np.arange(self.n), (self.members, 1))
        if rows.shape[1] <= most:
            return rows
        rng = np.random.default_rng(seed)
        return np.stack([np.sort(rng.choice(row, most, replace=False)) for row in rows])


def split(n: int, members: int) -> Folds:
    """Deal n observations out to `members` in turn: each is held out by one of them, by two of 5 or more.

    >>> split(5, 2).held
    (array([0, 2, 4]), array([1, 3]))
    >>> split(5, 2).rest
    array([[1, 3],
           [0, 2]])
    """
    every = np.arange(n)
    if members == 1 or n < 2 * members:
        return Folds(n, members, tuple(every[i : i + 1] for i in range(n)) if members == 1 else (), None)
    apart = 2 if members >= 5 else 1
    held = tuple(every[(every - j) % members < apart] for j in range(members))
    least = n - max(map(len, held))
    rest = np.stack([np.setdiff1d(every, each)[:least] for each in held])
    return Folds(n, members, held, rest)
