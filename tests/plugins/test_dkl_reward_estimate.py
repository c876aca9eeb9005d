"""The reward estimator: its models against naive lines, its games, and that it tells good pairs from bad ones."""

from __future__ import annotations

import numpy as np
import pytest
from probeloop.plugins.explore_dkl.reward_estimate import (
    ACQUISITIONS,
    adjusted_game,
    estimate,
    expected_improvement,
    gaussian_process,
    linear,
    naive_game,
    neighbours,
    play,
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


def test_an_adjusted_game_begins_without_the_best_and_is_as_large_as_the_population() -> None:
    x, y = sample(40)
    xs, ys, first = adjusted_game(x, y, 1000, RNG(0))
    assert len(ys) == len(xs) == 1000 + 40
    assert ys[first].max() <= np.sort(y)[-5]
    good = (ys > np.sort(y)[-5]).sum()
    assert good == pytest.approx(1000 / 41, abs=2)
    assert ys.max() <= y.max()


def test_a_naive_game_knows_as_small_a_part_as_will_be_known() -> None:
    x, y = sample(40)
    xs, _, first = naive_game(x, y, 400, RNG(0))
    assert len(xs) == 40
    assert len(first) == 4


def test_a_campaign_earns_the_mean_of_the_best_so_far() -> None:
    x, y = np.arange(5.0)[:, None], np.array([0.0, 5.0, 1.0, 2.0, 3.0])

    def highest(x, y, at):
        return at[:, 0], np.ones(len(at))

    assert play(x, y, [0], highest, ACQUISITIONS["exploitation"], 4, RNG(0)) == (3 + 3 + 3 + 5) / 4
    assert play(x, y, [0], highest, ACQUISITIONS["exploitation"], 6, RNG(0)) == (3 + 3 + 3 + 5 + 5 + 5) / 6


def test_the_estimate_prefers_a_search_to_the_search_for_what_is_unknown() -> None:
    x, y = sample(30)
    models = {"gaussian_process": gaussian_process}
    ranked = estimate(x, y, 400, 12, games=4, models=models)
    assert {each.acquisition for each in ranked} == set(ACQUISITIONS)
    assert ranked[-1].acquisition == "uncertainty"
    assert ranked[0].reward > ranked[-1].reward
    assert all(each.low <= each.reward <= each.high for each in ranked)
    again = estimate(x, y, 400, 12, games=4, models=models)
    assert again == ranked


def test_too_little_to_tell_is_said() -> None:
    x, y = sample(7)
    with pytest.raises(ValueError, match="at least 8"):
        estimate(x, y, 400, 10)
