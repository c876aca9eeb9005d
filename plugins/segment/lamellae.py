"""The generator that the networks are trained on: lamellae, antiparallel domains and grains of a ferroic film.

Ferroelastic walls are the zeros of sinusoids with a slow random phase; antiparallel (180 degree) walls the level line
of a random field; grain boundaries the edges of Voronoi cells. A wall's profile is a hyperbolic tangent. What a
piezoresponse force microscope then shows is the modulus of the complex response: it goes through zero at an
antiparallel wall (a dark line), steps at a ferroelastic one, and has the noise of a modulus where it is small.
"""

from __future__ import annotations

import msgspec
import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

from .picture import Mask, Picture, between, crossing, depth, finished, pink, waves

Field = NDArray[np.float64]
KINDS = ("amplitude", "signed", "topography", "grains")


class Ranges(msgspec.Struct, frozen=True):
    """What pictures are drawn from; the defaults are those of calibration and scoring.

    shares: of KINDS. width: of a wall's profile [px]. snr: contrast over sigma of the noise; that of a topography is
    at least 1.75 times the least. artefacts: what a scan adds, times this. period: of the domains, times this.
    """

    shares: tuple[float, ...] = (0.72, 0.07, 0.05, 0.16)
    width: tuple[float, float] = (0.6, 3.2)
    snr: tuple[float, float] = (8.0, 45.0)
    artefacts: float = 1.0
    period: float = 1.0


USUAL = Ranges()


