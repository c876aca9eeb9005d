"""What the frame score learns to call strange: pictures of the training generator that something is wrong with.

No shift here is one of those that the score is judged by (`foreign`: another geometry and wall profile, a second
apex, ringing feedback, much noise, inverted contrast). They are of other kinds: what was chosen or learned on them
holds for those only as far as being strange has something in common.
"""

from __future__ import annotations

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

from .lamellae import lamellae

Field = NDArray[np.float64]
PROXIES = ("saturated", "defocused", "speckle", "lattice", "reflected", "dust", "slipped", "magnified", "minified",
           "quantised", "impulses", "swirled", "derivative", "stretched")  # fmt: skip


def proxy(rng: np.random.Generator, kind: str, size: int = 128) -> NDArray[np.float32]:
    """Return a picture (size, size) of the training generator with one of PROXIES.

    saturated: the gain is too high. defocused: blurred, then noise. speckle: multiplied with grain of some pixels.
    lattice: a fine lattice on top. reflected: the signal comes again later in the line. dust: bright blobs. slipped:
    every other line is shifted. magnified, minified: three times too large or small. quantised: a few grey levels.
    impulses: single wild pixels. swirled: walls bent round. derivative: the slope along the line. stretched: along
    one axis alone.
    """
    x = lamellae(rng, 3 * size if kind == "minified" else size).values.astype(np.float64)
    low, middle, high = np.percentile(x, [5, 50, 95])
    contrast = high - low
    if kind == "saturated":
        x = np.tanh((x - low) / contrast * rng.uniform(3, 6))
    elif kind == "defocused":
        x = ndi.gaussian_filter(x, rng.uniform(2.5, 4)) + rng.normal(0, 0.03 * contrast, x.shape)
    elif kind == "speckle":
        grain = ndi.gaussian_filter(rng.normal(size=x.shape), rng.uniform(0.8, 1.8))
        x = middle + (x - middle) * (1 + rng.uniform(0.4, 0.8) * grain / grain.std())
    elif kind == "lattice":
        x = x + rng.uniform(0.08, 0.2) * contrast * _lattice(rng, size)
    elif kind == "reflected":
        away, share = int(rng.integers(4, 12)), rng.uniform(0.3, 0.6)
        x = x + share * np.concatenate([np.repeat(x[:, :1], away, axis=1), x[:, :-away]], axis=1)
    elif kind == "dust":
        x = x + contrast * _dust(rng, size)
    elif kind == "slipped":
        x = x.copy()
        x[1::2] = np.roll(x[1::2], int(rng.integers(2, 5)), axis=1)
    elif kind == "magnified":
        piece = x[size // 3 : size // 3 + size // 3 + 1, size // 3 : size // 3 + size // 3 + 1]
        x = ndi.zoom(piece, size / len(piece), order=1) + rng.normal(0, 0.03 * contrast, (size, size))
    elif kind == "minified":
        x = x.reshape(size, 3, size, 3).mean(axis=(1, 3)) + rng.normal(0, 0.03 * contrast, (size, size))
    elif kind == "quantised":
        x = np.round((x - low) / contrast * int(rng.integers(4, 7)))
    elif kind == "impulses":
        where = rng.random(x.shape) < rng.uniform(0.02, 0.06)
        x = np.where(where, rng.uniform(low, high, x.shape), x)
    elif kind == "swirled":
        x = _swirled(rng, x)
    elif kind == "derivative":
        x = np.gradient(ndi.gaussian_filter(x, 0.7), axis=1)
    elif kind == "stretched":
        x = ndi.zoom(x[: size // 3 + 1], (size / (size // 3 + 1), 1), order=1)
    return x.astype(np.float32)


def _lattice(rng: np.random.Generator, size: int) -> Field:
    y, x = np.mgrid[0:size, 0:size]
    period, turned = rng.uniform(3, 7), rng.uniform(0, np.pi)
    made: Field = np.zeros((size, size))
    for angle in (turned, turned + rng.uniform(1.0, 2.1)):
        made += np.cos(2 * np.pi * (np.cos(angle) * x + np.sin(angle) * y) / period)
    return made


def _dust(rng: np.random.Generator, size: int) -> Field:
    y, x = np.mgrid[0:size, 0:size]
    made = np.zeros((size, size))
    for _ in range(int(rng.integers(6, 16))):
        at, radius = rng.uniform(0, size, 2), rng.uniform(1.5, 4)
        made += rng.uniform(0.5, 1.2) * np.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2) / (2 * radius**2))
    return made


def _swirled(rng: np.random.Generator, values: Field) -> Field:
    size = len(values)
    y, x = np.mgrid[0:size, 0:size] - (size - 1) / 2
    away = np.hypot(y, x)
    turned = rng.choice([-1, 1]) * rng.uniform(2, 4) * np.exp(-away / (0.25 * size))
    at = np.stack([np.cos(turned) * y - np.sin(turned) * x, np.sin(turned) * y + np.cos(turned) * x])
    made: Field = ndi.map_coordinates(values, at + (size - 1) / 2, order=1, mode="mirror")
    return made
