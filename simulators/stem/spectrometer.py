"""The electron energy-loss spectrometer: an energy axis, a slit, and a detector that counts with noise."""

from __future__ import annotations

import math
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from probeloop.api import EELS, Axis, DriverError, SetSpectrometer, Settings, StreamSpec, quantity

from .composition import Composition, FineStructure
from .energy_loss import Mode, multiple_scattering, single_scattering, spread

Array = NDArray[np.float64]
RANGES = {"energy_offset": (-200.0, 3000.0), "dispersion": (0.005, 2.0), "slit": (0.0, 4000.0)}
_SINGLE_POINT = 0.15e-9  # radius of a probe below which a spectrum is of one place [m]
_LEAST_RANGE = 150.0  # [eV] over which losses are counted, so that every mode is whole


class SpectrometerSettings(Settings):
    """What the spectrometer is.

    channels: of its detector. energy_offset: of the first channel. energy_spread: full width of the beam's energies.
    point_spread: full width of the detector's response. collection: half angle. gain, dark_level, dark_current,
    read_noise: counts for an electron, for a read-out, per second and channel, rms for a read-out. full: the most
    that a channel holds in a read-out.
    """

    channels: Annotated[int, msgspec.Meta(ge=64, le=8192)] = 2048
    energy_offset: Annotated[float, quantity("eV", ge=-200, le=3000)] = -20.0
    dispersion: Annotated[float, quantity("eV/channel", ge=0.005, le=2)] = 0.3
    energy_spread: Annotated[float, quantity("eV", ge=0.005, le=5)] = 0.7
    point_spread: Annotated[float, quantity("px", ge=0, le=20)] = 1.5
    collection: Annotated[float, quantity("mrad", ge=1, le=150)] = 35.0
    gain: Annotated[float, quantity("counts/e", gt=0, le=1e4)] = 2.0
    dark_level: Annotated[float, quantity("counts", ge=0, le=1e4)] = 20.0
    dark_current: Annotated[float, quantity("Hz", ge=0, le=1e5)] = 5.0
    read_noise: Annotated[float, quantity("counts", ge=0, le=1e3)] = 2.0
    full: Annotated[float, quantity("counts", ge=255, le=1e8)] = 1_048_575.0


