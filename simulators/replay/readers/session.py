"""Our own sessions: a scan as its map or its patterns; point spectra on the grid they were measured on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probeloop.api import Axis, Channel, ProbeloopError, open_session

from ..measured import Measured


def read(path: Path) -> list[Measured]:
    """Read every array of the session that lies on a grid of places; the newest of each topic comes first."""
    session = open_session(path)
    found: list[Measured] = []
    for record in reversed(session.topics()):
        try:
            made = _scan(record) if record.is_scan else None
        except ProbeloopError:
            continue  # a damaged record does not hide the others
        if made is not None:
            found.append(made)
    for record in session.topics():
        if not record.is_scan and record.spec.kind in ("spectra", "frames") and len(record):
            found.append(_points(record, next((m for m in found if m.step is not None), None)))
    return found


def _scan(record: Any) -> Measured | None:
    spec = record.spec
    if len(spec.nav) != 2 or spec.kind not in ("values", "spectra", "frames"):
        return None
    y, x = spec.nav
    data = record.data()
    kind: Any = {"values": "maps", "spectra": "spectra", "frames": "frames"}[spec.kind]
    channels = spec.channels
    if kind == "maps":
        data = data if data.ndim == 3 else data[..., None]
        channels = channels or (Channel(record.topic, record.topic, spec.units),)
    step = (x.scale, y.scale) if x.scale and y.scale else None
    return Measured(
        f"{record.topic}/{record.generation}", kind, data, step, (x.offset, y.offset), channels, spec.sig,
        dict(spec.aux), spec.units, record.present,
    )  # fmt: skip


def _points(record: Any, on: Measured | None) -> Measured:
    """Put point measurements on a grid: that of a map in the session, if they lie on it, else their own."""
    spec, places, data = record.spec, record.column("position"), record.data()
    own = _grid_of(places)
    if on is not None and on.step is not None:
        origin, step = on.grid()
        off = np.abs((places - origin) / step - np.rint((places - origin) / step))
        size = np.array(on.shape[::-1])
        if off.max() < 1e-3 and np.all(np.rint((places - origin) / step) < size):
            own = origin, step, size
    origin, step, size = own
    cell = np.rint((places - origin) / step).astype(np.int64)
    shape = (int(size[1]), int(size[0]))
    grid = np.full((*shape, *data.shape[1:]), np.nan if data.dtype.kind in "fc" else 0, data.dtype)
    grid[cell[:, 1], cell[:, 0]] = data
    present = np.zeros(shape, bool)
    present[cell[:, 1], cell[:, 0]] = True
    sig: tuple[Axis, ...] = spec.sig
    return Measured(
        record.topic, spec.kind, grid, (float(step[0]), float(step[1])), (float(origin[0]), float(origin[1])),
        spec.channels, sig, dict(spec.aux), spec.units, present,
    )  # fmt: skip


def _grid_of(places: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return origin, step and size (x, y) of the coarsest grid that holds the places."""
    origin, step, size = places.min(axis=0), np.ones(2), np.ones(2, np.int64)
    for i in (0, 1):
        gaps = np.diff(np.unique(places[:, i]))
        gaps = gaps[gaps > 1e-6 * max(float(np.ptp(places[:, i])), 1e-30)]
        step[i] = gaps.min() if len(gaps) else 1e-9
        size[i] = round(float(np.ptp(places[:, i])) / step[i]) + 1
    return origin, step, size
