"""What the plan asks of maps: pure functions that return a few numbers (docs/decisions/0005)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bragg import camera_angle
from .centre import Disc, dead_pixels, find_disc, hot_pixels, mended
from .interference import UNSEEN, Lens, Probe, fit_lens, object_image
from .lattice import NOTHING, Power, fit_lattice
from .rotation import NO_TURN, turn_from_curl

MOST_NAMED = 200  # bad pixels that are told by place
SMALL = 64  # pixels a side of an image that is handed to the plan
Flat = tuple[float, ...]
Reading = Callable[[NDArray[Any]], Flat]


@dataclass(frozen=True)
class Totals:
    """Of a scan: exposure [s], time on the instrument's clock [s], counts a frame, electrons that were told."""

    frames: float
    exposure: float
    time: float
    counts: float
    variance: float
    told: float
    saturated: float


def totals(values: NDArray[Any]) -> Flat:
    """Return the seven totals of `MeanPattern`."""
    return tuple(map(float, values.ravel()[:7])) if values.size == 7 else (0.0,) * 7


def hot(pattern: NDArray[Any]) -> Flat:
    """Return of a dark reference (2, ky, kx): mean, noise of a frame, number of hot pixels, and where (y, x, ...)."""
    if pattern.ndim != 3:
        return 0.0, 0.0, 0.0
    bad = hot_pixels(pattern[0], pattern[1])
    places = np.argwhere(bad)
    level = float(np.median(pattern[0]))
    noise = float(np.sqrt(np.median(pattern[1])))
    return level, noise, float(len(places)), *map(float, places[:MOST_NAMED].ravel())


def disc_reading(frames: int, hot_places: tuple[tuple[int, int], ...]) -> Reading:
    """Find the disc of a vacuum probe in a mean pattern of `frames`; hot places are mended first."""

    def read_disc(pattern: NDArray[Any]) -> Flat:
        if pattern.ndim != 3:
            return (0.0,) * 10
        found = find_disc(mended(pattern[0], _mask(hot_places, pattern.shape[1:])), frames)
        if found is None:
            return (0.0,) * 10
        return (*found.centre, found.radius, found.sigma, found.total, found.plateau, found.ellipticity,
                float(found.clipped), found.width, float(found.power))  # fmt: skip

    return read_disc


def disc_of(flat: Flat) -> Disc | None:
    """Read what a disc reading made: None where there is no disc."""
    if not flat[2] > 0:
        return None
    radius, sigma, total, plateau, ellipticity = flat[2:7]
    clipped, width, power = bool(flat[7]), flat[8], int(flat[9])
    return Disc((flat[0], flat[1]), radius, sigma, total, plateau, ellipticity, clipped, width, power)


def dead_reading(frames: int) -> Reading:
    """Find pixels that stay dark where a scan lights their neighbours: number, share judged, places (y, x, ...)."""

    def read_dead(pattern: NDArray[Any]) -> Flat:
        if pattern.ndim != 3:
            return 0.0, 0.0
        bad, judged = dead_pixels(pattern[0], frames)
        places = np.argwhere(bad)
        return float(len(places)), judged, *map(float, places[:MOST_NAMED].ravel())

    return read_dead


def lattice_reading(
    cell: NDArray[np.float64], step: tuple[float, float], chosen: tuple[int, ...] | None = None
) -> Reading:
    """Find a known lattice (columns of `cell` [1/m]) in a map; chosen: channels, None = all; step (y, x) [m]."""

    def read_lattice(values: NDArray[Any]) -> Flat:
        images = _images(values, chosen)
        return (NOTHING if images is None else fit_lattice(Power(images, step), cell)).flat()

    return read_lattice


def lens_reading(chosen: tuple[int, ...], probe: Probe, reflections: NDArray[np.float64]) -> Reading:
    """Find rotation, flip and lens in the pixels of the disc: the floats of a `Lens`."""

    def read_lens(values: NDArray[Any]) -> Flat:
        images = _images(values, chosen)
        return (UNSEEN if images is None else fit_lens(images, probe, reflections)).flat()

    return read_lens