class EnergyLoss:
    """A spectrometer behind a specimen. voltage [V]. seed: of every spectrum's noise."""

    def __init__(self, settings: SpectrometerSettings, voltage: float, seed: int) -> None:
        self.settings, self._voltage, self._seed = settings, voltage, seed
        self.energy_offset, self.dispersion, self.slit = settings.energy_offset, settings.dispersion, 0.0

    def readback(self) -> dict[str, float]:
        """Return its state: eV of the first channel, eV a channel, width of the slit [eV], 0 = none."""
        return {"energy_offset": self.energy_offset, "dispersion": self.dispersion, "slit": self.slit}

    def set(self, command: SetSpectrometer) -> None:
        """Set what is given; raises DriverError when out of range, and then changes nothing."""
        for name, (low, high) in RANGES.items():
            value = getattr(command, name)
            if value is not None and not low <= value <= high:
                raise DriverError(f"{name} {value:g} is out of range", f"{low:g} to {high:g}")
        for name in RANGES:
            if getattr(command, name) is not None:
                setattr(self, name, float(getattr(command, name)))

    def axis(self) -> Axis:
        """Return the energy axis."""
        return Axis("energy_loss", self.settings.channels, self.dispersion, self.energy_offset, "eV")

    def spec(self, exposure_ns: int, can_wait: bool) -> StreamSpec:
        """Return what a spectrum is."""
        return StreamSpec(
            "spectrum", "spectra", "<u4", (), (self.axis(),), units="counts", origin="simulation", sync="none",
            stamp="hardware", exposure_ns=exposure_ns, can_wait=can_wait,
        )  # fmt: skip

    def expected(self, composition: Composition | None, x: float, y: float, radius: float = 0.0) -> Array:
        """Return the share of the electrons in each channel, (channels,).

        x, y: place [m]. radius: of the probe [m]; composition and modes are averaged over it.
        """
        top = self.energy_offset + self.settings.channels * self.dispersion + 20.0
        losses: Array = np.arange(math.ceil(max(top, _LEAST_RANGE) / self.dispersion) + 1.0) * self.dispersion
        single = np.zeros(losses.size)
        if composition is not None:
            places = _within(x, y, radius)
            if isinstance(composition, FineStructure):
                for at in places:
                    single += self._losses(composition, losses, [at]) / len(places)
            else:
                single = self._losses(composition, losses, places)
        width = math.hypot(self.settings.energy_spread, self.settings.point_spread * self.dispersion)
        seen = spread(multiple_scattering(single), self.dispersion, self.energy_offset, self.settings.channels, width)
        if self.slit:
            energies = self.axis().values()
            seen[np.abs(energies - energies.mean()) > self.slit / 2] = 0.0
        return seen

    def _losses(self, composition: Composition, losses: Array, places: list[tuple[float, float]]) -> Array:
        """Return the mean over places that differ in strengths and densities alone: those are averaged."""
        shifts = composition.shifts(*places[0]) if isinstance(composition, FineStructure) else {}
        strengths: dict[tuple[float, float], float] = {}
        elements: dict[str, float] = {}
        for x, y in places:
            for energy, width, strength in composition.modes(x, y):
                mode = float(energy), float(width)
                strengths[mode] = strengths.get(mode, 0.0) + float(strength) / len(places)
            for name, density in composition.elements(x, y).items():
                elements[name] = elements.get(name, 0.0) + density / len(places)
        modes: list[Mode] = [(*mode, strength) for mode, strength in strengths.items()]
        return single_scattering(losses, modes, elements, shifts, self._voltage, self.settings.collection * 1e-3)

    def foretold(
        self, kind: EELS, composition: Composition, places: NDArray[np.float64], radius: float, electrons: float
    ) -> tuple[StreamSpec, Array]:
        """Return the spec and the mean counts (N, channels) of `electrons` at places (N, 2) [m]; nothing is set."""
        alike = EnergyLoss(self.settings, self._voltage, self._seed)
        alike.set(SetSpectrometer(self.energy_offset, self.dispersion, self.slit))
        alike.set(SetSpectrometer(kind.offset, kind.dispersion))
        p, seconds = self.settings, kind.exposure * kind.n
        dark = p.dark_level * kind.n + p.dark_current * seconds
        mean = [p.gain * electrons * alike.expected(composition, x, y, radius) + dark for x, y in places.tolist()]
        return alike.spec(round(seconds * 1e9), True), np.minimum(np.stack(mean), p.full * kind.n)

    def counts(self, share: Array, electrons: float, seconds: float, reads: int, number: int) -> tuple[Any, bool]:
        """Return counts (channels,) uint32 of `electrons` in all, and whether a channel was full.

        share: of `expected`. seconds: of all reads together. number: of the spectrum, which names its random numbers.
        """
        p = self.settings
        rng = np.random.default_rng([self._seed, 11, number])
        charge = p.gain * rng.poisson(share * electrons) + rng.poisson(p.dark_current * seconds, share.size)
        clipped = np.minimum(charge, p.full * reads)
        noise = p.read_noise * math.sqrt(reads) * rng.standard_normal(share.size)
        total = np.rint(clipped + p.dark_level * reads + noise)
        return np.clip(total, 0, 2**32 - 1).astype(np.uint32), bool((charge > p.full * reads).any())


class Spectrum:
    """One measurement, a `Receiver` (exposure.py): counts (1, channels) uint32. reads: read-outs that it sums.

    radius: of the probe [m].
    """

    blind_is_zero = False

    def __init__(self, spectrometer: EnergyLoss, composition: Composition, reads: int, radius: float) -> None:
        self._spectrometer, self._composition = spectrometer, composition
        self._reads, self._radius = reads, radius

    def take(
        self, scatterer: Any, probe: Any, place: tuple[float, float], electrons: float, seconds: float,
        stream: tuple[np.uint64, np.uint64], out: NDArray[np.uint32],
    ) -> bool:  # fmt: skip
        """Write the spectrum into `out` (1, channels); return whether a channel was full."""
        share = self._spectrometer.expected(self._composition, *place, self._radius)
        counts, full = self._spectrometer.counts(share, electrons, seconds, self._reads, int(stream[1]))
        out[0] = counts
        return full


def _within(x: float, y: float, radius: float) -> list[tuple[float, float]]:
    """Return places that stand for a disc about (x, y) [m]: its centre, or seven."""
    if radius < _SINGLE_POINT:
        return [(x, y)]
    around = [(x + 0.75 * radius * math.cos(a), y + 0.75 * radius * math.sin(a)) for a in np.arange(6) * math.pi / 3]
    return [(x, y), *around]
