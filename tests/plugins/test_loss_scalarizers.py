"""Bands, ratios and peaks of loss spectra: truth, sigma against the scatter of counts, and what is no spectrum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from probeloop.plugins.scalarizers.energy_loss import fano_factor
from probeloop.plugins.scalarizers.loss_bands import LossBand, LossRatio
from probeloop.plugins.scalarizers.loss_centroid import LossCentroid
from probeloop.plugins.scalarizers.loss_peak import LossPeak

from probeloop.api import Axis, CalibrationError, SettingsError, StreamSpec
from probeloop.data.settings import convert

CHANNELS, STEP, FIRST = 400, 0.25, 50.0
ENERGY = FIRST + STEP * np.arange(CHANNELS)
SPEC = StreamSpec("spectrum", "spectra", "<u4", sig=(Axis("energy_loss", CHANNELS, STEP, FIRST, "eV"),))
EDGE = np.where((ENERGY >= 100) & (ENERGY < 120), 30.0, 0.0) + np.where((ENERGY >= 120) & (ENERGY < 130), 50.0, 0.0)
BAND = LossBand(LossBand.Parameters(low=100.0, high=120.0, before=30.0))
RATIO = LossRatio(LossRatio.Parameters(first=(100.0, 120.0), second=(120.0, 130.0), before=30.0))
CENTROID = LossCentroid(LossCentroid.Parameters(low=100.0, high=130.0, before=30.0))
PEAK = LossPeak(LossPeak.Parameters(low=60.0, high=90.0))


def background(scale: float = 1.0) -> np.ndarray:
    return scale * 40.0 * (ENERGY / 100.0) ** -3


def peak(height: float = 60.0, centre: float = 74.3, width: float = 6.0) -> np.ndarray:
    return 10.0 + 0.1 * (ENERGY - 60) + height / (1 + (2 * (ENERGY - centre) / width) ** 2)


def centroid() -> float:
    inside = (ENERGY >= 100) & (ENERGY < 130)
    return float((EDGE * ENERGY)[inside].sum() / EDGE[inside].sum())


CASES = {
    "band": (BAND, background() + EDGE, 80 * 30.0),
    "band of few counts": (BAND, 0.1 * (background() + EDGE), 8 * 30.0),
    "ratio": (RATIO, background() + EDGE, 80 * 30.0 / (40 * 50.0)),
    "centroid": (CENTROID, background() + EDGE, centroid()),
    "peak": (PEAK, peak(), 74.3),
}


@pytest.mark.parametrize("gain", [1.0, 4.0])
@pytest.mark.parametrize("case", CASES)
def test_sigma_is_the_scatter_and_the_mean_is_true(case: str, gain: float) -> None:
    scalarizer, mean, true = CASES[case]
    rng = np.random.default_rng(4)
    found = [scalarizer.scalarize(gain * rng.poisson(mean), SPEC) for _ in range(120)]
    assert all(valid for _, _, valid in found)
    value, sigma = np.array([each[:2] for each in found]).T
    ratio = np.median(sigma) / value.std(ddof=1)
    assert 0.7 < ratio < 1.5, f"{ratio:.2f}"
    true = true * gain if case.startswith("band") else true
    assert value.mean() == pytest.approx(true, abs=4 * value.std() / np.sqrt(len(value)))


def test_the_fano_factor_is_the_gain_of_the_detector() -> None:
    rng = np.random.default_rng(2)
    for mean in (1.5, 30.0, 4000.0):
        for gain in (1.0, 3.0):
            assert fano_factor(gain * rng.poisson(mean, 4000)) == pytest.approx(gain, rel=0.2 if mean > 2 else 0.4)


def test_a_band_without_signal_is_a_measurement_of_nothing() -> None:
    value, sigma, valid = BAND.scalarize(np.random.default_rng(1).poisson(background()), SPEC)
    assert valid
    assert abs(value) < 4 * sigma
    assert not RATIO.scalarize(np.random.default_rng(1).poisson(background()), SPEC)[2]
    assert not CENTROID.scalarize(np.random.default_rng(1).poisson(background()), SPEC)[2]
    assert not PEAK.scalarize(np.random.default_rng(1).poisson(background()), SPEC)[2]


@pytest.mark.parametrize("scalarizer", [BAND, RATIO, CENTROID, PEAK], ids=["band", "ratio", "centroid", "peak"])
def test_what_is_no_spectrum_is_invalid_or_refused(scalarizer: Any) -> None:
    mean = peak(3000.0) if scalarizer is PEAK else 50 * (background() + EDGE)
    good = np.random.default_rng(1).poisson(mean).astype(float)
    assert scalarizer.scalarize(good, SPEC)[2]
    holed = good.copy()
    holed[100::7] = np.nan
    for bad in (np.zeros(CHANNELS), np.full(CHANNELS, 7.0), holed, np.minimum(good, 2000.0)):
        assert scalarizer.scalarize(bad, SPEC)[2] is False
    with pytest.raises(CalibrationError, match="energy axis"):
        scalarizer.scalarize(good, StreamSpec("spectrum", "spectra", sig=(Axis("channel", CHANNELS),)))
    elsewhere = StreamSpec("spectrum", "spectra", sig=(Axis("energy_loss", CHANNELS, STEP, 400.0, "eV"),))
    with pytest.raises(CalibrationError, match="reaches from 400 to"):
        scalarizer.scalarize(good, elsewhere)


def test_windows_that_are_none_are_told() -> None:
    for cls, values, words in (
        (LossBand, {"low": 20.0, "high": 10.0}, "low must be smaller"),
        (LossBand, {"low": 4.0, "high": 10.0, "before": 5.0}, "above 0 eV"),
        (LossRatio, {"first": (10.0, 20.0), "second": (15.0, 30.0)}, "overlap"),
        (LossPeak, {"low": 20.0, "high": 20.0}, "low must be smaller"),
    ):
        with pytest.raises(SettingsError, match=words):
            convert(cls.Parameters, values)  # type: ignore[type-var]
