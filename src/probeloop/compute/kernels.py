"""Sums over detector frames in one pass: compiled, without the GIL, any real dtype, read-only input.

A row is summed in single precision (exact up to 2**24), rows in double; float64 and 64-bit integers stay double.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., None])


def _compiled(function: F) -> F:
    made: Any = numba.njit(
        nogil=True, cache=True, fastmath={"reassoc", "nsz", "contract", "arcp"}, error_model="numpy"
    )(function)
    compiled: F = made
    return compiled


def bounding_box(weight: NDArray[Any]) -> tuple[int, int, int, int]:
    """Return (first row, end row, first column, end column) of what is not zero; all zero where nothing is."""
    rows, columns = np.flatnonzero(weight.any(axis=1)), np.flatnonzero(weight.any(axis=0))
    if not rows.size:
        return 0, 0, 0, 0
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def weighted_sums(frames: NDArray[Any], weight: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return sum(weight * frame) of every frame: frames (N, ky, kx), weight (ky, kx), (N,) float64."""
    out = np.empty(len(frames), np.float64)
    box = bounding_box(weight)
    (_weighted_double if _is_double(frames.dtype) else _weighted_single)(frames, weight, box, out)
    return out


def first_moments(frames: NDArray[Any], centre_y: float, centre_x: float) -> NDArray[np.float64]:
    """Return (total, sum(I (kx - centre_x)), sum(I (ky - centre_y))) of every frame, (N, 3) float64 [.., px, px]."""
    out = np.empty((len(frames), 3), np.float64)
    columns = np.arange(frames.shape[2]) - centre_x
    if _is_double(frames.dtype):
        _moments_double(frames, columns, centre_y, out)
    else:
        _moments_single(frames, columns.astype(np.float32), centre_y, out)
    return out


def _is_double(dtype: np.dtype[Any]) -> bool:
    return dtype.itemsize >= 8


@_compiled
def _weighted_single(frames: Any, weight: Any, box: Any, out: Any) -> None:
    first, end, left, right = box
    for n in range(frames.shape[0]):
        total = 0.0
        for y in range(first, end):
            values, weights = frames[n, y, left:right], weight[y, left:right]
            row: Any = np.float32(0.0)
            for x in range(values.size):  # from 0, so that no index can wrap round: it vectorises
                row += weights[x] * np.float32(values[x])
            total += row
        out[n] = total


@_compiled
def _weighted_double(frames: Any, weight: Any, box: Any, out: Any) -> None:
    first, end, left, right = box
    for n in range(frames.shape[0]):
        total = 0.0
        for y in range(first, end):
            values, weights = frames[n, y, left:right], weight[y, left:right]
            for x in range(values.size):
                total += weights[x] * np.float64(values[x])
        out[n] = total


@_compiled
def _moments_single(frames: Any, columns: Any, centre_y: Any, out: Any) -> None:
    for n in range(frames.shape[0]):
        total, across, down = 0.0, 0.0, 0.0
        for y in range(frames.shape[1]):
            row: Any = np.float32(0.0)
            moment: Any = np.float32(0.0)
            for x in range(frames.shape[2]):
                value = np.float32(frames[n, y, x])
                row += value
                moment += value * columns[x]
            total += row
            across += moment
            down += row * (y - centre_y)
        out[n, 0], out[n, 1], out[n, 2] = total, across, down


@_compiled
def _moments_double(frames: Any, columns: Any, centre_y: Any, out: Any) -> None:
    for n in range(frames.shape[0]):
        total, across, down = 0.0, 0.0, 0.0
        for y in range(frames.shape[1]):
            row, moment = 0.0, 0.0
            for x in range(frames.shape[2]):
                value = np.float64(frames[n, y, x])
                row += value
                moment += value * columns[x]
            total += row
            across += moment
            down += row * (y - centre_y)
        out[n, 0], out[n, 1], out[n, 2] = total, across, down
