"""What a plan scans when nobody says: the instrument's region, on the places its scanner can reach."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probeloop.api import Approach, InstrumentInfo, Position, Read, Region, Result, SetDrive, Unblank

MOST = 256  # places a side; a finer scanner grid is visited with a stride
USUAL = 64  # pixels a side where the scanner's grid says nothing
DWELL = 1e-3  # [s]
DRIVE = 1.0  # of a lock-in measurement that says nothing else [V]

Shape = tuple[int, int]


def scan_area(info: InstrumentInfo, region: Region | None, shape: Shape | None) -> tuple[Region, Shape]:
    """Return what to scan: what was asked for, else all of the region that the limits allow, at the grid's pixels."""
    if region is not None:
        return region, shape or (USUAL, USUAL)
    low, high = info.limits.region
    if shape is None:
        return grid_area(info, low, high)
    return Region((low[0] + high[0]) / 2, (low[1] + high[1]) / 2, high[0] - low[0], high[1] - low[1]), shape


def grid_area(info: InstrumentInfo, low: Position, high: Position) -> tuple[Region, Shape]:
    """Return the scan whose pixel centres are the scanner's places in the box from `low` to `high` [m]."""
    most = MOST
    while True:
        sides = [_side(info.grid.origin[i], info.grid.step[i], low[i], high[i], most) for i in (0, 1)]
        (x, width, nx), (y, height, ny) = sides
        if nx * ny <= info.limits.max_scan_points or most == 1:
            return Region(x, y, width, height), (ny, nx)
        most //= 2


def _side(origin: float, step: float, low: float, high: float, most: int) -> tuple[float, float, int]:
    """Return centre, size [m] and number of pixels along one side; above `most`, every so many places one."""
    if step <= 0:
        return (low + high) / 2, high - low, min(USUAL, most)
    first = math.ceil((low - origin) / step - 1e-6)
    last = max(first, math.floor((high - origin) / step + 1e-6))
    stride = 1 if last - first < most else -(-(last - first + 1) // min(USUAL, most))
    n = (last - first + 1) // stride
    return origin + step * (first + (stride * n - 1) / 2), n * stride * step, n


def dwell(info: InstrumentInfo, wanted: float | None) -> float:
    """Return the dwell time [s]: the wanted one, else a millisecond, or what comes nearest to it."""
    low, high = info.limits.dwell_time
    return wanted if wanted is not None else min(max(DWELL, low), high)


def beam_on(info: InstrumentInfo) -> Generator[Any, Any, None]:
    """Put the beam on the sample where it is off by default; the gate takes it off again at the end."""
    if "Unblank" in info.commands:
        yield Unblank()


def ready(info: InstrumentInfo) -> Generator[Any, Any, None]:
    """Make the instrument ready to measure: beam on, tip at the surface and excited. The gate ends it."""
    yield from beam_on(info)
    if "Approach" not in info.commands:
        return
    now: Result = yield Read()
    if now.readback.get("feedback") not in ("engaged", "held"):
        yield Approach()
    if "SetDrive" in info.commands and not now.readback.get("drive"):
        low, high = info.limits.knobs.get("drive", (0.0, DRIVE))
        yield SetDrive(amplitude=min(max(DRIVE, low), high))


def busiest(image: NDArray[Any], window: Shape) -> tuple[float, float, float]:
    """Return (row, column) [pixels] of the centre of the window with the highest contrast, and that contrast.

    image: (ny, nx, ...), complex by magnitude; NaN = not measured, and does not count. Contrast is the standard
    deviation over the window as a share of that over the whole map, its root mean square over the further axes
    (channels); a window that is less than half measured is left out.
    """
    values = np.asarray(np.abs(image) if np.iscomplexobj(image) else image, np.float64)
    channels = values.reshape(*values.shape[:2], -1)
    h, w = min(window[0], values.shape[0]), min(window[1], values.shape[1])
    spread = np.zeros((values.shape[0] - h + 1, values.shape[1] - w + 1))
    measured = np.zeros_like(spread, bool)
    for i in range(channels.shape[2]):
        channel = channels[:, :, i]
        known = np.isfinite(channel)
        if not known.any() or not (whole := channel[known].std()):
            continue
        scaled = np.where(known, (channel - channel[known].mean()) / whole, 0.0)
        count, total, squares = (_window_sums(each, h, w) for each in (known.astype(float), scaled, scaled**2))
        safe = np.maximum(count, 1.0)
        enough = count >= h * w / 2
        spread += np.where(enough, np.maximum(squares / safe - (total / safe) ** 2, 0.0), 0.0)
        measured |= enough
    spread = np.where(measured, np.sqrt(spread / channels.shape[2]), -1.0)
    row, column = np.unravel_index(int(np.argmax(spread)), spread.shape)
    return float(row + (h - 1) / 2), float(column + (w - 1) / 2), float(spread[row, column])


def _window_sums(values: NDArray[np.float64], h: int, w: int) -> NDArray[np.float64]:
    """Return the sum over every window of (h, w), by a summed-area table."""
    table = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
    table[1:, 1:] = values.cumsum(0).cumsum(1)
    made: NDArray[np.float64] = table[h:, w:] - table[:-h, w:] - table[h:, :-w] + table[:-h, :-w]
    return made
