"""An array of aluminium squares on carbon, and where its plasmons live.

The modes are those of a Drude metal: the bulk plasmon inside (15.0 eV for aluminium), the surface plasmon of the
rim at bulk / sqrt 2, and the low modes of a square plate, which sit on its edges and its corners (J. Nelayah et al.,
Nature Phys. 3 (2007) 348; F.-P. Schmidt et al., Nano Lett. 14 (2014) 4810); in a narrow gap the corner mode of two
neighbours shifts down. Weights are shapes with the right support and decay lengths; no field is solved for.
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


@dataclass(frozen=True)
class Mode:
    """A plasmon: its energy and width [eV]."""

    name: str
    energy: float
    width: float


class ModeMap:
    """How strongly each mode answers at a place: what a spectrometer draws its peaks from.

    side, gap [m] of the array; a square is centred on the origin. modes: in the order of the last axis of `weights`.
    """

    def __init__(self, side: float, gap: float) -> None:
        self.side, self.gap, self.pitch = side, gap, side + gap
        coupling = math.exp(-gap / (0.3 * side))
        self.modes = (
            Mode("bulk", BULK_EV, 1.0),
            Mode("surface", BULK_EV / math.sqrt(2), 1.4),
            Mode("edge", 6.0, 0.6),
            Mode("corner", 3.6 * (1 - 0.25 * coupling), 0.4),
        )

    def weights(self, x: Any, y: Any) -> Array:
        """Return (..., 4), each 0 to 1, at places [m]: chance of a loss relative to the mode's strongest place."""
        u = np.abs(_wrapped(np.asarray(x, np.float64), self.pitch))
        v = np.abs(_wrapped(np.asarray(y, np.float64), self.pitch))
        half, decay = self.side / 2, 0.12 * self.side
        outside = np.hypot(np.maximum(u - half, 0), np.maximum(v - half, 0))
        depth = np.maximum(np.minimum(half - u, half - v), 0)
        distance = outside + depth
        inside = outside == 0
        along = np.clip(np.minimum(u, v) / half, 0, 1)
        rim = np.exp(-distance / decay)
        corner = np.exp(-np.hypot(u - half, v - half) / (1.5 * decay))
        bulk = np.where(inside, 1 - 0.7 * np.exp(-depth / 1e-9), 0.0)  # the surface takes from the bulk
        return np.stack(
            [bulk, np.exp(-distance / (0.3 * decay)), rim * np.cos(np.pi / 2 * along) ** 2, corner], axis=-1
        )

    def metal(self, x: Any, y: Any) -> Any:
        """True where there is metal."""
        u, v = np.abs(_wrapped(np.asarray(x), self.pitch)), np.abs(_wrapped(np.asarray(y), self.pitch))
        return (u <= self.side / 2) & (v <= self.side / 2)


def plasmonic(settings: StructureSettings, width: float, seed: int) -> Specimen:
    """Return the array; every square is a single crystal seen along [001], turned by some degrees of its own."""
    rng = np.random.default_rng([seed, 13])
    modes = ModeMap(settings.side * 1e-9, settings.gap * 1e-9)
    thickness = _THICKNESS if settings.thickness is None else settings.thickness * 1e-9
    planes = max(1, round(2 * thickness / LATTICE))
    count = math.ceil(width / 2 / modes.pitch)
    parts = []
    for i in range(-count, count + 1):
        for j in range(-count, count + 1):
            angle = rng.uniform(-0.3, 0.3)
            square = _square(modes.side, angle, planes) + np.array([i * modes.pitch, j * modes.pitch, 0])
            parts.append((number_of("Al"), square, RMS * settings.thermal))
    metal = planes * LATTICE / 2
    depth = settings.film * 1e-9
    if depth:
        film = random_film(width, depth, rng) + np.array([0, 0, metal + 1e-10])
        parts.append((number_of("C"), film, CARBON_RMS * settings.thermal))
    atoms = Atoms.of(parts).within(width)
    return Specimen("plasmonic", width, metal + depth + 2e-10, atoms, truth={"modes": modes, "metal": modes.metal})


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


def _wrapped(x: Any, pitch: float) -> Any:
    return (x + pitch / 2) % pitch - pitch / 2
