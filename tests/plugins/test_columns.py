"""Columns of atoms: pictures with truth, maxima and fits of known ones, numbers that stay, a score that can fail."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from probeloop.plugins.segment.column_scores import Counts, Scene, column_scene, counted
from probeloop.plugins.segment.columns import Numbers, maxima, refined, spacing_of
from probeloop.plugins.segment.generators import GENERATORS, NAMES, generator_of, weights_at
from probeloop.plugins.segment.lattices import columns
from probeloop.plugins.segment.picture import SEEDS, generator
from scipy.spatial import cKDTree

LATTICES = ("square", "perovskite", "perovskite_heavy", "hexagonal", "honeycomb", "graphene", "fcc_110", "dumbbell",
            "rutile", "oblique")  # fmt: skip


def grid(spacing: float = 9.0, size: int = 64, seed: int = 0) -> Any:
    """Return places (N, 2) of a bent lattice."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[spacing / 2 : size - 2 : spacing, spacing / 2 : size - 2 : spacing]
    at = np.stack([y.ravel(), x.ravel()], axis=1)
    return at + rng.uniform(-0.5, 0.5, at.shape)


def drawn(at: Any, size: int = 64, width: float = 2.0, heights: Any = 1.0, noise: float = 0.0, seed: int = 0) -> Any:
    y, x = np.mgrid[:size, :size].astype(float)
    made = np.full((size, size), 0.3)
    for (row, column), height in zip(at, np.broadcast_to(heights, len(at)), strict=True):
        made += height * np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * width**2))
    return made + noise * np.random.default_rng(seed).normal(size=made.shape)


@pytest.mark.parametrize("lattice", LATTICES)
def test_a_picture_comes_again_from_its_seed_and_its_columns_are_where_it_says(lattice: str) -> None:
    for number in range(90):  # one that is clear, and not empty
        one = columns(generator("scoring", 1, number), 96, lattice)
        if len(one.positions) > 20 and one.snr > 12 and one.spacing > 6:
            break
    again, other = columns(generator("scoring", 1, number), 96, lattice), columns(generator("scoring", 2, number), 96)
    assert np.array_equal(one.values, again.values)
    assert np.array_equal(one.positions, again.positions)
    assert not np.array_equal(one.values, other.values)
    assert one.values.shape == (96, 96)
    assert np.isfinite(one.values).all()
    assert one.line.sum() == len(one.positions)
    assert not (one.line & one.unseen).any()
    assert one.line[tuple(np.rint(one.positions).astype(int).T)].all()
    assert one.wall.sum() > 4 * one.line.sum()
    fitted = refined(one.values, one.positions)
    off = (fitted.at - one.positions)[np.isfinite(fitted.at_sigma)]
    assert len(off) > 0.8 * len(one.positions)
    assert np.median(np.hypot(*off.T)) < 0.08 * one.spacing


def test_columns_that_noise_or_the_edge_hides_are_neither_missed_nor_false() -> None:
    picture = columns(generator("scoring", 4, 2), 96, "perovskite")
    edge = np.minimum(picture.positions, 95 - picture.positions).min()
    assert edge >= 2
    assert picture.unseen.any()
    empty = [columns(generator("scoring", 5, i), 48) for i in range(60)]
    assert any(not len(each.positions) and not each.unseen.any() for each in empty)  # amorphous material alone


def test_what_can_be_trained_on_has_a_name_and_weights() -> None:
    assert set(GENERATORS) == set(NAMES) == {"walls", "columns"}
    for kind in GENERATORS:
        assert generator_of({"generator": NAMES[kind]}) is GENERATORS[kind]
        assert weights_at(kind).is_file()
    assert generator_of({}) is GENERATORS["walls"]
    assert weights_at("") == weights_at("walls")
    assert weights_at("~/mine.safetensors").name == "mine.safetensors"
    assert SEEDS["training"].stop <= SEEDS["scoring"].start


def test_maxima_are_found_to_a_part_of_a_pixel_and_flat_tops_once() -> None:
    at = grid()
    found = maxima(drawn(at) - 0.3, 0.5)
    away, which = cKDTree(at).query(found)
    assert len(found) == len(at) == len(set(which))
    assert away.max() < 0.3
    discs = (cKDTree(at).query(np.argwhere(np.ones((64, 64))))[0] <= 2.0).reshape(64, 64)
    assert len(maxima(discs.astype(float), 0.5)) == len(at)
    gap = drawn(at) - 0.3
    gap[20:30] = np.nan
    rows = maxima(gap, 0.5)[:, 0]
    assert ((rows < 20) | (rows > 29)).all()
    assert maxima(np.zeros((8, 8)), 0.5).shape == (0, 2)


