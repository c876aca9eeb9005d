"""The checkup's estimators against images and patterns whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from probeloop.plugins.checkup.bragg import camera_angle
from probeloop.plugins.checkup.centre import Disc, dead_pixels, find_disc, hot_pixels, mended
from probeloop.plugins.checkup.drift import rate, register
from probeloop.plugins.checkup.interference import Lens, Probe, fit_lens, modelled
from probeloop.plugins.checkup.lattice import NOTHING, Fit, Power, fit_lattice, reciprocal
from probeloop.plugins.checkup.rotation import matrix, turn_from_curl, turn_from_knob
from probeloop.plugins.checkup.transform import Box

from probeloop.data.aberrations import wavelength
from probeloop.data.calibration import Calibration, CalibrationSet

LAMBDA = wavelength(200e3)
A = 0.39e-9


def disc_image(centre: tuple[float, float], radius: float, size: int = 64, fine: int = 8) -> np.ndarray:
    """A sharp disc of height 1, averaged over the area of each pixel."""
    at = (np.arange(size * fine) + 0.5) / fine - 0.5
    sharp = np.hypot(at[:, None] - centre[0], at[None, :] - centre[1]) < radius
    return sharp.reshape(size, fine, size, fine).mean(axis=(1, 3))


@pytest.mark.parametrize(("centre", "radius"), [((31.3, 33.8), 10.2), ((20.0, 40.5), 6.6), ((29.51, 30.2), 17.9)])
def test_the_disc_is_found_to_a_hundredth_of_its_radius(centre: tuple[float, float], radius: float) -> None:
    rng = np.random.default_rng(2)
    frames = 32
    counts = rng.poisson(30 * frames * disc_image(centre, radius) + 0.02) / frames
    found = find_disc(counts, frames)
    assert found is not None
    assert math.dist(found.centre, centre) < 0.03
    assert found.radius == pytest.approx(radius, rel=0.004)
    assert found.ellipticity < 0.03
    assert not found.clipped


def test_a_soft_edge_does_not_move_the_radius() -> None:
    y, x = np.indices((64, 64))
    r = np.hypot(y - 30.4, x - 32.7)
    for power in (1, 2):
        found = find_disc(100 * np.clip((11.0 - r) / 1.0 + 0.5, 0, 1) ** power, 10)
        assert found is not None
        assert (found.power, found.radius) == (power, pytest.approx(11.0, abs=0.02))


def test_no_disc_in_the_dark_and_a_clipped_one_says_so() -> None:
    rng = np.random.default_rng(1)
    assert find_disc(np.zeros((64, 64)), 16) is None
    assert find_disc(rng.poisson(0.02, (64, 64)) / 16, 16) is None
    found = find_disc(50 * disc_image((4.0, 30.0), 9.0), 16)
    assert found is not None
    assert found.clipped


def test_hot_and_dead_pixels_are_found_and_mended() -> None:
    rng = np.random.default_rng(4)
    dark = rng.poisson(0.5, (64, 48, 48)).astype(float)
    dark[:, 7, 9] += 4.0
    assert np.argwhere(hot_pixels(dark.mean(0), dark.var(0))).tolist() == [[7, 9]]
    y, x = np.indices((48, 48))
    lit = rng.poisson(400 * np.exp(-np.hypot(y - 24, x - 24) / 6)) / 100
    lit[20, 30] = 0.0
    bad, judged = dead_pixels(lit, 100)
    assert np.argwhere(bad).tolist() == [[20, 30]]
    assert 0.3 < judged < 1.0
    assert abs(mended(lit, bad)[20, 30] - lit[20, 29]) < 1.5


def crystal(transform: np.ndarray, cell: np.ndarray, n: int, step: float, seed: int = 0) -> np.ndarray:
    """(n, n, 4) noisy images of a lattice as a scan with the given distortion sees it."""
    rng = np.random.default_rng(seed)
    at = np.arange(n) * step
    x, y = np.meshgrid(at, at)
    wave = np.zeros((n, n))
    for h, k, height in ((1, 0, 1.0), (0, 1, 0.9), (1, 1, 0.6), (1, -1, 0.6), (2, 0, 0.3)):
        q = transform @ cell @ np.array([h, k])
        wave += height * np.cos(2 * np.pi * (q[0] * x + q[1] * y) + h + 2 * k)
    return wave[..., None] * [1.0, 0.7, -0.5, 0.2] + rng.normal(0, 1.0, (n, n, 4))


@pytest.mark.parametrize(("scale", "angle"), [(1.0, 0.1), (1.07, 0.7), (0.93, -0.5)])
@pytest.mark.parametrize("shape", [(A, A, math.pi / 2), (0.32e-9, 0.32e-9, math.radians(120))])
def test_the_lattice_tells_the_scans_scale(scale: float, angle: float, shape: tuple[float, float, float]) -> None:
    cell = reciprocal(*shape)
    c, s = math.cos(angle), math.sin(angle)
    true = scale * np.array([[c, -s], [s, c]])
    fit = fit_lattice(Power(crystal(true, cell, 40, 75e-12), (75e-12, 75e-12)), cell)
    assert fit.scale == pytest.approx(scale, rel=0.004)
    assert fit.distortion < 0.01
    assert Fit.of(fit.flat()).scale == fit.scale


def test_a_sheared_scan_shows_its_distortion() -> None:
    cell = reciprocal(A, A, math.pi / 2)
    fit = fit_lattice(Power(crystal(np.diag([1.02, 0.98]), cell, 40, 75e-12), (75e-12, 75e-12)), cell)
    assert fit.distortion == pytest.approx(1.02 / 0.98 - 1, abs=0.006)


def test_noise_is_no_lattice() -> None:
    images = np.random.default_rng(7).normal(0, 1, (40, 40, 50))
    assert fit_lattice(Power(images, (75e-12, 75e-12)), reciprocal(A, A, math.pi / 2)) == NOTHING


def test_box_follows_the_calibrations_and_holds_a_disc_that_is_elsewhere() -> None:
    known = CalibrationSet(
        (
            Calibration(id="c", kind="pattern_centre", value=(60.0, 66.0)),
            Calibration(id="s", kind="detector_scale", value=(2.35e-3,)),
            Calibration(id="a", kind="convergence_angle", value=(25e-3,)),
        )
    )
    box = Box.of((128, 128), known)
    assert box.bin == 1
    pixels = box.pixels((64.0, 62.0))  # 4 px off in either direction
    assert pixels.min(axis=0).max() < -11
    assert pixels.max(axis=0).min() > 11
    everything = Box.of((128, 128), CalibrationSet())
    assert everything.bin * everything.side >= 126


def disc_probe(radius: float = 8.0, step: float = 1e-10, scale: float = 1.0) -> Probe:
    y, x = np.indices((21, 21)) - 10.0
    pixels = np.stack([x.ravel(), y.ravel()], axis=1)
    inside = np.hypot(pixels[:, 0], pixels[:, 1]) < radius - 0.7
    return Probe(pixels[inside], radius, 25e-3 / radius, LAMBDA, scale, (step, step))


def weak_object(probe: Probe, lens: Lens, n: int, seed: int = 0) -> np.ndarray:
    """(n, n, K) images of a random weak object under a lens, by the formula of the fit, and noise."""
    rng = np.random.default_rng(seed)
    f = np.fft.fftfreq(n, probe.step[0])
    qx, qy = np.meshgrid(f, f)
    q = np.stack([qx.ravel(), qy.ravel()], axis=1)
    half = (q[:, 1] > 0) | ((q[:, 1] == 0) & (q[:, 0] > 0))
    v = np.array([lens.rotation, lens.c10, lens.c12a, lens.c12b])
    waves = np.zeros((n * n, len(probe.pixels)), complex)
    amplitude = rng.normal(size=half.sum()) + 1j * rng.normal(size=half.sum())
    waves[half] = amplitude[:, None] * modelled(probe, probe.pixels, q[half], v, lens.flip)
    images = np.fft.ifft2(waves.reshape(n, n, -1), axes=(0, 1)).real
    return images / images.std() + rng.normal(0, 1.0, images.shape)


@pytest.mark.parametrize(("rotation", "flip", "c10"), [(0.5, 1.0, 30e-9), (-1.2, -1.0, -45e-9)])
def test_the_interference_tells_rotation_flip_and_lens(rotation: float, flip: float, c10: float) -> None:
    probe = disc_probe()
    lens = Lens(0.0, rotation, flip, c10, 4e-9, -3e-9)
    found = fit_lens(weak_object(probe, lens, 32), probe, np.zeros((0, 2)), most=24)
    assert found.flip == flip
    assert abs(math.remainder(found.rotation - rotation, math.pi)) < math.radians(0.7)
    if abs(math.remainder(found.rotation - rotation, 2 * math.pi)) > 1:
        found = found.other_half
    assert found.c10 == pytest.approx(c10, abs=1.5e-9)
    assert found.c12a == pytest.approx(4e-9, abs=1.5e-9)
    assert found.c12b == pytest.approx(-3e-9, abs=1.5e-9)


def test_noise_shows_no_lens() -> None:
    probe = disc_probe()
    images = np.random.default_rng(3).normal(0, 1, (32, 32, len(probe.pixels)))
    assert fit_lens(images, probe, np.zeros((0, 2)), most=24).likelihood == 0


def test_the_change_of_focus_decides_about_half_a_turn() -> None:
    true = [Lens(1000.0, 0.3, -1.0, c10, 0.0, 0.0, 100.0) for c10 in (40e-9, -10e-9)]
    for first in (true[0], true[0].other_half):
        for second in (true[1], true[1].other_half):
            turn, why = turn_from_knob(first, second, -50e-9)
            assert why == ""
            assert (turn.rotation, turn.flip) == (pytest.approx(0.3), -1.0)
            turned, _ = turn_from_knob(first, second, 50e-9)  # the knob turned the other way: half a turn
            assert abs(math.remainder(turned.rotation - 0.3 - math.pi, 2 * math.pi)) < 1e-9
    _, why = turn_from_knob(true[0], true[0], -50e-9)
    assert "not what is seen" in why
    _, why = turn_from_knob(true[0], Lens(1000.0, 0.3, 1.0, -25e-9, 0.0, 0.0, 100.0), -65e-9)
    assert "disagree" in why


@pytest.mark.parametrize(("rotation", "flip"), [(0.4, 1.0), (2.5, -1.0), (-1.9, 1.0)])
def test_the_curl_tells_rotation_and_flip(rotation: float, flip: float) -> None:
    n, step = 40, 75e-12
    at = np.arange(n) * step
    x, y = np.meshgrid(at, at)
    q = np.array([[1 / A, 0.3 / A], [-0.3 / A, 1 / A], [0.7 / A, 1.3 / A]])
    potential, gradient = np.zeros((n, n)), np.zeros((n, n, 2))
    for i, each in enumerate(q):
        phase = 2 * np.pi * (each[0] * x + each[1] * y) + i
        potential += np.cos(phase)
        gradient -= np.sin(phase)[..., None] * each * A
    com = gradient @ matrix(rotation, flip)  # M^T, row by row
    rng = np.random.default_rng(0)
    turn = turn_from_curl(
        com + rng.normal(0, 0.2, com.shape), potential + rng.normal(0, 0.5, (n, n)), q, (step, step)
    )
    assert turn.flip == flip
    assert abs(math.remainder(turn.rotation - rotation, 2 * math.pi)) < math.radians(2)
    assert turn.significance > 1
    noise = turn_from_curl(rng.normal(0, 1, com.shape), rng.normal(0, 1, (n, n)), q, (step, step))
    assert noise.significance < turn.significance / 2


def test_bragg_discs_tell_the_angle_of_a_pixel() -> None:
    rng = np.random.default_rng(6)
    disc = Disc((32.3, 31.6), 9.0, 0.01, 1e4, 40.0, 0.0, False, 1.0, 1)
    angle = 25e-3 / 9.0
    cell = reciprocal(A, A, math.pi / 2)
    orders = [(1, 0), (0, 1), (1, 1), (1, -1), (2, 0), (0, 2)]
    g = np.array([cell @ np.array(each) for each in orders]) @ matrix(0.4, -1.0)
    y, x = np.indices((64, 64))
    pattern = 0.05 * np.exp(-np.hypot(y - 32.3, x - 31.6) / 20) + 100 * (np.hypot(y - 32.3, x - 31.6) < 9)
    for each, height in zip(g, (1, 1, 0.5, 0.5, 0.2, 0.2), strict=True):
        for sign in (1, -1):
            dx, dy = sign * each * LAMBDA / angle
            pattern = pattern + height * np.clip(9.5 - np.hypot(y - 32.3 - dy, x - 31.6 - dx), 0, 1)
    counts = rng.poisson(pattern * 1600) / 1600
    found = camera_angle(counts, 1600, disc, g, 1.04 * angle, LAMBDA)
    assert found is not None
    assert found.angle == pytest.approx(angle, rel=0.01)
    smooth = rng.poisson(1600 * 5 * np.exp(-np.hypot(y - 32.3, x - 31.6) / 8)) / 1600
    assert camera_angle(smooth, 1600, disc, g, angle, LAMBDA) is None


def test_registration_finds_parts_of_a_pixel_with_their_sign() -> None:
    rng = np.random.default_rng(8)
    spectrum = np.fft.fft2(rng.normal(0, 1, (48, 48)))
    f = np.fft.fftfreq(48)
    spectrum *= np.exp(-((np.hypot(f[:, None], f) / 0.12) ** 2))
    first = np.fft.ifft2(spectrum).real
    moved = spectrum * np.exp(-2j * np.pi * (f[:, None] * -0.8 + f[None, :] * 1.37))
    second = np.fft.ifft2(moved).real
    noise = 0.1 * first.std()
    made = register(first + rng.normal(0, noise, first.shape), second + rng.normal(0, noise, first.shape))
    np.testing.assert_allclose(made.shift, (1.37, -0.8), atol=0.06)
    assert made.correlation > 0.85
    other = register(first, rng.normal(0, 1, first.shape))
    assert other.correlation < 0.5
    assert register(np.zeros((20, 20)), np.zeros((20, 20))).sigma == math.inf


def test_drift_is_the_slope_of_the_shifts() -> None:
    times = np.array([0.0, 1.0, 3.0, 4.0])
    shifts = times[:, None] * [2e-12, -5e-12] + 1e-11
    speed, sigma = rate(times, shifts, 1e-13)
    np.testing.assert_allclose(speed, (2e-12, -5e-12))
    assert 0 < sigma < 1e-13
