"""The second generator, for scoring alone: pictures unlike those that the networks were trained on.

Domains grow by threshold dynamics (Merriman, Bence and Osher, 1992: blur every domain, give each pixel to the
strongest) with needle domains cut into them. The profile of a wall is that of a Gaussian probe (an error function),
taken at three times the resolution. No field, no profile and no artefact comes from the training generator. SHIFTS
names what is further wrong with a picture.
"""

from __future__ import annotations

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

from .picture import Mask, Picture, between, finished

Field = NDArray[np.float64]
SHIFTS = ("second_generator", "double_tip", "ringing", "noisy", "inverted")
_FINE = 3  # pixels of the model in one of the picture, odd: centres coincide


def foreign(rng: np.random.Generator, size: int = 128, shift: str = "second_generator") -> Picture:
    """Return a picture (size, size) with one of SHIFTS.

    double_tip: a second apex shows all again, weaker, some pixels away. ringing: the feedback overshoots after every
    edge along the line. noisy: contrast over sigma of the noise between 1 and 2. inverted: bright is dark.
    """
    labels = _grown(rng, size)
    labels = _needles(rng, labels)
    line = _line(labels)
    width = float(rng.uniform(0.7, 1.8))
    clean, response = _seen(rng, labels, width)
    if shift == "double_tip":
        clean, response = _twice(rng, clean, response)
    contrast = float(np.subtract(*np.percentile(clean, [95, 5])))
    noise = contrast / float(rng.uniform(1, 2) if shift == "noisy" else rng.uniform(6, 30))
    measured = np.abs(response + rng.normal(0, noise, clean.shape) + 1j * rng.normal(0, noise, clean.shape))
    clean = np.sqrt(clean**2 + np.pi / 2 * noise**2)  # what is left of a contrast below the noise
    if shift == "ringing":
        measured = _rung(rng, measured)
    measured += contrast * rng.uniform(0, 0.05) * np.sin(np.arange(size) * rng.uniform(0.3, 2))[:, None]  # mains hum
    if shift == "inverted":
        clean, measured = -clean, -measured
    return finished(clean, measured, line, noise, width, shift)


def _grown(rng: np.random.Generator, size: int) -> NDArray[np.int64]:
    """Return which domain every fine pixel is in, after some steps of growth."""
    count, scale = int(rng.integers(3, 7)), rng.uniform(3.0, 7.0)
    long = rng.uniform(1.0, 2.5)  # domains are longer one way
    strength = ndi.gaussian_filter(rng.normal(size=(count, size, size)), (0, scale, scale * long))
    labels = strength.argmax(axis=0)
    for _ in range(4):
        shares = [(labels == k).astype(np.float64) for k in range(count)]
        strength = np.stack([ndi.gaussian_filter(each, (0.5 * scale, 0.5 * scale * long)) for each in shares])
        labels = strength.argmax(axis=0)
    # the grid of the model begins and ends half a picture pixel outside: each pixel's centre is a fine one
    at = (np.arange(size * _FINE) - (_FINE - 1) / 2) / _FINE
    grid = np.meshgrid(at, at, indexing="ij")
    fine = np.stack([ndi.map_coordinates(each, grid, order=1, mode="nearest") for each in strength])
    made: NDArray[np.int64] = fine.argmax(axis=0)
    return made


def _needles(rng: np.random.Generator, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cut wedges that end in a point into the domains."""
    fine = len(labels)
    y, x = np.mgrid[0:fine, 0:fine] / _FINE
    made, size = labels.copy(), fine / _FINE
    angle = rng.uniform(0, np.pi)
    for i in range(int(rng.integers(0, 5))):
        turned = angle + (np.pi if rng.random() < 0.5 else 0.0)
        tip = rng.uniform(0.15, 0.85, 2) * size
        along = (x - tip[0]) * np.cos(turned) + (y - tip[1]) * np.sin(turned)
        across = -(x - tip[0]) * np.sin(turned) + (y - tip[1]) * np.cos(turned)
        broad = rng.uniform(4, 9)
        inside = (along > 0) & (np.abs(across) < np.minimum(broad, along * rng.uniform(0.08, 0.2)))
        made[inside] = 10 + i
    return made


def _line(labels: NDArray[np.int64]) -> Mask:
    """Return the wall's line on the picture's own grid."""
    edge = between(labels, np.zeros(labels.shape))
    away = ndi.distance_transform_edt(~edge)
    middle = slice(_FINE // 2, None, _FINE)
    return between(labels[middle, middle], away[middle, middle])


def _seen(rng: np.random.Generator, labels: NDArray[np.int64], width: float) -> tuple[Field, NDArray[np.complex128]]:
    """Return modulus and complex response of the domains, as a Gaussian probe sees them."""
    size = rng.uniform(0.35, 1.0, 20)
    sign = rng.choice([1.0, -1.0], 20)
    values = (size * sign)[labels]
    blurred = ndi.gaussian_filter(values, width * _FINE)
    picture = blurred[_FINE // 2 :: _FINE, _FINE // 2 :: _FINE]
    slow = ndi.zoom(rng.uniform(0.6, 1.2, (4, 4)), len(picture) / 4, order=3)[: len(picture), : len(picture)]
    response = picture * slow + 0.05j * rng.uniform(0, 1)
    return np.abs(response), response


def _twice(
    rng: np.random.Generator, clean: Field, response: NDArray[np.complex128]
) -> tuple[Field, NDArray[np.complex128]]:
    away, share = rng.uniform(4, 10), rng.uniform(0.4, 0.7)
    angle = rng.uniform(0, 2 * np.pi)
    by = (away * np.sin(angle), away * np.cos(angle))
    again = ndi.shift(response.real, by, order=1, mode="nearest") + 1j * response.imag
    both = (response + share * again) / (1 + share)
    return np.abs(both), both


def _rung(rng: np.random.Generator, measured: Field) -> Field:
    period, decay = rng.uniform(4, 9), rng.uniform(4, 10)
    t = np.arange(40)
    answer = np.exp(-t / decay) * np.cos(2 * np.pi * t / period)
    answer *= rng.uniform(0.5, 0.9) / answer[0]
    edges = np.diff(measured, axis=1, prepend=measured[:, :1])
    rings = np.apply_along_axis(lambda row: np.convolve(row, answer)[: len(row)], 1, edges)
    made: Field = measured + rings
    return made
