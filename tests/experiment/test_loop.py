"""A plan through the loop: steps, causes, moves, refusals, budgets, ends."""

from __future__ import annotations

import itertools
import math
import threading
import time
from typing import Any

import msgspec
import numpy as np
import pytest

from probeloop.data.commands import BEPS, AcquireSpectrum, Command, MoveProbe, Read, Scan
from probeloop.data.control import Failed, Progress, Remark, StateChange
from probeloop.data.errors import DriverError, PlanError, RefusedError
from probeloop.data.scan import Region
from probeloop.experiment.controls import Change
from probeloop.plugin.contract import (
    Checkpoint,
    Observe,
    Plan,
    PlanContext,
    PlanSteps,
    Propose,
    Reduce,
    Submit,
    Wait,
)

NM = 1e-9
DONE = {"succeeded": True, "message": ""}


def a_plan(steps: Any) -> type[Plan]:
    """A plan class around a generator function of ctx."""

    class Made(Plan):
        def run(self, ctx: PlanContext) -> PlanSteps:
            return steps(ctx)

    return Made


def spectrum(x: float, y: float) -> AcquireSpectrum:
    return AcquireSpectrum((x, y), BEPS())


def test_explore_measures_a_hundred_different_cells(rig: Any) -> None:
    summary = rig.run("explore", {"order": "random", "count": 100})
    assert summary["spectra_measured"] == summary["distinct_cells"] == 100
    assert summary["succeeded"] is True
    places = {command.position for command in rig.log if isinstance(command, AcquireSpectrum)}
    assert len(places) == 100
    assert all(rig.info.grid.holds(place) for place in places)
    assert isinstance(rig.log[0], Scan)
    assert rig.log[0].shape == (50, 50)
    progress = [event for event in rig.events if isinstance(event, Progress)]
    assert progress[-1].done == 1.0
    assert progress[0].eta is not None


def test_every_observation_is_the_cause_of_the_next_command(rig: Any) -> None:
    rig.run("explore", {"count": 3, "overview": False})
    (_, first, trace), *rest = rig.submits
    assert first == ()
    assert trace.loop_latency_ns is None
    assert [cause for _, cause, _ in rest] == [(("spectrum", 0),), (("spectrum", 1),)]
    assert rest[0][2].exposed == 1000
    assert rest[0][2].published == 2000
    assert 0 < rest[0][2].decided <= rest[0][2].submitted


def test_a_command_has_a_cause_only_after_a_look(rig: Any) -> None:
    def steps(ctx: PlanContext) -> PlanSteps:
        result = yield spectrum(0.0, 0.0)
        yield Observe(result, "peak")
        yield spectrum(5 * NM, 0.0)
        yield spectrum(10 * NM, 0.0)
        return DONE

    rig.run(a_plan(steps))
    assert [bool(cause) for _, cause, _ in rig.submits] == [False, True, False]


def test_long_moves_are_split_on_the_grid_and_in_sight(make_rig: Any) -> None:
    rig = make_rig(limits={"max_step": 12 * NM})

    def steps(ctx: PlanContext) -> PlanSteps:
        yield MoveProbe((101 * NM, 33 * NM))
        yield spectrum(60 * NM, 200 * NM)
        return DONE

    rig.run(a_plan(steps))
    assert isinstance(rig.log[0], Read)
    goals = [command.position for command in rig.log[1:]]
    stops = [rig.info.grid.nearest((0.0, 0.0)), *goals]
    assert max(math.dist(a, b) for a, b in itertools.pairwise(stops)) <= 12 * NM
    assert all(rig.info.grid.holds(goal) for goal in goals)
    assert goals[-1] == rig.info.grid.nearest((60 * NM, 200 * NM))
    assert rig.info.grid.nearest((101 * NM, 33 * NM)) in goals
    assert any(isinstance(event, Remark) and "moves on the way" in event.text for event in rig.events)
    moves = goals.index(rig.info.grid.nearest((101 * NM, 33 * NM))) + 1
    assert rig.steps()[0].value["ids"] == list(range(2, 2 + moves))


