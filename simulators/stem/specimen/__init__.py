"""Specimens: one file a family, each gives atoms and what only the simulator knows of them."""

from __future__ import annotations

from collections.abc import Callable

from probeloop.api import Problem, SettingsError

from .atoms import Atoms, Specimen, check_apart
from .carbon import carbon
from .gold import gold
from .mos2 import mos2
from .pbtio3 import pbtio3
from .plasmonic import ModeMap, plasmonic
from .settings import SpecimenName, StructureSettings
from .srtio3 import srtio3
from .structure_file import structure_file

FAMILIES: dict[str, Callable[[StructureSettings, float, int], Specimen]] = {
    "srtio3": srtio3,
    "mos2": mos2,
    "pbtio3": pbtio3,
    "carbon": carbon,
    "gold": gold,
    "plasmonic": plasmonic,
    "file": structure_file,
}
_OWN_THICKNESS = {"mos2": "one layer", "gold": "its particles and their film", "file": "its structure"}


def build(name: str, settings: StructureSettings, width: float, seed: int) -> Specimen:
    """Return the specimen called `name` in a square of `width` [m]; everything random is drawn from the seed.

    Raises SettingsError for what the specimen can't be.
    """
    if settings.thickness is not None and name in _OWN_THICKNESS:
        raise SettingsError([Problem("structure.thickness", f"{name} is as thick as {_OWN_THICKNESS[name]}", "none")])
    return FAMILIES[name](settings, width, seed)


__all__ = [
    "FAMILIES",
    "Atoms",
    "ModeMap",
    "Specimen",
    "SpecimenName",
    "StructureSettings",
    "build",
    "check_apart",
]
