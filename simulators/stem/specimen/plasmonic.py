"""An array of aluminium squares on carbon, and where its plasmons live.

The modes are those of a Drude metal: the bulk plasmon inside (15.0 eV for aluminium), the surface plasmon of the
rim at bulk / sqrt 2, and the low modes of a square plate, which sit on its edges and its corners (J. Nelayah et al.,
Nature Phys. 3 (2007) 348; F.-P. Schmidt et al., Nano Lett. 14 (2014) 4810); in a narrow gap the corner mode of two
neighbours shifts down, and there is the gap mode, the stronger the narrower the gap. Weights are shapes with the
right support and decay lengths; no field is solved for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .atoms import Array, Atoms, Specimen, lattice_points, raised
from .carbon import RMS as CARBON_RMS
from .carbon import random_film
from .elements import number_of
from .settings import StructureSettings

LATTICE = 4.0495e-10
RMS = 0.10e-10
BULK_EV = 15.0
_THICKNESS = 4e-9
_AROUND = np.array([(di, dj) for dj in (-1, 0, 1) for di in (-1, 0, 1)])
_COUPLING = 0.3  # sides over which the coupling of two neighbours falls to 1/e


@dataclass(frozen=True)
class Mode:
    """A plasmon: its energy and width [eV]."""

    name: str
    energy: float
    width: float


class ModeMap:
    """How strongly each mode answers at a place: what a spectrometer draws its peaks from.

    side, gap [m] of the array; a square is centred on the origin. modes: in the order of the last axis of `weights`.
    shifts (K, K, 2) (x, y) [m], sides (K, K) [m]: of the K x K squares about the origin, rows are y, where they are
    not all alike.
    """

    def __init__(self, side: float, gap: float, shifts: Array | None = None, sides: Array | None = None) -> None:
        self.side, self.gap, self.pitch = side, gap, side + gap
        self._shifts = np.zeros((1, 1, 2)) if shifts is None else shifts
        self._sides = np.full((1, 1), side) if sides is None else sides
        self._most = len(self._sides) // 2
        coupling = math.exp(-gap / (_COUPLING * side))
        self.modes = (
            Mode("bulk", BULK_EV, 1.0),
            Mode("surface", BULK_EV / math.sqrt(2), 1.4),
            Mode("edge", 6.0, 0.6),
            Mode("corner", 3.6 * (1 - 0.25 * coupling), 0.4),
            Mode("gap", 2.0, 0.25),
        )

    def square(self, i: Any, j: Any) -> tuple[Any, Any, Any]:
        """Return centre x, y and half the side [m] of the squares in columns i and rows j from the origin's."""
        column, row = (np.clip(np.asarray(k), -self._most, self._most) + self._most for k in (i, j))
        shift = self._shifts[row, column]
        return i * self.pitch + shift[..., 0], j * self.pitch + shift[..., 1], self._sides[row, column] / 2

    def weights(self, x: Any, y: Any) -> Array:
        """Return (..., 5), each 0 to 1, at places [m]: chance of a loss relative to the mode's strongest place."""
        x, y = (np.asarray(v, np.float64)[..., None] for v in np.broadcast_arrays(x, y))
        i, j = np.rint(x / self.pitch).astype(int), np.rint(y / self.pitch).astype(int)
        single = self._of_square(x, y, i + _AROUND[:, 0], j + _AROUND[:, 1]).max(axis=-2)
        right = self._of_gap(x, y, i + _AROUND[:, 0], j + _AROUND[:, 1], 1, 0)
        below = self._of_gap(x, y, i + _AROUND[:, 0], j + _AROUND[:, 1], 0, 1)
        gap = np.maximum(right.max(axis=-1), below.max(axis=-1))
        return np.concatenate([single, gap[..., None]], axis=-1)

    def _of_square(self, x: Array, y: Array, i: Any, j: Any) -> Array:
        """Return what one square adds, (..., 4)."""
        cx, cy, half = self.square(i, j)
        u, v = np.abs(x - cx), np.abs(y - cy)
        decay = 0.12 * self.side
        outside = np.hypot(np.maximum(u - half, 0), np.maximum(v - half, 0))
        depth = np.maximum(np.minimum(half - u, half - v), 0)
        distance = outside + depth
        along = np.clip(np.minimum(u, v) / half, 0, 1)
        rim = np.exp(-distance / decay)
        corner = np.exp(-np.hypot(u - half, v - half) / (1.5 * decay))
        bulk = np.where(outside == 0, 1 - 0.7 * np.exp(-depth / 1e-9), 0.0)  # the surface takes from the bulk
        surface = np.exp(-distance / (0.3 * decay))
        return np.stack([bulk, surface, rim * np.cos(np.pi / 2 * along) ** 2, corner], axis=-1)

    def _of_gap(self, x: Array, y: Array, i: Any, j: Any, di: int, dj: int) -> Array:
        """Return what the gap between a square and its neighbour to the right or below adds, (...).

        The field between two faces is that of a condenser: the same across the gap, and the stronger the narrower;
        it reaches a little out of the gap at its sides, and into the metal.
        """
        ax, ay, a = self.square(i, j)
        bx, by, b = self.square(i + di, j + dj)
        first, second, across, aside = (ax, bx, x, y) if di else (ay, by, y, x)
        sides = (ay, by) if di else (ax, bx)
        low, high = first + a, second - b
        bottom, top = np.maximum(sides[0] - a, sides[1] - b), np.minimum(sides[0] + a, sides[1] + b)
        away = np.hypot(
            np.maximum(np.maximum(low - across, across - high), 0),
            np.maximum(np.maximum(bottom - aside, aside - top), 0),
        )
        width = np.maximum(high - low, 0.0)
        return np.asarray(np.exp(-width / (_COUPLING * self.side) - away / (0.06 * self.side)))

    def metal(self, x: Any, y: Any) -> Any:
        """True where there is metal."""
        x, y = (np.asarray(v, np.float64)[..., None] for v in np.broadcast_arrays(x, y))
        i, j = np.rint(x / self.pitch).astype(int), np.rint(y / self.pitch).astype(int)
        cx, cy, half = self.square(i + _AROUND[:, 0], j + _AROUND[:, 1])
        return ((np.abs(x - cx) <= half) & (np.abs(y - cy) <= half)).any(axis=-1)


