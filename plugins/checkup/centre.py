"""Where the undiffracted disc is, how large, and which pixels of the camera are dead or hot."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label, median_filter

Image = NDArray[np.float64]
_EDGES = (4.0, 2.8, 2.0, 1.4, 1.0, 0.7, 0.5, 0.35, 0.25, 0.17, 0.12)  # widths of the disc's edge [px]
_ENOUGH = 25.0  # electrons that the neighbours of a pixel must have before it can be called dead


@dataclass(frozen=True)
class Disc:
    """A disc of even intensity. centre (ky, kx), radius, their sigma [px]; total, plateau: counts; ellipticity.

    ellipticity: long over short axis, less 1. clipped: it touches the edge of the camera. width [px], power: of the
    edge (see find_disc).
    """

    centre: tuple[float, float]
    radius: float
    sigma: float
    total: float
    plateau: float
    ellipticity: float
    clipped: bool
    width: float = 1.0
    power: int = 1


def mended(image: Image, bad: NDArray[np.bool_]) -> Image:
    """Return the image with its bad pixels replaced by the median of their neighbours."""
    if not bad.any():
        return image
    return np.where(bad, median_filter(np.where(bad, np.median(image), image), 3), image)


def find_disc(image: Image, frames: int = 1) -> Disc | None:
    """Return the disc in a mean pattern (ky, kx) [counts] of `frames` exposures, or None where there is none.

    First by moments, then by the least-squares fit of clip((radius - r) / width + 1/2) ** power, which of the widths
    and powers fits best being part of it: a sharp edge sampled at points makes the moments jump by a hundredth of the
    radius, and an edge that is soft in amplitude (power 2) lies inside that of one which is soft in intensity (1).
    """
    image = np.asarray(image, np.float64)
    smooth = median_filter(image, 3)
    ground = float(np.median(smooth))
    top = float(np.percentile(smooth, 99.8))
    if not top > ground or top * frames < 10:
        return None
    above = smooth > ground + 0.5 * (top - ground)
    parts, count = label(above)
    if not count:
        return None
    sizes = np.bincount(parts.ravel())[1:]
    disc = parts == 1 + int(np.argmax(sizes))
    if disc.sum() < 12:
        return None
    y, x = np.meshgrid(*(np.arange(size, dtype=np.float64) for size in image.shape), indexing="ij")
    centre = np.array([y[disc].mean(), x[disc].mean()])
    radius = math.sqrt(disc.sum() / math.pi)
    for _ in range(4):
        distance = np.hypot(y - centre[0], x - centre[1])
        around = (distance > radius + 3) & (distance < radius + 7)
        ground = float(image[around].mean()) if around.any() else ground
        inside = distance < radius + 2.5
        plateau = float(np.median(image[distance < 0.8 * radius])) - ground
        values = np.where(inside, image - ground, 0.0)
        total = float(values.sum())
        if not total > 0 or not plateau > 0:
            return None
        centre = np.array([(values * y).sum(), (values * x).sum()]) / total
        core = image[distance < 0.8 * radius] - ground
        plateau = float(core.mean())
        radius = math.sqrt(total / (math.pi * plateau))
    edge = image - ground
    centre, radius, width, power = _fitted(edge / plateau, centre, radius)
    dy, dx = y - centre[0], x - centre[1]
    second = np.array([[(values * dy * dy).sum(), (values * dy * dx).sum()], [0.0, (values * dx * dx).sum()]]) / total
    second[1, 0] = second[0, 1]
    small, large = np.sqrt(np.maximum(np.linalg.eigvalsh(second), 1e-12))
    counted = max(total * frames, 1.0)
    room = min(*centre, *(np.array(image.shape) - 1 - centre))
    return Disc(
        (float(centre[0]), float(centre[1])),
        radius,
        max(0.5 * radius / math.sqrt(counted), 0.004),  # half a hundredth of a pixel: from the grid itself
        total,
        plateau,
        float(large / small - 1),
        bool(room < radius),
        width,
        power,
    )


def _fitted(
    image: Image, centre: NDArray[np.float64], radius: float
) -> tuple[NDArray[np.float64], float, float, int]:
    """Return centre, radius, width of the edge [px] and its power, of the disc of height 1 that fits best."""
    from scipy.optimize import minimize  # takes a second to import: not at the start of a rig

    reach = radius + 5
    y0, x0 = (max(0, int(c - reach)) for c in centre)
    part = image[y0 : int(centre[0] + reach) + 2, x0 : int(centre[1] + reach) + 2]
    y, x = np.arange(part.shape[0])[:, None] + y0, np.arange(part.shape[1])[None, :] + x0

    def misfit(v: NDArray[np.float64], width: float, power: int) -> float:
        model = np.clip((v[2] - np.hypot(y - v[0], x - v[1])) / width + 0.5, 0, 1) ** power
        return float(((part - model) ** 2).sum())

    start = np.array([*centre, radius])
    best = (np.inf, start, 1.0, 1)
    for power in (1, 2):
        value = start
        for width in _EDGES:
            simplex = value + np.vstack([np.zeros(3), 0.25 * min(width, 1.0) * np.eye(3)])
            options = {"initial_simplex": simplex, "xatol": 1e-3, "fatol": 1e-9, "maxfev": 200}
            value = minimize(misfit, value, args=(width, power), method="Nelder-Mead", options=options).x
            if (left := misfit(value, width, power)) < best[0]:
                best = (left, value, width, power)
    return np.asarray(best[1][:2]), float(best[1][2]), best[2], best[3]


def hot_pixels(dark: Image, variance: Image) -> NDArray[np.bool_]:
    """Return which pixels (ky, kx) count in the dark: above the rest by 6 robust deviations and by 0.05 counts."""
    middle = np.median(dark)
    spread = 1.4826 * float(np.median(np.abs(dark - middle)))
    noise = np.sqrt(np.maximum(np.median(variance), 0.0))
    return np.asarray(dark - middle > np.maximum(6 * max(spread, 0.1 * noise), 0.05))


def dead_pixels(lit: Image, frames: int) -> tuple[NDArray[np.bool_], float]:
    """Return which pixels (ky, kx) count less than a quarter of their neighbours, and the share that could be judged.

    lit: mean counts of `frames` exposures that reach all of the camera.
    """
    around = median_filter(lit, 5)
    judged = around * frames >= _ENOUGH
    return np.asarray(judged & (lit < 0.25 * around)), float(judged.mean())
