"""A specimen cut into slices: which are calculated, which are used again, and what they need in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probeloop.api import Problem, SettingsError

from ..specimen.atoms import Atoms, Specimen
from .potential import PotentialGrid, transmission
from .settings import ScatteringSettings

_MOST_UNIQUE = 16


@dataclass(frozen=True)
class Cut:
    """How a specimen is cut.

    thickness: of one slice [m]. layers: of the specimen in one slice (0: cut by depth). sequence (C, S): which
    calculated slice stands at each depth of each configuration.
    """

    specimen: Specimen
    thickness: float
    layers: int
    sequence: NDArray[np.int64]

    @property
    def slices(self) -> int:
        """How many slices the beam passes."""
        return int(self.sequence.shape[1])

    @property
    def unique(self) -> int:
        """How many slices are calculated."""
        return int(self.sequence.max()) + 1

    def atoms(self, index: int, seed: int) -> Atoms:
        """Return the atoms of a calculated slice at their mean places."""
        specimen = self.specimen
        if specimen.atoms is not None:
            depth = index % self.slices
            z = specimen.atoms.places[:, 2] / self.thickness
            return specimen.atoms.where(np.clip(np.floor(z), 0, self.slices - 1) == depth)
        assert specimen.layer is not None
        made = [specimen.layer(np.random.default_rng([seed, 21, index, i])) for i in range(self.layers)]
        joined = made[0]
        for each in made[1:]:
            joined = joined.plus(each)
        return joined

    def displaced(self, index: int, seed: int) -> Atoms:
        """Return the same atoms, each moved across the beam by its thermal motion; the seed says where to."""
        mean = self.atoms(index, seed)
        rng = np.random.default_rng([seed, 23, index])
        places = mean.places.copy()
        places[:, :2] += rng.normal(0, 1, (len(mean), 2)) * mean.rms[:, None]
        return Atoms(mean.numbers, places, mean.rms)


def cut(specimen: Specimen, settings: ScatteringSettings, pixels: int, seed: int) -> Cut:
    """Decide how to cut; raises SettingsError, with what is allowed, for too thin slices or too much memory.

    A specimen that is the same at every depth needs few calculated slices: they are piled up in an order of its own
    for every configuration, which is as good a set of frozen phonons as slices of its own, up to repeats.
    """
    s, c = settings.slices, settings.configurations
    fitting = int(settings.memory * 1_000_000 // (8 * pixels**2))
    if specimen.atoms is not None:
        if s * c > fitting:
            raise SettingsError([_memory(f"{c} configurations of {s} slices", s * c, pixels, fitting)])
        sequence = np.arange(s * c).reshape(c, s)
        return Cut(specimen, specimen.thickness / s, 0, sequence)
    layers = round(specimen.thickness / (specimen.layer_thickness * s))
    if not layers:
        most = max(1, math.floor(2 * specimen.thickness / specimen.layer_thickness))
        raise SettingsError(
            [Problem("scattering.slices", f"{s} slices of less than a layer each", f"1 <= slices <= {most}")]
        )
    unique = min(s * c, _MOST_UNIQUE, fitting)
    if unique < 1 or (s == 1 and c > unique):
        raise SettingsError([_memory(f"{c} configurations of {s} slices", c if s == 1 else 1, pixels, fitting)])
    rng = np.random.default_rng([seed, 22])
    rows = [np.arange(s) % unique]
    for i in range(1, c):
        piles = [rng.permutation(unique) for _ in range(-(-s // unique))]
        rows.append(np.array([i]) if s == 1 else np.concatenate(piles)[:s])
    return Cut(specimen, layers * specimen.layer_thickness, layers, np.array(rows))


def transmissions(
    made: Cut, grid: PotentialGrid, interaction: float, seed: int, dtype: Any = np.complex64
) -> list[Any]:
    """Return the transmission function of every calculated slice, (N, N), with thermal displacements."""
    return [
        transmission(grid.potential(made.displaced(index, seed)), interaction, dtype, grid.workers)
        for index in range(made.unique)
    ]


def _memory(what: str, fields: int, pixels: int, fitting: int) -> Problem:
    need = fields * 8 * pixels**2 / 1e6
    return Problem(
        "scattering.memory",
        f"{what} of {pixels} x {pixels} px need {need:.0f} MB",
        f"{need:.0f} <= memory <= 65536, or at most {fitting} slices x configurations here, or a smaller tile",
    )
