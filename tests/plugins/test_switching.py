"""Coercive window, imprint and nucleation bias against simulated loops of known thresholds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from probeloop.plugins.scalarizers.branches import rising
from probeloop.plugins.scalarizers.coercive import CoerciveWindow, Imprint, NucleationBias

from probeloop.api import (
    BEPS,
    AcquireSpectrum,
    Approach,
    Axis,
    CalibrationError,
    FrameBuffer,
    StreamSpec,
    load_simulator,
)

STEPS = 64
AHEAD = float(np.arctanh(1 - 2 * 0.03))
BIAS = 8.5 * (1 - 4 * np.abs(((np.arange(STEPS) / STEPS + 0.25) % 1) - 0.5))
SPEC = StreamSpec("spectrum", "spectra", "<f8", sig=(Axis("step", STEPS),), aux={"bias": tuple(BIAS)})


def loop(up: float = 3.5, down: float = -2.5, width: float = 0.8, noise: float = 0.02, seed: int = 0) -> np.ndarray:
    """A loop with an offset and a slope, (64,)."""
    centre = np.where(rising(BIAS), up, down)
    made = np.tanh((BIAS - centre) / width) + 0.1 + 0.01 * BIAS
    return np.asarray(made + noise * np.random.default_rng(seed).standard_normal(STEPS))


def truths(of: dict[str, Any]) -> dict[str, float]:
    return {
        "window": of["up"] - of["down"],
        "imprint": (of["up"] + of["down"]) / 2,
        "nucleation": of["up"] - AHEAD * of["width"],
        "negative": of["down"] + AHEAD * of["width"],
    }


def scalarizers(**more: Any) -> dict[str, Any]:
    nucleation = {
        side: NucleationBias(NucleationBias.Parameters(side=side, **more)) for side in ("positive", "negative")
    }
    return {
        "window": CoerciveWindow(CoerciveWindow.Parameters(**more)),
        "imprint": Imprint(Imprint.Parameters(**more)),
        "nucleation": nucleation["positive"],
        "negative": nucleation["negative"],
    }


@pytest.fixture(scope="module")
def measured() -> list[tuple[Any, StreamSpec, dict[str, Any]]]:
    """Loops of both fields at places of a simulated film, with what is true of each."""
    spm = load_simulator(
        "spm", {"seed": 3, "pace": None, "broken_share": 0.2, "noise": 8e-12, "cells": 128, "width": 700.0}
    )
    spm.approach(Approach())
    made = []
    rng = np.random.default_rng(5)
    for x, y in rng.uniform(-3e-7, 3e-7, (80, 2)):
        acquired = spm.acquire_spectrum(AcquireSpectrum((float(x), float(y)), BEPS(field="both")))
        buffer = FrameBuffer.allocate(acquired.spec, 1)
        next(acquired.frames)
        acquired.frames.send(buffer)
        made.append((buffer.data[0].copy(), acquired.spec))
    told = spm.truth()["spectra"]
    spm.close()
    return [(*each, of) for each, of in zip(made, told, strict=True)]


@pytest.mark.parametrize("field", ["off", "on"])
def test_values_are_true_and_sigma_is_their_error_over_many_places(measured: Any, field: str) -> None:
    inside = [each for each in measured if not each[2]["broken"] and each[2]["up"] < 7.5]
    assert len(inside) > 45
    for name, scalarizer in scalarizers(field=field).items():
        found = [(scalarizer.scalarize(data, spec), truths(of)[name]) for data, spec, of in inside]
        kept = [(value, sigma, true) for (value, sigma, valid), true in found if valid]
        assert len(kept) > 0.85 * len(inside), name
        value, sigma, true = np.array(kept).T
        pull = (value - true) / sigma
        spread = (np.quantile(pull, 0.84) - np.quantile(pull, 0.16)) / 2
        assert 0.7 < spread < 1.5, f"{name}: {spread:.2f}"
        assert abs(np.median(value - true)) < 0.1, f"{name}: {np.median(value - true):.3f} V"


def test_broken_loops_and_those_that_the_bias_does_not_close_are_invalid(measured: Any) -> None:
    broken = [each for each in measured if each[2]["broken"]]
    assert len(broken) >= 8
    scalarizer = CoerciveWindow(CoerciveWindow.Parameters(field="off"))
    believed = [(scalarizer.scalarize(data, spec), truths(of)["window"]) for data, spec, of in broken]
    wrong = [valid and abs(value - true) > 5 * sigma + 0.1 for (value, sigma, valid), true in believed]
    assert np.mean([valid for (_, _, valid), _ in believed]) < 0.4  # a mild one may be, where that does no harm
    assert np.mean(wrong) < 0.1
    assert not scalarizer.scalarize(loop(up=8.3), SPEC_OFF)[2]
    assert not scalarizer.scalarize(loop(up=20.0, down=-2.0), SPEC_OFF)[2]


SPEC_OFF = StreamSpec(
    "spectrum", "spectra", "<f8", sig=(Axis("step", STEPS),), aux={"bias": tuple(BIAS), "field_on": (0.0,) * STEPS}
)


@pytest.mark.parametrize("width", [0.4, 1.2])
def test_sigma_is_the_scatter_of_repeated_measurements(width: float) -> None:
    true = truths({"up": 3.5, "down": -2.5, "width": width})
    for name, scalarizer in scalarizers().items():
        found = np.array([scalarizer.scalarize(loop(width=width, seed=i), SPEC)[:2] for i in range(40)])
        ratio = np.median(found[:, 1]) / found[:, 0].std(ddof=1)
        assert 0.7 < ratio < 1.5, f"{name}: {ratio:.2f}"
        assert found[:, 0].mean() == pytest.approx(true[name], abs=4 * found[:, 0].std() / np.sqrt(40) + 0.02), name


def test_an_inverted_response_and_several_cycles_are_the_same_loop() -> None:
    window, sigma, valid = CoerciveWindow().scalarize(loop(), SPEC)
    assert valid
    assert window == pytest.approx(6.0, abs=4 * sigma)
    inverted, _, good = CoerciveWindow().scalarize(-loop(), SPEC)
    assert good
    assert inverted == pytest.approx(window)
    twice = StreamSpec("s", "spectra", "<f8", sig=(Axis("step", 2 * STEPS),), aux={"bias": tuple(np.tile(BIAS, 2))})
    both, less, fine = CoerciveWindow().scalarize(np.concatenate([loop(seed=1), loop(seed=2)]), twice)
    assert fine
    assert both == pytest.approx(6.0, abs=4 * sigma)
    assert less < sigma
    assert Imprint().scalarize(loop(), SPEC)[0] == pytest.approx(0.5, abs=4 * sigma)


def test_what_is_no_loop_is_invalid() -> None:
    rng = np.random.default_rng(1)
    nothing = {
        "noise": rng.standard_normal(STEPS),
        "constant": np.ones(STEPS),
        "zero": np.zeros(STEPS),
        "missing": np.full(STEPS, np.nan),
        "a line": 0.1 * BIAS + 0.01 * rng.standard_normal(STEPS),
        "clipped": np.minimum(loop(), 0.6),
        "spiky": np.where(np.arange(STEPS) % 6, loop(), 50.0),
    }
    for scalarizer in scalarizers().values():
        for what, spectrum in nothing.items():
            assert scalarizer.scalarize(spectrum, SPEC)[2] is False, what


def test_it_says_what_is_missing() -> None:
    with pytest.raises(CalibrationError, match="bias of every step"):
        CoerciveWindow().scalarize(loop(), StreamSpec("s", "spectra", sig=(Axis("step", STEPS),)))
    on = CoerciveWindow(CoerciveWindow.Parameters(field="on"))
    with pytest.raises(CalibrationError, match='field = "on" or "both"'):
        on.scalarize(loop(), SPEC_OFF)
