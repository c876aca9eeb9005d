"""What a microscopist would check: symmetry, totals, transfer zeros, deflection, dark field, coherence, damage."""

from __future__ import annotations

import numpy as np
import pytest
from probeloop.simulators.stem.noise import count_electrons, stream_seed
from probeloop.simulators.stem.physics import Geometry
from probeloop.simulators.stem.scattering import Coherence, Medium, ScatteringSettings
from probeloop.simulators.stem.scattering.diffuse import band_limit_angle, cross_section
from probeloop.simulators.stem.scattering.potential import PotentialGrid, transmission
from probeloop.simulators.stem.specimen import Atoms, StructureSettings
from probeloop.simulators.stem.specimen.elements import number_of
from probeloop.simulators.stem.specimen.pbtio3 import C
from probeloop.simulators.stem.world import World

from probeloop.data.aberrations import Aberrations, interaction, wavelength

LAMBDA = wavelength(200e3)
SIGMA = interaction(200e3)
FINE = Geometry(64, LAMBDA / 1.28e-9, LAMBDA, 20e-3)  # 0.2 Å pixels
SHARP = Aberrations()


def world(name: str, geometry: Geometry = FINE, tile: int = 256, **scattering: object) -> World:
    structure = scattering.pop("structure", StructureSettings())
    return World(name, structure, ScatteringSettings(**scattering), geometry, 200e3, tile, 3)  # type: ignore[arg-type]


def test_friedel_pairs_part_in_20_nm_of_a_polar_crystal() -> None:
    """A weak object cannot tell up from down; 20 nm of PbTiO3 can, and its discs are where Bragg says."""
    geometry = Geometry(128, 0.5e-3, LAMBDA, 1.6e-3)  # discs apart, window 5 nm
    pointing_up, pointing_down = np.array([-1.0e-9, 5.0e-9]), np.array([-6.2e-9, 1.5e-9])
    steps = np.array([(u, v) for u in (0, 1 / 3, 2 / 3) for v in (0, 1 / 3, 2 / 3)]) * C

    def counts(thickness: float, slices: int, middle: np.ndarray = pointing_up) -> np.ndarray:
        made = world("pbtio3", geometry, 384, slices=slices, structure=StructureSettings(thickness=thickness))
        scatterer, probe = made.scatterer(), made.probe(SHARP)
        waves = [scatterer.far_field(probe, *map(float, middle + step)) for step in steps]
        mean = np.sqrt(np.mean([np.abs(w) ** 2 for w in waves], axis=0)).astype(np.complex64)
        out = np.zeros((128, 128), np.uint16)
        count_electrons(mean, 2e5, stream_seed(1), np.uint64(0), out)
        return out.astype(np.int64)

    k = (np.arange(128) - 64) * geometry.angle
    bragg = LAMBDA / C

    def pair(pattern: np.ndarray) -> tuple[float, float]:
        up, down = (pattern[np.hypot(k[:, None] - s * bragg, k) < 1.5e-3].sum() for s in (1, -1))
        return float(up), float(down)

    def sigmas(pattern: np.ndarray) -> float:
        up, down = pair(pattern)
        return (up - down) / np.sqrt(up + down)

    thin, thick = counts(0.39, 1), counts(20.0, 51)
    assert sum(pair(thick)) > 500
    assert abs(sigmas(thin)) < 3
    assert abs(sigmas(thick)) > 5
    assert sigmas(counts(20.0, 51, pointing_down)) / sigmas(thick) < -0.5  # it tells up from down
    rings = [np.hypot(k[:, None] - s * bragg, k) < 2.4e-3 for s in (1, -1)]
    up, down = ((thin * ring * k[:, None]).sum() / (thin * ring).sum() for ring in rings)
    assert (up - down) / 2 == pytest.approx(bragg, rel=0.02)


