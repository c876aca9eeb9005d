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

    def lay(self, places: NDArray[np.float64], electrons: NDArray[np.float64], radius: float) -> None:
        """Add electrons (N,) at places (N, 2) (x, y) SPECIMEN [m], spread evenly over a disc of `radius` [m]."""
        if places.shape[0] and electrons.any():
            _lay(places / CELL + self.electrons.shape[0] // 2, electrons, radius / CELL, self.electrons)

    def sweep(
        self, start: NDArray[np.float64], end: NDArray[np.float64], electrons: NDArray[np.float64], radius: float
    ) -> None:
        """Add electrons (N,) evenly along straight ways from start (N, 2) to end (N, 2) [m]: a beam in flyback."""
        for a, b, count in zip(start, end, electrons, strict=True):
            points = max(1, math.ceil(math.dist(a, b) / CELL))
            part = (np.arange(points) + 0.5)[:, None] / points
            self.lay(a + (b - a) * part, np.full(points, count / points), radius)


@nb.njit(nogil=True, cache=True)
def _lay(at: Any, electrons: Any, radius: Any, out: Any) -> None:
    """Add electrons at (x, y) [cells] to the periodic map; a disc smaller than a cell falls into one."""
    n = out.shape[0]
    reach = math.ceil(radius)
    for i in range(at.shape[0]):
        if electrons[i] == 0:
            continue
        x, y = at[i, 0], at[i, 1]
        x0, y0 = math.floor(x), math.floor(y)
        inside = 0
        for dy in range(-reach, reach + 1):
            for dx in range(-reach, reach + 1):
                inside += (x0 + dx + 0.5 - x) ** 2 + (y0 + dy + 0.5 - y) ** 2 <= radius * radius
        if inside < 2:
            out[y0 % n, x0 % n] += electrons[i]
            continue
        share = electrons[i] / inside
        for dy in range(-reach, reach + 1):
            for dx in range(-reach, reach + 1):
                if (x0 + dx + 0.5 - x) ** 2 + (y0 + dy + 0.5 - y) ** 2 <= radius * radius:
                    out[(y0 + dy) % n, (x0 + dx) % n] += share
