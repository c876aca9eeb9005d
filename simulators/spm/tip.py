"""The tip: what it makes of the surface, and what a crash makes of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .kernels import dilated

CRASH = 250e-9  # deflection that breaks the apex [m]
_BLUNTER, _BLUNT = 4.0, 60e-9
_SECOND_LOWER = 3e-9  # by how much a second apex stands back [m]
SPRING = 3.0  # [N/m]


class Tip:
    """An apex, perhaps a second one beside it. surface (n, n) [m] is what it scans."""

    def __init__(self, surface: NDArray[np.float64], cell: float, radius: float, double: float) -> None:
        self._surface, self._cell = surface, cell
        self.radius, self.double, self.crashes = radius, double, 0
        self.felt = self._feel()

    def _feel(self) -> NDArray[np.float64]:
        """Return where the tip stops above every cell, (n, n) [m]."""
        first = dilated(self._surface, self._cell, self.radius)
        cells = round(self.double / self._cell)
        if not cells:
            return first
        second = np.full_like(first, -np.inf)
        second[:, :-cells] = first[:, cells:]  # it stands to the right: what it meets shows to the left of it
        return np.maximum(first, second - _SECOND_LOWER)

    def crash(self) -> None:
        """Break the apex: it is blunt from now on."""
        self.crashes += 1
        self.radius = max(_BLUNT, _BLUNTER * self.radius) if self.crashes == 1 else self.radius * 1.5
        self.radius = min(self.radius, 2e-6)
        self.felt = self._feel()
