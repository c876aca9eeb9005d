"""How far the multislice is from abTEM's, on reference patterns that abTEM made once (see their SOURCE.json)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probeloop.api import Aberrations, RecordError, from_polar, interaction, wavelength

from ..physics import Geometry
from .multislice import Medium
from .potential import transmission

FOLDER = Path(__file__).parents[3] / "tests" / "simulators" / "reference"  # in a checkout


@dataclass(frozen=True)
class Sample:
    """A crystal: its slices' potentials (S, N, N) [V Å], and the patterns (P, D, D) of probes at places (P, 2)."""

    name: str
    potential: NDArray[np.float32]
    patterns: NDArray[np.float32]
    places: NDArray[np.float64]
    geometry: Geometry
    slice_thickness: float
    voltage: float
    aberrations: Aberrations

    def medium(self, dtype: Any = np.complex64) -> Medium:
        """Return the crystal ready for probes, in single or double precision."""
        sigma = interaction(self.voltage)
        real = np.empty(0, dtype).real.dtype
        fields = [transmission((v * 1e-10).astype(real), sigma, dtype) for v in self.potential.astype(np.float64)]
        sequence = np.arange(len(fields))[None]
        return Medium(self.geometry, fields, sequence, self.slice_thickness, dtype=dtype)

    def disagreement(self, dtype: Any = np.complex64) -> float:
        """Return the largest difference of any pixel over the brightest one."""
        medium = self.medium(dtype)
        scatterer, probe = medium.scatterer(), medium.probe(self.aberrations)
        n, size = self.geometry.pixels, self.patterns.shape[-1]
        edge = (n - size) // 2
        worst = 0.0
        for (x, y), expected in zip(self.places, self.patterns, strict=True):
            at = np.array([x, y]) * 1e-10 - (n // 2) * self.geometry.pixel
            wave = scatterer.far_field(probe, float(at[0]), float(at[1])).astype(np.complex128)
            made = np.fft.fftshift(np.abs(wave) ** 2)[edge : edge + size, edge : edge + size]
            worst = max(worst, float(np.abs(made - expected).max() / expected.max()))
        return worst


def samples(folder: Path = FOLDER) -> list[Sample]:
    """Read the references; raises RecordError when they are not those that SOURCE.json names."""
    try:
        source = json.loads((folder / "SOURCE.json").read_text(encoding="utf-8"))
        for name, digest in source["sha256"].items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
                raise RecordError(f"{folder / name} is not the file that SOURCE.json names", "run make_reference.py")
        with np.load(folder / "abtem.npz") as arrays:
            data = {name: arrays[name] for name in arrays.files}
    except OSError as error:
        raise RecordError(f"no reference patterns in {folder}", "they come with a checkout of the sources") from error
    found = []
    aberrations = from_polar(source["aberrations"])
    for name, told in source["samples"].items():
        potential = data[f"{name}_potential"]
        pixels, pixel = potential.shape[-1], told["sampling"] * 1e-10
        lamda = wavelength(told["voltage"])
        geometry = Geometry(pixels, lamda / (pixels * pixel), lamda, told["convergence_mrad"] * 1e-3)
        thickness = told["slice_thickness"][0] * 1e-10
        patterns, places = data[f"{name}_patterns"], data["positions"]
        found.append(Sample(name, potential, patterns, places, geometry, thickness, told["voltage"], aberrations))
    return found
