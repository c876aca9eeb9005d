"""How much of the true walls a forward experiment visits by a map: films with truth, and a figure that can fail."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from probeloop.plugins.segment.coverage import Film, between, by_ridges, covered, film, visited

from probeloop.api import PlanError

pytest.importorskip("skimage", reason="no scikit-image: pip install 'probeloop[objects]'")


@pytest.fixture(scope="module")
def small() -> Film:
    """Two rings and a straight wall of another kind."""
    y, x = np.mgrid[:128, :128].astype(float)
    up = np.minimum(np.hypot(y - 40, x - 40) - 25, np.hypot(y - 90, x - 80) - 30) < 0
    turned = between(up)
    straight = np.stack([np.arange(128.0), np.full(128, 122.0)], axis=1)
    return Film(
        up.astype(np.float32), np.concatenate([turned, straight]), turned, 4e-9, np.pi / 4 * 4e-9 * len(turned)
    )


def truth(made: Film) -> Any:
    mean = np.zeros(made.amplitude.shape, np.float32)
    mean[tuple(made.walls.astype(int).T)] = 1.0
    return mean


def test_a_film_is_dark_at_its_antiparallel_walls_and_the_ridge_filter_finds_most() -> None:
    made = film(7, "random_field", 128)
    on = np.zeros(made.amplitude.shape, bool)
    on[tuple(made.antiparallel.astype(int).T)] = True
    assert made.amplitude[on].mean() < 0.7 * made.amplitude[~on].mean()
    assert len(made.walls) > len(made.antiparallel) > 100
    assert 1e-6 < made.length < 20e-6
    assert 0.6 < covered([made], by_ridges)["coverage"] <= 1.0


def test_walls_lie_between_unlike_pixels_and_have_the_length_of_their_circles(small: Film) -> None:
    assert between(np.array([[0, 0], [0, 1]])).tolist() == [[0.5, 1.0], [1.0, 0.5]]
    assert small.length == pytest.approx(2 * np.pi * (25 + 30) * 4e-9, rel=0.02)
    away = np.abs(np.hypot(*(small.antiparallel[small.antiparallel.sum(axis=1) < 105] - 40).T) - 25)
    assert away.max() < 0.75


def test_places_on_the_truth_cover_it_and_none_is_false(small: Film) -> None:
    made = covered([small], lambda values: truth(small))
    assert made["coverage"] > 0.95
    assert made["false_points_per_um"] == 0
    assert made["points"] / len(small.walls) < 0.5
    assert made["points_per_um"] == pytest.approx(made["points"] / (small.length * 1e6))


def test_a_map_without_walls_covers_nothing_and_a_wrong_one_spends_false_points(small: Film) -> None:
    nothing = covered([small], np.zeros_like)
    assert (nothing["coverage"], nothing["points"]) == (0.0, 0)
    moved = covered([small], lambda values: np.roll(truth(small), 12, axis=1))
    assert moved["coverage"] < 0.8
    assert moved["false_points_per_um"] > 1
    with pytest.raises(PlanError, match="no lines"):
        visited(np.ones((64, 64), np.float32), 1e-9)
