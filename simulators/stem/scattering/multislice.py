"""Multislice in a window that follows the probe.

Cowley and Moodie's method as in E. J. Kirkland, Advanced Computing in Electron Microscopy, 2nd ed. (2010), ch. 6: the
transmission functions of a large field are calculated once; a frame takes a window of them about the probe. Both the
transmission functions and the propagator are cut off at 2/3 of Nyquist with a tapered edge, and the wave is
propagated after every slice, the last one too. A sharp edge is wrong by up to 1e-3 of the brightest pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
import scipy.fft as sf
from numpy.typing import NDArray

from probeloop.api import Aberrations, blur_radius, chi

from ..physics import Geometry
from .coherence import Coherence
from .potential import EDGE, TAPER, limit_band

_MULTIPLES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 16, 18, 20)
_CLEAR = 7e-10  # [m] round the geometric probe: the tails that diffraction gives it


@nb.njit(nogil=True, cache=True, fastmath=True)
def _times_row(a: Any, b: Any) -> None:
    for x in range(a.size):
        a[x] = a[x] * b[x]


@nb.njit(nogil=True, cache=True)
def _times(a: Any, b: Any) -> None:
    """Multiply a by b in place, both complex arrays of one shape."""
    for y in range(a.shape[0]):
        _times_row(a[y], b[y])


@nb.njit(nogil=True, cache=True, fastmath=True)
def _transmit(wave: Any, field: Any, y0: int, x0: int) -> None:
    """Multiply `wave` (M, M) by the window of the periodic `field` whose first pixel is (y0, x0)."""
    size, tile = wave.shape[0], field.shape[0]
    for y in range(size):
        row = (y0 + y) % tile
        x = 0
        while x < size:
            column = (x0 + x) % tile
            run = min(size - x, tile - column)
            _times_row(wave[y, x : x + run], field[row, column : column + run])
            x += run


@nb.njit(nogil=True, cache=True)
def _ramped(block: Any, ey: Any, ex: Any, columns: Any, out: Any) -> None:
    """Write block (h, w) times the ramps ey (h,), ex (w,) into the `columns` of `out` (h, M), else zero."""
    out[:] = 0
    for y in range(block.shape[0]):
        for x in range(block.shape[1]):
            out[y, columns[x]] = block[y, x] * ey[y] * ex[x]


@nb.njit(nogil=True, cache=True)
def _gather(wave: Any, columns: Any, out: Any) -> None:
    """Write the `columns` (w,) of `wave` (M, M) into `out` (M, w)."""
    for y in range(wave.shape[0]):
        for x in range(columns.size):
            out[y, x] = wave[y, columns[x]]


@nb.njit(nogil=True, cache=True)
def _scatter(some: Any, columns: Any, out: Any) -> None:
    """Write `some` (M, w) into the `columns` of `out` (M, M), zero into the others."""
    for y in range(out.shape[0]):
        out[y] = 0
        for x in range(columns.size):
            out[y, columns[x]] = some[y, x]


@nb.njit(nogil=True, cache=True)
def _fold(wave: Any, out: Any) -> None:
    """Write `wave` (M, M) folded onto (n, n), the probe's centre [M/2, M/2] going to [n/2, n/2]."""
    size, n = wave.shape[0], out.shape[0]
    shift = n // 2 - size // 2
    out[:] = 0
    for y in range(size):
        row = (y + shift) % n
        for x in range(size):
            out[row, (x + shift) % n] += wave[y, x]


@nb.njit(nogil=True, cache=True)
def _add_intensity(wave: Any, weight: Any, total: Any) -> None:
    for y in range(wave.shape[0]):
        for x in range(wave.shape[1]):
            value = wave[y, x]
            total[y, x] += weight * (value.real * value.real + value.imag * value.imag)


@dataclass(frozen=True)
class SampledProbe:
    """The aperture's wave of every sample, on the grid of a window of M = `size` pixels.

    near (h,): rows and columns of that grid, FFT order, inside the aperture. blocks: (h, h) wave, the squares sum
    to 1.
    """

    size: int
    near: NDArray[np.int64]
    blocks: tuple[NDArray[Any], ...]


