"""The specimen: a thin SrTiO3-like crystal seen along [001], two grains with a boundary, on amorphous carbon.

Atoms are placed one by one, each with its own static thermal displacement, so that high angles see diffuse
scattering and not the Bragg beams alone. The tile is periodic; the boundary crosses its centre and, because it
must close, its rim, which the scanner does not reach.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
import scipy.fft as sf
from numpy.typing import NDArray

from .physics import band_limit

# Kirkland, Advanced Computing in Electron Microscopy, 2nd ed. (2010), appendix C: f(k) = sum a/(k^2 + b)
# + c exp(-d k^2), k [1/Å], f [Å]; rows a, b, c, d.
_FACTORS = {
    "C": ((0.212080767, 0.199811865, 0.168254385), (0.208605417, 0.208610186, 5.57870773),
          (0.14204836, 0.363830672, 0.000835012), (1.33311887, 3.80800263, 0.040398262)),
    "O": ((0.339969204, 0.307570172, 0.130369072), (0.38157028, 0.381571436, 19.1919745),
          (0.0883326058, 0.1965867, 0.00099622), (0.760635525, 2.07401094, 0.0303266869)),
    "Ti": ((0.362383267, 0.984232966, 0.741715642), (0.0754707114, 0.497757309, 8.17659391),
           (0.362555269, 1.4915939, 0.0161659509), (0.955524906, 16.2221677, 0.0733140839)),
    "Sr": ((0.0137373086, 1.97548672, 1.59261029), (0.0187469061, 6.3607923, 0.221992482),
           (0.173263882, 4.66280378, 0.0016126506), (0.201624958, 25.3027803, 0.0153610568)),
}  # fmt: skip
_VOLT_SQUARE_ANGSTROM = 47.877645  # h^2 / (2 pi m e) from CODATA, [V Å^2] times [Å]
_CARBON_PER_NM3 = 100.0  # 2.0 g/cm^3


@dataclass(frozen=True)
class SampleSettings:
    """What to build. Lengths [m], angles [rad].

    lattice: of the square cell. thickness: of the crystal. carbon: thickness of the amorphous layer (0 = none).
    tilts: rotation of the two grains. boundary: direction of the boundary line against +y. thermal: rms
    displacement of an atom along one axis. flat: a single perfect grain, for tests.
    """

    lattice: float = 3.905e-10
    thickness: float = 2.3e-9
    carbon: float = 3.0e-9
    tilts: tuple[float, float] = (0.14, -0.17)
    boundary: float = 0.12
    thermal: float = 8e-12


def scattering_factor(element: str, k: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the electron scattering factor of an atom [Å] at k [1/Å] (Kirkland 2010)."""
    a, b, c, d = np.asarray(_FACTORS[element])[:, :, None]
    square = k.ravel() ** 2
    return np.asarray((a / (square + b) + c * np.exp(-d * square)).sum(axis=0)).reshape(k.shape)


def factor_on(element: str, k: NDArray[np.float64], steps: int = 8192) -> NDArray[np.float32]:
    """Return the scattering factor on a large grid of k [1/Å], interpolated from `steps` values (error < 1e-5)."""
    table = scattering_factor(element, np.linspace(0, float(k.max()), steps))
    at = k * ((steps - 1) / k.max())
    return np.asarray(np.interp(at, np.arange(steps), table), np.float32)


def grain_of(x: NDArray[np.float64], y: NDArray[np.float64], width: float, boundary: float) -> NDArray[np.int64]:
    """Return the number of the grain (0 or 1) at every place [m] of a tile of `width` [m]."""
    across = x * np.cos(boundary) + y * np.sin(boundary)
    return np.asarray((across > 0) & (across < width / 2), np.int64)


