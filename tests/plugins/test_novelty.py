"""Novelty, the deflection of a pattern, and weighted sums."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from probeloop.plugins.scalarizers.coercive import CoerciveWindow, Imprint
from probeloop.plugins.scalarizers.deflection import DeflectionMagnitude
from probeloop.plugins.scalarizers.novelty import Novelty
from probeloop.plugins.scalarizers.weighted_sum import WeightedSum

from probeloop.api import Axis, Calibration, CalibrationError, CalibrationSet, Context, SettingsError, StreamSpec
from probeloop.data.settings import convert

N = 200
E = np.linspace(0, 1, N)
SPEC = StreamSpec("spectrum", "spectra", "<f8", sig=(Axis("energy_loss", N, 0.1, 0.0, "eV"),))
PATTERN = StreamSpec("camera", "frames", "<u2", sig=(Axis("ky", 32), Axis("kx", 32)))


def usual(rng: Any, noise: float = 0.3) -> np.ndarray:
    """One of a family: a peak of varying height on a slope."""
    height, slope = rng.uniform(5, 10), rng.uniform(1, 2)
    return np.asarray(height * np.exp(-(((E - 0.4) / 0.05) ** 2)) + slope * E + noise * rng.standard_normal(N))


def odd(rng: Any, noise: float = 0.3) -> np.ndarray:
    """What none of the family shows: a second peak."""
    second = 8 * np.exp(-(((E - 0.75) / 0.05) ** 2))
    return np.asarray(7 * np.exp(-(((E - 0.4) / 0.05) ** 2)) + 1.5 * E + second + noise * rng.standard_normal(N))


def fed(count: int = 40) -> Novelty:
    rng, made = np.random.default_rng(1), Novelty()
    for _ in range(count):
        assert made.scalarize(usual(rng), SPEC)[2]
    return made


def test_what_was_never_seen_is_new_and_the_second_of_it_is_not() -> None:
    rng, made = np.random.default_rng(9), fed()
    known = [fed().scalarize(usual(rng), SPEC)[0] for _ in range(5)]
    first = made.scalarize(odd(rng), SPEC)[0]
    assert first > 3 * max(known)
    for _ in range(3):
        again = made.scalarize(odd(rng), SPEC)[0]
    assert again < 0.5 * first


def test_the_same_spectra_in_the_same_order_give_the_same_values_after_forget() -> None:
    rng = np.random.default_rng(3)
    spectra = [odd(rng) if i in (7, 13) else usual(rng) for i in range(20)]
    made = Novelty()
    before = [made.scalarize(each, SPEC) for each in spectra]
    made.forget()
    assert [made.scalarize(each, SPEC) for each in spectra] == before
    assert before[:3] == [(1.0, 1.0, True)] * 3
    assert Novelty.remembers


@pytest.mark.parametrize("which", [usual, odd])
def test_sigma_of_novelty_is_its_scatter(which: Any) -> None:
    same = which(np.random.default_rng(12), 0.0)
    rng, made = np.random.default_rng(6), fed(25)
    spectra = same + 0.3 * rng.standard_normal((80, N))
    found = [copy.deepcopy(made).scalarize(each, SPEC)[:2] for each in spectra]
    value, sigma = np.array(found).T
    ratio = np.median(sigma) / value.std(ddof=1)
    assert 0.7 < ratio < 1.5, f"{ratio:.2f}"


def test_broken_spectra_are_new_in_no_sense() -> None:
    made, rng = fed(), np.random.default_rng(2)
    holed = usual(rng)
    holed[5] = np.nan
    for bad in (np.zeros(N), np.full(N, 3.0), holed, np.minimum(usual(rng), 4.0)):
        assert made.scalarize(bad, SPEC)[2] is False
    with pytest.raises(CalibrationError, match="needs spectra"):
        made.scalarize(np.array(1.0), StreamSpec("scan", "values"))
    bias = tuple(5 * np.sin(2 * np.pi * np.arange(N) / N))
    loops = StreamSpec("spectrum", "spectra", "<f8", sig=(Axis("step", N),), aux={"bias": bias})
    spiky = np.where(np.arange(N) % 5, usual(rng), 500.0)
    assert made.scalarize(spiky, loops)[2] is False
    shorter = StreamSpec("s", "spectra", "<f8", sig=(Axis("energy_loss", 50, 0.1, 0.0, "eV"),))
    assert made.scalarize(usual(rng)[:50], shorter) == (1.0, 1.0, True)


def known(**values: tuple[float, ...]) -> Context:
    usual_ones = {"pattern_centre": (15.5, 15.5), "detector_scale": (2e-3,), **values}
    made = tuple(Calibration(id=kind, kind=kind, value=value) for kind, value in usual_ones.items())  # type: ignore[arg-type]
    return Context("deflection", 0, CalibrationSet(made))


def test_deflection_is_true_in_mrad_and_sigma_is_its_scatter() -> None:
    y, x = np.mgrid[:32, :32]
    disc = 20.0 * (np.hypot(y - 15.5 - 2.0, x - 15.5 + 1.0) < 6.2)
    mass = np.array([(disc * (y - 15.5)).sum(), (disc * (x - 15.5)).sum()]) / disc.sum()
    rng = np.random.default_rng(1)
    for gain in (1.0, 5.0):
        context = known(counts_per_electron=(gain,))
        found = np.array(
            [
                DeflectionMagnitude(context=context).scalarize(gain * rng.poisson(disc), PATTERN)[:2]
                for _ in range(150)
            ]
        )
        assert found[:, 0].mean() == pytest.approx(2 * np.hypot(*mass), rel=0.01)
        assert 0.7 < np.median(found[:, 1]) / found[:, 0].std(ddof=1) < 1.5


def test_a_pattern_that_is_none_is_invalid_or_refused() -> None:
    made = DeflectionMagnitude(context=known())
    assert made.scalarize(np.zeros((32, 32)), PATTERN)[2] is False
    assert made.scalarize(np.full((32, 32), 9.0), PATTERN)[2] is False
    assert made.scalarize(np.where(np.eye(32) > 0, np.nan, 5.0), PATTERN)[2] is False
    with pytest.raises(CalibrationError, match="pattern_centre"):
        DeflectionMagnitude().scalarize(np.ones((32, 32)), PATTERN)
    with pytest.raises(CalibrationError, match="diffraction patterns"):
        made.scalarize(np.ones(N), SPEC)


BIAS = 8.0 * np.sin(2 * np.pi * np.arange(64) / 64)
LOOPS = StreamSpec("spectrum", "spectra", "<f8", sig=(Axis("step", 64),), aux={"bias": tuple(BIAS)})


def a_loop(seed: int = 1) -> np.ndarray:
    up = np.gradient(BIAS) > 0
    noise = 0.02 * np.random.default_rng(seed).standard_normal(64)
    return np.asarray(np.tanh((BIAS - np.where(up, 3.0, -2.0)) / 0.7) + noise)


def test_a_weighted_sum_is_the_naive_line() -> None:
    parts = [
        {"use": "coercive_window", "weight": 2.0, "scale": 5.0, "units": "V"},
        {"use": "imprint", "weight": -1.0, "scale": 0.5, "units": "V", "parameters": {"least": 3.0}},
    ]
    made = WeightedSum(convert(WeightedSum.Parameters, {"parts": parts}))
    (a, sa, _), (b, sb, _) = CoerciveWindow().scalarize(a_loop(), LOOPS), Imprint().scalarize(a_loop(), LOOPS)
    value, sigma, valid = made.scalarize(a_loop(), LOOPS)
    assert valid
    assert value == pytest.approx(2 * a / 5 - b / 0.5)
    assert sigma == pytest.approx(np.hypot(2 * sa / 5, sb / 0.5))
    assert made.scalarize(np.ones(64), LOOPS)[2] is False
    found = np.array([made.scalarize(a_loop(i), LOOPS)[:2] for i in range(40)])
    assert 0.7 < np.median(found[:, 1]) / found[:, 0].std(ddof=1) < 1.5
    made.parameters = convert(WeightedSum.Parameters, {"parts": parts[:1]})
    assert made.scalarize(a_loop(), LOOPS)[0] == pytest.approx(2 * a / 5)


def test_what_is_no_sum_is_told_before_anything_is_measured() -> None:
    for parts, words in (
        ([{"use": "imprint"}], "say units = 'V'"),
        ([{"use": "imprynt"}], "did you mean imprint"),
        ([{"use": "imprint", "units": "V", "parameters": {"lost": 1}}], "unknown"),
        ([], "at least one"),
    ):
        with pytest.raises(SettingsError, match=words):
            convert(WeightedSum.Parameters, {"parts": parts})
    with pytest.raises(CalibrationError, match="bias"):
        WeightedSum().scalarize(np.ones(N), SPEC)
