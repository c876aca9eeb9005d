"""Boundaries between grains of a lattice, and where an edge of a loss spectrum lies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from probeloop.plugins.grain_boundaries import GrainBoundaries, boundaries, bragg_peaks
from probeloop.plugins.objects.find import Grid, find
from probeloop.plugins.scalarizers.loss_centroid import LossCentroid

from probeloop.api import Axis, CalibrationError, StreamSpec
from probeloop.data.errors import SettingsError
from probeloop.data.settings import convert

STEP = 6e-11
LATTICE = 3.9e-10
SIDE = 96
AXES = (Axis("y", SIDE, STEP, 0.0, "m"), Axis("x", SIDE, STEP, 0.0, "m"))


def lattice(tilts: tuple[float, float], direction: float = 0.2, noise: float = 0.15, seed: int = 1) -> Any:
    """Return square lattices (SIDE, SIDE) turned by two angles [rad], left and right of a line through the middle."""
    y, x = (np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2) * STEP
    right = x * math.cos(direction) + y * math.sin(direction) > 0
    rng = np.random.default_rng(seed)
    grains = []
    for tilt in tilts:
        c, s, (p, q) = math.cos(tilt), math.sin(tilt), rng.random(2) * 6
        u, v = (c * x + s * y) / LATTICE, (-s * x + c * y) / LATTICE
        grains.append(np.exp(3 * (np.cos(2 * np.pi * u + p) + np.cos(2 * np.pi * v + q) - 2)))
    return np.where(right, grains[1], grains[0]) + noise * rng.normal(size=x.shape)


@pytest.mark.parametrize("direction", [0.0, 0.2, 1.0, 1.6])
def test_the_boundary_lies_where_one_grain_ends_and_the_other_begins(direction: float) -> None:
    found = boundaries(lattice((0.14, -0.17), direction), (STEP, STEP), 6e-10, 12)
    assert 0 <= found.min() <= found.max() <= 1
    grid = Grid((-(SIDE - 1) / 2 * STEP,) * 2, (STEP, STEP))
    (wall,) = find(found, grid, 0.5, 20).walls
    x, y = wall.places.T
    across = np.abs(x * math.cos(direction) + y * math.sin(direction))
    assert np.median(across) < 3 * STEP  # of a resolution of ten
    assert wall.shape.length > 0.8 * SIDE * STEP


@pytest.mark.parametrize("seed", range(5))
def test_one_grain_noise_and_a_constant_have_none(seed: int) -> None:
    same = boundaries(lattice((0.1, 0.1), seed=seed), (STEP, STEP), 6e-10, 12)
    # the two halves are out of step, which no amplitude shows but as a thin dip
    noise = boundaries(np.random.default_rng(seed).normal(size=(SIDE, SIDE)), (STEP, STEP), 6e-10, 12)
    y, x = (np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2) * STEP
    away = np.abs(x * math.cos(0.2) + y * math.sin(0.2)) > 1.2e-9
    assert (same[away] < 0.5).mean() > 0.99
    assert noise.max() == 0
    assert boundaries(np.ones((32, 32)), (STEP, STEP), 6e-10, 12).max() == 0
    assert boundaries(np.full((32, 32), np.nan), (STEP, STEP), 6e-10, 12).max() == 0


def test_the_peaks_are_those_of_both_lattices() -> None:
    image = lattice((0.14, -0.17), noise=0.0)
    found = bragg_peaks(image - image.mean(), (STEP, STEP), 6e-10, 12)
    lengths = np.sort([math.hypot(*each) * LATTICE for each in found])[:4]
    np.testing.assert_allclose(lengths, 1.0, atol=0.06)
    angles = sorted(math.degrees(math.atan2(ky, kx)) % 90 for ky, kx in found if math.hypot(ky, kx) * LATTICE < 1.1)
    np.testing.assert_allclose(angles, np.degrees([0.14, 0.14, np.pi / 2 - 0.17, np.pi / 2 - 0.17]), atol=3)


def test_a_half_scanned_map_and_a_nan_line_stay_missing() -> None:
    image = lattice((0.14, -0.17))
    image[60:] = np.nan
    image[10] = np.nan
    plugin = GrainBoundaries()
    plugin.outputs(StreamSpec("haadf", "values", "<f4", nav=AXES))
    made = plugin.update(image)
    assert made is not None
    mean = made["mean"][0]
    assert np.isnan(mean[60:]).all()
    assert np.isnan(mean[10]).all()
    assert np.isfinite(mean[11:60]).all()
    assert np.nanmax(mean) > 0.5
    assert plugin.update(np.where(np.arange(SIDE)[:, None] < 10, image, np.nan)) is None
    for axes in ((Axis("y", 8), Axis("x", 8)), AXES[:1]):
        with pytest.raises(SettingsError):
            plugin.outputs(StreamSpec("haadf", "values", "<f4", nav=axes))


ENERGY = Axis("energy_loss", 1500, 0.1, 350.0, "eV")
SPEC = StreamSpec("spectrum", "spectra", "<u4", sig=(ENERGY,), units="counts")


TITANIUM = LossCentroid.Parameters(low=453.0, high=470.0, before=50.0)


def spectrum(at: float, counts: float = 200.0, seed: int = 0, background: float = 400.0) -> Any:
    energy = ENERGY.values()
    line = counts * np.exp(-(((energy - at) / 2) ** 2) / 2)
    return np.random.default_rng(seed).poisson(background * (energy / 400) ** -3 + line)


def test_a_line_is_found_where_it_is_with_the_error_that_it_has() -> None:
    plugin = LossCentroid(TITANIUM)
    found = [plugin.scalarize(spectrum(461.5, seed=seed), SPEC) for seed in range(60)]
    values, sigmas, valid = (np.array(each) for each in zip(*found, strict=True))
    assert valid.all()
    assert values.mean() == pytest.approx(461.5, abs=0.15)
    assert values.std() == pytest.approx(sigmas.mean(), rel=0.6)
    lower = np.mean([plugin.scalarize(spectrum(460.3, seed=seed), SPEC)[0] for seed in range(20)])
    assert values.mean() - lower == pytest.approx(1.2, abs=0.15)


def test_without_a_line_or_an_axis_there_is_no_value() -> None:
    plugin = LossCentroid(TITANIUM)
    assert not any(plugin.scalarize(spectrum(461.5, 0.0, seed), SPEC)[2] for seed in range(20))
    assert not plugin.scalarize(np.zeros(1500), SPEC)[2]
    short = StreamSpec("spectrum", "spectra", "<u4", sig=(Axis("energy_loss", 100, 0.1, 450.0, "eV"),))
    for spec in (short, StreamSpec("spectrum", "spectra", "<u4", sig=(Axis("channel", 100),))):
        with pytest.raises(CalibrationError):
            plugin.scalarize(np.ones(100), spec)
    with pytest.raises(SettingsError, match="low"):
        convert(LossCentroid.Parameters, {"low": 500.0})
