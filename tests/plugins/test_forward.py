"""Places on objects, the way through them, the look at where the specimen is, and the forward plan."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
import scipy.ndimage as ndi
from probeloop.plugins.objects.find import Grid, find
from probeloop.plugins.objects.forward import Forward
from probeloop.plugins.objects.points import Point, apart, choose, coverage, false_points, spread
from probeloop.plugins.objects.registration import Moved, Patch, as_text, packed, shift_between
from probeloop.plugins.objects.route import shortest
from probeloop.plugins.objects.survey import Survey, unpacked

from probeloop.api import (
    BEPS,
    AcquireSpectrum,
    Checkpoint,
    InstrumentInfo,
    Limits,
    Observation,
    Observe,
    PlanContext,
    PlanError,
    Reduce,
    RefusedError,
    Register,
    Result,
    Scan,
)
from probeloop.data.settings import convert
from probeloop.rig.drop_ins import faults
from probeloop.rig.load import load
from probeloop.testing.check_plan import check_plan

STEP = 4e-9
SIDE = 96
GRID = Grid((0.0, 0.0), (STEP, STEP))


def walls(seed: int = 0, side: int = SIDE) -> tuple[Any, Any]:
    """Return probabilities of walls between domains of a smooth random field, and where the walls are (N, 2) [px]."""
    field = ndi.gaussian_filter(np.random.default_rng(seed).normal(size=(side, side)), side / 12)
    up = field > np.median(field)
    edge = np.zeros((side, side), bool)
    edge[:, 1:] |= up[:, 1:] != up[:, :-1]
    edge[1:] |= up[1:] != up[:-1]
    away = ndi.distance_transform_edt(~edge)
    return np.exp(-((away / 2) ** 2)), np.stack(np.nonzero(edge), axis=1)


def visited(points: list[Point]) -> Any:
    return np.array([(p.y / STEP, p.x / STEP) for p in points]).reshape(-1, 2)


@pytest.mark.parametrize("seed", range(3))
def test_every_fifth_pixel_covers_the_true_walls_and_none_lies_off_them(seed: int) -> None:
    image, truth = walls(seed)
    points = choose(find(image, GRID, 0.5, 6), GRID, "walls", 5, 5e-8, image.shape, 1000)
    assert coverage(visited(points), truth) >= 0.95
    assert false_points(visited(points), truth) == 0
    assert len(points) < len(truth) / 3
    sparse = choose(find(image, GRID, 0.5, 6), GRID, "walls", 20, 5e-8, image.shape, 1000)
    assert coverage(visited(sparse), truth) < 0.7  # the figure can fail


def test_coverage_and_false_points_of_known_places() -> None:
    line = np.stack([np.zeros(21), np.arange(21.0)], axis=1)
    assert coverage(np.array([[0.0, 3.0]]), line) == pytest.approx(7 / 21)
    assert coverage(np.empty((0, 2)), line) == 0
    assert math.isnan(coverage(line, np.empty((0, 2))))
    assert false_points(np.array([[0.0, 3.0], [9.0, 3.0]]), line) == 1
    assert false_points(line, np.empty((0, 2))) == 21
    assert false_points(np.empty((0, 2)), line) == 0


def test_a_balanced_sample_has_as_many_of_each_kind_and_keeps_off_the_walls() -> None:
    image, truth = walls(1)
    beside = 6 * STEP
    points = choose(find(image, GRID, 0.5, 6), GRID, "balanced", 5, beside, image.shape, 60)
    counts = [sum(p.kind == kind for p in points) for kind in range(4)]
    assert counts[1] == counts[2] == counts[3] > 5
    assert sum(counts) <= 60
    domains = visited([p for p in points if p.kind > 1])
    away = np.min(np.hypot(*(domains[:, None] - truth[None]).transpose(2, 0, 1)), axis=1)
    assert away.min() > 2
    assert ((domains > -0.5) & (domains < SIDE - 0.5)).all()


def test_left_is_towards_smaller_x_whichever_way_a_wall_runs() -> None:
    for image in (np.zeros((40, 40)),):
        image[5:35, 19:22] = 1
        points = choose(find(image, GRID, 0.5, 6), GRID, "balanced", 5, 8 * STEP, image.shape, 100)
        left, right = ([p.x / STEP for p in points if p.kind == kind] for kind in (2, 3))
        assert max(left) < 20 < min(right)
        flat = choose(find(image.T.copy(), GRID, 0.5, 6), GRID, "balanced", 5, 8 * STEP, image.shape, 100)
        assert max(p.y for p in flat if p.kind == 2) < 20 * STEP < min(p.y for p in flat if p.kind == 3)


def test_points_are_kept_apart_and_thinned_evenly() -> None:
    points = [Point(float(x), 0.0, 1, 0, 1.0) for x in range(21)]
    assert [p.x for p in apart(points, 5)] == [0, 5, 10, 15, 20]
    assert apart(points, 0) == points
    assert sorted(p.x for p in spread(points, 3)) == [0, 10, 20]
    assert spread(points, 50) == points


def test_the_way_is_a_permutation_as_short_as_the_best_of_all_or_nearly() -> None:
    rng = np.random.default_rng(2)
    ratios = []
    for _ in range(20):
        places = rng.random((7, 2))
        way = shortest(places, (0.0, 0.0))
        assert sorted(way.order.tolist()) == list(range(7))

        def length(order: tuple[int, ...], places: Any = places) -> float:
            return sum(math.dist(a, b) for a, b in itertools.pairwise([(0.0, 0.0), *places[list(order)].tolist()]))

        assert way.length == pytest.approx(length(tuple(way.order.tolist())))
        assert way.length <= way.greedy + 1e-12
        ratios.append(way.length / min(length(order) for order in itertools.permutations(range(7))))
    assert np.mean(ratios) < 1.02
    assert max(ratios) < 1.2


def test_a_long_way_is_shorter_than_the_nearest_neighbours() -> None:
    way = shortest(np.random.default_rng(1).random((150, 2)))
    assert way.length < 0.92 * way.greedy
    assert len(shortest(np.empty((0, 2))).order) == 0
    assert shortest(np.zeros((3, 2))).length == 0
    assert shortest(np.array([[1.0, 1.0]])).order.tolist() == [0]


@pytest.mark.parametrize("shift", [(0.0, 0.0), (3.0, -5.0), (2.4, 1.7), (-6.3, 0.6)])
def test_a_shift_is_found_to_a_fraction_of_a_pixel_through_noise(shift: tuple[float, float]) -> None:
    rng = np.random.default_rng(3)
    scene = ndi.gaussian_filter(rng.normal(size=(160, 160)), 3)
    scene /= scene.std()
    moved = ndi.shift(scene, shift[::-1], order=3, mode="wrap")
    first, second = (each[48:112, 48:112] + 0.3 * rng.normal(size=(64, 64)) for each in (scene, moved))
    found = shift_between(first, second)
    assert (found.x, found.y) == pytest.approx(shift, abs=0.5)
    assert found.peak_ratio > 2
    told = Moved(as_text(packed(first)), 64, 64)(second)
    assert told[:2] == pytest.approx((found.x, found.y), abs=0.2)


def test_what_has_nothing_in_common_is_no_registration() -> None:
    rng = np.random.default_rng(4)
    ratios = [shift_between(rng.normal(size=(64, 64)), rng.normal(size=(64, 64))).peak_ratio for _ in range(20)]
    assert np.mean(ratios) < 1.5
    assert shift_between(np.zeros((8, 8)), np.zeros((8, 8))).peak_ratio == 1
    assert Moved(as_text(packed(np.zeros((8, 8)))), 8, 8)(np.zeros((9, 8)))[3] == 0


def test_the_part_with_the_most_contrast_is_chosen() -> None:
    image = np.random.default_rng(5).normal(size=(64, 80)) * 0.1
    image[40:56, 20:36] += np.random.default_rng(6).normal(size=(16, 16))
    top, left, contrast, *pixels = Patch(16, 16)(image)
    assert abs(top - 40) <= 4
    assert abs(left - 20) <= 4
    assert contrast > 1
    assert len(pixels) == 256
    assert Patch(16, 16)(np.full((64, 64), np.nan))[2] == 0


def survey(**changes: Any) -> Survey:
    made = Survey((SIDE, SIDE), (STEP, STEP), 0.5, 6, "walls", 5, 5e-8, 200, 0.0)
    return msgspec.structs.replace(made, **changes)


def test_a_survey_comes_back_from_its_numbers() -> None:
    image, truth = walls(2)
    found = unpacked(survey()(image))
    assert found.walls == len(find(image, GRID, 0.5, 6).walls)
    assert found.coverage > 0.95
    centred = visited(list(found.points)) + (SIDE - 1) / 2
    assert false_points(centred, truth) == 0
    looked = survey().at(found.points)(image)
    assert looked == pytest.approx([p.probability for p in found.points], abs=1e-6)
    few = unpacked(survey(most=10)(image))
    assert (few.chosen, len(few.points)) == (found.chosen, 10)
    far = unpacked(survey(apart=12 * STEP)(image))
    assert 0 < len(far.points) < len(found.points)
    empty = unpacked(survey()(np.zeros((SIDE, SIDE))))
    assert (empty.walls, empty.points, empty.summary()["route_coverage"]) == (0, (), None)
    with pytest.raises(PlanError, match="raise threshold"):
        survey()(np.ones((SIDE, SIDE)))
    with pytest.raises(PlanError, match="pixels"):
        survey()(np.zeros((4, 4)))


INFO = InstrumentInfo(
    name="afm",
    modality="afm",
    origin="simulation",
    commands=("Scan", "AcquireSpectrum"),
    limits=Limits(region=((0.0, 0.0), (SIDE * STEP, SIDE * STEP))),
)


def play(
    parameters: dict[str, Any],
    *,
    info: InstrumentInfo = INFO,
    image: Any = None,
    refuse: Callable[[int, Any], Exception | None] = lambda *_: None,
    scalarizers: tuple[str, ...] = ("area",),
) -> tuple[dict[str, Any], list[Any]]:
    """Run the plan on an instrument whose map is `image`; refuse(spectra so far, step) may return an error."""
    image = walls(1)[0] if image is None else image
    plan = Forward(msgspec.convert({"topic": "map", "shape": (SIDE, SIDE), **parameters}, Forward.Parameters))
    policy: Any = None
    generator = plan.run(PlanContext(np.random.default_rng(0), info, policy, ("map", "flat", "noise"), scalarizers))
    steps: list[Any] = []
    scans: list[Scan] = []
    count = 0
    answer: Any = None
    error: Exception | None = None
    while True:
        try:
            step = generator.throw(error) if error else generator.send(answer)
        except StopIteration as end:
            return dict(end.value), steps
        steps.append(step)
        error, answer = refuse(count, step), None
        if error:
            continue
        match step:
            case Reduce():
                whole, seen = (scans[0], scans[-1]) if step.result.count < SIDE else (scans[0],) * 2
                pixel = whole.region.width / SIDE
                left, top = (
                    round((a - w / 2 - (b - whole.region.width / 2)) / pixel)
                    for a, w, b in (
                        (seen.region.centre_x, seen.region.width, whole.region.centre_x),
                        (seen.region.centre_y, seen.region.height, whole.region.centre_y),
                    )
                )
                answer = step.function(image[top : top + seen.shape[0], left : left + seen.shape[1]])
            case Observe():
                where = steps[-2].position
                answer = (Observation(position=where, value=float(where[0]), sigma=1e-9),)
            case AcquireSpectrum():
                count += 1
                answer = Result(generation=count, topic="spectrum", first_index=count)
            case Scan():
                scans.append(step)
                answer = Result(generation=1, topic="scan", count=step.shape[0])


def test_the_plan_measures_on_the_walls_and_sums_up_by_kind() -> None:
    summary, steps = play({"sample": "balanced", "beside": 30.0, "most": 40, "variance": "noise"})
    spectra = [step for step in steps if isinstance(step, AcquireSpectrum)]
    assert summary["succeeded"]
    assert summary["spectra_measured"] == len(spectra) == summary["points_kept"]
    assert {step.frame for step in spectra} == {"scan"}
    assert all(isinstance(step.kind, BEPS) for step in spectra)
    kinds = summary["by_kind"]
    assert kinds["wall"]["n"] == kinds["domain_left"]["n"]
    rows = [row for row in summary["spectra"] if row["kind"] == "wall"]
    values = [row["position"][0] for row in rows]
    assert kinds["wall"]["mean"] == pytest.approx(np.mean(values))
    assert kinds["wall"]["error"] == pytest.approx(np.std(values, ddof=1) / math.sqrt(len(values)))
    assert rows[0]["variance"] == pytest.approx(rows[0]["probability"], abs=1e-6)  # here the same map
    places = np.array([row["position"] for row in rows]) / STEP - 0.5
    assert false_points(places[:, ::-1], walls(1)[1]) == 0
    assert summary["route"]["length"] <= summary["route"]["greedy"]


def test_junctions_first_means_first() -> None:
    image = np.zeros((SIDE, SIDE))
    image[46:49] = image[:, 30:33] = image[:, 70:73] = 1
    summary, _ = play({"sample": "junctions"}, image=image)
    kinds = [row["kind"] for row in summary["spectra"]]
    assert kinds[:2] == ["junction"] * 2
    assert set(kinds[2:]) == {"wall"}


def test_the_specimen_is_looked_at_again_and_the_gate_told() -> None:
    summary, steps = play({"register_every": 10, "register_topic": "flat", "register_side": 32, "most": 25})
    told = [step for step in steps if isinstance(step, Register)]
    scans = [step for step in steps if isinstance(step, Scan)]
    assert (len(told), len(scans)) == (3, 4)
    assert told[0].sigma > 2 * told[1].sigma  # of the drift's speed nothing is known yet
    assert {scan.frame for scan in scans} == {"specimen"}
    assert {step.frame for step in steps if isinstance(step, AcquireSpectrum)} == {"specimen"}
    assert [look["after"] for look in summary["registrations"]] == [0, 10, 20]
    assert scans[1].region.width == pytest.approx(scans[0].region.width / 3)
    assert all(math.hypot(*step.shift) < 0.1 * STEP and step.peak_ratio > 5 for step in told)  # it did not move


def test_an_instrument_without_spectra_ends_with_the_map_and_the_points() -> None:
    summary, steps = play({}, info=msgspec.structs.replace(INFO, commands=("Scan",)))
    assert summary["succeeded"]
    assert "takes no spectra" in summary["message"]
    assert len(summary["points"]) == summary["points_kept"] > 20
    assert not any(isinstance(step, AcquireSpectrum) for step in steps)
    nothing, _ = play({}, image=np.zeros((SIDE, SIDE)))
    assert nothing["succeeded"]
    assert "no points" in nothing["message"]


def test_a_refused_place_is_counted_and_a_budget_ends_with_what_there_is() -> None:
    def one(count: int, step: Any) -> Exception | None:
        return RefusedError("too near", "region") if isinstance(step, AcquireSpectrum) and count == 3 else None

    refusals = iter(range(10))

    def once(count: int, step: Any) -> Exception | None:
        return one(count, step) if isinstance(step, AcquireSpectrum) and count == 3 and not next(refusals) else None

    summary, _ = play({"most": 10}, refuse=once)
    assert (summary["spectra_measured"], list(summary["refused"].values())) == (9, [1])

    def spent(count: int, step: Any) -> Exception | None:
        return RefusedError("spent", "budget") if count == 4 and not isinstance(step, Checkpoint | Observe) else None

    summary, _ = play({"most": 10}, refuse=spent)
    assert summary["succeeded"]
    assert summary["spectra_measured"] == 4

    def jumped(count: int, step: Any) -> Exception | None:
        return RefusedError("jumped", "3 sigma") if isinstance(step, Register) and count else None

    summary, _ = play({"most": 10, "register_every": 4}, refuse=jumped)
    assert not summary["succeeded"]
    assert summary["spectra_measured"] == 4


def test_a_topic_that_nobody_makes_is_named() -> None:
    with pytest.raises(PlanError, match=r"segment\.mean"):
        play({"topic": "segment.mean"})


@pytest.mark.parametrize("changes", [{}, {"register_every": 3, "sample": "balanced"}])
def test_the_plan_survives_a_kill_at_every_step(changes: dict[str, Any]) -> None:
    wanted = {"topic": "map", "shape": (48, 48), "register_side": 48, "threshold": 0.5, **changes}
    assert check_plan(Forward, msgspec.convert(wanted, Forward.Parameters)) == []


@pytest.mark.parametrize("name", ["spm-forward", "pto-forward", "pto-ridges", "stem-forward"])
def test_the_shipped_rigs_name_what_there_is(name: str) -> None:
    rig = load(name)
    assert faults(rig) == []
    made = {
        f"{instance}.{topic}" for instance in rig.plugins for topic in ("mean", "variance", "flat", "map", "table")
    }
    for plan in rig.plans:
        if plan.use == "forward":
            asked = Forward(convert(Forward.Parameters, plan.parameters)).inputs()
            assert set(asked) <= made
