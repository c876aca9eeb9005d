"""The specimen in the column: what the beam scatters from, and all that others ask of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from probeloop.api import interaction

from .composition import Bicrystal, Composition
from .damage import Target
from .energy_loss import Mode, free_path
from .patches import PatchedPlanes
from .physics import Geometry, Planes
from .sample import SampleSettings, atoms, grain_of, projected_potential, transmission
from .settings import StemSettings
from .world import World

_SURFACE = 0.012  # mean losses to the surface modes of both faces, whatever the thickness
_NEAR = 4e-10  # [m] radius of the column of atoms that counts as what is at a place
_DALTON = 1.66053907e-24  # [g]
# energy and full width of the bulk plasmon [eV]: Egerton, Electron Energy-Loss Spectroscopy in the Electron
# Microscope, 3rd ed. (2011), table 3.2 and appendix C
_PLASMONS = {
    "srtio3": (30.3, 7.0),
    "mos2": (23.1, 6.0),
    "pbtio3": (27.0, 8.0),
    "carbon": (24.0, 13.0),
    "gold": (24.8, 9.0),
}
_MASSES = {"C": 12.011, "N": 14.007, "O": 15.999, "Al": 26.982, "Si": 28.085, "S": 32.06, "Ti": 47.867, "Sr": 87.62,
           "Mo": 95.95, "Au": 196.97, "Pb": 207.2}  # fmt: skip
_USUAL = 40.0  # [u]


class Mounted(Protocol):
    """A specimen on its holder.

    field: for the exposer. half: of the square that may be scanned [m]. edge: where it ends [m], inf = it goes on.
    """

    field: Planes | World
    half: float
    edge: float
    composition: Composition

    def target(self) -> Target:
        """Return what damage changes."""
        ...

    def sites(self) -> Mapping[str, NDArray[np.float64]]:
        """Return every atom by element, (N, 2) x, y [m], or (N, 3) with the number of its slice."""
        ...

    def truth(self) -> Mapping[str, Any]:
        """Return what no real column tells of it."""
        ...


def mount(p: StemSettings, geometry: Geometry, optics: tuple[float, float, float]) -> Mounted:
    """Return the specimen that is asked for. optics: voltage [V], convergence and collection of the losses [rad].

    Raises SettingsError for one that can't be.
    """
    tile = p.tile * p.pixels
    return (
        MountedBicrystal(p, geometry, tile, optics)
        if p.specimen == "bicrystal"
        else MountedWorld(p, geometry, tile, optics)
    )


class MountedBicrystal:
    """SrTiO3 on carbon in one slice."""

    def __init__(self, p: StemSettings, geometry: Geometry, tile: int, optics: tuple[float, float, float]) -> None:
        self._sample = SampleSettings(thickness=p.crystal * 1e-9, carbon=p.carbon * 1e-9)
        self._width, self._pixel, self._seed = tile * geometry.pixel, geometry.pixel, p.seed
        self._interaction = interaction(optics[0])
        self._potential = projected_potential(self._sample, tile, geometry.pixel, p.seed)
        self.field: Planes | World = Planes.of(transmission(self._potential, self._interaction))
        self.half, self.edge = 0.4 * self._width, math.inf
        self.composition: Composition = Bicrystal(self._sample, self._width, *optics)

    def target(self) -> Target:
        """Return the one slice, to be changed."""
        assert isinstance(self.field, Planes)
        return PatchedPlanes([self._potential], [self.field], self._pixel, self._interaction)

    def sites(self) -> Mapping[str, NDArray[np.float64]]:
        """Return every atom by element, (N, 2) [m]."""
        return atoms(self._sample, self._width, np.random.default_rng([self._seed, 1]))

    def truth(self) -> Mapping[str, Any]:
        """Return the potential [V m] and grain(x, y), 0 or 1 at places [m]."""
        return {"potential": self._potential, "grain": self._grain}

    def _grain(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.int64]:
        return grain_of(x, y, self._width, self._sample.boundary)


class MountedWorld:
    """Any other specimen, in slices."""

    def __init__(self, p: StemSettings, geometry: Geometry, tile: int, optics: tuple[float, float, float]) -> None:
        self.field: Planes | World = World(
            p.specimen, p.structure, p.scattering, geometry, optics[0], tile, p.seed, p.threads
        )
        self._world = self.field
        self.half = self.edge = min(0.4 * tile * geometry.pixel, self._world.extent or math.inf)
        self.composition: Composition = AtomsAlongTheBeam(p.specimen, self._world, optics)

    def target(self) -> Target:
        """Return the slices, to be changed."""
        return self._world

    def sites(self) -> Mapping[str, NDArray[np.float64]]:
        """Return every atom by element, (N, 3) with the number of its calculated slice."""
        return self._world.sites()

    def truth(self) -> Mapping[str, Any]:
        """Return the potential [V m] and what the specimen's family tells."""
        return self._world.truth()


class AtomsAlongTheBeam:
    """What there is at a place, counted from the atoms within 0.4 nm of it (`composition.Composition`).

    A specimen that knows its collective modes is asked for them; any other has the bulk plasmon of its kind.
    """

    def __init__(self, name: str, world: World, optics: tuple[float, float, float]) -> None:
        self._name, self._world, self._optics = name, world, optics
        self._trees: dict[str, tuple[cKDTree, NDArray[np.float64]]] | None = None

    def elements(self, x: float, y: float) -> Mapping[str, float]:
        """Return the areal density of each element [1/m²]."""
        if self._trees is None:
            counts = np.bincount(self._world.cut.sequence[0], minlength=self._world.cut.unique)
            self._trees = {
                name: (cKDTree(at[:, :2]), counts[at[:, 2].astype(int)].astype(float))
                for name, at in self._world.sites().items()
            }
        area = np.pi * _NEAR**2
        found = {
            name: weights[tree.query_ball_point((x, y), _NEAR)].sum() / area
            for name, (tree, weights) in self._trees.items()
        }
        return {name: float(density) for name, density in found.items() if density}

    def thickness(self, x: float, y: float) -> float:
        """Return the thickness where there is matter [m]."""
        return self._world.thickness if self.elements(x, y) else 0.0

    def modes(self, x: float, y: float) -> Sequence[Mode]:
        """Return (energy [eV], full width [eV], mean number of losses) of each collective mode."""
        known = self._world.specimen.truth.get("modes")
        there = self.elements(x, y)
        mass = sum(n * _MASSES.get(name, _USUAL) for name, n in there.items()) * _DALTON  # [g/m²]
        thickness = self._world.thickness
        density = max(mass / thickness / 1e6, 0.1)  # [g/cm³]
        losses = thickness / free_path(density, *self._optics) if there else 0.0
        if known is not None:
            weights = known.weights(x, y)
            strengths = (losses, 0.15, 0.12, 0.12, 0.12)  # of a loss at the strongest place of each mode
            return tuple(
                (m.energy, m.width, float(w * s)) for m, w, s in zip(known.modes, weights, strengths, strict=True)
            )
        energy, width = _PLASMONS.get(self._name, (22.0, 8.0))
        return ((energy, width, losses), (energy / np.sqrt(2), width, _SURFACE if there else 0.0))
