"""A list of atoms, what a specimen is made of, and the faults that it can have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from probeloop.api import Problem, SettingsError

Array = NDArray[np.float64]
CLOSEST = 0.6e-10  # [m]; the shortest bond that there is, H-H, is 0.74 Å


@dataclass(frozen=True)
class Atoms:
    """Atoms at their mean places.

    numbers (N,): Z. places (N, 3): (x, y, z) [m], z along the beam from the entrance face. rms (N,): thermal
    displacement along one axis [m].
    """

    numbers: NDArray[np.int16]
    places: Array
    rms: Array

    @classmethod
    def of(cls, parts: Iterable[tuple[int, Array, float]]) -> Atoms:
        """Join (Z, places (N, 3), rms) of several kinds."""
        kinds = [(z, np.asarray(p, np.float64).reshape(-1, 3), rms) for z, p, rms in parts]
        if not kinds:
            return cls(np.zeros(0, np.int16), np.zeros((0, 3)), np.zeros(0))
        return cls(
            np.concatenate([np.full(len(p), z, np.int16) for z, p, _ in kinds]),
            np.concatenate([p for _, p, _ in kinds]),
            np.concatenate([np.full(len(p), rms) for _, p, rms in kinds]),
        )

    def __len__(self) -> int:
        return len(self.numbers)

    def where(self, kept: NDArray[np.bool_]) -> Atoms:
        """Return those of `kept` (N,)."""
        return Atoms(self.numbers[kept], self.places[kept], self.rms[kept])

    def plus(self, other: Atoms) -> Atoms:
        """Return both."""
        return Atoms(
            np.concatenate([self.numbers, other.numbers]),
            np.concatenate([self.places, other.places]),
            np.concatenate([self.rms, other.rms]),
        )

    def moved(self, by: tuple[float, float, float]) -> Atoms:
        """Return a copy moved by (x, y, z) [m]."""
        return Atoms(self.numbers, self.places + np.asarray(by), self.rms)

    def within(self, width: float) -> Atoms:
        """Return those inside a square of `width` [m] about the origin."""
        inside = np.abs(self.places[:, :2]) < width / 2
        return self.where(inside[:, 0] & inside[:, 1])


@dataclass(frozen=True)
class Specimen:
    """What the probe meets in a square of `width` [m] about the origin.

    thickness [m]. atoms: all of them; or None where the specimen is the same at every depth: then layer(rng) gives
    the atoms of one layer, `layer_thickness` thick, z from 0, and layers may be piled up in any order. extent: half
    the side of the square that is specimen [m], None = all of it. truth: what only the simulator knows, by name;
    functions take x, y [m].
    """

    name: str
    width: float
    thickness: float
    atoms: Atoms | None = None
    layer: Callable[[np.random.Generator], Atoms] | None = None
    layer_thickness: float = 0.0
    extent: float | None = None
    truth: Mapping[str, Any] = field(default_factory=dict)


def check_apart(atoms: Atoms, path: str, closest: float = CLOSEST) -> None:
    """Raise SettingsError, with the worst pair, when two atoms are closer than `closest` [m]."""
    pairs = cKDTree(atoms.places).query_pairs(closest, output_type="ndarray")
    if not len(pairs):
        return
    gaps = np.linalg.norm(atoms.places[pairs[:, 0]] - atoms.places[pairs[:, 1]], axis=1)
    worst = int(np.argmin(gaps))
    at = ", ".join(f"{1e10 * c:.2f}" for c in atoms.places[pairs[worst, 0]])
    raise SettingsError(
        [
            Problem(
                path,
                f"{len(pairs)} pairs of atoms overlap; the closest are {gaps[worst] * 1e10:.2f} Å apart, at ({at}) Å",
                f"distance >= {closest * 1e10:.1f} Å",
            )
        ]
    )


def lattice_points(vectors: Array, width: float, origin: Array) -> Array:
    """Return the points i a + j b + origin (N, 2) [m] that cover a square of `width`; vectors: rows a and b."""
    corners = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]]) * width / 2 - origin
    index = corners @ np.linalg.inv(vectors)
    low, high = np.floor(index.min(axis=0)) - 1, np.ceil(index.max(axis=0)) + 1
    i, j = np.meshgrid(np.arange(low[0], high[0] + 1), np.arange(low[1], high[1] + 1), indexing="ij")
    return np.asarray(np.stack([i.ravel(), j.ravel()], axis=1) @ vectors + origin)


def turned(points: Array, angle: float) -> Array:
    """Return (N, 2) turned by `angle` [rad] from x to y."""
    c, s = np.cos(angle), np.sin(angle)
    return np.asarray(points @ np.array([[c, s], [-s, c]]))


def raised(points: Array, z: float) -> Array:
    """Return (N, 2) points as (N, 3) at the depth z [m]."""
    return np.column_stack([points, np.full(len(points), z)])