class Medium:
    """The specimen as the beam meets it: shared by all threads, never changed.

    fields: transmission functions (N, N). sequence (C, S): which of them stands at each depth. thickness: of a
    slice [m]. seed: of the frames' streams. dtype: complex64, or complex128 to see what single precision costs.
    """

    def __init__(
        self,
        geometry: Geometry,
        fields: Sequence[NDArray[Any]],
        sequence: NDArray[np.int64],
        thickness: float,
        coherence: Coherence | None = None,
        seed: int = 0,
        dtype: Any = np.complex64,
    ) -> None:
        self.geometry, self.fields, self.sequence, self.thickness = geometry, tuple(fields), sequence, thickness
        self.coherence = coherence or Coherence.of(1, 0.0, 0.0)
        self.seed, self.dtype = seed, np.dtype(dtype)
        self._propagators: dict[int, NDArray[Any]] = {}
        self._passing: dict[tuple[int, int], tuple[NDArray[np.int64], NDArray[Any]]] = {}

    @property
    def configurations(self) -> int:
        """How many sets of frozen phonons there are."""
        return int(self.sequence.shape[0])

    def window(self, aberrations: Aberrations) -> int:
        """Return the pixels of a window that holds the probe all the way through, without meeting itself."""
        geometry = self.geometry
        spread = geometry.convergence * self.thickness * (self.sequence.shape[1] - 1)
        needed = 2.05 * (blur_radius(aberrations, geometry.convergence) + spread) + _CLEAR
        wanted = needed / geometry.field
        return geometry.pixels * next((m for m in _MULTIPLES if m >= wanted), _MULTIPLES[-1])

    def probe(self, aberrations: Aberrations) -> SampledProbe:
        """Return the probe of `aberrations`, one wave a sample; its edge is soft over one pixel."""
        geometry = self.geometry
        size = self.window(aberrations)
        k1 = np.fft.fftfreq(size, geometry.pixel)
        step = 1 / (size * geometry.pixel)
        limit = geometry.convergence / geometry.wavelength
        tilt_y, tilt_x = geometry.tilt
        near = np.flatnonzero(np.abs(k1) <= limit + step + max(abs(tilt_y), abs(tilt_x)))
        y, x = k1[near] - tilt_y, k1[near] - tilt_x
        square = y[:, None] ** 2 + x**2
        edge = np.clip((limit - np.sqrt(square)) / step + 0.5, 0, 1)
        wave = edge * np.exp(-1j * chi(aberrations, x[None, :], y[:, None], geometry.wavelength))
        wave /= math.sqrt(float((edge**2).sum()))
        blocks = tuple(
            np.asarray(wave * np.exp(-1j * np.pi * geometry.wavelength * df * square) if df else wave, self.dtype)
            for df in map(float, self.coherence.focus)
        )
        return SampledProbe(size, near, blocks)

    def propagator(self, size: int) -> NDArray[Any]:
        """Return the Fresnel propagator of one slice times the band limit, (size, size) in FFT order."""
        if size not in self._propagators:
            k2 = np.fft.fftfreq(size, self.geometry.pixel) ** 2
            line = np.exp(-1j * np.pi * self.geometry.wavelength * self.thickness * k2)
            whole = np.multiply.outer(line, line).astype(self.dtype)
            limit_band(whole, EDGE, TAPER)
            self._propagators[size] = whole
        return self._propagators[size]

    def passing(self, size: int, pixels: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Return which columns of a transform (pixels, pixels) the band limit lets through, and the propagator.

        size: of the window; `pixels` is that, or the camera's. The propagator (pixels, columns) has only these.
        """
        if (size, pixels) not in self._passing:
            columns = np.flatnonzero(np.abs(np.fft.fftfreq(pixels, 0.5)) < EDGE)
            every = size // pixels
            found = np.ascontiguousarray(self.propagator(size)[::every, ::every][:, columns])
            self._passing[size, pixels] = columns, found
        return self._passing[size, pixels]

    def scatterer(self) -> MultisliceScatterer:
        """Return what one thread needs."""
        return MultisliceScatterer(self)

    def add(self, index: int, change: NDArray[Any], y0: int, x0: int) -> None:
        """Add `change` (h, h) to one slice from pixel (y0, x0) on; nobody may scatter meanwhile."""
        add_window(self.fields[index], change, y0, x0)


def add_window(field: NDArray[Any], change: NDArray[Any], y0: int, x0: int) -> None:
    """Add `change` (h, h) to the periodic `field` from pixel (y0, x0) on, in place."""
    rows, columns = (y0 + np.arange(len(change))) % len(field), (x0 + np.arange(len(change))) % len(field)
    field[np.ix_(rows, columns)] += change


class MultisliceScatterer:
    """Puts probes through the medium; one for each thread, because it holds scratch memory."""

    def __init__(self, medium: Medium) -> None:
        self.medium = medium
        n = medium.geometry.pixels
        self._folded = np.empty((n, n), medium.dtype)
        self._total = np.empty((n, n), np.empty(0, medium.dtype).real.dtype)
        self._size = 0
        self._wave = self._rows = self._some = np.empty((0, 0), medium.dtype)

    def far_field(self, probe: SampledProbe, x: float, y: float, frame: int = 0) -> NDArray[Any]:
        """Return the amplitude on the camera, (n, n) in FFT order, its square summing to about 1.

        x, y: place of the probe [m]. frame: names the stream that draws what is random. One sample: the complex
        wave; several: the root of their mean intensity.
        """
        medium = self.medium
        drawn = medium.coherence.drawn(medium.seed, frame, medium.configurations)
        if len(drawn) == 1:
            dx, dy, chosen = drawn[0]
            return self.wave(probe, 0, x + dx, y + dy, chosen)
        self._total[:] = 0
        for i, (dx, dy, chosen) in enumerate(drawn):
            wave = self.wave(probe, i, x + dx, y + dy, chosen)
            _add_intensity(wave, self._total.dtype.type(medium.coherence.weights[i]), self._total)
        return np.sqrt(self._total).astype(medium.dtype)

    def incident(self, probe: SampledProbe, sample: int, x: float, y: float) -> tuple[NDArray[Any], int, int]:
        """Return the wave on the entrance face and the field's pixel under its first one; its squares sum to 1."""
        medium, size = self.medium, probe.size
        self._make_room(probe)
        pixel, tile = medium.geometry.pixel, medium.fields[0].shape[0]
        at_y, at_x = y / pixel + tile // 2, x / pixel + tile // 2
        y0, x0 = round(at_y), round(at_x)
        f = np.where(probe.near < size - size // 2, probe.near, probe.near - size) * (-2j * np.pi / size)
        ey = np.exp(f * (at_y - y0 + size // 2)).astype(medium.dtype)
        ex = np.exp(f * (at_x - x0 + size // 2)).astype(medium.dtype)
        _ramped(probe.blocks[sample], ey, ex, probe.near, self._rows)
        rows = sf.ifft(self._rows, axis=1, norm="ortho", overwrite_x=True)
        self._wave[:] = 0
        self._wave[probe.near] = rows
        wave = sf.ifft(self._wave, axis=0, norm="ortho", overwrite_x=True)
        return wave, (y0 - size // 2) % tile, (x0 - size // 2) % tile

    def wave(self, probe: SampledProbe, sample: int, x: float, y: float, configuration: int = 0) -> NDArray[Any]:
        """Return the coherent amplitude of one sample on the camera, (n, n) in FFT order."""
        medium, size, n = self.medium, probe.size, self.medium.geometry.pixels
        wave, y0, x0 = self.incident(probe, sample, x, y)
        order = medium.sequence[configuration]
        for i in order[:-1]:
            _transmit(wave, medium.fields[i], y0, x0)
            wave, some, columns = self._propagated(wave, size)
            some = sf.ifft(some, axis=0, norm="ortho", overwrite_x=True)
            _scatter(some, columns, wave)
            wave = sf.ifft(wave, axis=1, norm="ortho", overwrite_x=True)
        _transmit(wave, medium.fields[order[-1]], y0, x0)
        if size != n:
            _fold(wave, self._folded)
            wave = self._folded
        wave, some, columns = self._propagated(wave, n)
        _scatter(some, columns, wave)
        return np.asarray(wave)

    def _propagated(self, wave: NDArray[Any], pixels: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]:
        """Return `wave` (pixels, pixels) to be overwritten, and the columns of its transform behind the slice.

        What the band limit takes away is not transformed: a sixth of the work.
        """
        columns, propagator = self.medium.passing(self._size, pixels)
        wave = sf.fft(wave, axis=1, norm="ortho", overwrite_x=True)
        if self._some.shape != propagator.shape:
            self._some = np.empty(propagator.shape, self.medium.dtype)
        _gather(wave, columns, self._some)
        some = sf.fft(self._some, axis=0, norm="ortho", overwrite_x=True)
        _times(some, propagator)
        return wave, some, columns

    def _make_room(self, probe: SampledProbe) -> None:
        if self._size != probe.size or self._rows.shape[0] != probe.near.size:
            self._size = probe.size
            self._wave = np.empty((probe.size, probe.size), self.medium.dtype)
            self._rows = np.empty((probe.near.size, probe.size), self.medium.dtype)