@pytest.mark.parametrize(("name", "least"), [("srtio3", 0.88), ("mos2", 0.97), ("carbon", 0.98), ("gold", 0.7)])
def test_no_electron_is_made_and_few_are_lost(name: str, least: float) -> None:
    made = world(name, slices=3 if name != "mos2" else 1, structure=StructureSettings(radius=1.0, film=0.5))
    scatterer, probe = made.scatterer(), made.probe(Aberrations(C10=2e-9))
    totals = [float((np.abs(scatterer.far_field(probe, x, 0.3e-10)) ** 2).sum()) for x in np.linspace(-1e-9, 1e-9, 7)]
    assert min(totals) > least  # what goes beyond the band limit
    assert max(totals) < 1.03  # the aperture's rim is sampled, not averaged


def test_in_vacuum_many_slices_change_nothing_that_is_seen() -> None:
    medium = Medium(FINE, [np.ones((64, 64), np.complex64)], np.zeros((1, 6), np.int64), 1e-9)
    wave = medium.scatterer().far_field(medium.probe(Aberrations(C10=3e-9, C34b=1e-6)), 2e-10, -3e-10)
    k = np.fft.fftfreq(64, 1 / 64) * FINE.angle
    inside = np.hypot(k[:, None], k) < FINE.convergence - FINE.angle
    intensity = np.abs(wave) ** 2
    assert intensity[inside].max() == pytest.approx(intensity[inside].min(), rel=1e-3)
    assert intensity[np.hypot(k[:, None], k) > FINE.convergence + FINE.angle].max() < 1e-9


def test_a_small_detector_sees_the_zeros_of_the_transfer_function() -> None:
    """By reciprocity a point detector images a weak film through sin chi; here chi is that of defocus alone."""
    field, defocus = 6.0e-9, 90e-9
    geometry = Geometry(128, LAMBDA / field, LAMBDA, 10e-3)
    pixel = geometry.pixel
    rng = np.random.default_rng(5)
    places = np.column_stack([rng.uniform(-0.5, 0.5, (1500, 2)) * field, np.zeros(1500)])
    atoms = Atoms(np.full(1500, 6, np.int16), places, np.zeros(1500))
    volts = PotentialGrid(128, pixel).potential(atoms)
    medium = Medium(geometry, [transmission(volts, SIGMA)], np.array([[0]]), 1e-10)
    scatterer, probe = medium.scatterer(), medium.probe(Aberrations(C10=defocus))
    n = 48
    disc = np.hypot(*np.meshgrid(*[np.fft.fftfreq(128, 1 / 128)] * 2)) * geometry.angle <= geometry.convergence / 10
    at = np.arange(n) * field / n
    image = np.array([[(np.abs(scatterer.far_field(probe, x, y)) ** 2)[disc].sum() for x in at] for y in at])
    k = np.fft.fftfreq(n, field / n)
    radius = np.hypot(k[:, None], k)
    object_ = np.abs(np.fft.fft2(volts))[np.ix_(*[np.rint(k * field).astype(int)] * 2)]
    transfer = np.abs(np.fft.fft2(image / image.mean() - 1)) / np.maximum(object_, 1e-9)

    def mean(phase: float) -> float:
        """Transfer on the ring where chi = phase pi."""
        ring = np.abs(radius - np.sqrt(phase / (LAMBDA * defocus))) < 0.6 / field
        return float(np.sqrt(np.average(transfer[ring] ** 2, weights=object_[ring] ** 2)))

    assert mean(1.0) < 0.35 * mean(0.5)
    assert mean(1.0) < 0.35 * mean(1.5)
    assert mean(2.0) < 0.5 * mean(1.5)