def lamellae(rng: np.random.Generator, size: int = 128, kind: str | None = None, ranges: Ranges = USUAL) -> Picture:
    """Return a picture (size, size). kind: one of KINDS; None = by chance."""
    kind = kind or str(rng.choice(KINDS, p=ranges.shares))
    x, y = _places(rng, size)
    zoom = ranges.period * np.exp(rng.normal(0, 0.25)) * (size / 128) ** 0.25
    width = _between(rng, *ranges.width)
    zoom *= max(1.0, width / 1.6)  # broad walls are those of a closer look
    line = np.zeros((size, size), bool)
    gain, dip = np.ones((size, size)), np.ones((size, size))
    if kind == "grains" or rng.random() < 0.2:
        gain, away, edges = _cells(rng, x, y, int(rng.integers(3, 14)), width)
        line |= edges
        dip -= rng.uniform(0.25, 0.9) / np.cosh(np.minimum(away / width, 20)) ** 2
    if kind == "topography":
        clean, more = _heights(rng, x, y, zoom)
        clean = clean + 0.15 * waves(rng, x, y, 30 * zoom, 16) * clean.std()
        line = more
    elif kind == "grains":
        texture = 0.04 * waves(rng, x, y, 20 * zoom, 16)
        clean = gain * dip + texture
    else:
        response, more = _response(rng, x, y, zoom, width)
        line |= more
        response = response * gain * dip
        blur = rng.uniform(0.3, 1.0) * max(1.0, 0.6 * width)
        response = ndi.gaussian_filter(response.real, blur) + 1j * ndi.gaussian_filter(response.imag, blur)
        clean = np.abs(response) if kind == "amplitude" else response.real
    if kind != "amplitude" and kind != "signed":
        clean = ndi.gaussian_filter(clean, rng.uniform(0.3, 0.8) * max(1.0, 0.6 * width))
    contrast = float(np.subtract(*np.percentile(clean, [95, 5])))
    low, high = ranges.snr
    noise = contrast / _between(rng, 1.75 * low if kind == "topography" else low, high)
    if kind == "amplitude":
        grain = rng.normal(0, noise, (2, size, size))
        measured = np.abs(response + grain[0] + 1j * grain[1])
        clean = np.sqrt(clean**2 + np.pi / 2 * noise**2)  # what is left of a contrast below the noise
    else:
        measured = clean + rng.normal(0, noise, (size, size))
    return finished(clean, scanned(rng, measured, ranges.artefacts * contrast), line, noise, width, kind)


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """Return a number whose logarithm is uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _places(rng: np.random.Generator, size: int) -> tuple[Field, Field]:
    """Return where every pixel (x, y) [px] was really measured: drift along the scan, jitter of lines, bent axes."""
    rows = np.arange(size, dtype=np.float64)
    y, x = np.meshgrid(rows, rows, indexing="ij")
    drift = rng.normal(0, 0.04, 2)
    x = x + drift[0] * y
    y = y * (1 + drift[1])
    if rng.random() < 0.5:
        x = x + (rng.uniform(0, 0.35) * pink(rng, size, 1.0))[:, None]
    if rng.random() < 0.3:
        x = x + rng.uniform(0, 4) * np.exp(-x / (0.25 * size))  # creep at the start of a line
    return x, y


def _response(rng: np.random.Generator, x: Field, y: Field, zoom: float, width: float) -> tuple[Field, Mask]:
    """Return the complex response and the walls in it."""
    line = np.zeros(x.shape, bool)
    size = np.ones(x.shape)
    turned = np.zeros(x.shape)
    what = rng.random()
    if what < 0.8:  # ferroelastic lamellae, of one or two families
        room = waves(rng, x, y, 90 * zoom)  # a family fills a part of the picture
        for sign in (1, -1) if rng.random() < 0.3 else (1,):
            angle = rng.uniform(0, np.pi)
            period = zoom * np.exp(rng.uniform(np.log(16), np.log(60)))
            phase = 2 * np.pi * (np.cos(angle) * x + np.sin(angle) * y) / period
            phase += rng.uniform(0.2, 1.5) * waves(rng, x, y, 3.5 * period + 30)
            where = room + abs(rng.normal(0.0, 0.7)) if sign > 0 else -room - 0.8
            level = np.cos(phase) - rng.uniform(-0.6, 0.6) + 4 * np.minimum(where, 0)  # and ends in needles
            line |= crossing(level)
            side = 0.5 * (1 + np.tanh(depth(level) / width))
            size *= 1 - (1 - rng.uniform(0.05, 0.55)) * side
            turned += side * rng.normal(0, 0.25)
    if what > 0.35:  # antiparallel domains
        level = waves(rng, x, y, zoom * np.exp(rng.uniform(np.log(16), np.log(70))), 20)
        level = level - rng.normal(0.4, 0.8)
        line |= crossing(level)
        up = np.tanh(depth(level) / width)
        size = size * up * np.where(up > 0, 1.0, rng.uniform(0.5, 1.0))
    if rng.random() < 0.45:  # in-plane regions with next to no response, and no sharp edge
        patches = waves(rng, x, y, zoom * rng.uniform(60, 150)) - rng.normal(-0.3, 0.8)
        least = rng.uniform(0.02, 0.4)
        size = size * (least + (1 - least) / (1 + np.exp(-patches * rng.uniform(1.5, 5))))
    size = size * np.exp(
        rng.uniform(0, 0.7) * waves(rng, x, y, 60 * zoom) + rng.uniform(0, 0.06) * waves(rng, x, y, 12)
    )
    offset = rng.uniform(0, 0.12) * np.exp(1j * rng.uniform(0, 2 * np.pi))
    return size * np.exp(1j * turned) + offset, line


def _cells(rng: np.random.Generator, x: Field, y: Field, count: int, width: float) -> tuple[Field, Field, Mask]:
    """Return the gain of every Voronoi cell, blended at the boundaries, the distance [px] from these, and these."""
    size = x.shape[0]
    centres = rng.uniform(-0.2 * size, 1.2 * size, (count, 2))
    bend = rng.uniform(0, 2.5)
    xx = x + bend * waves(rng, x, y, 25)
    yy = y + bend * waves(rng, x, y, 25)
    squares = (xx[..., None] - centres[:, 0]) ** 2 + (yy[..., None] - centres[:, 1]) ** 2
    order = np.argpartition(squares, 1, axis=-1)[..., :2]
    two = np.take_along_axis(squares, order, -1)
    swap = two[..., 0] > two[..., 1]
    first, second = np.where(swap, order[..., 1], order[..., 0]), np.where(swap, order[..., 0], order[..., 1])
    apart = np.hypot(*(centres[first] - centres[second]).transpose(2, 0, 1))
    away = np.abs(two[..., 0] - two[..., 1]) / (2 * np.maximum(apart, 1e-6))
    gains = rng.uniform(0.55, 1.45, count)
    share = 0.5 * (1 + np.tanh(away / width))
    gain = gains[first] * share + gains[second] * (1 - share)
    return gain, away, between(first, away)


def _heights(rng: np.random.Generator, x: Field, y: Field, zoom: float) -> tuple[Field, Mask]:
    """Return the height of a surface that is kinked at ferroelastic walls, and these."""
    angle, period = rng.uniform(0, np.pi), zoom * rng.uniform(14, 45)
    phase = 2 * np.pi * (np.cos(angle) * x + np.sin(angle) * y) / period + rng.uniform(0, 1) * waves(
        rng, x, y, 4 * period
    )
    line = crossing(np.sin(phase))
    return np.arcsin(0.9999 * np.cos(phase)) * period / 20, line


def scanned(rng: np.random.Generator, measured: Field, contrast: float) -> Field:
    """Return the picture with what a scan adds: 1/f noise, steps between lines, gain, tilt, smear, lost lines."""
    size = len(measured)
    if rng.random() < 0.5:  # the time constant of the lock-in
        keep = np.exp(-1 / rng.uniform(0.2, 0.9))
        measured = _smeared(measured, keep)
    measured = measured + rng.uniform(0, 0.04) * contrast * pink(rng, size * size, 1.2).reshape(size, size)
    if rng.random() < 0.6:
        measured = measured + (rng.uniform(0, 0.06) * contrast * rng.normal(size=size))[:, None]
    if rng.random() < 0.5:
        measured = measured * (1 + rng.uniform(0, 0.25) * pink(rng, size, 2.0))[:, None]
    tilt = rng.normal(0, 0.3, 2) * contrast
    across = np.linspace(-0.5, 0.5, size)
    measured = measured + tilt[0] * across[:, None] + tilt[1] * across[None, :]
    for row in rng.integers(0, size, rng.poisson(0.4)):
        some = slice(int(rng.integers(0, size // 2)), int(rng.integers(size // 2, size)))
        measured[row, some] += rng.normal(0, 0.5) * contrast
    return measured


def _smeared(values: Field, keep: float) -> Field:
    """Return what a low-pass of first order makes of each line."""
    made = values.copy()
    for column in range(1, values.shape[1]):
        made[:, column] = (1 - keep) * values[:, column] + keep * made[:, column - 1]
    return made
