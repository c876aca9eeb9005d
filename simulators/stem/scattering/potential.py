"""Projected potentials of atoms at any place, by way of Fourier space.

Atoms are spread on the grid with a Kaiser-Bessel window six pixels wide and the window is divided out again (J. A.
Fessler and B. P. Sutton, IEEE Trans. Signal Process. 51 (2003) 560), so that an atom between pixels scatters as one
on a pixel: to 1e-4 up to the band limit. Above 3/4 of Nyquist, where no grid holds an off-grid atom, the potential
falls off as a cosine to zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numba as nb
import numpy as np
import scipy.fft as sf
from numpy.typing import NDArray
from scipy.special import i0

from ..specimen.atoms import Atoms
from ..specimen.elements import VOLT_SQUARE_ANGSTROM, scattering_factor

_WIDTH = 6
_BETA = math.pi * math.sqrt(_WIDTH**2 * (1.0 / 1.5) ** 2 * (1.5 - 0.5) ** 2 - 0.8)
_STEPS = 4096
_KEPT = 0.75  # of Nyquist
_TABLE = 8192


def _window_table() -> NDArray[np.float64]:
    u = np.linspace(0, 1, _STEPS + 1)
    return np.asarray(i0(_BETA * np.sqrt(np.clip(1 - u**2, 0, None))) / i0(_BETA))


def _window_transform(frequency: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the window's Fourier transform at `frequency` [1/px]; real and positive up to Nyquist."""
    root = np.sqrt(_BETA**2 - (np.pi * _WIDTH * frequency) ** 2)
    return np.asarray(_WIDTH * np.sinh(root) / (root * i0(_BETA)))


@nb.njit(nogil=True, cache=True)
def _spread(at: Any, table: Any, width: int, density: Any) -> None:
    """Add unit atoms at (x, y) [px] to the periodic `density` (N, N)."""
    n = density.shape[0]
    steps = table.size - 1
    wx = np.empty(width)
    wy = np.empty(width)
    for i in range(at.shape[0]):
        x0 = math.floor(at[i, 0]) - width // 2 + 1
        y0 = math.floor(at[i, 1]) - width // 2 + 1
        for j in range(width):
            for axis in range(2):
                distance = abs(at[i, axis] - (y0 if axis else x0) - j) * 2 / width * steps
                if distance >= steps:
                    value = 0.0
                else:
                    k = int(distance)
                    value = table[k] + (distance - k) * (table[k + 1] - table[k])
                if axis:
                    wy[j] = value
                else:
                    wx[j] = value
        for jy in range(width):
            row = (y0 + jy) % n
            for jx in range(width):
                density[row, (x0 + jx) % n] += wy[jy] * wx[jx]


@nb.njit(nogil=True, cache=True)
def _weigh(spectrum: Any, factor: Any, per_step: Any, gy: Any, gx: Any, undo_y: Any, undo_x: Any, total: Any) -> None:
    """Add spectrum times the radial `factor` (table over g), with the window undone, to `total`, all (N, N/2+1)."""
    for y in range(spectrum.shape[0]):
        for x in range(spectrum.shape[1]):
            g = math.sqrt(gy[y] * gy[y] + gx[x] * gx[x]) * per_step
            k = int(g)
            if k < factor.size - 1:
                weight = factor[k] + (g - k) * (factor[k + 1] - factor[k])
                total[y, x] += spectrum[y, x] * np.float32(weight * undo_y[y] * undo_x[x])


