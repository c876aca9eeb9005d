"""Two ways to draw ferroelectric domains: thresholds of a Gaussian random field, and an Allen-Cahn phase field.

They share nothing but their answer, so that what was trained on one can be tested on the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

_GRID = 256  # of the phase field; its walls are some cells wide and are drawn finer afterwards
_STEPS, _DT = 80, 0.5
_GRADIENTS, _ELASTIC, _BALANCE = (1.5, 0.5), 1.2, 1.5


@dataclass(frozen=True)
class Domains:
    """up (n, n) int8: +1 or -1, the side that the polarisation leans to. in_plane (n, n) bool: it lies in the film.

    Where `up` changes is a 180 degree wall, where `in_plane` changes a 90 degree one. Rows are y.
    """

    up: NDArray[np.int8]
    in_plane: NDArray[np.bool_]


def gaussian_field(rng: np.random.Generator, n: int, length: float) -> NDArray[np.float64]:
    """Return a periodic Gaussian random field (n, n), mean 0, deviation 1, correlated over `length` [cells]."""
    white = fft.rfft2(rng.standard_normal((n, n)), workers=1)
    ky, kx = np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n)[None, :]
    white *= np.exp(-((2 * np.pi * length) ** 2) * (kx**2 + ky**2) / 4)
    field = fft.irfft2(white, s=(n, n), workers=1)
    made: NDArray[np.float64] = (field - field.mean()) / field.std()
    return made


@lru_cache(maxsize=4)
def draw(kind: str, seed: int, n: int, size: float, in_plane: float) -> Domains:
    """Return domains on (n, n) cells. size: of a domain [cells]. in_plane: share of the area."""
    made = random_field(seed, n, size, in_plane) if kind == "random_field" else phase_field(seed, n, size, in_plane)
    made.up.flags.writeable = made.in_plane.flags.writeable = False
    return made


def random_field(seed: int, n: int, size: float, in_plane: float) -> Domains:
    """Up where a Gaussian field is positive; needles of in-plane polarisation along two directions across it."""
    rng = np.random.default_rng([seed, 11])
    field = gaussian_field(rng, n, size / 2) + 0.08 * gaussian_field(rng, n, max(2.0, size / 10))
    up = np.where(field > 0, 1, -1).astype(np.int8)
    return Domains(up, _needles(rng, n, size, in_plane))


def _needles(rng: np.random.Generator, n: int, size: float, share: float) -> NDArray[np.bool_]:
    """Return spindles along one of two crystal directions, in bundles, until they cover `share`."""
    mask = np.zeros((n, n), bool)
    y, x = np.mgrid[0:n, 0:n]
    angle = rng.uniform(0.15, 0.6)
    for _ in range(400):
        if mask.mean() >= share:
            break
        turned = angle + (np.pi / 2 if rng.random() < 0.35 else 0.0)
        c, s = np.cos(turned), np.sin(turned)
        centre = rng.uniform(0, n, 2)
        pitch = rng.uniform(0.25, 0.5) * size
        for number in range(int(rng.integers(1, 5))):
            length, width = rng.uniform(0.8, 3.0) * size, rng.uniform(0.06, 0.14) * size
            along = (x - centre[0]) * c + (y - centre[1]) * s + rng.normal(0, 0.2) * size
            across = -(x - centre[0]) * s + (y - centre[1]) * c - number * pitch
            mask |= np.abs(across) < width / 2 * np.sqrt(np.clip(1 - (2 * along / length) ** 2, 0, 1))
    return mask


def phase_field(seed: int, n: int, size: float, in_plane: float) -> Domains:
    """Relax two order parameters from noise (Allen and Cahn, Acta Metall. 27 (1979) 1085).

    One is the side that the polarisation leans to, with random local fields that pin its walls. The other says where
    it lies in the film: a long-range elastic energy, as Khachaturyan's, wants its walls along two directions, and its
    mean is held at the share that was asked for.
    """
    rng = np.random.default_rng([seed, 12])
    m = _GRID
    scaled = size * m / n
    ky, kx = np.fft.fftfreq(m)[:, None], np.fft.rfftfreq(m)[None, :]
    k2 = (2 * np.pi) ** 2 * (kx**2 + ky**2)
    elastic = _ELASTIC * np.sin(2 * (np.arctan2(ky, kx) - rng.uniform(0.15, 0.6))) ** 2
    # single precision: the walls are some cells wide, and it is twice as fast
    fields = (0.4, scaled / 2.2), (0.3, scaled / 5), (0.05, 2.5)
    lean, lying, pinning = ((size * gaussian_field(rng, m, length)).astype(np.float32) for size, length in fields)
    target = 2 * in_plane - 1
    # nuclei of the other kind, or none would form where the share is small
    lying = np.where(lying > np.quantile(lying, 1 - in_plane), 1, -1).astype(np.float32)
    damp_lean, damp_lying = (1 / (1 + _DT * gradient * k2) for gradient in _GRADIENTS)
    damp_lean = damp_lean.astype(np.float32)
    damp_lying = (damp_lying / (1 + _DT * elastic)).astype(np.float32)
    for _ in range(_STEPS):
        push = lean - lean * lean * lean + pinning
        lean = fft.irfft2(damp_lean * fft.rfft2(lean + _DT * push, workers=1), s=(m, m), workers=1)
        push = lying - lying * lying * lying - _BALANCE * np.float32(lying.mean() - target)
        spectrum = fft.rfft2(lying + _DT * push, workers=1)
        lying = fft.irfft2(damp_lying * spectrum, s=(m, m), workers=1)
    finer = {"order": 1, "mode": "grid-wrap", "grid_mode": True}
    up = ndimage.zoom(lean, n / m, **finer) > 0
    flat = ndimage.zoom(lying, n / m, **finer)
    threshold = np.quantile(flat, 1 - in_plane) if in_plane > 0 else np.inf
    return Domains(np.where(up, 1, -1).astype(np.int8), flat > max(threshold, flat.min()))
