"""A monolayer of 2H-MoS2: two grains, a boundary between them, sulphur vacancies.

Lattice and height of the sulphur: B. Schönfeld, J. J. Huang and S. C. Moss, Acta Cryst. B39 (1983) 404.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.spatial import cKDTree

from .atoms import Array, Atoms, Specimen, lattice_points, raised, turned
from .elements import number_of
from .settings import StructureSettings

LATTICE = 3.160e-10
HALF_HEIGHT = 1.56e-10  # Mo to a plane of S
RMS = {"Mo": 0.065e-10, "S": 0.08e-10}  # a free layer at room temperature, rounded
_CLOSEST = 1.9e-10  # in projection; Mo to S is 1.82 Å there, so that a touching pair of grains keeps one site
_THICKNESS = 6.2e-10


def mos2(settings: StructureSettings, width: float, seed: int) -> Specimen:
    """Return the layer; the boundary runs along y through the origin."""
    rng = np.random.default_rng([seed, 11])
    half = math.radians(settings.misorientation) / 2
    base = math.radians(settings.rotation)
    grains = [_grain(base + sign * half, width, rng.uniform(0, 1, 2)) for sign in (-1, 1)]
    metal: list[Array] = []
    sulphur: list[Array] = []
    for i, (mo, s) in enumerate(grains):
        metal.append(mo[(mo[:, 0] >= 0) == bool(i)])
        sulphur.append(s[(s[:, 0] >= 0) == bool(i)])
    left = cKDTree(np.concatenate([metal[0], sulphur[0]]))
    for kind in (metal, sulphur):
        kind[1] = kind[1][left.query(kind[1])[0] > 0.8 * _CLOSEST]
    mo, pairs = np.concatenate(metal), np.concatenate(sulphur)
    middle = _THICKNESS / 2
    places = np.concatenate([raised(pairs, middle - HALF_HEIGHT), raised(pairs, middle + HALF_HEIGHT)])
    empty = rng.random(len(places)) < settings.vacancies
    atoms = Atoms.of(
        [
            (number_of("Mo"), raised(mo, middle), RMS["Mo"] * settings.thermal),
            (number_of("S"), places[~empty], RMS["S"] * settings.thermal),
        ]
    ).within(width)
    truth = {
        "lattice": LATTICE,
        "vacancies": places[empty],
        "grain": lambda x, y: (np.asarray(x) >= 0).astype(np.int64),
        "orientations": (base - half, base + half),
    }
    return Specimen("mos2", width, _THICKNESS, atoms, truth=truth)


def _grain(angle: float, width: float, origin: Array) -> tuple[Array, Array]:
    """Return the Mo and S sites (N, 2) of one grain."""
    vectors = turned(np.array([[1.0, 0.0], [0.5, math.sqrt(3) / 2]]) * LATTICE, angle)
    start = origin @ vectors
    third = (vectors[0] + vectors[1]) / 3
    return lattice_points(vectors, width, start), lattice_points(vectors, width, start + third)