@pytest.mark.parametrize(("thickness", "slices", "least"), [(0.4, 1, 0.999), (3.1, 8, 0.9)])
def test_the_pattern_moves_with_the_field(thickness: float, slices: int, least: float) -> None:
    """Its centre of mass is grad(sigma V) / 2 pi seen through the probe's intensity, up to 3 nm."""
    made = world("srtio3", slices=slices, structure=StructureSettings(thickness=thickness, rotation=7.0))
    focus = Aberrations(C10=-made.thickness / 2)
    scatterer, probe = made.scatterer(), made.probe(focus)
    flat = Medium(FINE, [np.ones((256, 256), np.complex64)], np.array([[0]]), 1e-10)
    entrance = flat.scatterer()
    seen = flat.probe(SHARP)
    volts = made.potential().astype(np.float64) * SIGMA / (2 * np.pi)
    field = [
        np.real(np.fft.ifft2(2j * np.pi * f * np.fft.fft2(volts)))
        for f in (np.fft.fftfreq(256, FINE.pixel)[:, None], np.fft.fftfreq(256, FINE.pixel)[None])
    ]
    k = np.fft.fftfreq(64, 1 / 64) * FINE.angle / LAMBDA
    found, expected = [], []
    for x, y in np.random.default_rng(8).uniform(-3e-10, 3e-10, (24, 2)):
        intensity = np.abs(scatterer.far_field(probe, x, y)) ** 2
        found += [(intensity.sum(axis=1) * k).sum(), (intensity.sum(axis=0) * k).sum()]
        wave, y0, x0 = entrance.incident(seen, 0, x, y)
        window = np.ix_((y0 + np.arange(64)) % 256, (x0 + np.arange(64)) % 256)
        expected += [(np.abs(wave) ** 2 * f[window]).sum() for f in field]
    assert np.corrcoef(found, expected)[0, 1] > least
    slope = np.dot(found, expected) / np.dot(expected, expected)
    assert slope == pytest.approx(1.0, abs=0.02 if slices == 1 else 0.25)


def test_dark_field_rises_with_atomic_number_and_thickness() -> None:
    z = np.array([6, 14, 22, 38, 42, 79])
    sigma = [cross_section(int(n), 8e-12, 70e-3, 200e-3, 200e3, LAMBDA) for n in z]
    assert 1.6 < np.polyfit(np.log(z), np.log(sigma), 1)[0] < 2.0
    columns = {}
    for thickness in (1.0, 2.0, 4.0):
        made = world("srtio3", slices=1, structure=StructureSettings(thickness=thickness))
        scatterer, probe = made.scatterer(), made.probe(SHARP)
        a = 3.905e-10
        columns[thickness] = [scatterer.haadf(probe, *at) for at in ((0.0, 0.0), (a / 2, a / 2), (a / 2, 0.0))]
    strontium, titanium, oxygen = columns[2.0]
    assert strontium > 1.5 * titanium > 3 * oxygen
    assert columns[1.0][0] < columns[2.0][0] < columns[4.0][0]
    assert "no channelling" in scatterer.haadf_label


def test_frozen_phonons_give_the_same_order_of_columns() -> None:
    limit = band_limit_angle(FINE)
    made = world(
        "srtio3", slices=3, configurations=8, haadf_method="configurations",
        haadf_inner=25.0, haadf_outer=0.99e3 * limit, structure=StructureSettings(thickness=1.2),
    )  # fmt: skip
    scatterer, probe = made.scatterer(), made.probe(SHARP)
    a = 3.905e-10
    strontium, titanium, oxygen = (scatterer.haadf(probe, *at) for at in ((0.0, 0.0), (a / 2, a / 2), (a / 2, 0.0)))
    assert strontium > titanium > oxygen > 0
    assert "frozen phonons" in scatterer.haadf_label