def test_a_refusal_is_raised_at_the_yield(rig: Any) -> None:
    def no(number: int, command: Command) -> None:
        if isinstance(command, AcquireSpectrum):
            raise RefusedError("over the limit", "dose", "1 e")

    rig.before = no
    caught = []

    def steps(ctx: PlanContext) -> PlanSteps:
        try:
            yield spectrum(0.0, 0.0)
        except RefusedError as error:
            caught.append((error.reason, error.limit, error.allowed))
        return DONE

    rig.run(a_plan(steps))
    assert caught == [("over the limit", "dose", "1 e")]
    assert rig.steps()[0].value["error"]["type"] == "RefusedError"
    with pytest.raises(RefusedError, match="over the limit"):
        rig.run("explore", {"count": 3})


def test_a_failure_is_raised_at_the_yield(rig: Any) -> None:
    rig.after = lambda done: rig.controls.finished(Failed(id=done.id, reason="the scanner hangs"))

    def steps(ctx: PlanContext) -> PlanSteps:
        with pytest.raises(DriverError, match="the scanner hangs"):
            yield spectrum(0.0, 0.0)
        return DONE

    assert rig.run(a_plan(steps))["succeeded"]


@pytest.mark.parametrize("how", ["failed", "ended early"])
def test_a_command_that_stop_cut_off_ends_the_plan_with_the_reason_that_comes_after(rig: Any, how: str) -> None:
    def cut(done: Any) -> None:
        early = msgspec.structs.replace(done, result=msgspec.structs.replace(done.result, aborted=True, stopped=True))
        failed = Failed(id=done.id, reason="stopped before it reached the hardware", stopped=True)
        rig.controls.finished(failed if how == "failed" else early)
        threading.Timer(0.1, rig.controls.end_with, ("stop", "STOP by the operator")).start()

    def steps(ctx: PlanContext) -> PlanSteps:
        yield spectrum(0.0, 0.0)
        return DONE

    rig.after = cut
    summary = rig.run(a_plan(steps))
    assert (summary["ended"], summary["message"]) == ("stop", "stopped: STOP by the operator")


def test_no_result_is_an_error_in_words(rig: Any) -> None:
    rig.after = lambda done: None
    with pytest.raises(DriverError, match=r"nothing came of Scan \(command 1\)"):
        rig.run("overview")


def test_tickets_give_their_results_in_order(rig: Any) -> None:
    def steps(ctx: PlanContext) -> PlanSteps:
        first = yield Submit(spectrum(0.0, 0.0))
        second = yield Submit(spectrum(5 * NM, 0.0))
        third = yield Submit(spectrum(10 * NM, 0.0))
        results = yield Wait((third, second, first))
        return DONE | {"first": [result.first_index for result in results]}

    assert rig.run(a_plan(steps))["first"] == [2, 1, 0]


def test_reduce_sees_the_map_of_its_generation_without_settling_frames(rig: Any) -> None:
    region = Region(125 * NM, 125 * NM, 250 * NM, 250 * NM)

    def steps(ctx: PlanContext) -> PlanSteps:
        old = yield Scan(region, (10, 10), 1e-3)
        rig.value = lambda x, y: 7.0
        new = yield Scan(region, (10, 10), 1e-3)
        first = yield Reduce(old, "image", lambda image: (np.nanmax(image), np.isnan(image).sum()))
        second = yield Reduce(new, "image", lambda image: (np.nanmax(image), np.isnan(image).sum()))
        return DONE | {"first": first, "second": second}

    summary = rig.run(a_plan(steps))
    assert summary["first"][0] == pytest.approx(1.0, abs=0.1)
    assert summary["second"] == [7.0, 0.0]
    assert summary["first"][1] == 0


def test_a_topic_that_is_no_input_is_named(rig: Any) -> None:
    def steps(ctx: PlanContext) -> PlanSteps:
        result = yield Scan(Region(0.0, 0.0, NM, NM), (2, 2), 1e-3)
        yield Reduce(result, "haadf", lambda image: (0.0,))
        return DONE

    with pytest.raises(PlanError, match="'haadf', which is none of its inputs"):
        rig.run(a_plan(steps))


