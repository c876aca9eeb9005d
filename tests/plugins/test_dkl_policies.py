"""The policies that learn: what they suggest, while measurements are pending, after failures, vetoes and traps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from probeloop.plugins.explore_dkl.policies import Dkl, DklOrPca, Grid, Learning, PcaGp, SortByImage, XyGp
from probeloop.plugins.explore_dkl.traps import STEPS, WINDOW, Trap
from scipy import ndimage

from probeloop import discover
from probeloop.api import Context, DropInError, Observation, Policy

pytest.importorskip("torch", reason="no torch: pip install 'probeloop[ml]'")

SHAPE = (26, 26)
STEP = 4e-9
Y, X = np.mgrid[: SHAPE[0], : SHAPE[1]]
PLACES = np.stack([X.ravel(), Y.ravel()], axis=1) * STEP
IMAGE = ndimage.gaussian_filter(np.random.default_rng(7).normal(size=SHAPE), 1.8)
VALUE = np.maximum(np.gradient(IMAGE)[1], 0.0)
VALUE = VALUE / VALUE.max()
QUICK = {"patch": 6, "ensemble": 2}


def cell(position: tuple[float, float]) -> int:
    return round(position[1] / STEP) * SHAPE[1] + round(position[0] / STEP)


def observe(position: tuple[float, float], value: float | None = None, valid: bool = True) -> Observation:
    made = float(VALUE.ravel()[cell(position)]) if value is None else value
    return Observation(position=position, value=made, sigma=0.01, valid=valid)


def begun(policy: type[Policy] = PcaGp, seed: int = 1, images: dict[str, Any] | None = None, **settings: Any) -> Any:
    values = {**QUICK, **({"ensemble": 1} if policy is PcaGp else {}), **settings}
    made = policy(policy.Parameters(**values), Context("p", seed))
    made.context_images(PLACES, SHAPE, {"image": IMAGE} if images is None else images)
    return made


def play(policy: Any, n: int, batch: int = 1, value: Any = observe) -> list[int]:
    seen: list[int] = []
    while len(seen) < n:
        chosen = policy.suggest(batch)
        policy.tell([value(place) for place in chosen])
        seen += [cell(place) for place in chosen]
    return seen


def top(share: float = 0.03) -> set[int]:
    return set(np.argsort(VALUE.ravel())[-int(share * VALUE.size) :].tolist())


@pytest.mark.parametrize("policy", [Dkl, PcaGp])
def test_it_finds_the_best_places_many_times_as_often_as_chance(policy: type[Policy]) -> None:
    made = begun(policy, edges="mirror")
    seen = play(made, 34)
    assert len(set(seen)) == 34
    assert len(top() & set(seen)) >= 5  # at random 34 * 0.03 = 1
    assert made.link.seen


def test_values_dealt_by_chance_are_no_link_and_that_is_said() -> None:
    for seed in range(3):
        dealt = np.random.default_rng(seed).normal(size=VALUE.size)

        def deal(place: tuple[float, float], dealt: Any = dealt) -> Observation:
            return observe(place, float(dealt[cell(place)]))

        made = begun(PcaGp, seed=seed, escape=False)
        play(made, 26, value=deal)
        assert not made.link.seen
        assert any("no structure-property link seen" in each for each in made.notices)


@pytest.mark.parametrize(
    "name", ["expected_improvement", "upper_confidence_bound", "maximum_uncertainty", "thompson"]
)
def test_every_acquisition_goes_on_in_batches_with_measurements_pending(name: str) -> None:
    made = begun(PcaGp, acquisition=name)
    play(made, 12)
    first, second = made.suggest(3), made.suggest(3)
    cells = [cell(place) for place in (*first, *second)]
    assert len(set(cells)) == 6
    made.tell([observe(place) for place in (*first, *second)])
    assert len(made.suggest(2)) == 2


def test_a_batch_is_spread_where_single_steps_would_crowd() -> None:
    def spread(batch: list[tuple[float, float]]) -> float:
        places = np.array(batch) / STEP
        return min(math.dist(a, b) for i, a in enumerate(places) for b in places[:i])

    made = begun(PcaGp, acquisition="maximum_uncertainty")
    play(made, 14)
    waiting = made.suggest(4)
    worst = made.maps()["uncertainty"].ravel()[[cell(place) for place in waiting]]
    assert (
        worst[0]
        == np.where(made._allowed & ~np.isin(np.arange(676), made._cells.cells), made._maps["uncertainty"], 0).max()
    )
    assert spread(waiting) > 1.5


def test_the_same_seed_and_answers_give_the_same_suggestions_and_another_seed_others() -> None:
    first, again, other = (play(begun(Dkl, seed), 14) for seed in (3, 3, 4))
    assert first == again != other


def test_edges_are_masked_or_mirrored() -> None:
    inside = begun(PcaGp, edges="mask")._allowed.reshape(SHAPE)
    assert not inside[0].any()
    assert inside[10, 10]
    assert begun(PcaGp)._allowed.all()
    made = begun(PcaGp, edges="mask")
    for seen in play(made, 14):
        assert inside.ravel()[seen]


def test_invalid_observations_are_never_best_and_their_surroundings_are_avoided() -> None:
    def half_broken(place: tuple[float, float]) -> Observation:
        broken = place[0] < 13 * STEP
        return observe(place, 99.0 if broken else None, valid=not broken)

    made = begun(PcaGp)
    seen = play(made, 30, value=half_broken)
    assert made._cells.best <= 1.0
    assert made.maps()["prediction"].max() < 3.0
    late = np.array([each % SHAPE[1] < 13 for each in seen[14:]])
    blind = begun(PcaGp, avoid_failures=False)
    without = np.array([each % SHAPE[1] < 13 for each in play(blind, 30, value=half_broken)[14:]])
    assert late.mean() < without.mean() or late.mean() < 0.2


def test_all_invalid_all_equal_and_no_images_are_said_and_it_goes_on() -> None:
    made = begun(PcaGp)
    assert len(set(play(made, 14, value=lambda place: observe(place, valid=False)))) == 14
    assert "0 valid observations" in made.notice
    made = begun(Dkl)
    assert len(set(play(made, 14, value=lambda place: observe(place, 2.0)))) == 14
    assert any("the same" in each for each in made.notices)
    made = begun(Dkl, images={})
    assert len(set(play(made, 14))) == 14
    assert "only the place" in made.notices[0]
    with pytest.raises(DropInError, match="the map is"):
        begun(Dkl, images={"a": IMAGE[:, 1:]})


def test_a_faulty_deep_kernel_is_replaced_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    from probeloop.plugins.explore_dkl import gaussian

    learn = gaussian.Kernels.learn

    def fail(self: Any, *rest: Any) -> None:
        if self.layers:
            raise gaussian.Diverged("the loss is nan at step 0")
        learn(self, *rest)

    monkeypatch.setattr(gaussian.Kernels, "learn", fail)
    made = begun(Dkl)
    play(made, 14)
    assert any("deep kernel: the fit diverged" in each and "PCA-GP is used instead" in each for each in made.notices)
    assert made._learner.name == "pca_gp"
    monkeypatch.setattr(gaussian.Kernels, "learn", lambda self, *rest: fail(self) if self.layers else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        play(begun(Dkl), 14)


def test_costs_keep_it_near_and_off_what_was_measured() -> None:
    def way(**settings: Any) -> float:
        seen = np.array(
            [
                PLACES[each] / STEP
                for each in play(begun(PcaGp, acquisition="maximum_uncertainty", **settings), 20)[10:]
            ]
        )
        return float(np.hypot(*np.diff(seen, axis=0).T).mean())

    assert way(travel_cost=30.0) < 0.6 * way()
    made = begun(PcaGp, spacing=3.0)
    places = np.array([PLACES[each] / STEP for each in play(made, 18)])
    learned = places[8:]
    assert min(math.dist(a, b) for i, a in enumerate(learned) for b in learned[:i]) >= 3.0


def test_a_point_of_the_operator_is_learned_from_and_a_vetoed_one_is_not_waited_for() -> None:
    made = begun(PcaGp)
    play(made, 10)
    (vetoed,) = made.suggest(1)
    place = (5 * STEP + 1e-10, 6 * STEP)
    made.tell([Observation(position=place, value=0.3)])
    assert made._cells.pending == [cell(vetoed)]
    assert not made._cells.free[6 * SHAPE[1] + 5]
    play(made, 1)
    assert made._cells.pending == []
    assert not made._cells.free[cell(vetoed)]
    before = len(made._cells.cells)
    made.tell([Observation(position=(1.0, 1.0), value=1e9)])  # off the map
    assert len(made._cells.cells) == before


def test_maps_have_the_shape_of_the_map_and_say_what_is_known() -> None:
    made = begun(PcaGp)
    assert made.maps() == {}
    seen = play(made, 12)
    maps = made.maps()
    assert {name: values.shape for name, values in maps.items()} == dict.fromkeys(
        ("prediction", "uncertainty", "acquisition"), SHAPE
    )
    assert np.isfinite(maps["prediction"]).all()
    assert (maps["uncertainty"] > 0).all()
    assert np.isnan(maps["acquisition"].ravel()[seen[:-1]]).all()
    assert int(np.nanargmax(maps["acquisition"])) == seen[-1]


def test_the_other_rivals_go_by_what_they_say() -> None:
    assert len(top() & set(play(begun(SortByImage, edges="mirror"), 30))) >= 2
    made = begun(XyGp)
    play(made, 14)
    assert made._learner.name == "xy_gp"
    made = begun(DklOrPca)
    play(made, 18)
    assert made._learner.name in ("deep_kernel", "pca_gp")


def test_a_grid_is_nearly_regular_at_any_time() -> None:
    policy = Grid(None, Context("g", 1))
    policy.context_images(PLACES, SHAPE, {})
    seen = np.array([PLACES[each] / STEP for each in play(policy, 40, batch=3)])
    nearest = [min(math.dist(a, b) for j, b in enumerate(seen) if j != i) for i, a in enumerate(seen)]
    assert min(nearest) >= 0.5 * math.sqrt(VALUE.size / len(seen))
    assert len(set(map(tuple, seen.tolist()))) == len(seen)


def test_going_round_in_circles_is_noticed_and_left() -> None:
    trap = Trap(radius=3.0)
    trap.tell((20.0, 20.0), 1.0, 1.0, 1.0)
    said = [trap.tell((5.0 + i % 2, 5.0), 0.0, 1.0, 1.0) for i in range(WINDOW)]
    assert "gain nothing" in said[-1]
    assert not any(said[:-1])
    assert trap.escape == "maximum_uncertainty"
    for _ in range(STEPS):
        assert trap.escape is not None
        trap.tell((15.0, 15.0), 0.0, 1.0, 1.0)
    assert trap.escape is None
    gaining = Trap(radius=3.0)
    assert not any(gaining.tell((5.0, 5.0), float(i), float(i), 1.0) for i in range(20))
    assert Trap(3.0).nothing_left(-3.0) == ""
    assert "no improvement" in Trap(3.0).nothing_left(-40.0)


def test_an_object_with_values_near_the_best_is_left_later_and_one_of_failures_as_soon() -> None:
    rich, failing = Trap(radius=3.0), Trap(radius=3.0)
    said = [bool(rich.tell((5.0, 5.0), 0.9, 1.0, 1.0)) for _ in range(2 * WINDOW + 1)]
    assert said == [False] * (2 * WINDOW) + [True]
    said = [bool(failing.tell((5.0, 5.0), math.nan, -math.inf, 1.0)) for _ in range(WINDOW + 1)]
    assert any(said)


def test_a_trapped_policy_says_so_and_goes_elsewhere() -> None:
    def one_bump(place: tuple[float, float]) -> Observation:
        return observe(place, math.exp(-(((place[0] / STEP - 13) / 3) ** 2) - ((place[1] / STEP - 13) / 3) ** 2))

    greedy: dict[str, Any] = {"acquisition": "upper_confidence_bound", "beta": 0.0}
    made = begun(XyGp, seed=2, **greedy)
    play(made, 32, value=one_bump)
    assert any("gain nothing: the next" in each for each in made.notices)
    still = begun(XyGp, seed=2, escape=False, **greedy)
    play(still, 26, value=one_bump)
    assert not any("the next" in each for each in still.notices)


def test_it_suggests_until_every_allowed_place_is_measured_and_then_nothing() -> None:
    made = begun(SortByImage, patch=20, edges="mask")
    inside = int(made._allowed.sum())
    assert inside == 49
    assert len(set(play(made, inside, batch=5))) == inside
    assert made.suggest(5) == []


def test_they_are_found_by_name_and_their_parameters_are_settings() -> None:
    for name, cls in {"dkl": Dkl, "pca_gp": PcaGp, "xy_gp": XyGp, "sort_by_image": SortByImage, "grid": Grid}.items():
        assert discover.find(name, "Policy").class_name == cls.__name__
    assert issubclass(PcaGp.Parameters, Learning)
