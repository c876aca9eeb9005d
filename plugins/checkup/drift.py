"""How far one image lies from another, and how fast that grows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft as sf
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Registration:
    """shift (x, y) [px] from the first image to the second, its sigma [px], and the correlation there (0-1)."""

    shift: tuple[float, float]
    sigma: float
    correlation: float


def register(first: Array, second: Array, most: float = math.inf) -> Registration:
    """Return how far the content of `second` lies from that of `first`, both (ny, nx), by their correlation.

    most: the largest shift looked for [px]: in a lattice, less than half a cell, or it is found a cell off.
    """
    ny, nx = first.shape
    window = np.hanning(ny + 2)[1:-1, None] * np.hanning(nx + 2)[None, 1:-1]

    def spectrum(image: Array) -> NDArray[np.complex128]:
        known = np.isfinite(image)
        mean = float(image[known].mean()) if known.any() else 0.0
        return np.asarray(sf.fft2(np.where(known, image - mean, 0.0) * window))

    a, b = spectrum(first), spectrum(second)
    cross = b * a.conj()
    fy, fx = sf.fftfreq(ny)[:, None], sf.fftfreq(nx)[None, :]
    scale = math.sqrt(float((np.abs(a) ** 2).sum()) * float((np.abs(b) ** 2).sum()))
    if not scale > 0:
        return Registration((0.0, 0.0), math.inf, 0.0)
    padded = np.zeros((4 * ny, 4 * nx), complex)
    padded[np.ix_(np.round(fy[:, 0] * ny).astype(int), np.round(fx[0] * nx).astype(int))] = cross
    correlation = sf.ifft2(padded).real
    y4, x4 = np.round(sf.fftfreq(4 * ny) * 4 * ny)[:, None] / 4, np.round(sf.fftfreq(4 * nx) * 4 * nx)[None, :] / 4
    near = np.where(np.hypot(y4, x4) <= most, correlation, -np.inf)
    j, i = np.unravel_index(int(np.argmax(near)), near.shape)
    y, x = float(y4[j, 0]), float(x4[0, i])
    for _ in range(8):
        turned = cross * np.exp(2j * np.pi * (fy * y + fx * x))
        gradient = np.array([float((2 * np.pi * f * turned.imag).sum()) for f in (fy, fx)])
        curved = np.array(
            [[float(((2 * np.pi) ** 2 * f * g * turned.real).sum()) for g in (fy, fx)] for f in (fy, fx)]
        )
        if not np.linalg.det(curved) > 0:
            break
        dy, dx = np.linalg.solve(curved, gradient)
        if math.hypot(dy, dx) > 1:
            break
        y, x = y - float(dy), x - float(dx)
    top = float((cross * np.exp(2j * np.pi * (fy * y + fx * x))).real.sum()) / scale
    top = min(max(top, 0.0), 1.0)
    slope = math.sqrt(float(((2 * np.pi) ** 2 * (fy**2 + fx**2) * np.abs(cross)).sum()) / float(np.abs(cross).sum()))
    share = math.sqrt(max(1 - top**2, 1e-6) / max(top**2, 1e-6) / (0.3 * ny * nx))
    return Registration((x, y), max(share / max(slope, 1e-9), 0.005), top)


def rate(times: Array, shifts: Array, sigma: float) -> tuple[tuple[float, float], float]:
    """Return the drift (x, y) [m/s] and its sigma, from shifts (N, 2) [m], each +- sigma, at times (N,) [s]."""
    moment = times - times.mean()
    spread = float((moment**2).sum())
    if not spread > 0:
        return (0.0, 0.0), math.inf
    slope = (moment[:, None] * shifts).sum(axis=0) / spread
    left = shifts - shifts.mean(axis=0) - moment[:, None] * slope
    scatter = math.sqrt(float((left**2).sum()) / (2 * max(1, len(times) - 2)))
    return (float(slope[0]), float(slope[1])), max(sigma, scatter) / math.sqrt(spread)
