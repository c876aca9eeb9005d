"""What there is at a place, as a spectrometer needs to know it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from .energy_loss import Mode, free_path
from .sample import SampleSettings

_SRTIO3, _CARBON = 5.12, 2.0  # density [g/cm³]
_CARBON_ATOMS = 1e29  # [1/m³]
_SURFACE = 0.012  # mean losses to the surface modes of both faces, whatever the thickness


class Composition(Protocol):
    """A specimen as seen along the beam. Places are (x, y) [m], SPECIMEN."""

    def elements(self, x: float, y: float) -> Mapping[str, float]:
        """Return the areal density of each element [1/m²]."""
        ...

    def thickness(self, x: float, y: float) -> float:
        """Return the thickness [m]."""
        ...

    def modes(self, x: float, y: float) -> Sequence[Mode]:
        """Return collective modes as (energy [eV], full width [eV], mean number of losses)."""
        ...


@runtime_checkable
class FineStructure(Protocol):
    """A composition whose edges move with their surroundings."""

    def shifts(self, x: float, y: float) -> Mapping[str, float]:
        """Return by how much the main edge of an element is shifted [eV]."""
        ...


class Bicrystal:
    """SrTiO3 on amorphous carbon; at the boundary Ti is reduced and some Sr is missing, within `width` [m].

    tile: of the specimen [m]. voltage [V], convergence, collection [rad]: what its losses are counted for.
    """

    def __init__(
        self, sample: SampleSettings, tile: float, voltage: float, convergence: float, collection: float,
        width: float = 0.4e-9, shift: float = -1.2, missing: float = 0.25,
    ) -> None:  # fmt: skip
        self._sample, self._tile = sample, tile
        self._width, self._shift, self._missing = width, shift, missing
        self._crystal = max(1, round(sample.thickness / sample.lattice)) * sample.lattice
        optics = (voltage, convergence, collection)
        crystal = self._crystal / free_path(_SRTIO3, *optics)
        film = sample.carbon / free_path(_CARBON, *optics)
        self._modes: tuple[Mode, ...] = (
            (30.3, 7.0, 0.82 * crystal),  # bulk plasmon of SrTiO3
            (13.5, 4.0, 0.18 * crystal),  # O 2p to Ti 3d and Sr 4d
            (24.0, 13.0, 0.93 * film),  # sigma + pi plasmon of amorphous carbon
            (5.8, 3.0, 0.07 * film),  # pi plasmon
            (21.0, 8.0, _SURFACE),
        )

    def elements(self, x: float, y: float) -> Mapping[str, float]:
        """Return the areal densities [1/m²]."""
        cell = self._crystal / self._sample.lattice**3
        near = self._near(x, y)
        return {
            "Sr": cell * (1 - self._missing * near),
            "Ti": cell,
            "O": 3 * cell,
            "C": self._sample.carbon * _CARBON_ATOMS,
        }

    def thickness(self, x: float, y: float) -> float:
        """Return the thickness of crystal and film [m]."""
        return self._crystal + self._sample.carbon

    def modes(self, x: float, y: float) -> Sequence[Mode]:
        """Return the modes: the same everywhere."""
        return self._modes

    def shifts(self, x: float, y: float) -> Mapping[str, float]:
        """Return the shift of Ti L at the boundary [eV]."""
        return {"Ti": self._shift * self._near(x, y)}

    def _near(self, x: float, y: float) -> float:
        """Return 1 on the boundary, falling to 0 away from it. The rim of the tile is one too."""
        across = x * np.cos(self._sample.boundary) + y * np.sin(self._sample.boundary)
        return float(np.exp(-((across / self._width) ** 2)))
