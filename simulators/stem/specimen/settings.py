"""What can be asked of a specimen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from probeloop.api import Settings, quantity

SpecimenName = Literal["bicrystal", "srtio3", "mos2", "pbtio3", "carbon", "gold", "plasmonic", "file"]


class StructureSettings(Settings):
    """A specimen other than the bicrystal.

    thickness: along the beam, rounded to whole layers in every slice; None = the specimen's own. rotation: of the
    lattice in the plane. thermal: factor on the thermal displacements, 1 = room temperature. vacancies: share of
    sulphur sites that are empty. misorientation: between the two grains of MoS2. wall: width of a domain wall.
    radius, coverage: of gold particles and their share of the area. film: carbon under the gold. side, gap: of a
    square of the plasmonic array and between two; disorder: of its sides and places, 1 = gaps from a tenth of `gap`
    to nearly twice it. file: a structure that ASE reads. repeat: fill the field with
    copies of a file's cell, where it is periodic and rectangular.
    """

    thickness: Annotated[float, quantity("nm", ge=0.1, le=100)] | None = None
    rotation: Annotated[float, quantity("deg", ge=-180, le=180)] = 0.0
    thermal: Annotated[float, quantity("", ge=0, le=3)] = 1.0
    vacancies: Annotated[float, quantity("", ge=0, le=0.3)] = 0.02
    misorientation: Annotated[float, quantity("deg", ge=0, le=60)] = 21.8
    wall: Annotated[float, quantity("nm", ge=0, le=5)] = 0.8
    radius: Annotated[float, quantity("nm", ge=0.5, le=10)] = 2.0
    coverage: Annotated[float, quantity("", ge=0, le=0.5)] = 0.2
    film: Annotated[float, quantity("nm", ge=0, le=20)] = 2.0
    side: Annotated[float, quantity("nm", ge=2, le=40)] = 10.0
    gap: Annotated[float, quantity("nm", ge=0.5, le=40)] = 4.0
    disorder: Annotated[float, quantity("", ge=0, le=1)] = 0.0
    file: Annotated[str, msgspec.Meta(max_length=4096)] = ""
    repeat: bool = True

    def problems(self) -> Iterable[str]:
        """Yield nothing: each value stands alone."""
        return ()
