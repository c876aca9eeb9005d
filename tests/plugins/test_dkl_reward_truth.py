"""The reward estimator against what campaigns really earn, on populations of 4,096 whose every value is known."""

from __future__ import annotations

import numpy as np
import pytest
from probeloop.plugins.explore_dkl.patches import cut
from probeloop.plugins.explore_dkl.reduction import components
from probeloop.plugins.explore_dkl.reward_estimate import ACQUISITIONS, MODELS, estimate, play
from probeloop.plugins.explore_dkl.worlds import Family, world
from probeloop.plugins.explore_dkl.worlds_film import SIDE
from scipy import stats

KNOWN, ROUNDS = 40, 30
PAIRS = [(model, acquisition) for model in MODELS for acquisition in ACQUISITIONS]


def rankings(family: Family, seed: int, games: int) -> dict[str, float]:
    """Return Spearman's coefficient of estimated and true rewards of all pairs, by kind of game."""
    here = world(family, seed)
    patches = cut(here.images, (SIDE, SIDE), 8).rows
    x, y = components(patches, 6)(patches), here.truth
    true = np.zeros(len(PAIRS))
    for start in range(games):
        first = np.random.default_rng([seed, start, 9]).permutation(len(y))[:KNOWN]
        for i, (model, acquisition) in enumerate(PAIRS):
            rng = np.random.default_rng([seed, start])
            true[i] += play(x, y, first, MODELS[model], ACQUISITIONS[acquisition], ROUNDS, rng)
    order = np.random.default_rng([seed, 50]).permutation(len(y))
    known, left = order[:KNOWN], order[KNOWN:]
    made = {}
    for kind in ("drawn", "resampled", "naive"):
        found = estimate(x[known], y[known], x[left], ROUNDS, games=8, seed=seed, kind=kind)
        by_pair = {(each.model, each.acquisition): each.reward for each in found}
        made[kind] = float(stats.spearmanr([by_pair[pair] for pair in PAIRS], true).statistic)
    return made


@pytest.mark.bench
@pytest.mark.timeout(900)
def test_the_adjusted_estimate_ranks_twelve_pairs_as_they_are_and_beats_the_naive_one() -> None:
    assert len(PAIRS) >= 6
    found = [rankings(family, 30 + seed, 8) for family in ("wall", "rare") for seed in range(3)]
    mean = {kind: float(np.mean([each[kind] for each in found])) for kind in found[0]}
    assert mean["drawn"] > 0.5, mean
    assert mean["drawn"] > mean["naive"] + 0.2, mean
