"""Amorphous carbon: atoms at random, none closer than a bond."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from .atoms import Array, Atoms, Specimen
from .elements import number_of
from .settings import StructureSettings

PER_CUBIC_METRE = 1.0e29  # 2.0 g/cm^3
CLOSEST = 1.35e-10
RMS = 0.08e-10
LAYER = 5e-10
_PASSES = 40


def random_film(width: float, depth: float, rng: np.random.Generator) -> Array:
    """Return (N, 3) places, periodic in x and y, of a film `depth` thick."""
    number = round(PER_CUBIC_METRE * width**2 * depth)
    box = np.array([width, width, depth])
    places = rng.uniform(0, 1, (number, 3)) * box
    for _ in range(_PASSES):
        tree = cKDTree(places, boxsize=[width, width, 0.0])
        pairs = tree.query_pairs(CLOSEST, output_type="ndarray")
        if not len(pairs):
            break
        again = np.unique(pairs[:, 1])
        places[again] = rng.uniform(0, 1, (len(again), 3)) * box
    places[:, :2] -= width / 2
    return np.asarray(places)


def carbon(settings: StructureSettings, width: float, seed: int) -> Specimen:
    """Return a film, 5 nm thick unless told otherwise."""

    def layer(rng: np.random.Generator) -> Atoms:
        return Atoms.of([(number_of("C"), random_film(width, LAYER, rng), RMS * settings.thermal)])

    thickness = 5e-9 if settings.thickness is None else settings.thickness * 1e-9
    return Specimen("carbon", width, thickness, layer=layer, layer_thickness=LAYER)