def plasmonic(settings: StructureSettings, width: float, seed: int) -> Specimen:
    """Return the array; every square is a single crystal seen along [001], turned by some degrees of its own."""
    rng = np.random.default_rng([seed, 13])
    side, gap = settings.side * 1e-9, settings.gap * 1e-9
    count = math.ceil(width / 2 / (side + gap))
    modes = ModeMap(side, gap, *_disorder(settings.disorder, side, gap, count, seed))
    thickness = _THICKNESS if settings.thickness is None else settings.thickness * 1e-9
    planes = max(1, round(2 * thickness / LATTICE))
    parts = []
    for i in range(-count, count + 1):
        for j in range(-count, count + 1):
            angle = rng.uniform(-0.3, 0.3)
            x, y, half = modes.square(i, j)
            square = _square(2 * float(half), angle, planes) + np.array([float(x), float(y), 0])
            parts.append((number_of("Al"), square, RMS * settings.thermal))
    metal = planes * LATTICE / 2
    depth = settings.film * 1e-9
    if depth:
        film = random_film(width, depth, rng) + np.array([0, 0, metal + 1e-10])
        parts.append((number_of("C"), film, CARBON_RMS * settings.thermal))
    atoms = Atoms.of(parts).within(width)
    return Specimen("plasmonic", width, metal + depth + 2e-10, atoms, truth={"modes": modes, "metal": modes.metal})


def _disorder(share: float, side: float, gap: float, count: int, seed: int) -> tuple[Array, Array]:
    """Return shifts and sides of squares as lithography leaves them; no two touch for any share up to 1."""
    rng = np.random.default_rng([seed, 14])
    size = 2 * count + 1
    shifts = 0.3 * share * gap * rng.uniform(-1, 1, (size, size, 2))
    return shifts, side + 0.3 * share * gap * rng.uniform(-1, 1, (size, size))


def _square(side: float, angle: float, planes: int) -> Array:
    c, s = math.cos(angle), math.sin(angle)
    vectors = LATTICE / 2 * np.array([[1.0, 1.0], [1.0, -1.0]]) @ np.array([[c, s], [-s, c]])
    found = []
    for plane in range(planes):
        start = 0.5 * (vectors[0] + vectors[1]) * (plane % 2)
        at = lattice_points(vectors, side * 1.5, start)
        at = at[(np.abs(at) <= side / 2).all(axis=1)]
        found.append(raised(at, plane * LATTICE / 2 + 1e-10))
    return np.concatenate(found)
