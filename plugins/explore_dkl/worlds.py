"""Worlds with known truth, to score choices of the next point on: a film, a hidden rule, and spectra that follow it.

Five families on films of the scanning probe simulator. The image never shows the property itself; what links the two
is the rule, which no policy is told:

wall       loops are most open on 180 degree walls whose polarisation turns up along +x, as with a built-in lateral
           field; walls of the other sense and domains are alike
curvature  loops are most open inside bent walls, and every measurement leaves a place, and what is near, less open
rare       three round dots, 0.5 % of the map, are most open; every wall is a little
broken     the wall rule on films of the other generator of domains, where 5 % of the spectra come out spoilt
no_link    the values of a wall world, dealt to the places by chance: nothing in the image tells them

A smooth part of 4 % of the range is in every rule that no image shows.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from probeloop.api import Observation, load_scalarizer

from .worlds_film import SIDE, Film, Map, film
from .worlds_loops import BROKEN, OFTEN, SPEC, loops, measured, work

Family = Literal["wall", "curvature", "rare", "broken", "no_link"]
LINKED: tuple[Family, ...] = ("wall", "curvature", "rare", "broken")
FAMILIES: tuple[Family, ...] = (*LINKED, "no_link")
CELLS = SIDE * SIDE
BROKEN_SHARE = 0.05
_REACH = 25e-9  # of a wall's response [m]
_UNEXPLAINED = 0.04
_TIRES, _TIRES_OVER = 0.35, 1.2  # logarithm of what a measurement takes off; over how far [pitches]
_IMPRINT = 0.8  # of the film's bottom electrode [V]


class World(msgspec.Struct, frozen=True):
    """A film and what is true of it.

    places: (CELLS, 2) (x, y) [m]. images: what a policy is shown, (SIDE, SIDE) each. strength: (CELLS,) how
    open a loop is, 0 to about 1.
    truth: (CELLS,) noise-free value [m V] of an untouched place. broken: (CELLS,) how its spectrum is spoilt, -1 = it
    is not. tires: measuring leaves a place less open.
    """

    family: Family
    seed: int
    film: Film
    strength: Map
    truth: Map
    broken: NDArray[np.int64]
    tires: bool

    @property
    def places(self) -> Map:
        """The candidates, (CELLS, 2) (x, y) [m]."""
        return self.film.places

    @property
    def images(self) -> dict[str, NDArray[Any]]:
        """What a policy is shown."""
        return {"response": self.film.response}


class Visit:
    """Measurements in a world, one after the other; what each leaves behind stays in this visit."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.cells: list[int] = []
        self.valid: list[bool] = []
        self._scalarizer = load_scalarizer("loop_area", {})

    def measure(self, cell: int) -> Observation:
        """Measure at a cell; the same cell gives the same noise in every visit, so that policies can be paired."""
        world = self.world
        place = world.places[cell]
        strength = float(world.strength[cell])
        opening = 1.0
        if world.tires and self.cells:
            away = np.linalg.norm(world.places[self.cells] - place, axis=1) / (_TIRES_OVER * world.film.pitch)
            opening = float(np.exp(-_TIRES * np.exp(-(away**2) / 2).sum()))
        rng = np.random.default_rng([world.seed, 41, cell])
        loop = opening * loops(np.array([strength]), np.array([_IMPRINT]))[0]
        kind = int(world.broken[cell])
        spectrum = measured(loop, BROKEN[kind] if kind >= 0 else "", rng)
        area, sigma, valid = self._scalarizer.scalarize(spectrum, SPEC)
        self.cells.append(cell)
        self.valid.append(valid)
        position = (float(place[0]), float(place[1]))
        return Observation(position=position, value=-area, sigma=sigma, valid=valid, index=len(self.cells) - 1)


@lru_cache(maxsize=2)
def world(family: Family, seed: int) -> World:
    """Return the world of a family and seed. Worlds of different families have films of their own."""
    number = FAMILIES.index("wall" if family == "no_link" else family)
    drawn = int(np.random.SeedSequence([seed, number, 53]).generate_state(1, np.uint32)[0])
    rng = np.random.default_rng([drawn, 2])
    made = {
        "wall": lambda: film(drawn),
        "curvature": lambda: film(drawn, domain_size=120.0),
        "rare": lambda: film(drawn, domain_size=240.0, dots=3),
        "broken": lambda: film(drawn, domains="phase_field"),
        "no_link": lambda: film(drawn),
    }[family]()
    rule = made.felt(_rule(family, made)).ravel()
    rule = rule / np.quantile(rule, 0.999)
    smooth = ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), 4.0, mode="wrap")
    rule = np.clip(rule + _UNEXPLAINED * smooth.ravel() / smooth.std(), 0.0, None)
    if family == "no_link":
        rule = rng.permutation(rule)
    truth = work(loops(rule, np.full(CELLS, _IMPRINT)))
    spoilt = rng.random(CELLS) < (BROKEN_SHARE if family == "broken" else 0.0)
    broken = np.where(spoilt, rng.choice(len(BROKEN), CELLS, p=OFTEN), -1)
    return World(family, seed, made, rule, truth, broken, family == "curvature")


def _rule(family: Family, film: Film) -> Map:
    """Return the property on the fine grid, before the tip averages over it."""
    near = np.exp(-((film.distance / _REACH) ** 2))
    if family == "curvature":
        return near * np.clip(film.curvature * 50e-9, 0, 1.5)
    if family == "rare":
        return np.maximum(film.dots, 0.25 * near * (1 - film.dots))
    return near * np.clip(film.sense, 0, 1) ** 2
