"""Patches, simple features, robust values, acquisition functions and seeds, against the naive line."""

from __future__ import annotations

import math

import numpy as np
import pytest
from probeloop.plugins.explore_dkl import acquisition, seeds
from probeloop.plugins.explore_dkl.folds import split
from probeloop.plugins.explore_dkl.patches import cut, edge_mask, features, standardised
from probeloop.plugins.explore_dkl.reduction import components
from probeloop.plugins.explore_dkl.target import Target
from scipy import integrate, stats

from probeloop.api import DropInError

RNG = np.random.default_rng(5)
IMAGE = RNG.normal(size=(11, 14))


@pytest.mark.parametrize("size", [4, 5])
def test_a_patch_is_the_image_around_its_pixel_and_mirrored_beyond_the_edge(size: int) -> None:
    made = cut({"a": IMAGE, "b": 3 * IMAGE + 5}, IMAGE.shape, size)
    scaled, before = standardised(IMAGE), size // 2
    rows = made.rows.reshape(11, 14, 2, size, size)
    np.testing.assert_allclose(rows[5, 6, 0], scaled[5 - before :, 6 - before :][:size, :size])
    np.testing.assert_allclose(rows[5, 6, 1], rows[5, 6, 0])
    wide = np.pad(scaled, size, mode="symmetric")
    np.testing.assert_allclose(rows[0, 13, 0], wide[size - before :, 13 + size - before :][:size, :size])
    assert made.channels == ("a", "b")
    inside = made.inside.reshape(11, 14)
    assert inside[before : 11 - (size - 1 - before), before : 14 - (size - 1 - before)].all()
    assert inside.sum() == (11 - size + 1) * (14 - size + 1)


def test_what_is_not_measured_counts_nothing_and_a_glitch_does_not_dwarf_the_rest() -> None:
    image = IMAGE.copy()
    image[2, 3], image[8:, :] = 1e9, np.nan
    made = cut({"a": image}, image.shape, 3)
    assert np.isfinite(made.rows).all()
    assert np.abs(made.rows).max() < 30  # 3 and a logarithm
    assert made.rows[:, 4].reshape(image.shape)[:8].std() > 0.5
    inside = made.inside.reshape(image.shape)
    assert inside[6, 5]
    assert not inside[9, 5]


def test_complex_images_and_channels_are_channels() -> None:
    assert cut({"pfm": IMAGE * np.exp(1j * IMAGE)}, IMAGE.shape, 3).channels == ("pfm[0]", "pfm[1]")
    assert cut({"m": np.stack([IMAGE, np.ones_like(IMAGE)], axis=2)}, IMAGE.shape, 3).channels == ("m[0]",)


@pytest.mark.parametrize("images", [{}, {"flat": np.ones((11, 14))}, {"none": np.full((11, 14), np.nan)}])
def test_an_image_that_shows_nothing_is_refused_with_the_next_move(images: dict[str, np.ndarray]) -> None:
    with pytest.raises(DropInError, match="name a topic with contrast"):
        cut(images, (11, 14), 4)


def test_an_image_of_another_shape_is_refused() -> None:
    with pytest.raises(DropInError, match="the map is"):
        cut({"a": IMAGE}, (14, 11), 4)


def test_a_map_smaller_than_a_patch_has_no_edge() -> None:
    assert edge_mask((3, 3), 8).all()
    assert cut({"a": IMAGE[:3, :3]}, (3, 3), 8).rows.shape == (9, 64)


def test_features_find_the_brightest_and_the_steepest_place() -> None:
    image = np.zeros((20, 20))
    image[:, 12:] = 1.0
    image[3, 3] = 2.0
    made, names = features({"a": image}, image.shape, 5)
    by_name = dict(zip(names, made.T, strict=True))
    assert int(by_name["a value"].argmax()) == 3 * 20 + 3
    assert by_name["a slope"].reshape(20, 20)[15].argmax() in (11, 12)
    assert by_name["a highest"].reshape(20, 20)[4, 4] == by_name["a value"].max()


def test_an_outlier_flattens_nothing_and_stays_the_highest() -> None:
    values = np.append(RNG.normal(10.0, 2.0, 40), 1e6)
    target = Target(values)
    made = target.forward(values)
    assert made[:-1].std() > 0.5
    assert made.argmax() == 40
    assert made.max() < 20
    np.testing.assert_allclose(target.back(made), values, rtol=1e-9)
    step = 1e-6
    slopes = (target.back(made + step) - target.back(made - step)) / (2 * step)
    np.testing.assert_allclose(target.slope(made), slopes, rtol=1e-3)


