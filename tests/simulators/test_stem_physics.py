"""The 4D-STEM's physics: normalisation, folding, counting, and the potential of a crystal."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft as sf
from probeloop.simulators.stem import physics, sample
from probeloop.simulators.stem.noise import count_electrons, expected_counts, stream_seed
from scipy import stats

from probeloop.data.aberrations import Aberrations, interaction, wavelength

LAMBDA = wavelength(200e3)
GEOMETRY = physics.Geometry(64, 3.5e-3, LAMBDA, 25e-3)
THIN = sample.SampleSettings(thickness=0.8e-9, carbon=0.5e-9)


@pytest.fixture(scope="module")
def potential() -> np.ndarray:
    return sample.projected_potential(THIN, 8 * 64, GEOMETRY.pixel, seed=3)


@pytest.fixture(scope="module")
def specimen(potential: np.ndarray) -> np.ndarray:
    return sample.transmission(potential, interaction(200e3))


def test_the_potential_holds_every_atom(potential: np.ndarray) -> None:
    """Its integral is h^2 / (2 pi m e) times the sum of f(0)."""
    width = 8 * 64 * GEOMETRY.pixel
    atoms = sample.atoms(THIN, width, np.random.default_rng([3, 1]))
    zero = np.zeros(1)
    expected = sum(len(places) * sample.scattering_factor(name, zero)[0] for name, places in atoms.items())
    integral = potential.sum(dtype=np.float64) * GEOMETRY.pixel**2
    assert integral == pytest.approx(expected * 47.8776e-20 * 1e-10, rel=1e-4)
    assert sample.scattering_factor("C", zero)[0] == pytest.approx(2.5, abs=0.1)  # Kirkland (2010), fig. 5.4


def test_two_grains_are_turned_against_each_other(potential: np.ndarray) -> None:
    """Each half has its strongest lattice beam at the angle of its own tilt."""
    n = potential.shape[0]
    found = []
    for half in (potential[:, n // 2 : n], potential[:, : n // 2]):
        window = np.hanning(n)[:, None] * np.hanning(half.shape[1])
        power = np.abs(sf.rfft2((half - half.mean()) * window, s=(n, n))) ** 2
        ky, kx = np.fft.fftfreq(n, GEOMETRY.pixel)[:, None], np.fft.rfftfreq(n, GEOMETRY.pixel)[None]
        ring = np.abs(np.hypot(ky, kx) - np.sqrt(2) / THIN.lattice) < 0.04 / THIN.lattice
        at = np.unravel_index(np.argmax(np.where(ring, power, 0)), power.shape)
        found.append(np.arctan2(ky[at[0], 0], kx[0, at[1]]) % (np.pi / 2))
    turned = (found[0] - found[1] + np.pi / 4) % (np.pi / 2) - np.pi / 4
    assert turned == pytest.approx(THIN.tilts[1] - THIN.tilts[0], abs=0.05)


def test_nothing_passes_the_band_limit(specimen: np.ndarray) -> None:
    k = np.fft.fftfreq(specimen.shape[0], 0.5)
    beyond = np.hypot(k[:, None], k) > 2 / 3 + 1e-6
    wave = np.abs(sf.fft2(specimen))
    assert wave[beyond].max() < 1e-5 * wave.max()


@pytest.mark.parametrize("c10", [0.0, 8e-9, -30e-9])
def test_in_vacuum_the_camera_sees_the_aperture(c10: float) -> None:
    probe = physics.make_probe(Aberrations(C10=c10), GEOMETRY)
    wave = physics.Scatterer(GEOMETRY, None).far_field(probe, 0.3e-10, -0.2e-10)
    intensity = np.abs(wave) ** 2
    assert intensity.sum() == pytest.approx(1.0, abs=0.05)  # the rim is sampled, not averaged
    k = np.fft.fftfreq(64, 1 / 64) * GEOMETRY.angle
    inside = np.hypot(k[:, None], k) < GEOMETRY.convergence - GEOMETRY.angle
    assert intensity[inside].min() > 0.98 * intensity[inside].max()
    outside = np.hypot(k[:, None], k) > GEOMETRY.convergence + GEOMETRY.angle
    assert intensity[outside].max() < 1e-6


@pytest.mark.parametrize("c10", [4e-9, 25e-9])
def test_folding_is_the_large_transform_sampled(specimen: np.ndarray, c10: float) -> None:
    """Every m-th frequency of the transform of the whole window, done the naive way."""
    aberrations = Aberrations(C10=c10, C12a=3e-9)
    probe = physics.make_probe(aberrations, GEOMETRY)
    m, n, tile = probe.multiple, 64, specimen.shape[0]
    made = physics.Scatterer(GEOMETRY, physics.Planes.of(specimen)).far_field(probe, 0.0, 0.0)
    real = sf.fftshift(sf.ifft2(physics.aperture_wave(aberrations, GEOMETRY, m)))
    low = tile // 2 - n * m // 2
    window = specimen[low : low + n * m, low : low + n * m]
    naive = sf.fft2(sf.ifftshift(real * window))[::m, ::m] * m
    assert np.abs(made - naive).max() < 1e-4 * np.abs(naive).max()


def test_a_small_probe_moves_by_parts_of_a_pixel(specimen: np.ndarray) -> None:
    """Frames between two pixels lie between theirs, and a whole pixel's ramp is a whole pixel's step."""
    scatterer = physics.Scatterer(GEOMETRY, physics.Planes.of(specimen))
    probe = physics.make_probe(Aberrations(), GEOMETRY)
    assert probe.multiple == 1
    at = [np.abs(scatterer.far_field(probe, f * GEOMETRY.pixel, 0.0)) ** 2 for f in (0.0, 0.499, 0.501, 1.0)]
    assert np.abs(at[1] - at[2]).max() < 0.02 * at[0].max()
    assert np.abs(at[0] - at[3]).max() > 0.05 * at[0].max() or np.abs(at[0] - at[3]).sum() > 0.01


@pytest.mark.parametrize("mean", [0.003, 0.3, 1.7, 9.5, 11.9, 12.1, 40.0, 900.0])
def test_counts_are_poisson(mean: float) -> None:
    n, seed = 64, stream_seed(11)
    amplitude = np.full((n, n), np.sqrt(mean), np.complex64)
    draws = np.empty((25, n, n), np.uint16)
    for frame in range(len(draws)):
        assert count_electrons(amplitude, 1.0, seed, np.uint64(frame), draws[frame]) == 0
    counts, size = draws.ravel().astype(np.int64), draws.size
    assert counts.mean() == pytest.approx(mean, abs=4 * np.sqrt(mean / size))
    assert counts.var() == pytest.approx(mean, abs=5 * np.sqrt((2 * mean**2 + mean) / size))
    low, high = stats.poisson.ppf([1e-3, 1 - 1e-3], mean).astype(int)
    values = np.arange(low, high + 1)
    expected = stats.poisson.pmf(values, mean) * size
    rest = size - expected.sum()
    observed = np.array([(counts == v).sum() for v in values])
    keep = expected > 10
    merged = (observed[~keep].sum() + size - observed.sum(), expected[~keep].sum() + rest)
    o, e = np.append(observed[keep], merged[0]), np.append(expected[keep], merged[1])
    assert stats.chisquare(o, e * o.sum() / e.sum()).pvalue > 1e-4


def test_a_frame_depends_on_its_number_alone() -> None:
    rng = np.random.default_rng(0)
    amplitude = (rng.normal(size=(32, 32)) + 1j).astype(np.complex64)
    out = [np.empty((32, 32), np.uint16) for _ in range(3)]
    for frame, each in zip((7, 8, 7), out, strict=True):
        count_electrons(amplitude, 5.0, stream_seed(1), np.uint64(frame), each)
    np.testing.assert_array_equal(out[0], out[2])
    assert (out[0] != out[1]).any()


def test_too_bright_a_pixel_is_clipped_and_told() -> None:
    amplitude = np.zeros((32, 32), np.complex64)
    amplitude[0, 0] = 1.0
    out = np.empty((32, 32), np.uint16)
    assert count_electrons(amplitude, 1e6, stream_seed(1), np.uint64(0), out) == 1
    assert out[16, 16] == 65535
    mean = np.empty((32, 32), np.float32)
    expected_counts(amplitude, 1e3, mean)
    assert mean[16, 16] == pytest.approx(1e3)
    assert np.count_nonzero(mean) == 1
