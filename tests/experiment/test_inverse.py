"""The inverse experiment without a bus: pending measurements, maps, the operator's pin, a crash at every command."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from probeloop.data.commands import AcquireSpectrum, Command, Scan
from probeloop.data.control import Done, Observed, Remark
from probeloop.data.errors import PlanError, RefusedError
from probeloop.data.scan import Region
from probeloop.experiment.controls import Change
from probeloop.plugin.contract import Policy

NM = 1e-9
SMALL = {"order": "walker", "count": 9, "shape": (25, 25), "scalarizer": "peak"}
CORNER = {"centre_x": 62.5 * NM, "centre_y": 62.5 * NM, "width": 80 * NM, "height": 60 * NM, "rotation": 0.0}


class Walker(Policy):
    """Has a memory and draws chance: what it suggests depends on all that it was told, in its order."""

    deaf = False
    asked = 0

    def context_images(self, candidates: Any, shape: tuple[int, int], images: Any) -> None:
        self.candidates, self.shape, self.images = candidates, shape, images
        self.free, self.mean = np.ones(len(candidates), bool), np.zeros(len(candidates))
        self.heard = 0.0

    def suggest(self, n: int) -> Any:
        free = self.free & (True if self.pinned is None or self.deaf else self.pinned.holds(self.candidates))
        left = np.flatnonzero(free)
        worth = self.mean[left] + self.rng.normal(size=len(left)) * (0.2 + self.heard % 0.1)
        chosen = left[np.argsort(worth, kind="stable")[::-1][:n]]
        self.free[chosen] = False
        return [tuple(self.candidates[i].tolist()) for i in chosen]

    def tell(self, observations: Any) -> None:
        for each in observations:
            self.heard += each.value
            away = np.sum((self.candidates - each.position) ** 2, axis=1)
            self.mean += each.value * np.exp(-away / (40 * NM) ** 2)

    def maps(self) -> dict[str, Any]:
        type(self).asked += 1
        return {"prediction": self.mean.reshape(self.shape), "uncertainty": np.full(self.shape, 0.5)}


class Odd(Walker):
    """Its maps are nonsense, but for one."""

    def maps(self) -> dict[str, Any]:
        good = super().maps()
        return good | {"narrow": good["prediction"][:3], "words": "none", "Two Words": good["prediction"]}


class Broken(Walker):
    """Its maps can't be had."""

    def maps(self) -> dict[str, Any]:
        raise ValueError("no fit")


