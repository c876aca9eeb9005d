"""Gold nanoparticles on an amorphous carbon film: truncated octahedra, each turned at random."""

from __future__ import annotations

import math

import numpy as np
from scipy.spatial.transform import Rotation

from .atoms import Array, Atoms, Specimen
from .carbon import RMS as CARBON_RMS
from .carbon import random_film
from .elements import number_of
from .settings import StructureSettings

LATTICE = 4.0782e-10
RMS = 0.0855e-10  # B = 0.58 Å^2 at room temperature
_TRIES = 200


def fcc_particle(lattice: float, radius: float) -> Array:
    """Return (N, 3) atoms of a truncated octahedron: {111} facets at 0.95 `radius`, {100} at 1.1 times it."""
    reach = math.ceil(radius * 1.3 / lattice) + 1
    cells = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    basis = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    at = (cells[:, None, :] + basis).reshape(-1, 3) * lattice
    facets = np.abs(at).sum(axis=1) / math.sqrt(3) <= 0.95 * radius
    return np.asarray(at[facets & (np.abs(at).max(axis=1) <= 1.1 * radius)])


def gold(settings: StructureSettings, width: float, seed: int) -> Specimen:
    """Return particles on the film's exit side of the vacuum: the beam meets the gold first."""
    rng = np.random.default_rng([seed, 12])
    mean = settings.radius * 1e-9
    wanted = max(1, round(settings.coverage * width**2 / (math.pi * mean**2))) if settings.coverage else 0
    found: list[tuple[float, float, float]] = []
    for _ in range(_TRIES * wanted):
        if len(found) == wanted:
            break
        radius = float(np.clip(rng.normal(mean, 0.15 * mean), 0.6 * mean, 1.4 * mean))
        x, y = (0.0, 0.0) if not found else map(float, rng.uniform(-0.5, 0.5, 2) * (width - 2.4 * radius))
        if all(math.hypot(x - a, y - b) > 1.27 * (radius + r) for a, b, r in found):
            found.append((x, y, radius))
    top = 2 * 1.2 * max((r for _, _, r in found), default=0.0)
    parts = []
    for x, y, radius in found:
        at = Rotation.random(rng=rng).apply(fcc_particle(LATTICE, radius))
        at += np.array([x, y, top - at[:, 2].max() - 1e-10])
        parts.append((number_of("Au"), at, RMS * settings.thermal))
    depth = settings.film * 1e-9
    if depth:
        film = random_film(width, depth, rng) + np.array([0, 0, top + 0.5e-10])
        parts.append((number_of("C"), film, CARBON_RMS * settings.thermal))
    atoms = Atoms.of(parts).within(width)
    discs = np.array(found).reshape(-1, 3)

    def particle(x: object, y: object) -> Array:
        """Return the number of the particle at places [m], -1 where there is none."""
        at = np.stack([np.asarray(x, np.float64), np.asarray(y, np.float64)], axis=-1)[..., None, :] - discs[:, :2]
        inside = np.hypot(at[..., 0], at[..., 1]) <= discs[:, 2]
        return np.where(inside.any(axis=-1), inside.argmax(axis=-1), -1) if len(discs) else np.full(at.shape[:-2], -1)

    thickness = top + depth + 1e-10
    return Specimen("gold", width, thickness, atoms, truth={"particles": discs, "particle": particle})
