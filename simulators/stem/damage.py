"""What the beam does to the specimen: atoms knocked off their places, and a lattice that radiolysis takes apart.

Knock-on: a Poisson process with the cross-section of McKinley and Feshbach (Phys. Rev. 74 (1948) 1759) in the closed
form of Banhart (Rep. Prog. Phys. 62 (1999) 1181, eq. 5), good for Z < 28 and an upper bound above: zero while the
largest energy that an electron can pass on stays below the displacement energy. A knocked atom is gone.
Radiolysis: an atom keeps its place with the chance exp(-D / Dc) at a dose of D (Egerton, Li and Malac, Micron 35
(2004) 399), and is then somewhere nearby: the lattice fades towards an amorphous film of the same mass.

Each atom has a dose of its own at which it goes, drawn once from the seed; so what is damaged depends on the dose
map alone and not on how the frames were batched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from .dose import CELL, DoseMap

DamageKind = Literal["none", "knock_on", "radiolysis", "both"]
_ELECTRON_REST = 510998.95  # [eV]
_ATOMIC_MASS = 931494102.0  # [eV]
_CLASSICAL_RADIUS = 2.8179403262e-15  # [m]
_FINE_STRUCTURE = 1 / 137.035999
_STRAY = 1.2e-10  # rms way of an atom that radiolysis sets free, along one axis [m]

# Z, atomic mass, displacement energy [eV]: C in graphene, Meyer et al., PRL 108 (2012) 196102; S and Mo (its lower
# bound) in MoS2, Komsa et al., PRL 109 (2012) 035503; O, Sr, Ti (its lower bound) in SrTiO3, Liu et al., J. Phys.:
# Condens. Matter 25 (2013) 485003; Si, Au: Hobbs, in Introduction to Analytical Electron Microscopy (1979); N, Pb: 25
# eV, as is usual where nothing is known.
ELEMENTS: dict[str, tuple[int, float, float]] = {
    "C": (6, 12.011, 21.14), "N": (7, 14.007, 25.0), "O": (8, 15.999, 35.7), "Si": (14, 28.085, 13.0),
    "S": (16, 32.06, 6.9), "Ti": (22, 47.867, 64.9), "Sr": (38, 87.62, 53.5), "Mo": (42, 95.95, 20.0),
    "Au": (79, 196.97, 36.0), "Pb": (82, 207.2, 25.0),
}  # fmt: skip


def largest_transfer(element: str, voltage: float) -> float:
    """Return the largest energy that an electron of `voltage` [V] can pass on to the nucleus [eV]."""
    return 2 * voltage * (voltage + 2 * _ELECTRON_REST) / (ELEMENTS[element][1] * _ATOMIC_MASS)


def cross_section(element: str, voltage: float, displacement: float | None = None) -> float:
    """Return the cross-section of displacement [m²]; 0 below threshold.

    displacement: energy [eV], None = the element's own.
    """
    z, _, own = ELEMENTS[element]
    energy = own if displacement is None else displacement
    ratio = largest_transfer(element, voltage) / energy
    if ratio <= 1:
        return 0.0
    gamma = 1 + voltage / _ELECTRON_REST
    beta = math.sqrt(1 - 1 / gamma**2)
    spin = math.pi * z * _FINE_STRUCTURE * beta
    shape = ratio - 1 - beta**2 * math.log(ratio) + spin * (2 * (math.sqrt(ratio) - 1) - math.log(ratio))
    return math.pi * (z * _CLASSICAL_RADIUS) ** 2 * (1 - beta**2) / beta**4 * shape


@dataclass(frozen=True)
class Change:
    """Atoms that leave and atoms that arrive. left, came: element to (N, 3) x, y [m] and number of the slice."""

    left: Mapping[str, NDArray[np.float64]]
    came: Mapping[str, NDArray[np.float64]]


class Target(Protocol):
    """A specimen whose atoms can be changed while nobody scatters from it."""

    def change(self, change: Change) -> None:
        """Take atoms out and put atoms in; all of them lie within a few Å of each other."""
        ...


class Damage:
    """Turns the dose into changes of the target.

    sites: element to (N, 2) x, y [m] or (N, 3) with the number of the slice. voltage [V]. critical: dose at which
    radiolysis has left 1/e of the lattice [e/m²]. seed: of every atom's luck.
    """

    def __init__(
        self, kind: DamageKind, sites: Mapping[str, NDArray[np.float64]], target: Target, dose: DoseMap,
        voltage: float, critical: float, seed: int,
    ) -> None:  # fmt: skip
        self._target, self._dose = target, dose
        self._elements = list(sites)
        rng = np.random.default_rng([seed, 10])
        places, element, knock, radiolysis = [], [], [], []
        for i, name in enumerate(self._elements):
            some = np.asarray(sites[name], np.float64)
            if some.shape[1] == 2:
                some = np.column_stack([some, np.zeros(len(some))])
            luck = rng.exponential(1.0, (2, len(some)))
            sigma = cross_section(name, voltage) if kind in ("knock_on", "both") and name in ELEMENTS else 0.0
            places.append(some)
            element.append(np.full(len(some), i))
            knock.append(luck[0] / sigma if sigma else np.full(len(some), np.inf))
            radiolysis.append(luck[1] * critical if kind in ("radiolysis", "both") else np.full(len(some), np.inf))
        self._places, self._element = np.concatenate(places), np.concatenate(element)
        self._limits = np.stack([np.concatenate(knock), np.concatenate(radiolysis)])  # [e/m²]
        self._stray = rng.normal(0, _STRAY, (len(self._places), 2))
        self._intact = np.ones(len(self._places), bool)  # on its site
        self._there = np.ones(len(self._places), bool)  # not knocked out
        n = dose.electrons.shape[0]
        at = np.floor(self._places[:, :2] / CELL).astype(np.int64) + n // 2
        self._cell = (at[:, 1] % n) * n + at[:, 0] % n
        self._order = np.argsort(self._cell, kind="stable")
        self._starts = np.searchsorted(self._cell[self._order], np.arange(n * n + 1))
        self._next = np.full(n * n, np.inf)
        np.minimum.at(self._next, self._cell, self._limits.min(axis=0))

    def age(self) -> None:
        """Let the dose so far do its damage; nobody may scatter meanwhile."""
        density = self._dose.density.ravel()
        for cell in np.flatnonzero(density >= self._next):
            self._age(int(cell), float(density[cell]))

    @property
    def displaced(self) -> dict[str, int]:
        """How many atoms of each element were knocked out."""
        gone = np.bincount(self._element[~self._there], minlength=len(self._elements))
        return dict(zip(self._elements, map(int, gone), strict=True))

    @property
    def vacancies(self) -> NDArray[np.float64]:
        """Where atoms were knocked out, (N, 3) x, y [m] and slice."""
        return self._places[~self._there].copy()

    @property
    def crystallinity(self) -> float:
        """Share of all atoms that radiolysis has left on their sites."""
        return float(self._intact.mean())

    def truth(self) -> dict[str, object]:
        """Return displaced (atoms by element), vacancies (N, 3) and crystallinity."""
        return {"displaced": self.displaced, "vacancies": self.vacancies, "crystallinity": self.crystallinity}

    def _age(self, cell: int, dose: float) -> None:
        atoms = self._order[self._starts[cell] : self._starts[cell + 1]]
        atoms = atoms[self._there[atoms]]
        knocked = atoms[self._limits[0, atoms] <= dose]
        strayed = atoms[(self._limits[1, atoms] <= dose) & self._intact[atoms]]
        before = self._where(np.union1d(knocked, strayed))
        self._there[knocked] = False
        self._intact[strayed] = False
        after = self._where(np.setdiff1d(strayed, knocked))
        self._target.change(Change(_by_element(self._elements, *before), _by_element(self._elements, *after)))
        left = atoms[self._there[atoms]]
        waiting = np.where(self._intact[left], self._limits[:, left].min(axis=0), self._limits[0, left])
        self._next[cell] = waiting.min(initial=np.inf)

    def _where(self, atoms: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return element and present place of atoms."""
        places = self._places[atoms].copy()
        places[:, :2] += np.where(self._intact[atoms], 0.0, 1.0)[:, None] * self._stray[atoms]
        return self._element[atoms], places


def _by_element(
    names: Sequence[str], element: NDArray[np.int64], places: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Return places by the name of their element."""
    return {names[i]: places[element == i] for i in np.unique(element)}
