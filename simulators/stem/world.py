"""The specimen that the settings ask for, ready for probes, and what only the simulator knows of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probeloop.api import interaction

from .physics import Geometry
from .scattering import Coherence, Haadf, Medium, MultisliceScatterer, SampledProbe, ScatteringSettings
from .scattering.diffuse import check_annulus, diffuse_factor, diffuse_object
from .scattering.multislice import add_window
from .scattering.potential import PotentialGrid, transmission
from .scattering.slices import cut, transmissions
from .specimen import Atoms, StructureSettings, build
from .specimen.elements import number_of, symbols

_PATCH = 128  # pixels of the square that a changed atom can touch
_STRAY_RMS = 8e-12  # thermal motion of an atom that has arrived somewhere


class DarkFieldScatterer(MultisliceScatterer):
    """One thread's scatterer that knows its share of thermal diffuse scattering too."""

    def __init__(self, medium: Medium, detector: Callable[[], Haadf]) -> None:
        super().__init__(medium)
        self._detector = detector

    @property
    def haadf_label(self) -> str:
        """How the dark field is calculated."""
        return self._detector().label

    def haadf(self, probe: SampledProbe, x: float, y: float, frame: int = 0) -> float:
        """Return the share of the electrons that reaches the dark-field detector; x, y: place of the probe [m]."""
        return self._detector().value(self, probe, x, y, frame)