def test_a_single_hit_among_equal_values_is_seen_and_constant_values_are_called_so() -> None:
    assert not Target(np.append(np.zeros(20), 1.0)).is_constant
    assert Target(np.full(7, 3.3)).is_constant
    assert Target(np.array([1e9, 1e9 * (1 + 1e-15)])).is_constant
    assert Target(np.empty(0)).is_constant


@pytest.mark.parametrize(("mean", "sigma", "best"), [(0.3, 1.0, 0.0), (-2.0, 0.5, 0.1), (1.0, 0.01, 0.0)])
def test_expected_improvement_is_the_integral_over_what_exceeds_the_best(
    mean: float, sigma: float, best: float
) -> None:
    wanted, _ = integrate.quad(lambda f: (f - best) * stats.norm.pdf(f, mean, sigma), best, mean + 12 * sigma)
    (made,) = acquisition.log_expected_improvement(np.array([mean]), np.array([sigma]), best)
    assert made == pytest.approx(math.log(wanted), abs=1e-6)


def test_log_expected_improvement_stays_finite_and_ordered_where_it_underflows() -> None:
    u = -np.logspace(-3, 9, 400)
    made = acquisition.log_h(u)
    assert np.isfinite(made).all()
    assert (np.diff(made) < 0).all()
    for edge in (-1.0, -1e4):
        near = acquisition.log_h(np.array([edge * (1 - 1e-9), edge * (1 + 1e-9)]))
        assert near[0] == pytest.approx(near[1], rel=1e-6)
    assert acquisition.log_expected_improvement(np.zeros(1), np.zeros(1), 0.0)[0] == -np.inf


def test_the_other_acquisition_functions_are_in_spreads_of_the_values() -> None:
    mean, sigma = np.array([1.0, 4.0]), np.array([2.0, 0.5])
    made = acquisition.score("upper_confidence_bound", mean, sigma, 0.0, 2.0, xi=0.0, beta=4.0)
    np.testing.assert_allclose(made, (mean + 2 * sigma) / 2)
    made = acquisition.score("maximum_uncertainty", mean, sigma, 0.0, 2.0, xi=0.0, beta=4.0)
    np.testing.assert_allclose(made, sigma / 2)


def test_the_best_free_candidates_are_chosen_and_what_is_no_number_comes_last() -> None:
    worth, free = np.array([5.0, np.nan, 7.0, np.inf, -np.inf]), np.array([True, True, False, True, True])
    assert acquisition.choose(9, free, lambda chosen: worth) == [3, 0, 1, 4]
    told: list[list[int]] = []
    acquisition.choose(2, free, lambda chosen: told.append(list(chosen)) or worth)  # type: ignore[func-returns-value]
    assert told == [[], [3]]


def test_latin_hypercube_has_one_point_in_every_row_and_column() -> None:
    y, x = np.mgrid[:30, :30]
    places = np.stack([y.ravel(), x.ravel()], axis=1).astype(float)
    for seed in range(5):
        made = places[seeds.latin_hypercube(6, places, np.ones(900, bool), np.random.default_rng(seed))]
        for i in (0, 1):
            edges = np.arange(7) / 6 * 29
            column = np.sort(made[:, i])
            assert (column >= edges[:-1] - 0.5).all()
            assert (column <= edges[1:] + 0.5).all()


def test_class_balanced_seeds_reach_a_rare_kind_of_place() -> None:
    latent = RNG.normal(0, 0.1, (2000, 3))
    latent[1000:1010] += 4.0
    hits = [
        any(
            1000 <= cell < 1010
            for cell in seeds.class_balanced(4, latent, np.ones(2000, bool), np.random.default_rng(s))
        )
        for s in range(10)
    ]
    assert sum(hits) == 10
    made = seeds.class_balanced(3, np.zeros((5, 2)), np.ones(5, bool), np.random.default_rng(0))
    assert len(set(made)) == 3


def test_every_observation_is_held_out_by_one_member_and_never_in_what_it_sees() -> None:
    parts = split(23, 4)
    assert sorted(np.concatenate(parts.held)) == list(range(23))
    assert parts.rest is not None
    assert all(not set(held) & set(rest) for held, rest in zip(parts.held, parts.rest, strict=True))
    assert parts.trained(5, 1).shape == (4, 5)
    assert split(7, 4).rest is None


def test_components_are_those_of_the_covariance() -> None:
    rows = RNG.normal(size=(500, 6)) @ RNG.normal(size=(6, 6))
    made = components(rows, 3)(rows)
    np.testing.assert_allclose(np.cov(made.T, bias=True), np.eye(3), atol=1e-9)
    first = np.linalg.svd(rows - rows.mean(0), full_matrices=False)[0][:, 0]
    assert abs(np.corrcoef(first, made[:, 0])[0, 1]) == pytest.approx(1.0)
    assert components(np.outer(np.arange(9.0), np.ones(4)), 3).width == 1
