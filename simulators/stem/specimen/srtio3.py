"""Perfect SrTiO3 seen along [001]."""

from __future__ import annotations

import math

import numpy as np

from .atoms import Atoms, Specimen, lattice_points, raised, turned
from .elements import number_of
from .settings import StructureSettings

LATTICE = 3.905e-10
# Room temperature, B = 8 pi^2 u^2: Y. A. Abramov et al., Acta Cryst. B51 (1995) 942, as used by J. M. LeBeau et al.,
# Phys. Rev. Lett. 100 (2008) 206101.
B_FACTORS = {"Sr": 0.6214e-20, "Ti": 0.4398e-20, "O": 0.7323e-20}
BASIS = (
    ("Sr", (0.0, 0.0, 0.0)),
    ("Ti", (0.5, 0.5, 0.5)),
    ("O", (0.5, 0.5, 0.0)),
    ("O", (0.5, 0.0, 0.5)),
    ("O", (0.0, 0.5, 0.5)),
)


def rms_of(b: float) -> float:
    """Return the rms displacement along one axis [m] of B = 8 pi^2 u^2 [m^2]."""
    return math.sqrt(b / 8) / math.pi


def srtio3(settings: StructureSettings, width: float, seed: int) -> Specimen:
    """Return a crystal whose Sr columns stand at the origin and every lattice vector from it."""
    angle = math.radians(settings.rotation)
    vectors = turned(np.eye(2) * LATTICE, angle)

    def layer(rng: np.random.Generator) -> Atoms:
        parts = []
        for symbol, (u, v, w) in BASIS:
            at = lattice_points(vectors, width, np.array([u, v]) @ vectors)
            rms = rms_of(B_FACTORS[symbol]) * settings.thermal
            parts.append((number_of(symbol), raised(at, w * LATTICE), rms))
        return Atoms.of(parts).within(width)

    thickness = 2e-9 if settings.thickness is None else settings.thickness * 1e-9
    truth = {"lattice": LATTICE, "rotation": angle, "origin": (0.0, 0.0)}
    return Specimen("srtio3", width, thickness, layer=layer, layer_thickness=LATTICE, truth=truth)
