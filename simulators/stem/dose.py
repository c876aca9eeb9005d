"""Where the electrons have fallen: the dose of the specimen, with the probe's footprint (CONVENTIONS.md 5)."""

from __future__ import annotations

import math
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

from probeloop.api import Aberrations, blur_radius

CELL = 0.25e-9


class DoseMap:
    """Electrons by cell of a square about the origin, periodic as the specimen is.

    width: of the square [m]. wavelength [m], convergence [rad]: of the probe. electrons: (n, n) [y, x], [e] a cell.
    """

    def __init__(self, width: float, wavelength: float, convergence: float) -> None:
        cells = math.ceil(width / CELL)
        self.electrons = np.zeros((cells, cells))
        self._diffraction, self._convergence = 0.61 * wavelength / convergence, convergence
        self._blurred: tuple[Aberrations, float] | None = None

    @property
    def density(self) -> NDArray[np.float64]:
        """Dose of each cell [e/m²]."""
        return self.electrons / CELL**2

    def footprint(self, aberrations: Aberrations) -> float:
        """Return the probe's radius [m]: its diffraction limit, or what the aberrations make of it."""
        if self._blurred is None or self._blurred[0] is not aberrations:
            self._blurred = (aberrations, max(self._diffraction, blur_radius(aberrations, self._convergence)))
        return self._blurred[1]

    def lay(self, places: NDArray[np.float64], electrons: float, radius: float) -> None:
        """Add `electrons` at each of places (N, 2) (x, y) SPECIMEN [m], spread evenly over a disc of `radius` [m]."""
        _lay(places, CELL, electrons, radius / CELL, self.electrons)

    def sweep(
        self, start: NDArray[np.float64], end: NDArray[np.float64], electrons: NDArray[np.float64], radius: float
    ) -> None:
        """Add electrons (N,) evenly along straight ways from start (N, 2) to end (N, 2) [m]: a beam in flyback."""
        for a, b, count in zip(start, end, electrons, strict=True):
            points = max(1, math.ceil(math.dist(a, b) / CELL))
            part = (np.arange(points) + 0.5)[:, None] / points
            self.lay(a + (b - a) * part, float(count) / points, radius)


@nb.njit(nogil=True, cache=True)
def _lay(places: Any, cell: Any, electrons: Any, radius: Any, out: Any) -> None:
    """Add electrons at places (N, 2) to the periodic map; radius: [cells], a smaller disc falls into one."""
    n = out.shape[0]
    reach = math.ceil(radius)
    for i in range(places.shape[0]):
        x, y = places[i, 0] / cell + n // 2, places[i, 1] / cell + n // 2
        x0, y0 = math.floor(x), math.floor(y)
        inside = 0
        for dy in range(-reach, reach + 1):
            for dx in range(-reach, reach + 1):
                inside += (x0 + dx + 0.5 - x) ** 2 + (y0 + dy + 0.5 - y) ** 2 <= radius * radius
        if inside < 2:
            out[y0 % n, x0 % n] += electrons
            continue
        share = electrons / inside
        for dy in range(-reach, reach + 1):
            for dx in range(-reach, reach + 1):
                if (x0 + dx + 0.5 - x) ** 2 + (y0 + dy + 0.5 - y) ** 2 <= radius * radius:
                    out[(y0 + dy) % n, (x0 + dx) % n] += share