def curl_reading(step: tuple[float, float], reflections: NDArray[np.float64]) -> Reading:
    """Find rotation and flip in the mean deflection, which the map's last three channels hold: a `Turn`'s floats.

    The dark field is what falls outside the box around the disc: at its rim atoms may be dark.
    """

    def read_curl(values: NDArray[Any]) -> Flat:
        if values.ndim != 3 or values.shape[2] < 4 or not np.isfinite(values).all():
            return NO_TURN.flat()
        total = np.maximum(values[..., -3:-2].astype(np.float64), 1.0)
        dark = total[..., 0] - values[..., :-3].sum(axis=2, dtype=np.float64)
        return turn_from_curl(values[..., -2:] / total, dark, reflections, step).flat()

    return read_curl


def object_reading(chosen: tuple[int, ...], probe: Probe, lens: Lens) -> Reading:
    """Return the specimen as the whole disc sees it, the lens's phases taken out: ny, nx, then its pixels."""

    def read_object(values: NDArray[Any]) -> Flat:
        images = _images(values, chosen)
        if images is None:
            return (0.0, 0.0)
        made = object_image(images, probe, lens)
        return float(made.shape[0]), float(made.shape[1]), *map(float, made.ravel())

    return read_object


def plain_image(values: NDArray[Any]) -> Flat:
    """Return a map of any sort as ny, nx, pixels: its first channel's magnitude, thinned to 64 a side."""
    if values.ndim < 2:
        return (0.0, 0.0)
    image = values.reshape(*values.shape[:2], -1)[..., 0]
    image = np.abs(image) if np.iscomplexobj(image) else image
    by = [max(1, -(-size // SMALL)) for size in image.shape]
    ny, nx = (size // b for size, b in zip(image.shape, by, strict=True))
    small = image[: ny * by[0], : nx * by[1]].reshape(ny, by[0], nx, by[1]).mean(axis=(1, 3))
    known = np.isfinite(small)
    filled = np.where(known, small, small[known].mean() if known.any() else 0.0)
    return float(ny), float(nx), *map(float, filled.ravel())


def image_of(flat: Flat) -> NDArray[np.float64] | None:
    """Read what `plain_image` or an object reading made: None where there is no image."""
    ny, nx = int(flat[0]), int(flat[1])
    return np.reshape(flat[2:], (ny, nx)) if ny * nx and len(flat) == 2 + ny * nx else None


def bragg_reading(
    frames: int, disc: Disc, reflections: NDArray[np.float64], angle: float, wavelength: float
) -> Reading:
    """Find the angle of a pixel in the Bragg discs: angle, sigma [rad], contrast; zeros where none is seen."""

    def read_bragg(pattern: NDArray[Any]) -> Flat:
        found = None if pattern.ndim != 3 else camera_angle(pattern[0], frames, disc, reflections, angle, wavelength)
        return (0.0, 0.0, 0.0) if found is None else (found.angle, found.sigma, found.contrast)

    return read_bragg


def _images(values: NDArray[Any], chosen: tuple[int, ...] | None) -> NDArray[Any] | None:
    """Return (ny, nx, K) without a hole in it, or None: a pixel that is missing gets its channel's mean."""
    if values.ndim < 2 or min(values.shape[:2]) < 16:
        return None
    images = values.reshape(*values.shape[:2], -1)
    if chosen is not None:
        if max(chosen, default=0) >= images.shape[2]:
            return None
        images = images[..., list(chosen)]
    images = np.abs(images) if np.iscomplexobj(images) else images
    missing = ~np.isfinite(images)
    if missing.mean() > 0.05:
        return None
    return np.where(missing, np.nanmean(images, axis=(0, 1)), images) if missing.any() else images


def _mask(places: tuple[tuple[int, int], ...], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    made = np.zeros(shape, bool)
    for y, x in places:
        made[y, x] = True
    return made
