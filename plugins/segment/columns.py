"""Columns of atoms: from a map of how likely each pixel is one, to places and brightnesses with their errors.

Places are the maxima of the map; each is then fitted in the picture by a Gaussian on a level ground, all of them
together: from the picture that one column is fitted to the present ones of all others are taken away, some times over
(as is usual in quantitative work: De Backer et al., Ultramicroscopy 171 (2016) 104).
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Array = NDArray[np.float64]
THRESHOLD = 0.3  # probability from which on a maximum is a column; the best F1 on calibration seeds
KNOWN = (
    0.35  # [px] standard error along an axis of a maximum of the networks' map, over pictures like the training ones
)
_SMOOTH = 0.7  # [px]
_SWEEPS, _STEPS = 3, 4
_LEAST = 8  # pixels that a fit needs
_ENOUGH = 12  # columns, from which on what their residuals share is told from noise
_WIDTHS = (0.7, 0.9, 1.15, 1.5, 2.0, 2.6, 3.4, 4.4, 5.6)  # [px]
_WIDEST = 12  # half a side of what a column is fitted to [px]


class Fitted(msgspec.Struct, frozen=True):
    """Columns: at (N, 2) (row, column) [px]; the rest (N,). What could not be fitted is NaN, its place the map's.

    intensity: above the ground; width: standard deviation [px]. at_sigma [px], intensity_sigma: standard errors, by
    what the fit leaves over (but for what all columns share) and how far neighbours in it are alike.
    """

    at: Array
    intensity: Array
    ground: Array
    width: Array
    at_sigma: Array
    intensity_sigma: Array


def maxima(mean: NDArray[Any], threshold: float, apart: float = 2.0) -> Array:
    """Return where a map (ny, nx), NaN = not measured, has a maximum above the threshold: (N, 2) (row, column) [px].

    apart: of two that are nearer than this the higher one stays [px].
    """
    values = np.where(np.isfinite(mean), mean, 0.0).astype(np.float64)
    smooth = ndi.gaussian_filter(values, _SMOOTH)
    highest = ndi.maximum_filter(values, 3)
    peak = (smooth == ndi.maximum_filter(smooth, 3)) & (highest >= threshold) & np.isfinite(mean)
    at = np.argwhere(peak)
    order = np.argsort(-smooth[tuple(at.T)], kind="stable")
    at = at[order]
    kept = np.ones(len(at), bool)
    for i, k in sorted(cKDTree(at).query_pairs(apart)) if len(at) > 1 else ():
        if kept[i]:
            kept[k] = False
    return _centred(smooth, at[kept])


def _centred(smooth: Array, at: NDArray[np.int64]) -> Array:
    """Return the maxima of parabolas through the maxima and their neighbours along either axis."""
    wide = np.pad(smooth, 1, mode="edge")
    made = at.astype(np.float64)
    rows, columns = (at + 1).T if len(at) else (np.empty(0, int), np.empty(0, int))
    middle = wide[rows, columns]
    for axis, (dy, dx) in enumerate(((1, 0), (0, 1))):
        before, after = wide[rows - dy, columns - dx], wide[rows + dy, columns + dx]
        bend = before - 2 * middle + after
        made[:, axis] += np.where(bend < 0, np.clip((before - after) / np.where(bend < 0, 2 * bend, 1), -0.5, 0.5), 0)
    return made


def spacing_of(at: Array) -> float:
    """Return the median distance of places (N, 2) from their nearest neighbour, NaN of fewer than two."""
    if len(at) < 2:
        return float("nan")
    return float(np.median(cKDTree(at).query(at, k=2)[0][:, 1]))


def refined(picture: NDArray[Any], at: Array, known_to: float = math.inf) -> Fitted:
    """Return the columns at (N, 2) (row, column) [px] fitted in a picture (ny, nx), NaN = not measured.

    known_to: standard error of `at` [px]; a place is the mean of it and the fit, weighted by what either is known to.
    """
    image = np.asarray(picture, np.float64)
    if not len(at):
        none = np.empty(0)
        return Fitted(np.empty((0, 2)), none, none, none, none, none)
    known = np.isfinite(image)
    low, unit = _scale(image[known])
    filled = np.where(known, (image - low) / unit, 0.0).ravel()
    spacing = spacing_of(at)
    half = 0.5 * spacing if np.isfinite(spacing) else 6.0
    wide = _Window(known, at, int(np.clip(round(half), 2, _WIDEST)))
    width = _width(filled[wide.flat], wide, at)
    window = _Window(known, at, int(np.clip(round(min(half, 2.5 * width)), 2, _WIDEST)))
    usable, enough = window.usable, window.usable.sum(axis=1) >= _LEAST
    model = _begun(filled[window.flat], window, at, width)
    free = min(0.8 * half, max(1.0, width))
    left = np.zeros((len(at), usable.shape[1]))
    bends = np.zeros((len(at), 5, 5))
    for _ in range(_SWEEPS):
        total = np.bincount(window.flat[window.inside], _bell(model, window)[window.inside], filled.size)
        data = (filled - total)[window.flat] + _bell(model, window)
        for _ in range(_STEPS):
            left, bends = _step(model, data, window, at, free, width)
    left = _noise(left, model[:, 3], usable)
    made = _told(model, at, left, bends, usable, enough, free)
    alike = _alike(left, usable)
    made = msgspec.structs.replace(made, at_sigma=made.at_sigma * alike, intensity_sigma=made.intensity_sigma * alike)
    share = 1 / (1 + (np.nan_to_num(made.at_sigma) / known_to) ** 2)  # of the fit
    return msgspec.structs.replace(
        made, at=at + share[:, None] * (made.at - at), at_sigma=made.at_sigma * np.sqrt(share),
        intensity=made.intensity * unit, ground=made.ground * unit + low,
        intensity_sigma=made.intensity_sigma * unit,
    )  # fmt: skip


def _noise(left: Array, height: Array, usable: NDArray[np.bool_]) -> Array:
    """Return residuals (N, w) without what all columns share: that the probe is no Gaussian is no noise."""
    if len(left) < _ENOUGH:
        return left
    weight = height[:, None] * usable
    shape = (weight * left).sum(axis=0) / np.maximum((weight**2).sum(axis=0), 1e-300)
    return np.where(usable, left - height[:, None] * shape, 0.0)


def _alike(left: Array, usable: NDArray[np.bool_]) -> float:
    """Return by how much errors are larger than those of white noise, from how alike neighbours in residuals are.

    As for a process of first order along either axis: (1 + r) / (1 - r) of the variance each.
    """
    side = math.isqrt(left.shape[1])
    values, there = left.reshape(-1, side, side), usable.reshape(-1, side, side)
    size = float((values[there] ** 2).mean()) if there.any() else 0.0
    more = 1.0
    for before, after in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:, :, :-1], np.s_[:, :, 1:])):
        both = there[before] & there[after]
        if size > 0 and both.any():
            r = float(np.clip((values[before] * values[after])[both].mean() / size, 0.0, 0.9))
            more *= (1 + r) / (1 - r)
    return math.sqrt(more)


def _scale(values: Array) -> tuple[float, float]:
    """Return the mean of values and their spread, 1 where there is none."""
    if not values.size:
        return 0.0, 1.0
    spread = float(values.std())
    return float(values.mean()), spread if np.isfinite(spread) and spread > 0 else 1.0


class _Window:
    """The pixels about each place: flat numbers, rows and columns (N, w), and which are measured, in a disc."""

    def __init__(self, known: NDArray[np.bool_], at: Array, reach: int) -> None:
        shape, middle = known.shape, np.rint(at).astype(np.int64)
        span = np.arange(-reach, reach + 1)
        dy, dx = (each.ravel() for each in np.meshgrid(span, span, indexing="ij"))
        row, column = middle[:, :1] + dy, middle[:, 1:] + dx
        self.inside = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
        self.row, self.column = row.astype(np.float64), column.astype(np.float64)
        self.flat = np.where(self.inside, row * shape[1] + column, 0)
        self.usable = self.inside & known.ravel()[self.flat] & (np.hypot(dy, dx) <= reach + 0.5)


def _width(data: Array, window: _Window, at: Array) -> float:
    """Return the width [px] that most columns have: of some, the one that leaves least of each, and their median."""
    weight = window.usable.astype(np.float64)
    count = np.maximum(weight.sum(axis=1), 1)
    square = (window.row - at[:, :1]) ** 2 + (window.column - at[:, 1:]) ** 2
    level = data - ((data * weight).sum(axis=1) / count)[:, None]
    best, chosen = np.full(len(at), np.inf), np.full(len(at), _WIDTHS[0])
    for width in _WIDTHS:
        shape = np.exp(-0.5 * square / width**2)
        shape = shape - ((shape * weight).sum(axis=1) / count)[:, None]
        along = (level * shape * weight).sum(axis=1)
        gain = np.where(along > 0, along**2 / np.maximum((shape**2 * weight).sum(axis=1), 1e-12), 0.0)
        better = -gain < best
        best, chosen = np.where(better, -gain, best), np.where(better, width, chosen)
    return float(np.median(chosen))


def _begun(data: Array, window: _Window, at: Array, width: float) -> Array:
    """Return the first model (N, 5): row, column, logarithm of the width, intensity, ground."""
    low = np.min(np.where(window.usable, data, np.inf), axis=1)
    high = np.max(np.where(window.usable, data, -np.inf), axis=1)
    some = np.isfinite(low) & np.isfinite(high)
    low, high = np.where(some, low, 0.0), np.where(some, high, 0.0)
    return np.column_stack([at, np.full(len(at), np.log(width)), high - low, low])


def _bell(model: Array, window: _Window) -> Array:
    """Return the Gaussians (N, w) on no ground."""
    y, x, width, height, _ = model.T[:, :, None]
    square = (window.row - y) ** 2 + (window.column - x) ** 2
    made: Array = height * np.exp(-0.5 * square * np.exp(-2 * width))
    return made


def _step(model: Array, data: Array, window: _Window, at: Array, free: float, usual: float) -> tuple[Array, Array]:
    """Take a damped step of Gauss and Newton in place; return what was left before it, and the normal matrices."""
    y, x, width, height, ground = model.T[:, :, None]
    dy, dx = window.row - y, window.column - x
    narrow = np.exp(-2 * width)
    shape = np.exp(-0.5 * (dy**2 + dx**2) * narrow)
    bell = height * shape
    slopes = np.stack([bell * dy * narrow, bell * dx * narrow, bell * (dy**2 + dx**2) * narrow, shape,
                       np.ones_like(bell)], axis=1) * window.usable[:, None]  # fmt: skip
    left = np.where(window.usable, data - bell - ground, 0.0)
    bends = np.einsum("nkw,nlw->nkl", slopes, slopes)
    size = np.einsum("nkk->nk", bends)
    more = 1e-3 * size + 1e-12 * (size.max(axis=1, keepdims=True) + 1e-300)
    damped = bends + more[:, :, None] * np.eye(5)
    turn = np.linalg.solve(damped, np.einsum("nkw,nw->nk", slopes, left)[..., None])[..., 0]
    turn[:, :2] = np.clip(turn[:, :2], -0.5, 0.5)
    turn[:, 2] = np.clip(turn[:, 2], -0.3, 0.3)
    model += turn
    model[:, :2] = np.clip(model[:, :2], at - 1.5 * free, at + 1.5 * free)  # away from its own column it is no fit
    model[:, 2] = np.clip(model[:, 2], np.log(0.5 * usual), np.log(2 * usual))
    return left, bends


def _told(
    model: Array, at: Array, left: Array, bends: Array, usable: NDArray[np.bool_], enough: NDArray[np.bool_],
    free: float,
) -> Fitted:  # fmt: skip
    """Return the columns with their errors; a fit that went astray is none."""
    count = usable.sum(axis=1)
    noise = (left**2).sum(axis=1) / np.maximum(count - 5, 1)
    good = enough & (np.hypot(*(model[:, :2] - at).T) <= free) & (model[:, 3] > 0)
    scale = np.sqrt(np.maximum(np.einsum("nkk->nk", bends), 1e-300))
    even = bends / (scale[:, :, None] * scale[:, None, :])
    cover = np.linalg.pinv(even, hermitian=True)
    errors = np.sqrt(np.maximum(np.einsum("nkk->nk", cover) * noise[:, None], 0)) / scale
    nan = np.where(good, 1.0, np.nan)
    places = np.where(good[:, None], model[:, :2], at)
    return Fitted(
        places, model[:, 3] * nan, model[:, 4] * nan, np.exp(model[:, 2]) * nan,
        np.sqrt((errors[:, 0] ** 2 + errors[:, 1] ** 2) / 2) * nan, errors[:, 3] * nan,
    )  # fmt: skip


class Numbers:
    """The same number for a column from picture to picture: that of the nearest one before, each given once.

    A lattice repeats itself: a specimen that moves by half a spacing between two pictures takes the numbers along.
    memory: scans in which a column may be missing.
    """

    def __init__(self, memory: int = 2) -> None:
        self.memory, self.given = memory, 0
        self._places, self._numbers, self._missed = np.empty((0, 2)), np.empty(0, np.int64), np.empty(0, np.int64)
        self._seen = np.empty(0, bool)

    def begin(self) -> None:
        """Another scan begins; what was not seen for too many is forgotten."""
        self._missed = np.where(self._seen, 0, self._missed + 1)
        kept = self._missed <= self.memory
        self._places, self._numbers, self._missed = self._places[kept], self._numbers[kept], self._missed[kept]
        self._seen = np.zeros(len(self._places), bool)

    def number(self, at: Array, reach: float) -> NDArray[np.int64]:
        """Return a number for each place (N, 2), the one before's where that is nearest and within `reach`."""
        made = np.zeros(len(at), np.int64)
        if len(at) and len(self._places):
            away, before = cKDTree(self._places).query(at)
            _, back = cKDTree(at).query(self._places)
            same = (away <= reach) & (back[before] == np.arange(len(at)))
            made[same] = self._numbers[before[same]]
            self._places[before[same]] = at[same]
            self._seen[before[same]] = True
        new = np.flatnonzero(made == 0)
        made[new] = self.given + 1 + np.arange(len(new))
        self.given += len(new)
        self._places = np.concatenate([self._places, at[new]])
        self._numbers = np.concatenate([self._numbers, made[new]])
        self._missed = np.concatenate([self._missed, np.zeros(len(new), np.int64)])
        self._seen = np.concatenate([self._seen, np.ones(len(new), bool)])
        return made
