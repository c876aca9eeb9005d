"""Holds the recorded spectra against the file they were replayed from, with h5py alone.

Nothing of the replay is used: positions from the record, cells by division with the file's own scale, values from
the file, compared bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..data.control import Generation
from ..data.errors import RecordError
from ..data.units import to_si
from .reader import RecordedTopic, Session


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the comparison found. equal: bit for bit; cells: distinct places that were measured."""

    spectra_measured: int
    spectra_equal: int
    cells: int
    file: str


def verify_spectra(session: Path, file: Path, pixel_size: float = 0.0) -> Verdict:
    """Compare every recorded spectrum of `session` with the HDF5 `file` that was replayed.

    pixel_size [m]: what the rig said, 0 = the file's own scale. Raises RecordError when either can't be read.
    """
    stored, origin, step = _spectra_of(file, pixel_size)
    measured = equal = 0
    cells: set[tuple[int, int]] = set()
    for topic in _points(Session(session)):
        spectra, places = topic.data(), topic.column("position")
        for spectrum, place in zip(spectra, places, strict=True):
            measured += 1
            cell = (place - origin) / step
            column, row = (int(n) for n in np.rint(cell))
            inside = 0 <= row < stored.shape[0] and 0 <= column < stored.shape[1]
            if not inside or np.abs(cell - (column, row)).max() > 1e-3:
                continue
            cells.add((row, column))
            equal += (
                stored[row, column].dtype == spectrum.dtype and stored[row, column].tobytes() == spectrum.tobytes()
            )
    return Verdict(spectra_measured=measured, spectra_equal=equal, cells=len(cells), file=file.name)


def verify_session(
    session: Path, instrument: Mapping[str, Any] | None = None, data: Path | None = None
) -> dict[str, Any] | None:
    """Return the verdict as plain data for a recorded replay of HDF5 spectra; None where there is nothing to compare.

    Which file it was, the session's own events say; else the rig's `instrument` parameters, a relative one in `data`.
    """
    opened = Session(session)
    if not _points(opened):
        return None
    generations = (e for e in opened.events() if isinstance(e, Generation) and e.topic == "spectrum")
    told = {**(instrument or {}), **next((dict(e.settings) for e in generations), {})}
    file, size = told.get("file"), told.get("pixel_size", 0.0)
    if not isinstance(file, str) or Path(file).suffix not in (".h5", ".hdf5"):
        return None
    try:
        pixel_size = to_si(size)[0] if isinstance(size, str) else float(size or 0.0)
        made: dict[str, Any] = msgspec.to_builtins(verify_spectra(session, (data or Path()) / file, pixel_size))
    except RecordError:
        return None
    return made


def _points(session: Session) -> list[RecordedTopic]:
    return [
        t for t in session.topics() if not t.is_scan and t.topic.startswith("spectrum") and t.spec.kind == "spectra"
    ]


def _spectra_of(file: Path, pixel_size: float) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.float64]]:
    """Return (ny, nx, E) of the only three-dimensional dataset, and origin and step (x, y) [m]."""
    import h5py

    try:
        with h5py.File(file, "r") as opened:
            found: list[Any] = []
            opened.visititems(lambda _, item: found.append(item) if getattr(item, "ndim", 0) == 3 else None)
            if len(found) != 1:
                raise RecordError(f"{file.name} has {len(found)} spectral datasets, not one")
            dataset = found[0]
            labels = [str(name).lower() for name in dataset.attrs["DIMENSION_LABELS"]]
            x, y = labels.index("x"), labels.index("y")
            energy = ({0, 1, 2} - {x, y}).pop()
            values = np.ascontiguousarray(dataset[()].transpose(y, x, energy))
            sides = [np.asarray(dataset.dims[i][0][()], float) for i in (x, y)]
    except (OSError, KeyError, ValueError, IndexError, AttributeError) as error:
        raise RecordError(f"{file} is no spectra: {error}", "give the HDF5 file that was replayed") from error
    if pixel_size > 0:
        return values, np.full(2, pixel_size / 2), np.full(2, pixel_size)
    return values, np.array([s[0] for s in sides]), np.array([(s[-1] - s[0]) / (len(s) - 1) for s in sides])
