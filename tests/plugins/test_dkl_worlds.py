"""Worlds with known truth: their rules are on the image, their values come from loops, what breaks is found out."""

from __future__ import annotations

import numpy as np
import pytest
from probeloop.plugins.explore_dkl import worlds_loops
from probeloop.plugins.explore_dkl.scores import top_cells
from probeloop.plugins.explore_dkl.worlds import CELLS, FAMILIES, Visit, World, world
from probeloop.plugins.explore_dkl.worlds_film import SIDE, film

from probeloop.api import load_scalarizer


@pytest.fixture(scope="module")
def wall() -> World:
    return world("wall", 5)


def test_the_truth_is_the_area_of_the_noise_free_loop(wall: World) -> None:
    area = load_scalarizer("loop_area", {})
    for cell in (0, 1234, int(np.argmax(wall.truth))):
        loop = worlds_loops.loops(wall.strength[[cell]], np.array([0.8]))[0]
        value, _, valid = area.scalarize(loop, worlds_loops.SPEC)
        assert valid
        assert -value == pytest.approx(wall.truth[cell], rel=1e-9)


def test_a_measurement_is_the_truth_with_noise_that_its_sigma_tells(wall: World) -> None:
    visit = Visit(wall)
    cells = np.random.default_rng(1).choice(CELLS, 150, replace=False)
    heard = [visit.measure(int(cell)) for cell in cells]
    assert all(each.valid for each in heard)
    away = np.array([each.value for each in heard]) - wall.truth[cells]
    sigma = np.median([each.sigma for each in heard])
    assert sigma == pytest.approx(away.std(), rel=0.4)
    assert 0.01 < away.std() / np.ptp(wall.truth) < 0.06
    assert visit.measure(int(cells[0])).value == heard[0].value  # so that policies can be paired


def test_the_wall_rule_is_on_walls_of_one_sense(wall: World) -> None:
    made, best = wall.film, top_cells(wall.truth).reshape(SIDE, SIDE)
    assert made.felt(made.distance)[best].mean() < 0.4 * made.felt(made.distance).mean()
    assert made.felt(made.sense)[best].min() > 0.3
    gx = np.gradient(made.response.astype(np.float64))[1]
    assert (gx[best] > 0).mean() > 0.95  # and the image shows it


def test_a_measurement_tires_what_is_near_in_the_curvature_world() -> None:
    here = world("curvature", 3)
    best = int(np.argmax(here.truth))
    fresh = Visit(here).measure(best).value
    visit = Visit(here)
    visit.measure(best - 1)
    visit.measure(best - 2)
    assert visit.measure(best).value < 0.9 * fresh
    far = (best + CELLS // 2) % CELLS
    assert visit.measure(far).value == pytest.approx(Visit(here).measure(far).value, rel=0.02)


def test_half_a_percent_of_a_rare_world_is_its_class_and_the_rest_is_far_below() -> None:
    here = world("rare", 2)
    dots = here.film.felt(here.film.dots).ravel()
    assert 0.003 < (dots > 0.5).mean() < 0.008
    assert here.truth[dots > 0.5].min() > np.quantile(here.truth, 0.99)


def test_about_a_twentieth_comes_out_broken_and_nearly_all_of_it_is_found_invalid() -> None:
    here = world("broken", 4)
    assert (here.broken >= 0).mean() == pytest.approx(0.05, abs=0.012)
    visit = Visit(here)
    spoilt = [visit.measure(int(cell)).valid for cell in np.flatnonzero(here.broken >= 0)[:60]]
    whole = [visit.measure(int(cell)).valid for cell in np.flatnonzero(here.broken < 0)[:60]]
    assert np.mean(spoilt) < 0.25
    assert all(whole)


def test_without_a_link_the_values_are_those_of_the_wall_world_at_other_places(wall: World) -> None:
    here = world("no_link", 5)
    assert np.array_equal(here.film.response, wall.film.response)
    assert np.allclose(np.sort(here.truth), np.sort(wall.truth))
    assert abs(np.corrcoef(here.truth, wall.truth)[0, 1]) < 0.06
    away = np.abs(here.truth.reshape(SIDE, SIDE)[:, 1:] - here.truth.reshape(SIDE, SIDE)[:, :-1]).mean()
    assert away > 0.9 * np.abs(np.subtract.outer(here.truth[::16], here.truth[::16])).mean()


def test_every_family_makes_another_film_and_the_same_seed_the_same_one() -> None:
    images = [world(family, 1).film.response for family in FAMILIES[:4]]
    assert len({image.tobytes() for image in images}) == 4
    world.cache_clear()
    assert np.array_equal(world("wall", 1).film.response, images[0])
    assert np.array_equal(film(9, dots=0).dots, np.zeros((512, 512)))