class PotentialGrid:
    """A periodic square of `pixels` x `pixels` about the origin, pixel size `pixel` [m]."""

    def __init__(self, pixels: int, pixel: float, workers: int = 1) -> None:
        self.pixels, self.pixel, self.workers = pixels, pixel, workers
        self._window = _window_table()
        fy, fx = np.fft.fftfreq(pixels).astype(np.float64), np.fft.rfftfreq(pixels).astype(np.float64)
        self._undo = 1 / _window_transform(fy), 1 / _window_transform(fx)
        self._g = fy / (pixel * 1e10), fx / (pixel * 1e10)
        self._highest = 0.5 / (pixel * 1e10)

    def summed(self, parts: Iterable[tuple[float, Atoms]], radial: Any) -> NDArray[np.float32]:
        """Return the sum over atoms of a radial function, given in Fourier space, (pixels, pixels) [y, x].

        parts: atoms, and how many times they count. radial(Z, rms [Å], g [1/Å]): its transform; the sum is a density
        per pixel (divide by the pixel's area for one per area).
        """
        n = self.pixels
        total = np.zeros((n, n // 2 + 1), np.complex64)
        g = np.linspace(0, self._highest, _TABLE)
        fall = np.clip((g / self._highest - _KEPT) / (1 - _KEPT), 0, 1)
        fall = 0.5 * (1 + np.cos(np.pi * fall))
        for times, atoms in parts:
            for number in np.unique(atoms.numbers):
                chosen = atoms.numbers == number
                density = np.zeros((n, n), np.float32)
                _spread(atoms.places[chosen, :2] / self.pixel + n // 2, self._window, _WIDTH, density)
                spectrum = sf.rfft2(density, workers=self.workers, overwrite_x=True)
                del density
                rms = float(atoms.rms[chosen].mean()) * 1e10
                factor = np.asarray(radial(int(number), rms, g)) * fall * times
                _weigh(spectrum, factor, (_TABLE - 1) / self._highest, *self._g, *self._undo, total)
                del spectrum
        return np.asarray(sf.irfft2(total, s=(n, n), workers=self.workers, overwrite_x=True), np.float32)

    def potential(self, atoms: Atoms) -> NDArray[np.float32]:
        """Return the projected potential [V m], (pixels, pixels) [y, x]."""
        volts = self.summed([(1.0, atoms)], lambda z, _, g: scattering_factor(z, g))
        volts *= np.float32(VOLT_SQUARE_ANGSTROM / (self.pixel * 1e10) ** 2 * 1e-10)
        return volts


@nb.njit(nogil=True, cache=True)
def limit_band(wave: Any, edge: float, taper: float) -> None:
    """Multiply `wave` (N, N), FFT order, by 1 below and 0 above `edge` of Nyquist, a cosine between, in place."""
    n = wave.shape[0]
    for y in range(n):
        fy = (y if y < n - n // 2 else y - n) * 2.0 / n
        for x in range(n):
            fx = (x if x < n - n // 2 else x - n) * 2.0 / n
            f = math.sqrt(fy * fy + fx * fx)
            if f >= edge:
                wave[y, x] = 0
            elif f > edge - taper:
                wave[y, x] *= np.float32(0.5 * (1 + math.cos(math.pi * (f - edge + taper) / taper)))


@nb.njit(nogil=True, cache=True)
def phase_plate(potential: Any, interaction: float, out: Any) -> None:
    """Write exp(i interaction potential) into `out`, all (N, N)."""
    for y in range(potential.shape[0]):
        for x in range(potential.shape[1]):
            phase = interaction * potential[y, x]
            out[y, x] = complex(math.cos(phase), math.sin(phase))


EDGE, TAPER = 2 / 3, 0.02


def transmission(potential: NDArray[Any], interaction: float, dtype: Any = np.complex64, workers: int = 1) -> Any:
    """Return exp(i sigma V) of a slice, band-limited with a tapered edge, (N, N) of `dtype`.

    potential [V m]; interaction sigma [rad/(V m)].
    """
    wave = np.empty(potential.shape, dtype)
    phase_plate(potential, interaction, wave)
    wave = sf.fft2(wave, overwrite_x=True, workers=workers)
    limit_band(wave, EDGE, TAPER)
    return sf.ifft2(wave, overwrite_x=True, workers=workers)
