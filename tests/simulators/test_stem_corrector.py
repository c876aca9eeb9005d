"""The corrector: it drifts and lands beside what it is set to, so that tuning is needed and never finished."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from probeloop.simulators.stem import StemSettings, StemSimulator
from probeloop.simulators.stem.optics import FURTHER_KNOBS, KNOBS, draw_lens, drift_sigmas
from probeloop.simulators.stem.walk import RandomWalk

from probeloop.data.commands import SetAberrations

SMALL: dict[str, Any] = {
    "pixels": 32, "pixel_angle": 8.0, "tile": 4, "carbon": 0.1, "crystal": 0.4, "pace": None, "settling": 0.0,
}  # fmt: skip
MINUTE = 60_000_000_000


def lens(seed: int = 1, **parameters: Any) -> Any:
    return draw_lens(np.random.default_rng([seed, 0]), 1.0, 0.0, seed=seed, **parameters)


def test_as_shipped_it_stands_still() -> None:
    calm = lens()
    assert calm.at(0) == calm.at(60 * MINUTE)
    calm.turn({"C10": 5e-8}, False, 0)
    calm.turn({"C10": -5e-8}, False, 0)
    assert calm.at(0) == calm.offset


def test_it_walks_as_far_as_asked_and_further_in_more_time() -> None:
    ends = np.array([[lens(s, drift=2e-9).at(t).minus(lens(s).offset).C10 for t in (MINUTE, 4 * MINUTE)]
                     for s in range(300)])  # fmt: skip
    assert np.sqrt((ends[:, 0] ** 2).mean()) == pytest.approx(2e-9, rel=0.13)
    assert np.sqrt((ends[:, 1] ** 2).mean()) == pytest.approx(4e-9, rel=0.13)
    sigmas = drift_sigmas(1e-9)
    assert sigmas[3] / sigmas[0] == pytest.approx(12.0)  # C21 against C10


def test_the_walk_depends_on_the_time_alone() -> None:
    times = np.array([7, 3_000_000_000, 5_100_000_000, 4_000_000_000_000], np.int64)
    for smooth in (False, True):
        one, other = (RandomWalk([3, 4], (1.0, 2.0), 1_000_000_000, smooth) for _ in range(2))
        together = one.at(times)
        np.testing.assert_array_equal(
            together[::-1], np.concatenate([other.at(times[i : i + 1]) for i in (3, 2, 1, 0)])
        )
    halves = one.at(np.array([2, 3, 4]) * 500_000_000)  # straight between the points of a smooth one
    np.testing.assert_allclose(halves[1], (halves[0] + halves[2]) / 2)
    assert not np.array_equal(RandomWalk([4, 4], (1.0,), 10**9, True).at(times)[:, 0], together[:, 0])


def test_frames_of_one_era_share_one_state() -> None:
    walking = lens(drift=2e-9)
    states = walking.states(np.arange(0, 3_000_000_000, 250_000_000))
    assert len({id(s) for s in states}) == 3
    assert states[0] == walking.at(0) != states[-1]


def test_a_turn_lands_beside_its_value_and_the_readback_does_not_know() -> None:
    errors = []
    for seed in range(200):
        noisy, exact = lens(seed, noise=0.05), lens(seed)
        for each in (noisy, exact):
            each.turn({"C10": 100e-9}, False, 0)
        assert noisy.readback() == exact.readback()
        errors.append((noisy.at(0).C10 - exact.at(0).C10) / exact.response[0, 0])
        before = noisy.at(0)
        noisy.turn({"C12a": 1e-9}, False, 0)  # what is not touched keeps its error
        assert pytest.approx(before.C10, abs=3e-10) == noisy.at(0).C10
    assert np.std(errors) == pytest.approx(0.05 * 101e-9, rel=0.2)


def test_knobs_of_the_third_order_come_when_asked_and_leave_the_first_as_they_were() -> None:
    stem = StemSimulator(StemSettings(**SMALL, knobs="third"))
    plain = StemSimulator(StemSettings(**SMALL))
    assert set(stem.describe().limits.knobs) == {*KNOBS, *FURTHER_KNOBS} <= set(stem.read_back())
    assert set(plain.describe().limits.knobs) == set(KNOBS)
    assert stem.truth()["offset"] == plain.truth()["offset"]
    np.testing.assert_array_equal(stem.truth()["response"][:6, :6], plain.truth()["response"])
    before = stem.truth()["aberrations"]
    stem.set_aberrations(SetAberrations({"C34b": 5e-6}))
    change = stem.truth()["aberrations"].minus(before)
    assert change.C34b == pytest.approx(5e-6, rel=0.4)
    assert change.C23a != 0.0  # a knob of a higher order leaks into lower ones
    assert change.C32a != 0.0
    stem.close()
    plain.close()
