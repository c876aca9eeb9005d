"""How much of the true walls a forward experiment visits by a map: films with truth, and a figure that can fail."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from probeloop.plugins.segment.coverage import Film, by_ridges, covered, film, visited, walls_of

from probeloop.api import PlanError

pytest.importorskip("skimage", reason="no scikit-image: pip install 'probeloop[objects]'")


@pytest.fixture(scope="module")
def small() -> Film:
    """Two rings and a straight wall of another kind."""
    y, x = np.mgrid[:128, :128].astype(float)
    up = np.minimum(np.hypot(y - 40, x - 40) - 25, np.hypot(y - 90, x - 80) - 30) < 0
    row, column = np.mgrid[:128, :128]
    turned = walls_of(up, row, column)
    walls = turned.copy()
    walls[:, 122] = True
    length = 2 * np.pi * (25 + 30) * 4e-9
    return Film((~turned).astype(np.float32), np.argwhere(walls), np.argwhere(turned), 4e-9, length)


def truth(made: Film) -> Any:
    mean = np.zeros(made.amplitude.shape, np.float32)
    mean[tuple(made.walls.T)] = 1.0
    return mean


def test_a_film_is_dark_at_its_antiparallel_walls_and_the_ridge_filter_finds_most() -> None:
    made = film(7, "random_field", 128)
    on = np.zeros(made.amplitude.shape, bool)
    on[tuple(made.antiparallel.T)] = True
    assert made.amplitude[on].mean() < 0.7 * made.amplitude[~on].mean()
    assert len(made.walls) > len(made.antiparallel) > 100
    assert 1e-6 < made.length < 20e-6
    assert 0.6 < covered([made], by_ridges)["coverage"] <= 1.0


def test_wall_pixels_lie_on_the_wall_of_a_finer_map(small: Film) -> None:
    away = np.abs(np.hypot(*(small.antiparallel[small.antiparallel.sum(axis=1) < 105] - 40).T) - 25)
    assert away.max() < 1.1
    fine = np.zeros((40, 40), np.int8)
    fine[:, 21:] = 1  # between the coarse columns of the cells 17 and 22, at 20.5: the latter is nearer
    row, column = np.meshgrid(np.arange(2, 40, 5), np.arange(2, 40, 5), indexing="ij")
    assert np.argwhere(walls_of(fine, row, column))[:, 1].tolist() == [4] * 8
    assert not walls_of(np.zeros_like(fine), row, column).any()


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
