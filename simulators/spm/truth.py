"""What is true of the specimen under the tip: for training and scoring, on no topic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .scanner import Scanner
from .specimen import Specimen
from .spectra import SpectrumTruth, described
from .tip import Tip


def told(specimen: Specimen, tip: Tip, scanner: Scanner, spectra: Sequence[SpectrumTruth]) -> dict[str, Any]:
    """Return it by name; see the instrument's `truth`."""
    walls = specimen.walls
    return {
        "up": specimen.up.copy(), "in_plane": specimen.in_plane.copy(), "wall_distance": walls["distance"],
        "right_angle": walls["right_angle"], "curvature": walls["curvature"],
        "polarisation": specimen.polarisation.copy(), "surface": specimen.surface, "felt": tip.felt,
        "cell": specimen.cell, "edge": specimen.edge, "defects": specimen.defects.copy(),
        "tip": {"radius": tip.radius, "double": tip.double, "crashes": tip.crashes},
        "drift": scanner.drift, "drift_velocity": scanner.velocity.copy(),
        "missing": scanner.missing, "hysteresis": scanner.hysteresis,
        "spectra": [described(each) for each in spectra],
    }  # fmt: skip
