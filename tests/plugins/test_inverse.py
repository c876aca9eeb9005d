"""The inverse plan against check_plan, the parts of a learned map, and policies that keep to a pinned region."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from probeloop.plugins.explore.inverse import Inverse
from probeloop.plugins.explore.objects import find
from probeloop.plugins.explore.policies import HillClimb, Random, Raster

from probeloop.api import Context, Observation, Policy, Region, Settings
from probeloop.testing.check_plan import check_plan
from probeloop.testing.check_policy import check_policy

STEP = 5e-9
SHAPE = (20, 20)
CELLS = Region(50e-9, 50e-9, 100e-9, 100e-9).positions(SHAPE)
PINNED = Region(25e-9, 75e-9, 21e-9, 31e-9)


class Restless(Policy):
    """Draws chance at every step and remembers every value: the least difference in what it is told shows."""

    class Parameters(Settings):
        """flat: nothing is learned."""

        flat: bool = False

    def context_images(self, candidates: Any, shape: tuple[int, int], images: Any) -> None:
        self.candidates, self.shape, self.sum = candidates, shape, float(sum(map(np.sum, images.values())))
        self.free = np.ones(len(candidates), bool)

    def suggest(self, n: int) -> Any:
        inside = self.free if self.pinned is None else self.free & self.pinned.holds(self.candidates)
        left = np.flatnonzero(inside)
        chosen = [left[int((self.rng.random() + self.sum) % 1 * len(left))]] if len(left) else []
        self.free[chosen] = False
        return [tuple(map(float, self.candidates[i])) for i in chosen]

    def tell(self, observations: Any) -> None:
        for each in observations:
            self.sum += each.value

    def maps(self) -> dict[str, Any]:
        return {"prediction": np.full(self.shape, self.sum)}


@pytest.mark.parametrize("pending", [0, 3])
def test_killed_at_every_yield_it_goes_on_with_the_same(pending: int) -> None:
    parameters = Inverse.Parameters(order="restless", count=12, shape=SHAPE, pending=pending)
    assert check_plan(Inverse, parameters, policies=lambda name: Restless) == []


def test_a_policy_with_state_and_chance_keeps_its_contract() -> None:
    assert check_policy(Restless) == []


@pytest.mark.parametrize("policy", [Raster, Random, HillClimb])
def test_a_pinned_region_is_kept_to_and_the_rest_stays_for_later(policy: type[Policy]) -> None:
    made = policy(None, Context(seed=2))
    made.context_images(CELLS, SHAPE, {})

    def measure(n: int) -> Any:
        seen = []
        for _ in range(n):
            for place in made.suggest(1):
                made.tell([Observation(position=place, value=-abs(place[0] - 60e-9))])
                seen.append(place)
        return np.array(seen).reshape(-1, 2)

    before = measure(5)
    made.pinned = PINNED
    inside = measure(100)
    assert PINNED.holds(inside).all()
    left = int(PINNED.holds(CELLS).sum() - PINNED.holds(before).sum())
    assert len(inside) == left  # all of it, each once, and then nothing
    made.pinned = None
    after = measure(1000)
    assert len(before) + len(inside) + len(after) == len(CELLS)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("shape", "its map 'prediction' is (3,), the candidates are (12, 15)"),
        ("chance", "it suggests something else once it was asked for its maps"),
        ("deaf", "outside the region that is pinned"),
    ],
)
def test_a_policy_that_breaks_its_word_on_maps_or_pins_is_found(how: str, words: str) -> None:
    class Bad(Random):
        def maps(self) -> dict[str, Any]:
            if how == "chance":
                self._order = self.rng.permutation(self._order)
            return {"prediction": np.zeros(3 if how == "shape" else self._shape)}

        def suggest(self, n: int) -> Any:
            if how == "deaf":
                self.pinned = None
            return super().suggest(n)

    assert any(words in fault for fault in check_policy(Bad))


def test_objects_are_the_connected_parts_of_the_highest_share() -> None:
    prediction = np.zeros(SHAPE)
    prediction[2:4, 3:5], prediction[10, 10], prediction[11, 11] = 5.0, 9.0, 8.0
    uncertainty = np.full(SHAPE, 1.0)
    uncertainty[2:4, 3:5] = 3.0
    found = find(prediction, uncertainty, CELLS, 6 / 400, [tuple(CELLS[10 * 20 + 10]), tuple(CELLS[0])])
    assert [(each.pixels, each.predicted, each.measured, each.clear) for each in found.found] == [
        (2, 9.0, 1, True), (4, 5.0, 0, False)
    ]  # fmt: skip
    assert found.found[0].position == pytest.approx(tuple(CELLS[10 * 20 + 10]))
    assert found.words() == "2 objects in the predicted top 0.015, 1 of them clearly above the rest"
    assert find(np.ones(SHAPE), uncertainty, CELLS, 0.01, []).found == ()
    assert find(np.full(SHAPE, np.nan), None, CELLS, 0.01, []).found == ()
    unlinked = find(prediction, uncertainty, CELLS, 6 / 400, [], linked=False)
    assert not any(each.clear for each in unlinked.found)
    assert unlinked.words().endswith("none of them claimed: no link between structure and value was seen")
    unknown = find(prediction, None, CELLS, 0.01, [])
    assert not any(each.clear or each.uncertainty is not None for each in unknown.found)
