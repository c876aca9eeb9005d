"""`python -m probeloop.simulators.stem.modelling_errors`: what the window, the slices and the pixels cost.

2 nm of SrTiO3 along [001], one fixed set of thermal displacements, 200 kV, 25 mrad. Each table gives, for detectors
with soft edges, the largest error over the probe's places, relative to the mean signal of the exact calculation:
a window of 6.2 nm, ten slices of half a cell, pixels of 0.12 Å (0.06 Å in the last table).
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from probeloop.api import Aberrations, interaction, wavelength

from .physics import Geometry
from .scattering import Medium, ScatteringSettings
from .scattering.potential import PotentialGrid, transmission
from .scattering.slices import cut
from .specimen import Atoms, Specimen, StructureSettings, build

FIELD, FINEST = 6.2e-9, 1024
VOLTAGE, ANGLE = 200e3, 25e-3
DETECTORS = {"BF 0-12": (0, 12e-3), "ABF 12-25": (12e-3, 25e-3), "ADF 30-60": (30e-3, 60e-3)}
BEAM = Aberrations(C10=2e-9, C12a=1e-9, C30=2e-6)


def crystal() -> Specimen:
    """Return five unit cells as one list of atoms at displaced places."""
    made = build("srtio3", StructureSettings(thickness=1.95), FIELD, 1)
    assert made.layer is not None
    rng = np.random.default_rng(1)
    atoms = Atoms.of([])
    for i in range(5):
        layer = made.layer(rng).moved((0.0, 0.0, i * made.layer_thickness + 1e-13))
        places = layer.places.copy()
        places[:, :2] += rng.normal(0, 1, (len(layer), 2)) * layer.rms[:, None]
        atoms = atoms.plus(Atoms(layer.numbers, places, np.zeros(len(layer))))
    return Specimen("srtio3", FIELD, 5 * made.layer_thickness, atoms)


def signals(specimen: Specimen, slices: int, window: int, grid: int = 512) -> NDArray[np.float64]:
    """Return the detectors' signals (places, detectors). window: pixels of the probe's. grid: pixels of the field."""
    pixel = FIELD / grid
    lamda = wavelength(VOLTAGE)
    geometry = Geometry(window, lamda / (window * pixel), lamda, ANGLE)
    made = cut(specimen, ScatteringSettings(slices=slices, memory=4096), grid, 1)
    potentials = PotentialGrid(grid, pixel)
    fields = [transmission(potentials.potential(made.atoms(i, 1)), interaction(VOLTAGE)) for i in range(slices)]
    medium = Medium(geometry, fields, made.sequence, made.thickness)
    scatterer, probe = medium.scatterer(), medium.probe(BEAM)
    k = np.fft.fftfreq(window, 1 / window) * geometry.angle
    radius = np.hypot(k[:, None], k)
    soft = [
        np.clip((radius - low) / geometry.angle + 0.5, 0, 1) * np.clip((high - radius) / geometry.angle + 0.5, 0, 1)
        if low
        else np.clip((high - radius) / geometry.angle + 0.5, 0, 1)
        for low, high in DETECTORS.values()
    ]
    found = []
    for x, y in np.random.default_rng(2).uniform(-2e-10, 2e-10, (24, 2)):
        intensity = np.abs(scatterer.far_field(probe, float(x), float(y))) ** 2
        found.append([float((intensity * mask).sum() / intensity.sum()) for mask in soft])
    return np.array(found)


def main() -> None:
    """Print the tables as Markdown."""
    specimen = crystal()
    exact = signals(specimen, 10, 512)

    def row(name: str, made: NDArray[np.float64], truth: NDArray[np.float64] = exact) -> None:
        errors = np.abs(made - truth).max(axis=0) / truth.mean(axis=0)
        cells = " | ".join(f"{100 * error:.2g} %" for error in errors)
        sys.stdout.write(f"| {name} | {cells} |\n")

    sys.stdout.write(f"| | {' | '.join(f'{name} mrad' for name in DETECTORS)} |\n|---|{'---|' * len(DETECTORS)}\n")
    for window in (384, 256, 192, 128):
        row(f"window {window * FIELD / 512 * 1e9:.2g} nm", signals(specimen, 10, window))
    for slices in (5, 4, 3, 2, 1):
        row(f"{slices} slices", signals(specimen, slices, 512))
    fine = signals(specimen, 10, FINEST // 2, FINEST)
    row("pixels of 0.12 Å", signals(specimen, 10, 256), fine)
    row("pixels of 0.16 Å", signals(specimen, 10, 192, 384), fine)


if __name__ == "__main__":
    main()
