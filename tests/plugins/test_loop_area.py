"""The loop area: the naive line, its noise, its sign, and which loops are not believed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from probeloop.plugins.scalarizers.loop_area import LoopArea

from probeloop.api import Axis, CalibrationError, StreamSpec

STEPS = 64
PHASE = np.arange(STEPS) / STEPS
BIAS = 8.0 * np.interp(PHASE, [0, 0.25, 0.75, 1], [0, 1, -1, 0])


def spec(dtype: str = "<f8") -> StreamSpec:
    return StreamSpec("spectrum", "spectra", dtype, sig=(Axis("step", STEPS),), aux={"bias": tuple(BIAS)})


def loop(coercive: float = 2.0) -> np.ndarray:
    rising = np.gradient(BIAS) > 0
    noise = 0.004 * np.random.default_rng(8).standard_normal(STEPS)  # a loop without any was clipped
    return np.tanh((BIAS - np.where(rising, coercive, -coercive)) / 0.8) + noise


@pytest.mark.parametrize("dtype", ["<f4", "<f8", "<c8", "<i2"])
def test_a_clean_loop_has_the_area_of_the_naive_line(dtype: str) -> None:
    scale = 1000 if dtype == "<i2" else 1.0
    made = (loop() * scale).astype(dtype)
    value, sigma, valid = LoopArea().scalarize(made, spec(dtype))
    naive = float(np.real(made).astype(float) @ ((np.roll(BIAS, -1) - np.roll(BIAS, 1)) / 2))
    assert valid
    assert value == pytest.approx(naive, rel=1e-6)
    assert sigma < 0.05 * abs(value)


def test_the_sign_is_the_direction_of_the_loop() -> None:
    late, _, _ = LoopArea().scalarize(loop(2.0), spec())
    early, _, _ = LoopArea().scalarize(loop(-2.0), spec())
    assert late < 0 < early
    assert late == pytest.approx(-early, rel=0.05)


def test_sigma_is_the_scatter_of_the_area() -> None:
    rng = np.random.default_rng(3)
    found = [LoopArea().scalarize(loop() + rng.normal(0, 0.05, STEPS), spec()) for _ in range(300)]
    spread = np.std([value for value, _, _ in found])
    assert np.median([sigma for _, sigma, _ in found]) == pytest.approx(spread, rel=0.35)
    assert all(valid for _, _, valid in found)


def test_a_few_spikes_are_replaced_and_change_little() -> None:
    clean, _, _ = LoopArea().scalarize(loop(), spec())
    spiky = loop()
    spiky[[5, 20, 41, 58]] = 80.0
    value, _, valid = LoopArea().scalarize(spiky, spec())
    assert valid
    assert value == pytest.approx(clean, rel=0.05)


def test_more_than_six_spikes_or_a_peak_that_stays_are_invalid() -> None:
    spiky = loop()
    spiky[3::9] = 80.0
    assert not LoopArea().scalarize(spiky, spec())[2]
    plateau = loop()
    plateau[10:16] = 50.0
    assert not LoopArea().scalarize(plateau, spec())[2]


def test_a_clipped_or_constant_loop_is_invalid_and_its_logarithm_tells_the_relative_error() -> None:
    assert not LoopArea().scalarize(np.minimum(loop(), 0.7), spec())[2]
    assert not LoopArea().scalarize(np.ones(STEPS), spec())[2]
    value, sigma, _ = LoopArea().scalarize(loop(), spec())
    log, relative, valid = LoopArea(LoopArea.Parameters(scale="log")).scalarize(loop(), spec())
    assert valid
    assert log == pytest.approx(np.log(-value))
    assert relative == pytest.approx(-sigma / value)
    assert LoopArea(LoopArea.Parameters(scale="log")).scalarize(np.ones(STEPS), spec())[2] is False


def test_an_offset_hides_no_spikes() -> None:
    spiky = 0.05 * loop()
    spiky[[3, 9, 20, 27, 33, 47, 54, 60]] += 0.6
    assert not LoopArea().scalarize(spiky, spec())[2]
    assert not LoopArea().scalarize(spiky + 1.0, spec())[2]
    clean, _, valid = LoopArea().scalarize(0.05 * loop() + 1.0, spec())
    assert valid
    assert clean == pytest.approx(0.05 * LoopArea().scalarize(loop(), spec())[0], rel=1e-3)


def test_missing_steps_count_as_replaced() -> None:
    holed = loop()
    holed[[4, 30]] = np.nan
    value, _, valid = LoopArea().scalarize(holed, spec())
    assert valid
    assert np.isfinite(value)
    assert LoopArea().scalarize(np.full(STEPS, np.nan), spec())[2] is False


def test_without_a_bias_it_refuses_and_a_voltage_axis_will_do() -> None:
    with pytest.raises(CalibrationError, match="bias"):
        LoopArea().scalarize(loop(), StreamSpec("s", "spectra", sig=(Axis("step", STEPS),)))
    with pytest.raises(CalibrationError, match="60 steps"):
        LoopArea().scalarize(loop()[:60], spec())
    iv = StreamSpec("s", "spectra", sig=(Axis("V", STEPS, 0.1, -3.2, "V"),))
    assert LoopArea().scalarize(loop(), iv)[2]


def test_most_loops_of_a_real_file_are_believed_and_the_largest_raw_areas_are_not(data_dir: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(data_dir / "spectra" / "BEPS_PTO_50x50.h5") as file:
        loops = file["Channel_000/generic/generic"][:].reshape(-1, STEPS)
        bias = file["Channel_000/generic/Voltage"][:]
    real = StreamSpec("spectrum", "spectra", "<f8", sig=(Axis("step", STEPS),), aux={"bias": tuple(bias)})
    raw = np.abs(loops @ ((np.roll(bias, -1) - np.roll(bias, 1)) / 2))
    order = np.argsort(raw)
    plugin = LoopArea()
    every = [plugin.scalarize(loops[i], real)[2] for i in order[::5]]
    largest = [plugin.scalarize(loops[i], real)[2] for i in order[-125:]]
    assert 0.7 < np.mean(every) < 0.95
    assert np.mean(largest) < 0.5