def test_a_fit_is_as_good_as_it_says() -> None:
    at, ratios, bright = grid(), [], []
    heights = np.random.default_rng(5).uniform(0.5, 1.5, len(at))
    for seed in range(6):
        image = drawn(at, heights=heights, noise=0.06, seed=seed)
        made = refined(image, maxima(image - 0.3, 0.25))
        away, which = cKDTree(at).query(made.at)
        assert len(made.at) == len(at)
        ratios.append((made.at - at[which]) / made.at_sigma[:, None])
        bright.append((made.intensity - heights[which]) / made.intensity_sigma)
        assert np.sqrt((away**2).mean() / 2) < 0.1
        assert np.median(made.width) == pytest.approx(2.0, abs=0.1)
        assert np.abs(made.width - 2.0).max() < 1.0
        assert np.abs(np.median(made.ground) - 0.3) < 0.05
    assert 0.75 < np.std(np.concatenate(ratios)) < 1.3
    assert 0.75 < np.std(np.concatenate(bright)) < 1.3


def test_neighbours_do_not_pull_a_fit() -> None:
    pair = np.array([[32.0, 28.0], [32.3, 34.2]])
    at = np.concatenate([pair, grid()[(np.abs(grid() - 32) > 10).any(axis=1)]])
    heights = np.where(np.arange(len(at)) == 0, 2.0, 0.7)
    made = refined(drawn(at, heights=heights), at + 0.4)
    assert np.abs(made.at - at)[:2].max() < 0.06
    assert made.intensity[:2] == pytest.approx(heights[:2], rel=0.06)


def test_what_cannot_be_fitted_keeps_its_place_and_has_no_error() -> None:
    at = grid()
    image = drawn(at, noise=0.02)
    image[:, 40:] = np.nan
    made = refined(image, at)
    unknown = at[:, 1] > 44
    assert np.isnan(made.intensity[unknown]).all()
    assert np.array_equal(made.at[unknown], at[unknown])
    assert np.isfinite(made.at_sigma[at[:, 1] < 36]).all()
    assert len(refined(image, np.empty((0, 2))).at) == 0
    alone = refined(drawn(np.array([[20.2, 30.4]]), width=1.5), np.array([[20.0, 30.0]]))
    assert alone.at[0] == pytest.approx([20.2, 30.4], abs=0.02)
    assert np.isnan(refined(np.full((32, 32), 2.0), np.array([[10.0, 10.0]])).intensity[0])
    assert np.isnan(spacing_of(at[:1]))


def test_a_column_keeps_its_number_while_it_moves_less_than_the_reach() -> None:
    numbers, at = Numbers(memory=1), grid()
    numbers.begin()
    first = numbers.number(at, 2.0)
    assert sorted(first) == list(range(1, len(at) + 1))
    again = numbers.number((at + 0.7)[::-1], 2.0)
    assert np.array_equal(again[::-1], first)
    numbers.begin()
    some = numbers.number(np.concatenate([at[3:] + 0.7, [[200.0, 200.0]]]), 2.0)
    assert np.array_equal(some[:-1], first[3:])
    assert some[-1] == len(at) + 1
    numbers.begin()  # missed once: remembered
    assert np.array_equal(numbers.number(at[:3], 2.0), first[:3])
    for _ in range(2):
        numbers.begin()
        numbers.number(at[3:], 2.0)
    numbers.begin()
    assert (numbers.number(at[:3], 2.0) > len(at)).all()  # missed too often: another one


def test_the_score_counts_found_missed_doubled_and_unsure_ones() -> None:
    at = grid()
    scene = Scene(drawn(at).astype(np.float32), at, np.array([[2.0, 60.0]]), 9.0, 2.0)
    assert counted(at, scene) == Counts(len(at), len(at), len(at), 0.0)
    found = np.concatenate([at[2:] + 0.5, at[5:6] + 1.0, [[13.5, 1.0], [2.0, 60.0]]])
    made = counted(found, scene)
    assert (made.found, made.right, made.true) == (len(at), len(at) - 2, len(at))  # a double, and one that is none
    assert made.plain()["rms_px"] == pytest.approx(0.5, abs=0.01)
    assert counted(np.empty((0, 2)), scene) == Counts(0, 0, len(at))


def test_the_columns_of_a_perfect_crystal_are_where_its_lattice_has_them() -> None:
    scene = column_scene(3, "srtio3", 40)
    assert scene.values.shape == (40, 40)
    assert len(scene.true) > 20
    assert scene.values[tuple(np.rint(scene.true).astype(int).T)].mean() > 1.5 * scene.values.mean()
    made = refined(scene.values, scene.true)
    off = (made.at - scene.true)[np.isfinite(made.at_sigma)]
    assert np.abs(np.median(off, axis=0)).max() < 0.25
