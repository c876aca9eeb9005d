"""Boundaries between grains in a picture of a lattice: where one set of Bragg spacings gives way to another.

Of the strongest peaks of the power spectrum amplitude images are made, each from a small mask about its peak (Hytch,
Snoeck and Kilaas, Ultramicroscopy 74 (1998) 131). A grain is where its own peaks are strong; a boundary is where the
share that each peak has changes fastest. Grains that share all their spacings, such as twins with one lattice, or
a mere phase step, have no boundary here.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import numpy as np
import scipy.fft as sf
import scipy.ndimage as ndi
from numpy.typing import NDArray

from probeloop.api import Outputs, ScanTransform, Settings, StreamSpec, map_input, quantity

Array = NDArray[np.float64]
_LEAST = 16  # lines and columns
_EVEN = 0.4  # change of the shares within a resolution that is as likely a boundary as not
_CLEAR = 20.0  # medians of the power: the highest of 5,000 pixels of noise reaches 13


class GrainBoundaries(ScanTransform):
    """How much each place of a lattice image lies on a boundary between two grains, 0 to 1."""

    every = "seconds"
    interval = 0.5
    takes = "map"
    may_be_nan = True  # where nothing is measured yet

    class Parameters(Settings):
        """resolution: of the amplitude images, some lattice spacings. peaks: of the power spectrum, at most."""

        resolution: Annotated[float, quantity("nm", ge=0.05, le=1e5)] = 0.6
        peaks: Annotated[int, msgspec.Meta(ge=2, le=64)] = 12

    def outputs(self, spec: StreamSpec) -> dict[str, StreamSpec]:
        """Return `mean`, (1, ny, nx) float32 of 0 to 1, NaN = not measured.

        Raises SettingsError when the input is no map of real numbers on axes in metres.
        """
        wanted = "a map of real numbers on axes in metres"
        axes = map_input(spec, wanted=wanted, several=False, real=True, metres=True).axes
        self._step = (abs(float(axes[0].scale or 1)), abs(float(axes[1].scale or 1)))
        return {"mean": StreamSpec("mean", "image", "<f4", sig=tuple(map(msgspec.structs.replace, axes)))}

    def update(self, data: Any, mask: NDArray[np.bool_] | None = None) -> Outputs | None:
        """Return where boundaries are in `data`, (ny, nx); None before there are sixteen lines."""
        values = np.asarray(data, np.float64)
        known = np.isfinite(values)
        rows, columns = np.flatnonzero(known.any(axis=1)), np.flatnonzero(known.any(axis=0))
        if len(rows) < _LEAST or len(columns) < _LEAST:
            return None
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        made = np.full(values.shape, np.nan)
        found = boundaries(values[box], self._step, self.parameters.resolution * 1e-9, self.parameters.peaks)
        made[box] = np.where(known[box], found, np.nan)
        return {"mean": made.astype(np.float32)[None]}


def boundaries(image: Array, step: tuple[float, float], resolution: float, peaks: int) -> Array:
    """Return how likely each place of a lattice image (ny, nx), NaN = not measured, is a boundary, 0 to 1.

    step (y, x), resolution: [m]. Without two clear peaks, or of a constant image, 0 everywhere.
    """
    known = np.isfinite(image)
    filled = np.where(known, image, image[known].mean() if known.any() else 0.0)
    sigma = (resolution / step[0], resolution / step[1])
    flat = filled - ndi.gaussian_filter(filled, sigma, mode="nearest")
    waves = bragg_peaks(flat, step, resolution, peaks)
    if len(waves) < 2 or not np.ptp(filled) > 0:
        return np.zeros(image.shape)
    y, x = np.arange(image.shape[0])[:, None] * step[0], np.arange(image.shape[1])[None, :] * step[1]
    shares = []
    for ky, kx in waves:
        wave = flat * np.exp(-2j * np.pi * (ky * y + kx * x))
        smooth = [ndi.gaussian_filter(part, sigma, mode="reflect") for part in (wave.real, wave.imag)]
        shares.append(np.hypot(*smooth))
    stack = np.array(shares)
    stack /= np.maximum(np.sqrt((stack**2).sum(axis=0)), np.finfo(float).tiny)
    slopes = [np.gradient(share, *step) for share in stack]
    change = resolution * np.sqrt(sum(dy**2 + dx**2 for dy, dx in slopes))
    made: Array = change**2 / (change**2 + _EVEN**2)
    return made


def bragg_peaks(image: Array, step: tuple[float, float], resolution: float, most: int) -> list[tuple[float, float]]:
    """Return the wave vectors (ky, kx) [1/m] of the clearest peaks of the power spectrum, one of each pair.

    Peaks are further apart than the amplitude images can tell, and further from 0 than twice that.
    """
    ny, nx = image.shape
    window = np.hanning(ny + 2)[1:-1, None] * np.hanning(nx + 2)[None, 1:-1]
    power = np.abs(sf.fft2(image * window)) ** 2
    ky, kx = sf.fftfreq(ny, step[0])[:, None], sf.fftfreq(nx, step[1])[None, :]
    width = 1 / (2 * np.pi * resolution)
    power = np.where((np.hypot(ky, kx) > 4 * width) & ((ky > 0) | ((ky == 0) & (kx > 0))), power, 0.0)
    level = float(np.median(power[power > 0])) if (power > 0).any() else 0.0
    found: list[tuple[float, float]] = []
    highest = float(power.max())
    while len(found) < most and power.max() > max(_CLEAR * level, 0.02 * highest, 0.0):
        j, i = np.unravel_index(int(np.argmax(power)), power.shape)
        found.append((float(ky[j, 0]), float(kx[0, i])))
        power[np.hypot(ky - ky[j, 0], kx - kx[0, i]) < 2 * width] = 0.0
    return found
