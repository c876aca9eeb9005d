"""What the plan reads from a scan: pure functions of a map, their answers flat tuples for the record.

There are two worlds. In one the pixels of the disc interfere (waves); in the other each sees a shifted copy of one
picture (rays). What a scan shows decides: rays are believed where they are far more significant than waves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from .disc import Disc
from .estimate import NOTHING, Estimate, Spectra, close, contrast, far, spectra
from .rays import pictures, rays, sharpness

World = Literal["waves", "rays"]
_WORLDS: tuple[World, ...] = ("waves", "rays")
_PREFERENCE = 2.0  # rays explain a good part of what waves make: they must be this much more significant
_DOUBTLESS = 50.0  # a coarse estimate needs no second opinion


@dataclass(frozen=True)
class Seen:
    """What a reading made of a map. score: (value, sigma) of what is highest in focus, in that world."""

    world: World
    estimate: Estimate
    score: tuple[float, float] = (0.0, 1.0)

    def flat(self) -> tuple[float, ...]:
        """Return it as ten floats."""
        return (float(_WORLDS.index(self.world)), *self.estimate.flat(), *self.score)

    @classmethod
    def of(cls, flat: tuple[float, ...]) -> Seen:
        """Read what `flat` made."""
        return cls(_WORLDS[int(flat[0])], Estimate.of(flat[1:8]), (flat[8], flat[9]))


class Reading(ABC):
    """A function of a map (ny, nx, K + 2); the plan's record knows it by its class's name.

    step: of the scan [m]. wavelength: [m]. world: the one it is known to be; None = try both. enough: significance
    of waves from which on rays are not tried. curvature: for rays, see `pictures`.
    """

    enough = float("inf")
    curvature = True

    def __init__(self, disc: Disc, step: float, wavelength: float, world: World | None = None) -> None:
        self._disc, self._step, self._wavelength, self._world = disc, step, wavelength, world

    def __call__(self, values: NDArray[Any]) -> tuple[float, ...]:
        """Read a map; one that is none of this disc has no significance."""
        if values.ndim != 3 or values.shape[2] != self._disc.rows.size + 2:
            return Seen(self._world or "waves", NOTHING).flat()
        if self._world is not None:
            return self._seen(values, self._world).flat()
        waves = self._seen(values, "waves")
        known = waves.estimate.significance
        if known >= self.enough:
            return waves.flat()
        rays = self._seen(values, "rays")
        return (rays if rays.estimate.significance > _PREFERENCE * max(known, 0.0) else waves).flat()

    def _seen(self, values: NDArray[Any], world: World) -> Seen:
        images = values[..., :-2]
        if world == "rays":
            data, score = pictures(images, self._step, self.curvature), sharpness(images.sum(axis=2))
        else:
            data, score = spectra(images, self._step), contrast(values[..., -2], values[..., -1])
        return Seen(world, NOTHING if data is None else self._estimate(data, world), score)

    @abstractmethod
    def _estimate(self, data: Spectra, world: World) -> Estimate:
        """Return what such a reading makes of the data."""


class FarReading(Reading):
    """The coarse estimate, from any defocus. The worlds differ in whether what all pixels see alike is looked at."""

    enough = _DOUBTLESS

    def _estimate(self, data: Spectra, world: World) -> Estimate:
        if world == "waves":
            return far(data, self._disc)
        rough, fine = rays(data, self._disc)
        return Estimate(rough.significance, fine.value, fine.sigma)


class CloseReading(Reading):
    """The fine estimate."""

    curvature = False

    def _estimate(self, data: Spectra, world: World) -> Estimate:
        return rays(data, self._disc)[1] if world == "rays" else close(data, self._disc, self._wavelength)


class BesideReading(Reading):
    """What is seen on purpose out of focus: interference says nothing there, rays say how far out."""

    def _estimate(self, data: Spectra, world: World) -> Estimate:
        return rays(data, self._disc)[1] if world == "rays" else NOTHING
