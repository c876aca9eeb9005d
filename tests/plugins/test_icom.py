"""iCoM: the phase whose gradient was given, the phase of an object seen by a probe, and scans that are turned."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from probeloop.plugins.icom import IntegratedCentreOfMass, axes_of, integrate
from scipy.ndimage import gaussian_filter

from probeloop.api import (
    Axis,
    Calibration,
    CalibrationSet,
    Channel,
    Context,
    FrameBlock,
    Region,
    SettingsError,
    StreamSpec,
    visit_order,
    wavelength,
)
from probeloop.testing.streams import block_of

STEP = 20e-12
BENT = (Channel("x", "deflection", "rad"), Channel("y", "deflection", "rad"))
WAVE = wavelength(200e3)


def spec(ny: int, nx: int, **changes: Any) -> StreamSpec:
    nav = (Axis("y", ny, STEP, 0.0, "m"), Axis("x", nx, STEP, 0.0, "m"))
    values: dict[str, Any] = {"nav": nav, "channels": BENT, "units": "rad"} | changes
    return StreamSpec("deflection", "values", "<f4", **values)


def plugin(high_pass: float = 0.0, volts: float | None = 200e3) -> IntegratedCentreOfMass:
    valid_for: dict[str, Any] = {} if volts is None else {"voltage": volts}
    angle = Calibration(id="a", kind="convergence_angle", value=(0.025,), valid_for=valid_for)
    parameters = IntegratedCentreOfMass.Parameters(high_pass=high_pass)
    return IntegratedCentreOfMass(parameters, Context("icom", 0, CalibrationSet((angle,))))


def atoms(ny: int, nx: int, sigma: float = 3.0) -> np.ndarray:
    """Peaks of 0.3 rad at random, on no period of the map."""
    rng = np.random.default_rng(3)
    sharp = np.zeros((ny, nx))
    sharp[rng.integers(0, ny, 25), rng.integers(0, nx, 25)] = 1.0
    made = gaussian_filter(sharp, sigma, mode="constant")
    return 0.3 * made / made.max()


def level(image: np.ndarray) -> np.ndarray:
    """Take out the plane that the mean deflection is: a beam off the centre gives one too."""
    gy, gx = np.gradient(np.where(np.isfinite(image), image, np.nanmean(image)))
    y, x = np.indices(image.shape)
    made = image - y * gy.mean() - x * gx.mean()
    return np.asarray(made - np.nanmean(made))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    good = np.isfinite(a) & np.isfinite(b)
    return float(np.corrcoef(a[good], b[good])[0, 1])


def placed(block: FrameBlock, places: np.ndarray | None = None) -> FrameBlock:
    """Put the frames where they were taken [m], on pixels of STEP unless told."""
    nx = block.spec.nav[1].size
    wanted = np.stack([block.scan_index % nx, block.scan_index // nx], axis=1) * STEP if places is None else places
    return msgspec.structs.replace(block, position=wanted)


def test_the_gradient_of_what_it_gives_is_what_it_was_given() -> None:
    phase = atoms(60, 84)
    gy, gx = np.gradient(phase, STEP)
    made = plugin()
    assert made.outputs(spec(60, 84))["phase"].units == "rad"
    bent = np.stack([gx, gy], axis=-1).reshape(-1, 2) * WAVE / (2 * np.pi) + [3e-3, -1e-3]  # a beam off the centre
    assert made.update(placed(block_of(spec(60, 84), bent.astype(np.float32)))) is not None
    out = made.end(False)
    assert out is not None
    found = out["phase"][0]
    assert correlation(found, level(phase)) > 0.999
    np.testing.assert_allclose(found, level(phase), atol=0.03 * np.ptp(phase))  # np.gradient errs by more


def test_it_is_the_phase_of_a_weak_object_as_the_probe_blurs_it() -> None:
    n = 48
    phase = atoms(n, n, sigma=1.5)
    frequency = np.fft.fftfreq(n, STEP)
    kx, ky = frequency[None, :], frequency[:, None]
    aperture = (np.hypot(kx, ky) * WAVE <= 0.025).astype(float)
    probe = np.fft.ifft2(aperture)
    probe /= np.sqrt((np.abs(probe) ** 2).sum())
    bent = np.zeros((n, n, 2))
    for y in range(n):
        for x in range(n):
            wave = np.fft.fft2(np.roll(probe, (y, x), (0, 1)) * np.exp(1j * phase))
            pattern = np.abs(wave) ** 2
            bent[y, x] = [(pattern * kx).sum() * WAVE / pattern.sum(), (pattern * ky).sum() * WAVE / pattern.sum()]
    blurred = np.fft.ifft2(np.fft.fft2(phase) * np.fft.fft2(np.abs(probe) ** 2)).real
    made = plugin()
    made.outputs(spec(n, n))
    made.update(placed(block_of(spec(n, n), bent.reshape(-1, 2).astype(np.float32))))
    out = made.end(False)
    assert out is not None
    assert correlation(out["phase"][0], blurred) > 0.99
    assert np.polyfit(blurred.ravel(), out["phase"][0].ravel(), 1)[0] == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("turn", [0.0, 0.6, -2.2])
def test_a_turned_scan_of_other_pixels_sees_the_same_object(turn: float) -> None:
    ny, nx = 50, 64
    region = Region(1e-9, -2e-9, nx * STEP, ny * 1.5 * STEP, turn)
    order = visit_order((ny, nx), "serpentine")
    places = region.positions((ny, nx))
    centres = np.random.default_rng(1).uniform(-0.5, 0.5, (12, 2)) * [nx * STEP, ny * 1.5 * STEP]
    c, s = np.cos(turn), np.sin(turn)
    centres = centres @ np.array([[c, s], [-s, c]]) + [1e-9, -2e-9]
    width = 0.1e-9
    apart = places[:, None] - centres[None]
    each = 0.3 * np.exp(-(apart**2).sum(-1) / (2 * width**2))
    phase = each.sum(1)
    bent = -(each[..., None] * apart / width**2).sum(1) * WAVE / (2 * np.pi)
    stream = spec(ny, nx)
    made = plugin()
    made.outputs(stream)
    block = block_of(stream, bent[order].astype(np.float32), scan_index=order)
    made.update(placed(block, places[order]))
    out = made.end(False)
    assert out is not None
    assert correlation(out["phase"][0], level(phase.reshape(ny, nx))) > 0.99
    assert np.ptp(out["phase"][0]) == pytest.approx(np.ptp(phase), rel=0.1)


def test_half_a_map_is_half_a_phase_and_an_empty_one_is_none() -> None:
    phase = atoms(60, 60)
    gy, gx = np.gradient(phase, STEP)
    bent = (np.stack([gx, gy], axis=-1).reshape(-1, 2) * WAVE / (2 * np.pi)).astype(np.float32)
    bent[100:103] = np.nan  # patterns without an electron
    made = plugin()
    stream = spec(60, 60)
    made.outputs(stream)
    assert made.end(True) is None
    blocks = [placed(block_of(stream, bent[i : i + 20], scan_index=np.arange(i, i + 20))) for i in range(0, 1800, 20)]
    shown = [made.update(block) is not None for block in blocks]
    assert 5 <= sum(shown) <= 8
    out = made.end(True)
    assert out is not None
    found = out["phase"][0]
    assert np.isnan(found[30:]).all()
    assert np.isfinite(found[:30]).sum() == 1797
    assert correlation(found[:30], level(phase[:30])) > 0.99
    made.begin(stream)
    assert made.end(False) is None


def test_a_high_pass_takes_clouds_out_and_leaves_atoms() -> None:
    y, x = np.mgrid[:256, :256] * STEP
    cloud, fine = np.cos(2 * np.pi * x / 2.56e-9), 0.1 * np.cos(2 * np.pi * y / 0.16e-9)
    gy, gx = np.gradient(cloud + fine, STEP)
    left = integrate(gx, gy, (STEP, STEP), 1e-9)
    assert np.std(left - fine) < 0.2 * np.std(cloud)
    assert correlation(left, fine) > 0.4 > abs(correlation(cloud + fine, fine)) + 0.2
    assert correlation(integrate(gx, gy, (STEP, STEP)), cloud) > 0.99


def test_without_a_voltage_it_is_a_path_and_what_is_no_map_of_deflections_is_refused() -> None:
    assert plugin(volts=None).outputs(spec(8, 8))["phase"].units == "m"
    for wrong in (
        spec(8, 8, units="V", channels=()),
        spec(8, 8, channels=BENT[:1]),
        spec(8, 8, nav=(Axis("y", 8), Axis("x", 8))),
        spec(8, 8, nav=()),
    ):
        with pytest.raises(SettingsError, match="deflections"):
            plugin().outputs(wrong)
    steps, turn = axes_of(spec(4, 4), np.full((4, 4, 2), np.nan))
    assert steps == (STEP, STEP)
    np.testing.assert_array_equal(turn, np.eye(2))
