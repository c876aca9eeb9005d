"""Dark field at high angle: thermal diffuse scattering.

Two ways, and a label that says which. `object`: every atom scatters the share of its elastic cross-section that its
thermal motion takes out of the Bragg beams, sigma = integral over the annulus of |gamma f|^2 (1 - exp(-4 pi^2 u^2
g^2)) (Einstein model; S. J. Pennycook and D. E. Jesson, Ultramicroscopy 37 (1991) 14), and the signal is the
probe's intensity on the entrance face times these. No channelling, so a thick crystal's columns are too dim, but no
band limit either. `configurations`: multislice, averaged over frozen phonons (R. F. Loane, P. Xu and J. Silcox, Acta
Cryst. A47 (1991) 267), for annuli within the band limit.
"""

from __future__ import annotations

import math
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

from probeloop.api import Problem, SettingsError

from ..physics import Geometry
from ..specimen.elements import scattering_factor
from .multislice import Medium, MultisliceScatterer, SampledProbe
from .potential import EDGE, TAPER, PotentialGrid
from .settings import LEAST_CONFIGURATIONS, HaadfMethod
from .slices import Cut

ELECTRON_REST_ENERGY = 510_998.95  # [eV], CODATA
LABELS = {
    "object": "thermal diffuse scattering, cross-sections times probe intensity (no channelling)",
    "configurations": "thermal diffuse scattering, multislice averaged over frozen phonons",
}


def band_limit_angle(geometry: Geometry) -> float:
    """Return the largest scattering angle that the multislice carries undamped [rad]."""
    return (EDGE - TAPER) * geometry.pixels / 2 * geometry.angle


def check_annulus(geometry: Geometry, inner: float, outer: float, method: HaadfMethod) -> None:
    """Raise SettingsError, with the allowed range, for an annulus [rad] that the method can't fill."""
    limit = band_limit_angle(geometry)
    if method == "configurations" and outer > limit:
        raise SettingsError(
            [
                Problem(
                    "scattering.haadf_outer",
                    f"{outer * 1e3:g} mrad is beyond the band limit of the multislice",
                    f"haadf_inner < haadf_outer <= {limit * 1e3:.0f} mrad here",
                )
            ]
        )
    if inner <= geometry.convergence:
        raise SettingsError(
            [
                Problem(
                    "scattering.haadf_inner",
                    f"{inner * 1e3:g} mrad lies in the bright-field disc",
                    f"{geometry.convergence * 1e3:g} mrad < haadf_inner",
                )
            ]
        )


def cross_section(number: int, rms: float, inner: float, outer: float, voltage: float, wavelength: float) -> float:
    """Return the cross-section of an atom for diffuse scattering into an annulus [m^2].

    rms: thermal displacement along one axis [m]. inner, outer [rad]. voltage [V], wavelength [m].
    """
    angle = np.linspace(inner, outer, 600)
    g = angle / (wavelength * 1e10)
    gamma = 1 + voltage / ELECTRON_REST_ENERGY
    amplitude = gamma * scattering_factor(number, g)
    diffuse = 1 - np.exp(-4 * np.pi**2 * (rms * 1e10) ** 2 * g**2)
    ring = amplitude**2 * diffuse * 2 * np.pi * angle
    return float(((ring[1:] + ring[:-1]) / 2 * np.diff(angle)).sum()) * 1e-20


def diffuse_factor(
    grid: PotentialGrid, annulus: tuple[float, float], voltage: float, wavelength: float, source: float
) -> Any:
    """Return the Fourier transform of an atom in the object, (Z, rms [Å], g [1/Å]) -> probability per pixel.

    source: rms radius of the electron source along one axis [m]; a source of some size blurs the object.
    """

    def radial(z: int, rms: float, g: Any) -> Any:
        sigma = cross_section(z, rms * 1e-10, *annulus, voltage, wavelength)
        return sigma / grid.pixel**2 * np.exp(-2 * np.pi**2 * (rms**2 + (source * 1e10) ** 2) * g**2)

    return radial


