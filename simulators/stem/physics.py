"""Scattering of a convergent probe by a thin specimen: pure functions of arrays.

A detector pixel samples the far field at its centre. The probe lives on a window of `m` times the detector's own
field of view, as large as its defocus needs, so nothing wraps around; because the detector asks for every m-th
spatial frequency alone, the product of probe and specimen is folded m x m times before a small transform.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
import scipy.fft as sf
from numpy.typing import NDArray

from probeloop.api import Aberrations, blur_radius, chi

Complex = NDArray[np.complex64]
Real = NDArray[np.float32]
_MULTIPLES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 16, 18, 20)


@dataclass(frozen=True)
class Geometry:
    """The far field on the camera.

    pixels: of the square camera. angle: [rad/px]. wavelength [m]. convergence: half angle alpha [rad]. centre (ky,
    kx): of the pattern, less n / 2 [px]; the probe is tilted by the fraction, whoever counts moves by `whole_centre`.
    """

    pixels: int
    angle: float
    wavelength: float
    convergence: float
    centre: tuple[float, float] = (0.0, 0.0)

    @property
    def whole_centre(self) -> tuple[int, int]:
        """The centre's whole pixels."""
        return round(self.centre[0]), round(self.centre[1])

    @property
    def tilt(self) -> tuple[float, float]:
        """The fraction of a pixel that is left, as a tilt of the probe (ky, kx) [1/m]."""
        (ky, kx), (py, px) = self.centre, self.whole_centre
        return (ky - py) / self.field, (kx - px) / self.field

    @property
    def field(self) -> float:
        """Field of view of the camera's own grid [m]."""
        return self.wavelength / self.angle

    @property
    def pixel(self) -> float:
        """Real-space pixel [m]."""
        return self.field / self.pixels


def band_limit(pixels: int, edge: float = 2 / 3, taper: float = 0.02) -> NDArray[np.float32]:
    """Return the low-pass (pixels, pixels) in FFT order: 1 below, 0 above `edge` of Nyquist, cosine between.

    taper: width of the cosine, in parts of Nyquist.
    """
    k1 = np.fft.fftfreq(pixels, 0.5).astype(np.float32)
    k = np.sqrt(k1[:, None] ** 2 + k1**2)
    falling = (k <= edge - taper).astype(np.float32)
    between = (k > edge - taper) & (k < edge)
    falling[between] = 0.5 * (1 + np.cos(np.pi * (k[between] - edge + taper) / taper))
    return np.asarray(falling, np.float32)


def window_multiple(aberrations: Aberrations, geometry: Geometry) -> int:
    """Return how many camera fields (along one side) the probe needs to live in without meeting itself."""
    needed = 2.05 * blur_radius(aberrations, geometry.convergence) + 7e-10
    wanted = needed / geometry.field
    return next((m for m in _MULTIPLES if m >= wanted), _MULTIPLES[-1])


def aperture_wave(aberrations: Aberrations, geometry: Geometry, multiple: int = 1) -> Complex:
    """Return the probe in the aperture plane, (n m, n m) in FFT order, its square summing to 1.

    The edge is soft over one pixel dk of this grid: clip((alpha - k) / dk + 1/2, 0, 1).
    """
    n = geometry.pixels * multiple
    k1 = np.fft.fftfreq(n, geometry.pixel)
    step = 1 / (n * geometry.pixel)
    tilt = geometry.tilt
    reach = math.ceil((geometry.convergence / geometry.wavelength + max(map(abs, tilt))) / step) + 2
    near = np.flatnonzero(np.abs(k1) <= reach * step)
    y, x = k1[near] - tilt[0], k1[near] - tilt[1]
    radius = np.hypot(y[:, None], x)
    edge = np.clip((geometry.convergence / geometry.wavelength - radius) / step + 0.5, 0, 1)
    wave = edge * np.exp(-1j * chi(aberrations, x[None, :], y[:, None], geometry.wavelength))
    wave /= math.sqrt(float((edge**2).sum()))
    whole = np.zeros((n, n), np.complex64)
    whole[np.ix_(near, near)] = wave
    return whole


@dataclass(frozen=True)
class Planes:
    """A complex field as two real planes, which multiply twice as fast. re, im: (N, N) float32."""

    re: Real
    im: Real

    @classmethod
    def of(cls, field: Complex) -> Planes:
        """Split a complex field."""
        return cls(np.ascontiguousarray(field.real), np.ascontiguousarray(field.imag))


@dataclass(frozen=True)
class Probe:
    """A probe ready to be put on the specimen.

    multiple: m. aperture: (n, n) wave in the aperture plane when m = 1 (moved exactly by a phase ramp), or empty.
    real: (n m, n m) wave in real space, its centre at [n m / 2, n m / 2].
    """

    multiple: int
    aperture: Complex
    real: Planes


