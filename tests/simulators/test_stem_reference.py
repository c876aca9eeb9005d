"""The multislice against patterns that abTEM made, against atoms, and one probe at a time against many."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from probeloop.simulators.stem.physics import Geometry
from probeloop.simulators.stem.scattering import Coherence, Medium, ScatteringSettings, multislice, potential
from probeloop.simulators.stem.scattering.batched import BatchedScatterer
from probeloop.simulators.stem.scattering.reference import FOLDER, Sample, samples
from probeloop.simulators.stem.specimen import Atoms, StructureSettings
from probeloop.simulators.stem.specimen.elements import VOLT_SQUARE_ANGSTROM, scattering_factor
from probeloop.simulators.stem.world import World

from probeloop.data.aberrations import NAMES, Aberrations, wavelength
from probeloop.data.errors import DropInError, RecordError

LAMBDA = wavelength(200e3)


@pytest.fixture(scope="module")
def crystals() -> list[Sample]:
    return samples()


def test_it_agrees_with_abtem(crystals: list[Sample]) -> None:
    assert len(crystals) == 3
    for crystal in crystals:
        assert set(crystal.aberrations.as_dict()) == set(NAMES)  # every one is at work
        assert crystal.disagreement() < 1e-5
        assert crystal.disagreement(np.complex128) < 1e-6


def test_a_sharp_band_limit_would_be_found(crystals: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (multislice, potential):
        monkeypatch.setattr(module, "TAPER", 1e-9)
    assert max(crystal.disagreement() for crystal in crystals) > 1e-4


def test_references_that_were_tampered_with_are_refused(tmp_path: Path) -> None:
    for name in ("SOURCE.json", "abtem.npz", "make_reference.py"):
        shutil.copy(FOLDER / name, tmp_path / name)
    assert len(samples(tmp_path)) == 3
    (tmp_path / "make_reference.py").write_text("# other\n")
    with pytest.raises(RecordError, match="not the file"):
        samples(tmp_path)
    with pytest.raises(RecordError, match="no reference"):
        samples(tmp_path / "nowhere")


def test_atoms_between_pixels_scatter_as_the_sum_says() -> None:
    """Against sum f(k) exp(-2 pi i k r), term by term: the potential that all else stands on."""
    rng = np.random.default_rng(3)
    n, pixel = 64, 2e-11
    numbers = np.array([79, 6, 6, 22, 79], np.int16)
    places = np.column_stack([rng.uniform(-0.5, 0.5, (5, 2)) * n * pixel, np.zeros(5)])
    made = potential.PotentialGrid(n, pixel).potential(Atoms(numbers, places, np.zeros(5))).astype(np.float64)
    k = np.fft.fftfreq(n, pixel)
    phase = np.exp(-2j * np.pi * (k[:, None, None] * places[:, 1] + k[None, :, None] * places[:, 0]))
    g = np.hypot(k[:, None], k) * 1e-10
    factors = np.stack([scattering_factor(int(z), g) for z in numbers], axis=-1)
    expected = (phase * factors).sum(axis=-1) * VOLT_SQUARE_ANGSTROM / (pixel * 1e10) ** 2 * 1e-10
    found = np.fft.fft2(np.fft.ifftshift(made))
    band = np.hypot(k[:, None], k) < 2 / 3 * 0.5 / pixel
    assert np.abs(found - expected)[band].max() < 2e-4 * np.abs(expected).max()


def test_potentials_made_from_atoms_are_abtems_where_its_grid_is_fine(crystals: list[Sample]) -> None:
    """abTEM (1.0.11, infinite projection) spreads an atom over four pixels: too weak at high angle, right at low."""
    with np.load(FOLDER / "abtem.npz") as arrays:
        numbers, places = arrays["srtio3_numbers"], arrays["srtio3_places"]
    crystal = next(c for c in crystals if c.name == "srtio3")
    n, pixel = crystal.geometry.pixels, crystal.geometry.pixel
    at = places * 1e-10 - np.array([n // 2 * pixel, n // 2 * pixel, 0])
    whole = potential.PotentialGrid(n, pixel).potential(Atoms(numbers, at, np.zeros(len(numbers)))) * 1e10
    k = np.fft.fftfreq(n, 0.5)
    band = np.hypot(k[:, None], k) < 0.2
    made, theirs = np.fft.fft2(whole), np.fft.fft2(crystal.potential.sum(axis=0))
    assert made[0, 0] == pytest.approx(theirs[0, 0], rel=1e-3)
    assert np.abs(made - theirs)[band].max() < 0.01 * np.abs(theirs).max()
    assert np.abs(made - theirs)[1:][band[1:]].max() < 0.05 * np.abs(theirs)[1:][band[1:]].max()


def many_probes(c10: float, device: Literal["cpu", "cuda"]) -> None:
    geometry = Geometry(64, LAMBDA / 1.5e-9, LAMBDA, 20e-3)
    scattering = ScatteringSettings(slices=2, configurations=3, samples=3, focal_spread=3.0, source_size=0.05)
    world = World("srtio3", StructureSettings(), scattering, geometry, 200e3, 512, 5)
    probe = world.probe(Aberrations(C10=c10, C12a=2e-9, C23b=20e-9))
    assert (probe.size > 64) == (c10 > 10e-9)
    places = np.random.default_rng(2).uniform(-2e-9, 2e-9, (5, 2))
    frames = np.array([4, -1, 9, 100, 3])
    many = BatchedScatterer(world.medium, device).intensities(probe, places, frames)
    scatterer = world.scatterer()
    for (x, y), frame, pattern in zip(places, frames, many, strict=True):
        one = np.abs(scatterer.far_field(probe, float(x), float(y), int(frame))) ** 2
        assert np.abs(one - pattern).max() < 1e-4 * one.max()


@pytest.mark.parametrize("c10", [3e-9, 60e-9])
def test_many_probes_at_once_are_the_same_patterns(c10: float) -> None:
    many_probes(c10, "cpu")


@pytest.mark.hardware
@pytest.mark.parametrize("c10", [3e-9, 60e-9])
def test_a_real_gpu_makes_the_same_patterns(c10: float) -> None:
    pytest.importorskip("cupy", reason="no cupy: pip install 'probeloop[cuda]'")
    many_probes(c10, "cuda")


def test_without_a_gpu_the_gpu_is_refused() -> None:
    geometry = Geometry(32, LAMBDA / 1e-9, LAMBDA, 20e-3)
    medium = Medium(geometry, [np.ones((32, 32), np.complex64)], np.array([[0]]), 1e-10, Coherence.of(1, 0, 0))
    try:
        import cupy  # noqa: F401  # type: ignore[import-not-found]
    except ImportError:
        with pytest.raises(DropInError, match="no GPU"):
            BatchedScatterer(medium, "cuda")
