"""Length, orientation and curvature of a line of pixels, in metres.

A chain of pixels is up to 8 % longer than the line it stands for, and its angles are multiples of 45 degrees: it is
smoothed first by a polynomial of second order over 13 pixels (Savitzky and Golay, Anal. Chem. 36 (1964) 1627), which
gives the slope and the curvature at each of them too.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

WINDOW = 13  # pixels of a fit
_LEAST = 5  # pixels that have a curvature


@dataclass(frozen=True)
class Shape:
    """length [m], orientation [rad] of its main axis from x towards y, 0 to pi, curvature [1/m], middle (x, y) [m].

    curvature: mean magnitude over the length; NaN for a line of fewer than 5 pixels, orientation for a single one.
    """

    length: float
    orientation: float
    curvature: float
    middle: tuple[float, float]


def shape_of(places: Array, closed: bool = False) -> Shape:
    """Return the shape of a line through places (N, 2) (x, y) [m], in order."""
    n = len(places)
    if n == 1:
        return Shape(0.0, float("nan"), float("nan"), (float(places[0, 0]), float(places[0, 1])))
    smooth, curvature = smoothed(places, closed)
    around = np.concatenate([smooth, smooth[:1]]) if closed else smooth
    steps = np.hypot(*np.diff(around, axis=0).T)
    length = float(steps.sum())
    along = np.concatenate([[0.0], np.cumsum(steps)])[:n]
    middle = int(np.argmin(np.abs(along - length / 2)))
    turn = float("nan") if n < _LEAST else float(np.abs(curvature).mean())
    return Shape(length, orientation(smooth), turn, (float(places[middle, 0]), float(places[middle, 1])))


def orientation(places: Array) -> float:
    """Return the angle of the main axis of places (N, 2) (x, y) from x towards y, 0 <= angle < pi [rad]."""
    (xx, xy), (_, yy) = np.cov((places - places.mean(axis=0)).T, bias=True)
    return float(0.5 * np.arctan2(2 * xy, xx - yy)) % np.pi


def smoothed(places: Array, closed: bool = False) -> tuple[Array, Array]:
    """Return places (N, 2) [m] smoothed along the line, and its signed curvature there, (N,) [1/m]."""
    n = len(places)
    window = min(WINDOW, n - 1 + n % 2)  # odd
    if window < _LEAST:
        return places, np.zeros(n)
    wide = np.concatenate([places[-window:], places, places[:window]]) if closed else places
    fits = [_fit(wide, each) for each in _operators(window)]
    if closed:
        fits = [each[window:-window] for each in fits]
    smooth, first, second = fits
    speed = np.maximum(np.hypot(first[:, 0], first[:, 1]), np.finfo(float).tiny)
    return smooth, (first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]) / speed**3


@functools.cache
def _operators(window: int) -> tuple[Array, Array, Array]:
    """Return what makes value, slope and second derivative at each of `window` points of them, (window, window) each.

    A polynomial of second order is fitted; made once, since a map has hundreds of lines.
    """
    t = np.arange(window) - window // 2
    solved = np.linalg.pinv(np.stack([np.ones(window), t, t**2], axis=1))
    rows = (
        np.stack([t**0, t, t**2], axis=1),
        np.stack([0 * t, t**0, 2 * t], axis=1),
        np.stack([0 * t, 0 * t, 2 * t**0], 1),
    )
    value, slope, bend = (np.asarray(each @ solved, np.float64) for each in rows)
    return value, slope, bend


def _fit(places: Array, operator: Array) -> Array:
    """Return an operator at each of places (N, 2), N >= its size: in its middle, and at the ends where it is."""
    half = len(operator) // 2
    inner = np.lib.stride_tricks.sliding_window_view(places, len(operator), axis=0) @ operator[half]
    first, last = operator[:half] @ places[: len(operator)], operator[half + 1 :] @ places[-len(operator) :]
    return np.concatenate([first, inner, last])


def tangents(places: Array, closed: bool = False) -> Array:
    """Return the direction of the line at each of its places (N, 2) as unit vectors (N, 2); of one place (1, 0)."""
    n = len(places)
    if n == 1:
        return np.array([[1.0, 0.0]])
    reach = max(1, min(WINDOW // 2, (n - 1) // 2))
    index = np.arange(n)
    if closed:
        ways = places[(index + reach) % n] - places[(index - reach) % n]
    else:
        ways = places[np.minimum(index + reach, n - 1)] - places[np.maximum(index - reach, 0)]
    size = np.hypot(ways[:, 0], ways[:, 1])
    made: Array = np.where(size[:, None] > 0, ways / np.maximum(size, np.finfo(float).tiny)[:, None], [1.0, 0.0])
    return made
