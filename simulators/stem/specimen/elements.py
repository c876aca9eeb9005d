"""Atoms as electrons see them: scattering factors of neutral atoms, Z = 1 to 103.

Parametrisation of I. Lobato and D. Van Dyck, Acta Cryst. A70 (2014) 636, which falls off as Z / g^2 at high angle
(Mott and Bethe), as dark field needs it.
"""

from __future__ import annotations

import functools
import tomllib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from probeloop.api import Problem, SettingsError

Array = NDArray[np.float64]
VOLT_SQUARE_ANGSTROM = (
    47.877645  # h^2 / (2 pi m e), CODATA: projected potential [V Å] = this times f [Å] / area [Å^2]
)


@functools.cache
def _table() -> tuple[tuple[str, ...], Array]:
    rows = tomllib.loads((Path(__file__).parent / "lobato.toml").read_text(encoding="utf-8"))
    return tuple(rows), np.array(list(rows.values()), np.float64)


def symbols() -> tuple[str, ...]:
    """Return the symbols of all known elements; number Z stands at Z - 1."""
    return _table()[0]


def number_of(symbol: str) -> int:
    """Return Z of a symbol; raises SettingsError for one that is not between H and Lr."""
    if symbol not in symbols():
        raise SettingsError([Problem("element", f"no scattering factor of {symbol!r}", "H to Lr (Z = 1 to 103)")])
    return symbols().index(symbol) + 1


def scattering_factor(number: int, g: Array) -> Array:
    """Return the electron scattering factor (rest mass) of element Z [Å] at g = angle / wavelength [1/Å]."""
    a, b = _table()[1][number - 1]
    square = np.asarray(g, np.float64)[..., None] ** 2 * b
    return np.asarray((a * (2 + square) / (1 + square) ** 2).sum(axis=-1))