@pytest.mark.parametrize("bad", [42, None, "Scan", {"command": 1}, (1.0, 2.0)])
def test_garbage_is_no_step(rig: Any, bad: Any) -> None:
    def steps(ctx: PlanContext) -> PlanSteps:
        yield bad
        return DONE

    with pytest.raises(PlanError, match="which is no step"):
        rig.run(a_plan(steps))


@pytest.mark.parametrize("bad", [None, {}, {"succeeded": 1, "message": ""}, {"succeeded": True}, "good"])
def test_a_summary_says_whether_it_succeeded(rig: Any, bad: Any) -> None:
    def steps(ctx: PlanContext) -> PlanSteps:
        yield Checkpoint(1.0)
        return bad

    with pytest.raises(PlanError, match="as its summary"):
        rig.run(a_plan(steps))


def test_a_count_ends_the_plan_in_order(rig: Any, allowance: Any) -> None:
    summary = rig.run("explore", {"count": 100}, budget=allowance(count=7))
    assert summary["spectra_measured"] == 7
    assert "the budget of 7 spectra is spent" in summary["message"]
    assert sum(isinstance(command, AcquireSpectrum) for command in rig.log) == 7


def test_a_dose_is_asked_for_before_it_is_spent(rig: Any, allowance: Any) -> None:
    rig.dose = 10.0
    budget = allowance(dose=45.0)
    summary = rig.run("explore", {"count": 100}, budget=budget)
    assert budget.spent.dose == 40.0
    assert summary["spectra_measured"] == 3
    assert len(rig.dry_runs) == 5


def test_a_time_is_held(rig: Any, allowance: Any) -> None:
    summary = rig.run("explore", {"count": 100, "overview": False}, budget=allowance(time=0.0))
    assert summary["spectra_measured"] == 0
    assert summary["succeeded"] is False


def test_out_of_budget_the_plan_may_still_tidy_up_but_not_for_ever(rig: Any, allowance: Any) -> None:
    def steps(ctx: PlanContext) -> PlanSteps:
        while True:
            try:
                yield spectrum(0.0, 0.0)
            except RefusedError:
                yield MoveProbe((0.0, 0.0))

    with pytest.raises(PlanError, match="after its budget was spent"):
        rig.run(a_plan(steps), budget=allowance(count=1))
    assert sum(isinstance(command, MoveProbe) for command in rig.log) == 100


def test_a_budget_changed_while_running_is_recorded_and_kept_to(rig: Any, allowance: Any) -> None:
    def change(number: int, command: Command) -> None:
        if number == 5:
            rig.controls.change(Change("budget", "", {"count": 8}))

    rig.before = change
    summary = rig.run("explore", {"count": 100, "overview": False}, budget=allowance(count=50))
    assert summary["spectra_measured"] == 8
    (changed,) = [event for event in rig.steps() if event.kind == "change"]
    assert changed.value == {"kind": "budget", "target": "", "values": {"count": 8}}


def test_stop_in_the_middle_ends_the_plan_and_nothing_more_is_sent(rig: Any) -> None:
    def stop(number: int, command: Command) -> None:
        if number == 10:
            rig.controls.end_with("stop", "STOP by the operator")

    rig.before = stop
    summary = rig.run("explore", {"count": 100})
    assert summary["ended"] == "stop"
    assert summary["succeeded"] is False
    assert "STOP by the operator" in summary["message"]
    assert summary["spectra_measured"] == 9
    assert len(rig.log) == 11


def test_a_plan_that_will_not_end_is_ended(rig: Any) -> None:
    def steps(ctx: PlanContext) -> PlanSteps:
        while True:
            try:
                yield spectrum(0.0, 0.0)
            except RefusedError:
                continue

    rig.before = lambda number, command: rig.controls.end_with("abort", "enough") if number == 2 else None
    summary = rig.run(a_plan(steps))
    assert summary == {"succeeded": False, "message": "aborted: enough", "ended": "abort"}
    assert len(rig.log) == 3