def make_probe(aberrations: Aberrations, geometry: Geometry) -> Probe:
    """Return the probe of `aberrations`, on a window of its own size."""
    m = window_multiple(aberrations, geometry)
    wave = aperture_wave(aberrations, geometry, m)
    size = wave.shape[0]
    real = Planes.of(np.asarray(sf.fftshift(sf.ifft2(wave)) * np.float32(size), np.complex64))
    return Probe(m, wave if m == 1 else np.zeros((0, 0), np.complex64), real)


@nb.njit(nogil=True, cache=True)
def _add_product(a_re: Any, a_im: Any, b_re: Any, b_im: Any, out_re: Any, out_im: Any) -> None:
    for i in range(out_re.size):
        out_re[i] += a_re[i] * b_re[i] - a_im[i] * b_im[i]
        out_im[i] += a_re[i] * b_im[i] + a_im[i] * b_re[i]


@nb.njit(nogil=True, cache=True)
def fold_product(s_re: Any, s_im: Any, p_re: Any, p_im: Any, y0: Any, x0: Any, out_re: Any, out_im: Any) -> None:
    """Write the product of specimen and probe, folded onto the camera's field, into `out` (n, n).

    specimen s (N, N), periodic; probe p (M, M) centred on pixel (y0, x0) of it; M a multiple of n. In `out` the
    place [0, 0] is the probe's centre.
    """
    n = out_re.shape[0]
    size = p_re.shape[0]
    half = size // 2
    tile = s_re.shape[0]
    out_re[:] = 0
    out_im[:] = 0
    for y in range(size):
        row = (y0 + y - half) % tile
        target = (y - half) % n
        x = 0
        while x < size:
            column = (x0 + x - half) % tile
            to = (x - half) % n
            run = min(size - x, tile - column, n - to)
            _add_product(
                s_re[row, column : column + run], s_im[row, column : column + run],
                p_re[y, x : x + run], p_im[y, x : x + run],
                out_re[target, to : to + run], out_im[target, to : to + run],
            )  # fmt: skip
            x += run


@nb.njit(nogil=True, cache=True)
def shifted_wave(aperture: Any, dy: Any, dx: Any, out: Any) -> None:
    """Write the aperture wave times the phase ramp that moves the probe by (dy, dx) [px] into `out` (n, n).

    The ramp also carries the centre to [n / 2, n / 2].
    """
    n = aperture.shape[0]
    for y in range(n):
        fy = y if y < n - n // 2 else y - n
        for x in range(n):
            value = aperture[y, x]
            if value == 0:
                out[y, x] = 0
                continue
            fx = x if x < n - n // 2 else x - n
            angle = -2 * math.pi * (fy * (dy + n // 2) + fx * (dx + n // 2)) / n
            out[y, x] = value * complex(math.cos(angle), math.sin(angle))


class Scatterer:
    """Puts probes on a specimen; one for each thread, because it holds scratch memory."""

    def __init__(self, geometry: Geometry, specimen: Planes | None) -> None:
        n = geometry.pixels
        self._geometry = geometry
        self._specimen = specimen
        self._wave = np.empty((n, n), np.complex64)
        self._re, self._im = np.empty((n, n), np.float32), np.empty((n, n), np.float32)

    def far_field(self, probe: Probe, x: float, y: float, frame: int = 0) -> Complex:
        """Return the amplitude on the camera, (n, n) in FFT order, its square summing to about 1.

        x, y: place of the probe [m]. A probe larger than the camera's field is put on the nearest pixel (8 pm), a
        smaller one exactly. Without a specimen (vacuum) the amplitude is the aperture's. frame: not used, nothing
        is random here.
        """
        geometry, n = self._geometry, self._geometry.pixels
        tile = self._specimen.re.shape[0] if self._specimen else n
        at_y, at_x = y / geometry.pixel + tile // 2, x / geometry.pixel + tile // 2
        y0, x0 = round(at_y), round(at_x)
        real = probe.real
        if probe.multiple == 1:
            shifted_wave(probe.aperture, at_y - y0, at_x - x0, self._wave)
            moved = sf.ifft2(self._wave, overwrite_x=True)
            moved *= np.float32(n)
            real = Planes(moved.real, moved.imag)
        specimen = self._specimen or _VACUUM
        fold_product(
            specimen.re, specimen.im, real.re, real.im,
            y0 % specimen.re.shape[0], x0 % specimen.re.shape[0], self._re, self._im,
        )  # fmt: skip
        self._wave.real = self._re
        self._wave.imag = self._im
        wave = sf.fft2(self._wave, overwrite_x=True)
        wave *= np.float32(1 / n)
        return np.asarray(wave, np.complex64)


_VACUUM = Planes(np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32))
