"""A specimen from a structure file: whatever ASE (ase.io.read) reads, cif, xyz, POSCAR, pdb ..."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from probeloop.api import DropInError, Problem, SettingsError

from .atoms import Atoms, Specimen, check_apart, turned
from .settings import StructureSettings

_RMS = 0.08e-10  # no file says how atoms move: a typical rms at room temperature
_LARGEST = 20_000_000
_PATH = "structure.file"


def structure_file(settings: StructureSettings, width: float, seed: int) -> Specimen:
    """Return the structure, its middle at the origin; raises SettingsError for a file that is none."""
    made = _read(settings.file)
    numbers = np.asarray(made.numbers, np.int16)
    places = np.asarray(made.positions, np.float64) * 1e-10
    cell = np.asarray(made.cell, np.float64) * 1e-10
    periodic = bool(np.asarray(made.pbc)[:2].all()) or bool(np.asarray(made.pbc).all())
    _check(numbers, places)
    repeated = settings.repeat and periodic
    if repeated:
        across = np.abs(cell - np.diag(np.diag(cell))).max()
        if across > 1e-3 * np.abs(np.diag(cell)).max() or np.diag(cell)[:2].min() < 1e-10:
            raise SettingsError(
                [Problem(_PATH, "its cell is not rectangular", "axes along x, y, z; or repeat = false")]
            )
        copies = np.ceil(1.5 * width / np.diag(cell)[:2]).astype(int)
        if copies.prod() * len(numbers) > _LARGEST:
            raise SettingsError([Problem(_PATH, f"{copies.prod() * len(numbers)} atoms", f"<= {_LARGEST}")])
    one = Atoms(numbers, places, np.full(len(numbers), _RMS * settings.thermal))
    if repeated:
        check_apart(_tiled(one, cell, np.array([2, 2])), _PATH)
        one = _tiled(one, cell, copies)
    else:
        check_apart(one, _PATH)
    low, high = one.places.min(axis=0), one.places.max(axis=0)
    middle = (low + high) / 2
    depth = cell[2, 2] if periodic and cell[2, 2] > high[2] - low[2] else high[2] - low[2] + 2e-10
    at = np.column_stack(
        [
            turned(one.places[:, :2] - middle[:2], np.radians(settings.rotation)),
            one.places[:, 2] - middle[2] + depth / 2,
        ]
    )
    atoms = Atoms(one.numbers, at, one.rms).within(width)
    extent = None if repeated else float(max(1e-10, (high - low)[:2].min() / 2))
    return Specimen("file", width, float(depth), atoms, extent=extent, truth={"file": settings.file})


def _read(file: str) -> Any:
    if not file:
        raise SettingsError([Problem(_PATH, "missing", "path of a structure file that ASE reads")])
    if not Path(file).is_file():
        raise SettingsError([Problem(_PATH, f"there is no file {file!r}", "path of a structure file that ASE reads")])
    try:
        from ase.io import read
    except ImportError as error:
        raise DropInError("structure files need ase", "pip install 'probeloop[structures]'") from error
    try:
        made = read(file)
    except Exception as error:  # ASE's readers raise whatever they meet
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise SettingsError([Problem(_PATH, f"ASE can't read {file!r}: {reason}", "a structure file")]) from error
    made = made[-1] if isinstance(made, list) else made
    if not len(made):
        raise SettingsError([Problem(_PATH, f"{file!r} holds no atoms", "at least one atom")])
    return made


def _check(numbers: np.ndarray, places: np.ndarray) -> None:
    if not np.isfinite(places).all():
        raise SettingsError([Problem(_PATH, "some places are not finite", "finite coordinates")])
    if numbers.min() < 1 or numbers.max() > 103:
        raise SettingsError([Problem(_PATH, f"element Z = {numbers.min()} to {numbers.max()}", "Z = 1 to 103")])


def _tiled(atoms: Atoms, cell: np.ndarray, copies: np.ndarray) -> Atoms:
    i, j = np.meshgrid(np.arange(copies[0]), np.arange(copies[1]), indexing="ij")
    shifts = np.column_stack([i.ravel() * cell[0, 0], j.ravel() * cell[1, 1], np.zeros(i.size)])
    places = (atoms.places[None] + shifts[:, None]).reshape(-1, 3)
    return Atoms(np.tile(atoms.numbers, i.size), places, np.tile(atoms.rms, i.size))


Truth = Mapping[str, Any]