class Screen:
    """Keeps what is shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[Any, int, Any]] = []

    def show(self, spec: Any, generation: int, values: Any, time_ns: int) -> None:
        self.shown.append((spec, generation, values))


@pytest.fixture
def rig(make_rig: Any) -> Any:
    made = make_rig()
    made.policies = {"walker": Walker, "odd": Odd, "broken": Broken}
    Walker.asked = 0
    return made


def spectra(rig: Any) -> list[Command]:
    return [command for command in rig.log if isinstance(command, AcquireSpectrum)]


def remarks(rig: Any) -> list[str]:
    return [event.text for event in rig.events if isinstance(event, Remark)]


def test_it_measures_where_the_policy_says_and_says_what_it_found(rig: Any) -> None:
    summary = rig.run("inverse", SMALL | {"count": 40})
    places = {command.position for command in spectra(rig)}
    assert summary["succeeded"]
    assert (summary["spectra_measured"], len(places), summary["distinct_cells"]) == (40, 40, 40)
    best = summary["objects_found"][0]
    assert math.dist(best["position"], (180 * NM, 70 * NM)) < 40 * NM
    assert summary["objects"] == len(summary["objects_found"]) >= 1
    assert sum(found["pixels"] for found in summary["objects_found"]) == pytest.approx(0.01 * 625, abs=1)
    assert best["uncertainty"] == 0.5
    assert best["clear"]
    assert summary["objects_clear"] >= 1
    assert best["measured"] >= 1
    assert summary["learned"]["maps"] == []  # there is no screen here
    assert summary["learned"]["scalarizer"] == "peak"


def test_maps_are_shown_on_the_overviews_axes_and_after_every_measurement(rig: Any) -> None:
    screen = Screen()
    summary = rig.run("inverse", SMALL, screen=screen)
    overview = next(command for command in rig.log if isinstance(command, Scan))
    assert [spec.name for spec, _, _ in screen.shown] == ["inverse.prediction", "inverse.uncertainty"] * 9
    spec, generation, values = screen.shown[-2]
    assert (spec.kind, spec.origin, values.shape, values.dtype) == ("image", "simulation", (25, 25), np.float32)
    assert generation == summary["overview_generation"] == summary["learned"]["generation"]
    y, x = (axis.values() for axis in spec.sig)
    places = overview.region.positions(overview.shape)
    np.testing.assert_allclose(np.stack(np.meshgrid(x, y), -1).reshape(-1, 2), places, atol=1e-15)
    assert summary["learned"]["maps"] == ["prediction", "uncertainty"]


def test_maps_can_be_shown_less_often_and_are_at_the_end(rig: Any) -> None:
    screen = Screen()
    rig.run("inverse", SMALL | {"show_every": 4}, screen=screen)
    assert len(screen.shown) == 2 * 3  # after 4, 8, and 9


@pytest.mark.parametrize("policy", ["odd", "broken"])
def test_nonsense_is_told_once_a_line_and_the_run_goes_on(rig: Any, policy: str) -> None:
    screen = Screen()
    summary = rig.run("inverse", SMALL | {"order": policy}, screen=screen)
    assert summary["spectra_measured"] == 9
    told = remarks(rig)
    assert all("\n" not in text and "the run goes on" in text for text in told)
    if policy == "broken":
        assert told == ["inverse: the policy's maps() raises ValueError: no fit; the run goes on"]
        assert summary["objects"] is None
    else:
        assert len(told) == 3
        assert "has the shape (3, 25), the overview (25, 25)" in told[0]
        assert {spec.name for spec, _, _ in screen.shown} == {"inverse.prediction", "inverse.uncertainty"}


@pytest.mark.parametrize(("batch", "pending"), [(1, 0), (1, 2), (3, 0), (2, 3)])
def test_the_next_is_chosen_while_others_are_on_their_way(rig: Any, batch: int, pending: int) -> None:
    held: list[Done] = []
    finished: list[int] = []
    most: list[int] = []
    plain_after, plain_wait = type(rig).after, rig.controls.result

    def after(done: Done) -> None:
        if rig.submits[-1][0].__class__ is not AcquireSpectrum:
            plain_after(rig, done)
            return
        held.append(done)
        most.append(len(held))

    def result(command_id: int, timeout: float | None = None) -> Any:
        """A measurement ends when somebody waits for it."""
        while held and held[0].id <= command_id:
            finished.append(held[0].id)
            plain_after(rig, held.pop(0))
        return plain_wait(command_id, timeout)

    rig.after, rig.controls.result = after, result
    summary = rig.run("inverse", SMALL | {"batch": batch, "pending": pending, "count": 12})
    assert summary["spectra_measured"] == 12
    assert max(most) == (pending + batch if pending else batch)
    assert finished == sorted(finished)


def test_it_waits_for_more_results_than_a_topic_keeps_scans(rig: Any) -> None:
    assert rig.run("inverse", SMALL | {"batch": 9, "pending": 0})["spectra_measured"] == 9


def pinning(rig: Any, at: int, values: Any) -> None:
    """Let an operator pin or let go when `at` spectra are submitted."""
    plain = rig.before

    def before(number: int, command: Command) -> None:
        plain(number, command)
        if len(spectra(rig)) == at and isinstance(command, AcquireSpectrum):
            rig.controls.change(Change("parameters", "plan", {"pinned": values}))

    rig.before = before


def run_pinned(rig: Any, parameters: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Run with the plan as a drop-in whose parameters can be changed, as in an experiment's process."""
    from probeloop.discover import load_class

    cls = load_class("inverse", "Plan")
    drop_ins: dict[str, Any] = {}

    class Seen(cls):  # type: ignore[misc,valid-type]
        def run(self, ctx: Any) -> Any:
            drop_ins["plan"] = self
            return super().run(ctx)

    Seen.__name__ = "inverse"
    made: dict[str, Any] = rig.run(Seen, parameters, drop_ins=drop_ins, **options)
    return made


def test_a_pinned_region_is_kept_to_until_it_is_let_go(rig: Any) -> None:
    pinning(rig, 4, CORNER)
    pinning(rig, 10, None)
    summary = run_pinned(rig, SMALL | {"count": 24, "pending": 0})
    inside = Region(**CORNER).holds(np.array([command.position for command in spectra(rig)]))
    assert inside[5:11].all()
    assert not inside[:4].all()
    assert not inside[11:].all()
    assert summary["spectra_measured"] == 24
    changes = [event.value for event in rig.events if isinstance(event, Observed) and event.kind == "change"]
    assert [change["values"] for change in changes] == [{"pinned": CORNER}, {"pinned": None}]


def test_a_policy_that_does_not_listen_is_kept_inside_too(rig: Any) -> None:
    rig.policies["walker"] = type("Deaf", (Walker,), {"deaf": True})
    run_pinned(rig, SMALL | {"pinned": CORNER})
    assert len(spectra(rig)) == 9
    assert Region(**CORNER).holds(np.array([command.position for command in spectra(rig)])).all()


def test_where_a_pinned_region_is_all_measured_the_run_ends_and_says_so(rig: Any) -> None:
    few = CORNER | {"width": 21 * NM, "height": 21 * NM}
    summary = run_pinned(rig, SMALL | {"pinned": few, "count": 40})
    assert 1 <= summary["spectra_measured"] <= 9
    assert summary["message"].endswith("walker suggests nothing inside the pinned region")