def diffuse_object(
    made: Cut,
    grid: PotentialGrid,
    seed: int,
    annulus: tuple[float, float],
    voltage: float,
    wavelength: float,
    source: float,
) -> NDArray[np.float32]:
    """Return the probability that an electron at a pixel is scattered into the annulus, (N, N)."""
    depths = zip(*np.unique(made.sequence[0], return_counts=True), strict=True)
    parts = ((float(times), made.atoms(int(index), seed)) for index, times in depths)
    return grid.summed(parts, diffuse_factor(grid, annulus, voltage, wavelength, source))


@nb.njit(nogil=True, cache=True)
def _overlap(wave: Any, field: Any, y0: int, x0: int) -> float:
    """Return the sum of |wave|^2 times the window of the periodic `field` that begins at (y0, x0)."""
    size, tile = wave.shape[0], field.shape[0]
    total = 0.0
    for y in range(size):
        row = (y0 + y) % tile
        for x in range(size):
            value = wave[y, x]
            total += (value.real * value.real + value.imag * value.imag) * field[row, (x0 + x) % tile]
    return total


@nb.njit(nogil=True, cache=True)
def _ring(wave: Any, inner: float, outer: float) -> float:
    """Return the sum of |wave|^2, FFT order, between two radii [px]."""
    n = wave.shape[0]
    total = 0.0
    for y in range(n):
        fy = y if y < n - n // 2 else y - n
        for x in range(n):
            fx = x if x < n - n // 2 else x - n
            r = math.sqrt(float(fy * fy + fx * fx))
            if inner <= r < outer:
                value = wave[y, x]
                total += value.real * value.real + value.imag * value.imag
    return total


class Haadf:
    """The dark-field detector, shared by all threads.

    diffuse: the object (N, N) for method `object`, else None. annulus: (inner, outer) [rad].
    """

    def __init__(
        self, medium: Medium, annulus: tuple[float, float], diffuse: NDArray[np.float32] | None = None
    ) -> None:
        method: HaadfMethod = "configurations" if diffuse is None else "object"
        check_annulus(medium.geometry, *annulus, method)
        if diffuse is None and medium.configurations < LEAST_CONFIGURATIONS:
            allowed = f"{LEAST_CONFIGURATIONS} <= configurations <= 64"
            raise SettingsError([Problem("scattering.configurations", f"{medium.configurations}", allowed)])
        self.label = LABELS[method]
        self.annulus, self.diffuse, self._medium = annulus, diffuse, medium

    def value(self, scatterer: MultisliceScatterer, probe: SampledProbe, x: float, y: float, frame: int = 0) -> float:
        """Return the share (0 to 1) of the electrons that the detector gets with the probe at x, y [m]."""
        medium = self._medium
        weights = medium.coherence.weights
        if self.diffuse is not None:  # the source is in the object already: only the focus is to be averaged over
            several = range(len(weights)) if medium.coherence.focus.any() else range(1)
            total = sum(float(weights[i]) * self._object(scatterer, probe, i, x, y) for i in several)
            return total if len(several) > 1 else total / float(weights[0])
        drawn = medium.coherence.drawn(medium.seed, frame, medium.configurations)
        places = ((i, x + dx, y + dy) for i, (dx, dy, _) in enumerate(drawn))
        return sum(float(weights[i]) * self._averaged(scatterer, probe, i, u, v) for i, u, v in places)

    def _object(self, scatterer: MultisliceScatterer, probe: SampledProbe, sample: int, x: float, y: float) -> float:
        wave, y0, x0 = scatterer.incident(probe, sample, x, y)
        return -math.expm1(-max(0.0, _overlap(wave, self.diffuse, y0, x0)))  # an electron is scattered away once

    def _averaged(
        self, scatterer: MultisliceScatterer, probe: SampledProbe, sample: int, x: float, y: float
    ) -> float:
        radii = tuple(a / self._medium.geometry.angle for a in self.annulus)
        count = self._medium.configurations
        waves = (scatterer.wave(probe, sample, x, y, c) for c in range(count))
        return sum(_ring(wave, *radii) for wave in waves) / count