def test_an_imperfect_source_blurs_in_the_mean_and_repeats_by_frame() -> None:
    made = world("srtio3", samples=5, focal_spread=4.0, source_size=0.06, configurations=2)
    scatterer, probe = made.scatterer(), made.probe(Aberrations(C10=3e-9))
    one = scatterer.far_field(probe, 1e-10, 0.0, 7)
    np.testing.assert_array_equal(one, scatterer.far_field(probe, 1e-10, 0.0, 7))
    assert np.abs(one - scatterer.far_field(probe, 1e-10, 0.0, 8)).max() > 1e-3 * np.abs(one).max()
    assert (np.abs(one) ** 2).sum() == pytest.approx(1, abs=0.04)
    spread = Coherence.of(5, 4e-9, 0.0)
    assert spread.weights.sum() == pytest.approx(1)
    assert (spread.weights * spread.focus**2).sum() == pytest.approx(16e-18)
    jitter = Coherence.of(1, 0.0, 1e-10)
    moves = np.array([jitter.drawn(3, frame, 1)[0][:2] for frame in range(4000)])
    assert moves.std() * np.sqrt(8 * np.log(2)) == pytest.approx(1e-10, rel=0.05)
    assert np.abs(moves.mean(axis=0)).max() < 4 * moves.std() / np.sqrt(4000)
    both = Coherence.of(7, 4e-9, 1e-10)
    assert abs((both.weights * both.points).sum()) < 1e-15
    moves = np.array([both.drawn(3, frame, 4) for frame in range(300)])
    assert set(moves[..., 2].ravel()) == {0, 1, 2, 3}
    rms = np.sqrt((both.weights[:, None] * moves[..., :2] ** 2).sum(axis=1).mean())
    assert rms * np.sqrt(8 * np.log(2)) == pytest.approx(1e-10, rel=0.02)


def test_dark_field_of_a_wide_source_is_that_of_many_points() -> None:
    wide = world("mos2", source_size=0.09, haadf_inner=60.0)
    point = world("mos2", haadf_inner=60.0)
    blurred, sharp, probe = wide.scatterer(), point.scatterer(), point.probe(SHARP)
    jitter = np.random.default_rng(1).normal(0, 0.09e-9 / np.sqrt(8 * np.log(2)), (3000, 2))
    mean = np.mean([sharp.haadf(probe, 2e-10 + x, 1e-10 + y) for x, y in jitter])
    assert blurred.haadf(wide.probe(SHARP), 2e-10, 1e-10) == pytest.approx(mean, rel=0.06)


def test_an_atom_that_leaves_is_missed_where_it_was() -> None:
    made = world("srtio3", structure=StructureSettings(thickness=0.39, thermal=0.5))
    scatterer, probe = made.scatterer(), made.probe(SHARP)
    sites = made.sites()
    assert {name: len(at) for name, at in sites.items()}["O"] == pytest.approx(3 * len(sites["Sr"]), rel=0.15)
    nearest = np.argmin(np.hypot(*sites["Sr"][:, :2].T))
    gone = sites["Sr"][nearest : nearest + 1]
    bright = scatterer.haadf(probe, *map(float, gone[0, :2]))
    before, far = (scatterer.far_field(probe, x, 0.0).copy() for x in (0.0, -1.6e-9))

    class Change:
        left = {"Sr": gone}
        came: dict[str, np.ndarray] = {}

    made.change(Change())
    after = scatterer.far_field(probe, 0.0, 0.0).copy()
    atoms = made.cut.displaced(0, 3)
    here = (np.abs(atoms.places[:, :2] - gone[0, :2]) < 1e-13).all(axis=1) & (atoms.numbers == number_of("Sr"))
    grid = PotentialGrid(256, FINE.pixel)
    left = transmission(grid.potential(atoms.where(~here)), SIGMA)
    rebuilt = Medium(FINE, [left], np.array([[0]]), made.cut.thickness)
    expected = rebuilt.scatterer().far_field(probe, 0.0, 0.0)
    assert np.abs(after - expected).max() < 0.01 * np.abs(expected).max()
    assert np.abs(after - before).max() > 0.05 * np.abs(expected).max()
    assert scatterer.haadf(probe, *map(float, gone[0, :2])) < 0.1 * bright
    np.testing.assert_allclose(scatterer.far_field(probe, -1.6e-9, 0.0), far, atol=1e-3 * np.abs(far).max())