def atoms(settings: SampleSettings, width: float, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
    """Return the places of all atoms by element, (N, 2) (x, y) [m], for a tile of `width` about the origin."""
    cells = max(1, round(settings.thickness / settings.lattice))
    count = int(np.ceil(width / settings.lattice * 0.75)) + 2
    i, j = np.meshgrid(np.arange(-count, count + 1), np.arange(-count, count + 1))
    basis = {"Sr": [(0.0, 0.0)], "Ti": [(0.5, 0.5)], "O": [(0.5, 0.5), (0.5, 0.0), (0.0, 0.5)]}
    placed: dict[str, list[NDArray[np.float64]]] = {name: [] for name in basis}
    for grain, tilt in enumerate(settings.tilts):
        origin = rng.uniform(0, 1, 2)
        c, s = np.cos(tilt), np.sin(tilt)
        for element, places in basis.items():
            for u, v in places:
                p, q = (i + u + origin[0]) * settings.lattice, (j + v + origin[1]) * settings.lattice
                x, y = (c * p - s * q).ravel(), (s * p + c * q).ravel()
                inside = (np.abs(x) < width / 2) & (np.abs(y) < width / 2)
                x, y = x[inside], y[inside]
                mine = grain_of(x, y, width, settings.boundary) == grain
                column = np.repeat(np.stack([x[mine], y[mine]], axis=1), cells, axis=0)
                placed[element].append(column + rng.normal(0, settings.thermal, column.shape))
    found = {element: np.concatenate(parts) for element, parts in placed.items()}
    number = round(settings.carbon * 1e9 * _CARBON_PER_NM3 * (width * 1e9) ** 2)
    found["C"] = rng.uniform(-width / 2, width / 2, (number, 2))
    return found


def projected_potential(settings: SampleSettings, pixels: int, pixel: float, seed: int) -> NDArray[np.float32]:
    """Return the projected potential [V m], (pixels, pixels) [y, x], pixel size `pixel` [m], centre = origin."""
    rng = np.random.default_rng([seed, 1])
    angstrom = pixel * 1e10
    k1 = np.fft.fftfreq(pixels, angstrom)
    k = np.sqrt(k1[:, None] ** 2 + np.fft.rfftfreq(pixels, angstrom) ** 2)
    total = np.zeros(k.shape, np.complex64)
    for element, places in atoms(settings, pixels * pixel, rng).items():
        if len(places):
            density = _gridded(places, pixels, pixel)
            total += sf.rfft2(density) * factor_on(element, k)
    volts_angstrom = sf.irfft2(total, s=(pixels, pixels)) * (_VOLT_SQUARE_ANGSTROM / angstrom**2)
    return np.asarray(volts_angstrom * 1e-10, np.float32)


def atom_kernel(element: str, half: int, pixel: float) -> NDArray[np.float32]:
    """Return the projected potential of one atom [V m], (2 half + 1, 2 half + 1), the atom on its middle pixel."""
    size, angstrom = 4 * half, pixel * 1e10
    k1 = np.fft.fftfreq(size, angstrom)
    k = np.sqrt(k1[:, None] ** 2 + np.fft.rfftfreq(size, angstrom) ** 2)
    whole = sf.irfft2(scattering_factor(element, k), s=(size, size)) * (_VOLT_SQUARE_ANGSTROM / angstrom**2) * 1e-10
    middle = np.arange(-half, half + 1)
    return np.asarray(whole[np.ix_(middle, middle)], np.float32)


def transmission(potential: NDArray[np.float32], interaction: float) -> NDArray[np.complex64]:
    """Return the transmission function exp(i sigma V) of one slice, band-limited with a tapered edge.

    potential [V m]; interaction sigma [rad/(V m)]. One slice: right for bright field, centre of mass and low-angle
    dark field; high angles are qualitative.
    """
    phase = potential * np.float32(interaction)
    wave = sf.fft2((np.cos(phase) + 1j * np.sin(phase)).astype(np.complex64))
    wave *= band_limit(potential.shape[0])
    return np.asarray(sf.ifft2(wave, overwrite_x=True), np.complex64)


def _gridded(places: NDArray[np.float64], pixels: int, pixel: float) -> NDArray[np.float32]:
    density = np.zeros((pixels, pixels), np.float32)
    _spread(places / pixel + pixels // 2, density)
    return density


@nb.njit(nogil=True, cache=True)
def _spread(at: Any, density: Any) -> None:
    """Spread unit points at (x, y) [px] bilinearly on the periodic grid."""
    n = density.shape[0]
    for i in range(at.shape[0]):
        x0, y0 = math.floor(at[i, 0]), math.floor(at[i, 1])
        fx, fy = at[i, 0] - x0, at[i, 1] - y0
        for dy in range(2):
            for dx in range(2):
                weight = (fx if dx else 1 - fx) * (fy if dy else 1 - fy)
                density[(y0 + dy) % n, (x0 + dx) % n] += weight
