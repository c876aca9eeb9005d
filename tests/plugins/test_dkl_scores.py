"""Scores of a campaign, against what can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from probeloop.plugins.explore_dkl.scores import density, foretold, paired, rate_interval, score, spread, top_cells

SHAPE = (20, 20)


def truth() -> np.ndarray:
    made = np.linspace(0, 1, 400)
    made = np.random.default_rng(3).permutation(made)
    made[[0, 1, 399]], made[200] = [3.0, 4.0, 5.0], 2.9
    return made


def test_hits_objects_and_regret_are_those_counted_by_hand() -> None:
    made = score(truth(), SHAPE, [0, 1, 50, 399, 200], [True, True, True, False, True])
    # the best four are 0 and 1 (neighbours), 399 and 200; 399 was measured in vain
    assert (made.hits, made.best, made.objects, made.groups, made.invalid) == (3, 4, 2, 3, 1)
    assert made.x_random == pytest.approx(3 / (5 * 4 / 400))
    assert made.regret == pytest.approx((5.0 - 4.0) / (5.0 - truth().min()))
    assert made.nlpd is None


def test_a_second_visit_is_no_second_hit() -> None:
    assert score(truth(), SHAPE, [0, 0, 0], [True] * 3).hits == 1


def test_nothing_valid_is_no_hit_and_full_regret() -> None:
    made = score(truth(), SHAPE, [0, 399], [False, False])
    assert (made.hits, made.objects, made.regret) == (0, 0, 1.0)


def test_calibrated_normal_predictions_have_their_coverage_and_density() -> None:
    rng = np.random.default_rng(0)
    prediction, sigma = rng.normal(0, 1, 40_000), rng.uniform(0.5, 1.5, 40_000)
    value = prediction + sigma * rng.standard_normal(40_000)
    nlpd, coverage = density(value, prediction, sigma, 1.0)
    assert coverage == pytest.approx(0.9, abs=0.006)
    assert nlpd == pytest.approx(float(np.mean(0.5 + np.log(sigma * np.sqrt(2 * np.pi)))), abs=0.02)
    assert density(value, prediction, sigma / 3, 1.0)[0] > nlpd + 1
    assert density(value, prediction, sigma / 3, 1.0)[1] < 0.5


def test_the_best_are_among_those_that_are_known() -> None:
    known = np.ones(400, bool)
    known[399] = False
    best = top_cells(truth(), known)
    assert best.sum() == 4
    assert not best[399]


def test_a_link_is_claimed_where_there_is_one_and_one_in_a_thousand_times_where_there_is_none() -> None:
    rng = np.random.default_rng(2)
    said = rng.normal(0, 1, 50)
    assert foretold(said, said + rng.normal(0, 1, 50))[1] < 1e-3
    false = sum(foretold(rng.normal(0, 1, 50), rng.normal(0, 1, 50))[1] < 1e-2 for _ in range(2000))
    assert false < 36  # 1 % of 2,000, and three deviations
    assert foretold([1.0] * 50, said) == (0.0, 1.0)
    assert foretold(said, np.where(np.arange(50) < 45, np.nan, said))[1] == 1.0


def test_intervals() -> None:
    assert spread([None, None])["n"] == 0
    assert spread(list(range(101)))["low"] == 5
    better = paired([3.0, 4.0, 5.0, 4.0] * 5, [1.0, 2.0, 2.0, 3.0] * 5)
    assert 0 < better["low"] < better["mean"] == 2.0 < better["high"]
    lift, low, high = rate_interval(6, 5.8)
    assert low < 1 < lift < high
    assert rate_interval(0, 5.8)[1] == 0.0
    assert rate_interval(30, 5.8)[1] > 1
