"""Tetragonal PbTiO3 seen along a short axis: polar domains with a 90 degree and a 180 degree wall.

Lattice and places of the atoms at room temperature: R. J. Nelmes and W. F. Kuhs, Solid State Commun. 54 (1985) 721.
The two sides of the 90 degree wall are twins that share the (101) plane, so each is turned by half of
90 degree - 2 atan(a / c); across a wall the polarisation turns over as a tanh.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .atoms import Array, Atoms, Specimen, lattice_points, raised, turned
from .elements import number_of
from .settings import StructureSettings

A, C = 3.904e-10, 4.152e-10
# Symbol, (along a, along c, along the beam), shift against the polarisation when fully poled [parts of c]. Pb stays;
# oxygen moves most, so the polarisation points away from where Ti and O have gone.
BASIS = (
    ("Pb", (0.0, 0.0, 0.0), 0.0),
    ("Ti", (0.5, 0.5, 0.5), 0.0377),
    ("O", (0.5, 0.0, 0.5), 0.1118),
    ("O", (0.5, 0.5, 0.0), 0.1174),
    ("O", (0.0, 0.5, 0.5), 0.1174),
)
RMS = {"Pb": 0.10e-10, "Ti": 0.075e-10, "O": 0.095e-10}  # room temperature, rounded from the same work
_ON_WALL = 1e-12  # [m] cells that start on the wall belong to the right side
_FLIP = -4.0e-9  # [m] where the 180 degree wall crosses the x axis of the c domain


def pbtio3(settings: StructureSettings, width: float, seed: int) -> Specimen:
    """Return the crystal; the 90 degree wall passes the origin, the 180 degree wall 4 nm to its left."""
    angle = math.radians(settings.rotation)
    tilt = math.pi / 4 - math.atan(A / C)
    wall = max(settings.wall * 1e-9, 1e-12)
    poled_c = turned(np.diag([A, C]), -tilt + angle)  # polar axis near y
    poled_a = turned(np.diag([C, A]), tilt + angle)  # polar axis near x
    along = poled_c[0] + poled_c[1]
    along = along / np.linalg.norm(along)
    normal = np.array([along[1], -along[0]])

    def polarisation(x: Any, y: Any) -> Array:
        """Return (..., 2), 1 = fully poled."""
        at = np.stack([np.asarray(x, np.float64), np.asarray(y, np.float64)], axis=-1)
        across = at @ normal
        p_c, p_a = poled_c[1] / C, poled_a[0] / C
        side = 0.5 * (1 + np.tanh(2 * across / wall))[..., None]
        up = np.tanh(2 * ((at @ poled_c[0]) / A - _FLIP) / wall)[..., None]
        return np.asarray((1 - side) * up * p_c + side * p_a)

    def layer(rng: np.random.Generator) -> Atoms:
        parts = []
        for symbol, (u, v, w), shift in BASIS:
            for vectors, frac, right in ((poled_c, (u, v), False), (poled_a, (v, u), True)):
                at = lattice_points(vectors, width, np.array(frac) @ vectors)
                site = at - np.array(frac) @ vectors  # whole cells change sides, not parts of them
                at = at[(site @ normal >= -_ON_WALL) == right]
                at = at - polarisation(at[:, 0], at[:, 1]) * shift * C
                parts.append((number_of(symbol), raised(at, w * A), RMS[symbol] * settings.thermal))
        return Atoms.of(parts).within(width)

    thickness = 20e-9 if settings.thickness is None else settings.thickness * 1e-9
    truth = {"polarisation": polarisation, "lattice": (A, C), "wall_normal": tuple(map(float, normal))}
    return Specimen("pbtio3", width, thickness, layer=layer, layer_thickness=A, truth=truth)