def test_a_pinned_region_without_a_candidate_is_as_good_as_none(rig: Any) -> None:
    off = CORNER | {"centre_x": -300 * NM}
    assert run_pinned(rig, SMALL | {"pinned": off})["spectra_measured"] == 9


def test_what_the_operator_adds_is_measured_wherever_it_is(rig: Any) -> None:
    rig.controls.add_point((200 * NM, 200 * NM))
    run_pinned(rig, SMALL | {"pinned": CORNER})
    first = spectra(rig)[1].position  # type: ignore[union-attr]
    assert math.dist(first, (200 * NM, 200 * NM)) < 5 * NM


@pytest.mark.parametrize("pending", [0, 2])
def test_out_of_budget_it_takes_in_what_is_on_its_way(rig: Any, allowance: Any, pending: int) -> None:
    screen = Screen()
    summary = rig.run("inverse", SMALL | {"pending": pending}, budget=allowance(count=5), screen=screen)
    assert (summary["succeeded"], summary["spectra_measured"]) == (True, 5)
    assert "the budget of 5 spectra is spent" in summary["message"]
    assert len(screen.shown) == 2 * 5


def test_a_gate_that_refuses_everything_ends_it(rig: Any) -> None:
    def before(number: int, command: Command) -> None:
        if isinstance(command, AcquireSpectrum):
            raise RefusedError("the area has had its dose", "area_dose", "elsewhere")

    rig.before = before
    with pytest.raises(RefusedError, match="the area has had its dose"):
        rig.run("inverse", SMALL | {"count": 200})
    assert not spectra(rig)


def test_without_a_scalarizer_that_is_there_it_says_which_there_are(rig: Any) -> None:
    with pytest.raises(PlanError, match="no scalarizer is called 'area'"):
        rig.run("inverse", SMALL | {"scalarizer": "area"})


class Kept:
    """What a recorder has on disk: every block that was published."""

    def __init__(self) -> None:
        self.blocks: list[Any] = []

    def recorded(self, topic: str, generation: int) -> list[Any]:
        return [b for b in self.blocks if (b.spec.name, b.generation) == (topic, generation)]


def recording(rig: Any) -> Any:
    kept = Kept()
    plain = rig.store.accept

    def accept(block: Any) -> None:
        kept.blocks.append(block)
        plain(block)

    rig.store.accept = accept
    return kept


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("pending", [0, 2])
def test_killed_at_every_command_it_repeats_no_measurement(
    make_rig: Any, crash: type[BaseException], pending: int, late: bool
) -> None:
    parameters = SMALL | {"count": 7, "pending": pending}

    def fresh() -> Any:
        made = make_rig()
        made.dose = 10.0  # so that nothing may be repeated without the operator's word
        made.policies = {"walker": Walker}
        return made

    whole = fresh()
    expected = whole.run("inverse", parameters)
    for number in range(len(whole.log)):
        rig = fresh()
        kept = recording(rig)

        def before(n: int, command: Command, at: int = number) -> None:
            if n == at:
                raise crash

        def after(done: Done, rig: Any = rig, at: int = number) -> None:
            type(rig).after(rig, done)
            if len(rig.log) == at + 1:
                raise crash

        rig.before, rig.after = (rig.before, after) if late else (before, rig.after)
        with pytest.raises(crash):
            rig.run("inverse", parameters)
        rig.before, rig.history = (lambda n, command: None), kept
        rig.__dict__.pop("after", None)
        rig.attach()
        asked = Walker.asked
        summary = rig.run("inverse", parameters, resume=True)
        assert rig.log == whole.log  # the same in the same order, none twice
        assert summary["best"] == expected["best"]
        assert summary["objects_found"] == expected["objects_found"]
        assert Walker.asked - asked <= 8  # maps that were shown before are not made again


def test_a_pin_is_in_force_at_the_same_place_of_a_resumed_run(rig: Any, crash: type[BaseException]) -> None:
    parameters = SMALL | {"count": 14, "pending": 0}
    pinning(rig, 3, CORNER)

    def before(number: int, command: Command, plain: Any = rig.before) -> None:
        plain(number, command)
        if number == 10:
            raise crash

    rig.before = before
    rig.history = recording(rig)
    with pytest.raises(crash):
        run_pinned(rig, parameters)
    rig.before = lambda number, command: None
    rig.attach()
    run_pinned(rig, parameters, resume=True)
    assert len(spectra(rig)) == 14
    inside = Region(**CORNER).holds(np.array([command.position for command in spectra(rig)]))
    assert inside[4:].all()
    counts = [len(list(same)) for _, same in itertools.groupby(spectra(rig))]
    assert counts == [1] * 14