class World:
    """A specimen other than the bicrystal, cut into slices.

    name: of its family. voltage [V]. tile: pixels of the field's side. Everything random is drawn from the seed.
    Raises SettingsError, with what is allowed, before the slices are calculated.
    """

    def __init__(
        self, name: str, structure: StructureSettings, scattering: ScatteringSettings, geometry: Geometry,
        voltage: float, tile: int, seed: int, threads: int = 1,
    ) -> None:  # fmt: skip
        annulus = scattering.haadf_inner * 1e-3, scattering.haadf_outer * 1e-3
        check_annulus(geometry, *annulus, scattering.haadf_method)
        self.geometry, self._seed, self._sigma = geometry, seed, interaction(voltage)
        self.specimen = build(name, structure, tile * geometry.pixel, seed)
        self.cut = cut(self.specimen, scattering, tile, seed)
        self._grid = PotentialGrid(tile, geometry.pixel, threads)
        coherence = Coherence.of(scattering.samples, scattering.focal_spread * 1e-9, scattering.source_size * 1e-9)
        fields = transmissions(self.cut, self._grid, self._sigma, seed)
        self.medium = Medium(geometry, fields, self.cut.sequence, self.cut.thickness, coherence, seed)
        self._haadf_of = (annulus, scattering.haadf_method, voltage)
        self._haadf: Haadf | None = None
        self._present: dict[int, tuple[Atoms, Atoms]] = {}  # by slice: displaced, at their mean places
        self._lock = threading.Lock()

    @property
    def thickness(self) -> float:
        """Of the whole specimen as it is calculated [m]."""
        return self.cut.thickness * self.cut.slices

    @property
    def extent(self) -> float | None:
        """Half the side of the square about the origin that is specimen [m]; None = everywhere."""
        return self.specimen.extent

    def probe(self, aberrations: Any) -> SampledProbe:
        """Return the probe of `aberrations`."""
        return self.medium.probe(aberrations)

    def scatterer(self) -> DarkFieldScatterer:
        """Return what one thread needs."""
        return DarkFieldScatterer(self.medium, self.dark_field)

    def dark_field(self) -> Haadf:
        """Return the dark-field detector; the first call calculates what it needs."""
        with self._lock:
            if self._haadf is None:
                annulus, method, voltage = self._haadf_of
                diffuse = None
                if method == "object":
                    lamda = self.geometry.wavelength
                    source = self.medium.coherence.source
                    diffuse = diffuse_object(self.cut, self._grid, self._seed, annulus, voltage, lamda, source)
                self._haadf = Haadf(self.medium, annulus, diffuse)
            return self._haadf

    def potential(self) -> NDArray[np.float32]:
        """Return the projected potential of the whole specimen [V m], (tile, tile), centre = origin."""
        total = np.zeros((self._grid.pixels, self._grid.pixels), np.float32)
        for index, times in zip(*np.unique(self.cut.sequence[0], return_counts=True), strict=True):
            total += np.float32(times) * self._grid.potential(self.cut.displaced(int(index), self._seed))
        return total

    def sites(self) -> dict[str, NDArray[np.float64]]:
        """Return every atom by element, (N, 3): x, y [m] and the number of its calculated slice."""
        found: dict[str, list[NDArray[np.float64]]] = {}
        for index in range(self.cut.unique):
            atoms = self.cut.displaced(index, self._seed)
            for number in np.unique(atoms.numbers):
                at = atoms.places[atoms.numbers == number].copy()
                at[:, 2] = index
                found.setdefault(symbols()[number - 1], []).append(at)
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def change(self, change: Any) -> None:
        """Take atoms out and put atoms in; nobody may scatter meanwhile.

        change.left, change.came: element to (N, 3), as `sites` gives them, all within a few Å of each other.
        """
        signs = [(-1.0, name, at) for name, at in change.left.items()]
        signs += [(1.0, name, at) for name, at in change.came.items()]
        for index in sorted({int(i) for _, _, at in signs for i in at[:, 2]}):
            self._patch(index, [(sign, name, at[at[:, 2] == index]) for sign, name, at in signs])

    def truth(self) -> Mapping[str, Any]:
        """Return what no real column tells; see the specimen's family, and `potential` [V m]."""
        own = dict(self.specimen.truth)
        return {"specimen": self.specimen.name, "thickness": self.thickness, "potential": self.potential(), **own}

    def _patch(self, index: int, signs: list[tuple[float, str, NDArray[np.float64]]]) -> None:
        pixel, half = self.geometry.pixel, _PATCH // 2
        moved = np.concatenate([at for _, _, at in signs])[:, :2]
        corner = np.round(moved.mean(axis=0) / pixel).astype(int) - half  # (x, y) from the middle of the field [px]
        if index not in self._present:
            self._present[index] = self.cut.displaced(index, self._seed), self.cut.atoms(index, self._seed)
        present, mean = changed, changed_mean = self._present[index]
        for sign, name, at in signs:
            if sign < 0:
                kept = _all_but(changed, name, at)
                changed, changed_mean = changed.where(kept), changed_mean.where(kept)
            else:
                changed, changed_mean = (atoms.plus(_arrived(name, at)) for atoms in (changed, changed_mean))
        self._present[index] = changed, changed_mean
        grid = PotentialGrid(_PATCH, pixel)
        middle = (corner + half) * pixel
        near = [_around(atoms, middle, half * pixel) for atoms in (present, changed, mean, changed_mean)]
        before, after = (transmission(grid.potential(atoms), self._sigma) for atoms in near[:2])
        tile = self._grid.pixels // 2
        self.medium.add(index, after - before, int(corner[1]) + tile, int(corner[0]) + tile)
        if self._haadf is not None and self._haadf.diffuse is not None:
            times = float(np.count_nonzero(self.cut.sequence[0] == index))
            annulus, _, voltage = self._haadf_of
            source = self.medium.coherence.source
            radial = diffuse_factor(grid, annulus, voltage, self.geometry.wavelength, source)
            change = grid.summed([(-times, near[2]), (times, near[3])], radial)
            add_window(self._haadf.diffuse, change, int(corner[1]) + tile, int(corner[0]) + tile)


def _arrived(name: str, at: NDArray[np.float64]) -> Atoms:
    places = np.column_stack([at[:, :2], np.zeros(len(at))])
    return Atoms(np.full(len(at), number_of(name), np.int16), places, np.full(len(at), _STRAY_RMS))


def _all_but(atoms: Atoms, name: str, at: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which of `atoms` stay when those of an element that stand at the places (N, 3) go."""
    kept = np.ones(len(atoms), bool)
    mine = np.flatnonzero(atoms.numbers == number_of(name))
    for x, y, _ in at:
        kept[mine[np.argmin(np.hypot(atoms.places[mine, 0] - x, atoms.places[mine, 1] - y))]] = False
    return kept


def _around(atoms: Atoms, middle: NDArray[np.float64], half: float) -> Atoms:
    """Return the atoms of a square, their places counted from its middle."""
    return atoms.moved((-float(middle[0]), -float(middle[1]), 0.0)).within(2 * half)
