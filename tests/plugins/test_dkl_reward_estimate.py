"""The reward estimator: its models against naive lines, its games, and that it tells good pairs from bad ones."""

from __future__ import annotations

import numpy as np
import pytest
from probeloop.plugins.explore_dkl.reward_estimate import (
    ACQUISITIONS,
    drawn_game,
    estimate,
    expected_improvement,
    gaussian_process,
    linear,
    naive_game,
    neighbours,
    play,
    resampled_game,
)

RNG = np.random.default_rng


def sample(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = RNG(seed)
    x = rng.uniform(-2, 2, (count, 2))
    return x, np.exp(-((x - 1) ** 2).sum(axis=1)) + 0.02 * rng.standard_normal(count)


@pytest.mark.parametrize("model", [gaussian_process, linear, neighbours])
def test_models_predict_what_they_were_told_better_than_its_mean(model) -> None:
    x, y = sample(40)
    line = x @ [1.0, -0.5] if model is linear else y
    at, told = sample(200, 1)
    told = at @ [1.0, -0.5] if model is linear else told
    mean, sigma = model(x, line, at)
    assert mean.shape == sigma.shape == (200,)
    assert (sigma > 0).all()
    assert np.sqrt(np.mean((mean - told) ** 2)) < 0.6 * told.std()


def test_the_gaussian_process_is_the_textbook_formula() -> None:
    x, y = sample(12)
    mean, sigma = gaussian_process(x, y, x[:3] + 0.1)
    z = (y - y.mean()) / y.std()
    apart = ((x[:, None] - x) ** 2).sum(-1)
    usual = np.sqrt(np.median(apart[np.triu_indices(12, 1)]))
    found = []
    for scale in usual * np.array([0.15, 0.3, 0.5, 0.8, 1.4]):
        for noise in (0.02, 0.15, 0.5):
            cover = np.exp(-apart / (2 * scale**2)) + (noise**2 + 1e-8) * np.eye(12)
            cross = np.exp(-((x[:3, None] + 0.1 - x) ** 2).sum(-1) / (2 * scale**2))
            evidence = -0.5 * z @ np.linalg.solve(cover, z) - 0.5 * np.linalg.slogdet(cover)[1]
            spread = np.sqrt(1 - np.einsum("ij,ij->i", cross, np.linalg.solve(cover, cross.T).T))
            found.append((evidence, y.mean() + y.std() * cross @ np.linalg.solve(cover, z), y.std() * spread))
    _, naive, deviation = max(found, key=lambda each: each[0])
    assert np.allclose(mean, naive, atol=1e-6)
    assert np.allclose(sigma, deviation, atol=1e-4)


def test_expected_improvement_is_the_mean_gain() -> None:
    draws = RNG(1).normal(0.3, 0.5, 400_000)
    gain = expected_improvement(np.array([0.3]), np.array([0.5]), 0.6, RNG(0))
    assert gain[0] == pytest.approx(np.maximum(draws - 0.6, 0).mean(), rel=0.02)


def test_a_resampled_game_begins_without_the_best_and_its_pool_is_as_large_as_the_population() -> None:
    x, y = sample(40)
    xs, ys, first = resampled_game(x, y, sample(1000, 1)[0], RNG(0))
    assert len(ys) == len(xs) == 1000 + 40
    assert ys[first].max() < y.max()
    assert (ys == y.max()).sum() == pytest.approx(1000 / 41, abs=1)


def test_a_naive_game_knows_as_small_a_part_as_will_be_known() -> None:
    x, y = sample(40)
    xs, _, first = naive_game(x, y, sample(400, 1)[0], RNG(0))
    assert len(xs) == 40
    assert len(first) == 4


def test_a_drawn_game_is_on_the_candidates_with_values_that_agree_with_what_was_measured() -> None:
    x, y = sample(60)
    at, told = sample(300, 1)
    xs, ys, first = drawn_game(x, y, at, RNG(0))
    assert np.array_equal(ys[first], y)
    assert np.array_equal(xs[60:], at)
    assert np.corrcoef(ys[60:], told)[0, 1] > 0.8
    others = drawn_game(x, y, at, RNG(1))[1][60:]
    assert 0.01 < np.abs(others - ys[60:]).mean() < 0.3  # another draw
    assert len(drawn_game(x, y, at, RNG(0), most=50)[1]) == 110


def test_a_campaign_earns_the_mean_of_the_best_that_it_measured() -> None:
    x, y = np.arange(5.0)[:, None], np.array([9.0, 5.0, 1.0, 2.0, 3.0])

    def highest(x, y, at):
        return at[:, 0], np.ones(len(at))

    first = np.array([0])
    assert play(x, y, first, highest, ACQUISITIONS["exploitation"], 4, RNG(0)) == (3 + 3 + 3 + 5) / 4
    assert play(x, y, first, highest, ACQUISITIONS["exploitation"], 6, RNG(0)) == (3 + 3 + 3 + 5 + 5 + 5) / 6


@pytest.mark.parametrize("kind", ["drawn", "resampled", "naive"])
def test_an_estimate_ranks_every_pair_and_is_the_same_again(kind: str) -> None:
    x, y = sample(30)
    models = {"gaussian_process": gaussian_process}
    ranked = estimate(x, y, sample(400, 1)[0], 8, games=3, models=models, kind=kind)
    assert {each.acquisition for each in ranked} == set(ACQUISITIONS)
    assert [each.reward for each in ranked] == sorted((each.reward for each in ranked), reverse=True)
    assert all(each.low <= each.reward <= each.high for each in ranked)
    assert estimate(x, y, sample(400, 1)[0], 8, games=3, models=models, kind=kind) == ranked


def test_the_estimate_prefers_a_search_to_the_search_for_what_is_unknown() -> None:
    x, y = sample(30)
    ranked = estimate(x, y, sample(400, 1)[0], 10, games=6, models={"gaussian_process": gaussian_process})
    assert ranked[-1].acquisition == "uncertainty"
    assert ranked[-1].reward < ranked[0].reward


def test_too_little_to_tell_is_said() -> None:
    x, y = sample(7)
    with pytest.raises(ValueError, match="at least 8"):
        estimate(x, y, x, 10)