def test_abort_wakes_a_plan_that_waits(rig: Any) -> None:
    rig.after = lambda done: None
    timer = threading.Timer(0.05, rig.controls.end_with, ("abort", "too slow"))
    timer.start()
    try:
        summary = rig.run("overview", timeouts=None)
    finally:
        timer.join()
    assert summary["message"] == "aborted: too slow"


def test_pause_holds_before_the_next_step_and_costs_no_time(rig: Any) -> None:
    rig.before = lambda number, command: rig.controls.pause() if number == 2 else None
    seen: list[int] = []

    def go_on() -> None:
        with rig.controls.changed:
            rig.controls.changed.wait_for(lambda: rig.controls.paused, 5.0)
            rig.controls.changed.wait_for(lambda: False, 0.1)
        seen.append(len(rig.log))
        rig.controls.resume()

    other = threading.Thread(target=go_on)
    begun = time.monotonic()
    other.start()
    try:
        summary = rig.run("explore", {"count": 5, "overview": False})
    finally:
        other.join()
    assert seen == [3]
    assert summary["spectra_measured"] == 5
    assert rig.controls.paused_ns > 10_000_000
    assert rig.last_loop.budget.spent.time <= time.monotonic() - begun - rig.controls.paused_ns / 1e9


def test_approval_waits_for_every_suggestion(rig: Any) -> None:
    deciding = threading.Thread(target=_decide, args=(rig,))
    deciding.start()
    try:
        summary = rig.run("explore", {"count": 3, "batch": 3, "overview": False}, approval=True)
    finally:
        deciding.join()
    places = [command.position for command in rig.log]
    assert summary["spectra_measured"] == 3
    assert rig.vetoed not in places
    assert places[2] == rig.info.grid.nearest((60 * NM, 60 * NM))


def _decide(rig: Any) -> None:
    """Veto the first suggestion, approve the others, add a point of one's own."""
    with rig.controls.changed:
        rig.controls.changed.wait_for(lambda: len(rig.controls.waiting_for_approval) == 3, 5.0)
    ids = sorted(rig.controls.waiting_for_approval)
    rig.vetoed = rig.controls.waiting_for_approval[ids[0]]
    rig.controls.add_point((60 * NM, 60 * NM))
    assert rig.controls.decide((ids[0],), approved=False) == ()
    assert rig.controls.decide((99,), approved=True) == (99,)
    assert rig.controls.decide(tuple(ids[1:]), approved=True) == ()


def test_a_point_is_added_without_approval_too(rig: Any) -> None:
    rig.controls.add_point((60 * NM, 61 * NM))
    rig.run("explore", {"count": 3, "overview": False})
    assert rig.log[1].position == rig.info.grid.nearest((60 * NM, 61 * NM))
    shown = [event for event in rig.events if isinstance(event, StateChange) and event.state == "waiting"]
    assert shown == []


def test_propose_without_suggestions_gives_what_was_added(rig: Any) -> None:
    rig.controls.add_point((1 * NM, 2 * NM))

    def steps(ctx: PlanContext) -> PlanSteps:
        return DONE | {"now": (yield Propose(()))}

    assert rig.run(a_plan(steps), approval=True)["now"] == [[1 * NM, 2 * NM]]


def test_rewards_weigh_value_and_cost(rig: Any, rewards: Any) -> None:
    values: list[float] = []

    def steps(ctx: PlanContext) -> PlanSteps:
        for _ in range(2):
            result = yield spectrum(180 * NM, 70 * NM)
            values.extend(each.value for each in (yield Observe(result, "peak")))
            rig.controls.change(Change("reward", "", {"value": 2.0, "time": 1000.0}))
        return DONE

    rig.run(a_plan(steps))
    assert values[1] == pytest.approx(2.0 * values[0] - 1.0)
    with pytest.raises(PlanError, match="no reward is called novelty"):
        rewards(weights={"novelty": 1.0})


def test_an_invalid_measurement_is_counted_and_never_best(make_rig: Any) -> None:
    rig = make_rig(value=lambda x, y: -1.0)
    summary = rig.run("explore", {"count": 4, "overview": False})
    assert summary["invalid"] == 4
    assert summary["best"] is None
