"""Raster, random and hill climb; where explore and zoom look."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from probeloop.plugins.explore.area import busiest, grid_area, ready, scan_area
from probeloop.plugins.explore.policies import HillClimb, Random, Raster

from probeloop.api import Context, Grid, InstrumentInfo, Limits, Observation, Policy, Region, Result

STEP = 5e-9
SHAPE = (50, 50)
CELLS = Region(125e-9, 125e-9, 250e-9, 250e-9).positions(SHAPE)


def smooth(x: float, y: float) -> float:
    return math.exp(-(((x - 182e-9) / 90e-9) ** 2) - ((y - 68e-9) / 60e-9) ** 2)


def play(policy: Policy, value: Callable[[float, float], float], n: int = 10_000, batch: int = 1) -> list[Any]:
    """Measure what the policy suggests until it ends, or n places are measured."""
    policy.context_images(CELLS, SHAPE, {})
    seen: list[Any] = []
    while len(seen) < n and (chosen := policy.suggest(batch)):
        policy.tell([Observation(position=place, value=value(*place)) for place in chosen])
        seen += chosen
    return seen


def info(low: float, high: float, step: float, origin: float = 0.0) -> InstrumentInfo:
    limits = Limits(region=((low, low), (high, high)))
    return InstrumentInfo(
        name="i",
        modality="afm",
        origin="simulation",
        commands=(),
        limits=limits,
        grid=Grid((origin,) * 2, (step,) * 2),
    )


def test_raster_takes_every_cell_in_order() -> None:
    np.testing.assert_array_equal(play(Raster(), smooth, batch=7), CELLS)


def test_random_takes_every_cell_once_in_another_order_for_another_seed() -> None:
    first, again, other = (play(Random(None, Context(seed=seed)), smooth) for seed in (1, 1, 2))
    assert first == again != other
    assert set(first) == set(other) == set(map(tuple, CELLS.tolist()))


def test_a_hundred_random_places_are_a_hundred() -> None:
    assert len(set(play(Random(None, Context(seed=3)), smooth, 100))) == 100


def test_a_place_that_the_operator_measured_is_not_suggested() -> None:
    policy = Raster()
    policy.context_images(CELLS, SHAPE, {})
    policy.tell([Observation(position=(CELLS[0, 0] + 1e-9, CELLS[0, 1]), value=0.0)])
    assert policy.suggest(1) == [tuple(CELLS[1])]


@pytest.mark.parametrize("seed", range(10))
def test_hill_climb_finds_the_maximum_with_few_measurements(seed: int) -> None:
    policy = HillClimb(HillClimb.Parameters(restarts=0), Context(seed=seed))
    seen = play(policy, smooth)
    truth = max(map(tuple, CELLS.tolist()), key=lambda place: smooth(*place))
    assert max(seen, key=lambda place: smooth(*place)) == truth
    assert len(set(seen)) == len(seen)
    assert len(seen) < 80
    raster = [tuple(place) for place in CELLS.tolist()].index(truth) + 1
    assert len(seen) < raster / 7


def test_hill_climb_begins_again_at_a_maximum_until_all_is_measured() -> None:
    policy = HillClimb(None, Context(seed=1))
    assert set(play(policy, smooth, batch=3)) == set(map(tuple, CELLS.tolist()))


def test_hill_climb_gets_out_of_a_side_maximum_by_starting_again() -> None:
    def two(x: float, y: float) -> float:
        return smooth(x, y) + 0.5 * math.exp(-(((x - 40e-9) / 30e-9) ** 2) - ((y - 200e-9) / 30e-9) ** 2)

    policy = HillClimb(HillClimb.Parameters(restarts=8), Context(seed=4))
    best = max(play(policy, two), key=lambda place: two(*place))
    assert math.dist(best, (182e-9, 68e-9)) < 2 * STEP


def test_an_invalid_value_is_nowhere_high() -> None:
    policy = HillClimb(HillClimb.Parameters(restarts=0, stride=1), Context(seed=1))
    policy.context_images(CELLS, SHAPE, {})
    (start,) = policy.suggest(1)
    policy.tell([Observation(position=start, value=0.5)])
    (beside,) = policy.suggest(1)
    policy.tell([Observation(position=beside, value=100.0, valid=False)])
    (third,) = policy.suggest(1)
    assert math.dist(third, start) < 1.5 * STEP


def test_the_scan_area_is_the_scanners_own_pixels() -> None:
    region, shape = scan_area(info(0.0, 250e-9, STEP, STEP / 2), None, None)
    assert shape == (50, 50)
    np.testing.assert_allclose(region.positions(shape)[[0, -1]], [[2.5e-9, 2.5e-9], [247.5e-9, 247.5e-9]])
    assert scan_area(info(0.0, 1e-7, 0.0), None, None)[1] == (64, 64)
    assert scan_area(info(0.0, 1e-7, 0.0), region, (3, 4)) == (region, (3, 4))
    asked, shape = scan_area(info(0.0, 1e-7, STEP), None, (10, 20))
    assert (asked.width, shape) == (1e-7, (10, 20))


@pytest.mark.parametrize("step", [1e-12, 1e-10, 3e-10, 7e-10])
def test_a_fine_grid_is_visited_with_a_stride_inside_the_limits(step: float) -> None:
    region, shape = grid_area(info(0.0, 2e-7, step, step / 2), (0.0, 0.0), (2e-7, 2e-7))
    assert 32 <= shape[0] <= 256
    assert region.corners().min() >= -1e-15
    assert region.corners().max() <= 2e-7 + 1e-15


def test_an_instrument_is_made_ready_once() -> None:
    def steps(readback: dict[str, Any], *commands: str) -> list[str]:
        made = msgspec.structs.replace(info(0.0, 1e-7, 0.0), commands=commands)
        going, told = ready(made), []
        step = next(going, None)
        while step is not None:
            told.append(type(step).__name__)
            try:
                step = going.send(Result(readback=readback))
            except StopIteration:
                break
        return told

    tip = ("Approach", "SetDrive")
    assert steps({}) == []
    assert steps({}, "Unblank") == ["Unblank"]
    assert steps({"feedback": "withdrawn", "drive": 0.0}, *tip) == ["Read", "Approach", "SetDrive"]
    assert steps({"feedback": "engaged", "drive": 2.0}, *tip) == ["Read"]
    assert steps({"feedback": "withdrawn"}, "Approach") == ["Read", "Approach"]


def test_the_busiest_window_is_found_like_by_looking_at_each() -> None:
    rng = np.random.default_rng(1)
    image = rng.normal(size=(20, 30))
    image[5:9, 12:18] *= 8
    image[0, :] = np.nan
    h, w = 4, 6
    by_hand = {
        (r, c): np.nanstd(image[r : r + h, c : c + w])
        for r in range(20 - h + 1)
        for c in range(30 - w + 1)
        if np.isfinite(image[r : r + h, c : c + w]).sum() >= h * w / 2
    }
    r, c = max(by_hand, key=by_hand.__getitem__)
    row, column, contrast = busiest(image, (h, w))
    assert (row, column) == (r + 1.5, c + 2.5)
    assert contrast == pytest.approx(by_hand[r, c] / np.nanstd(image))


def test_channels_count_alike_and_a_flat_map_has_no_contrast() -> None:
    rng = np.random.default_rng(2)
    image = np.stack([1e-9 * rng.normal(size=(16, 16)), 1e3 * rng.normal(size=(16, 16))], axis=2)
    image[10:14, 2:6, 0] *= 20
    row, column, _ = busiest(image, (4, 4))
    assert (abs(row - 11.5), abs(column - 3.5)) <= (2, 2)
    assert busiest(np.ones((8, 8)), (2, 2))[2] <= 0
    assert busiest(np.full((8, 8), np.nan), (2, 2))[2] <= 0
