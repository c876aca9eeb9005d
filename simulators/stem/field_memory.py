"""`python -m probeloop.simulators.stem.field_memory`: what a field 60 nm wide needs in memory."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

from probeloop.api import Aberrations, wavelength

from .physics import Geometry
from .scattering import ScatteringSettings
from .specimen import StructureSettings
from .world import World

FIELD = 60e-9
PIXELS, WINDOW = 256, 3.1e-9


def measure(slices: int = 4) -> dict[str, float]:
    """Build four slices of SrTiO3 on the field, take a pattern and a dark-field value; return what it took."""
    lamda = wavelength(200e3)
    geometry = Geometry(PIXELS, lamda / WINDOW, lamda, 25e-3)
    tile = PIXELS * int(np.ceil(FIELD / WINDOW))
    began = time.perf_counter()
    world = World("srtio3", StructureSettings(), ScatteringSettings(slices=slices), geometry, 200e3, tile, 1, 2)
    scatterer, probe = world.scatterer(), world.probe(Aberrations())
    scatterer.far_field(probe, 1e-9, 2e-9)
    scatterer.haadf(probe, 1e-9, 2e-9)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return {
        "field_nm": tile * geometry.pixel * 1e9,
        "calculated_slices": float(world.cut.unique),
        "build_s": time.perf_counter() - began,
        "resident_mb": pages * resource.getpagesize() / 1e6,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure()) + "\n")
