"""Killed at every step and run again from the record: the same commands, none twice, none missing."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probeloop.data.commands import BEPS, AcquireSpectrum, Approach, Command, MoveProbe, Read, SetDrive, Withdraw
from probeloop.data.control import Done, Observed, Remark, Verdict
from probeloop.data.errors import PlanError, RecordError, RefusedError
from probeloop.experiment.controls import Change
from probeloop.experiment.resume import interrupted, read_interrupted
from probeloop.plugin.contract import Checkpoint, Plan, PlanContext, PlanSteps, Submit, Wait

NM = 1e-9
DONE = {"succeeded": True, "message": ""}
HILL = {"order": "hill_climb", "count": 14, "shape": (25, 25)}


def whole(make_rig: Any, plan: Any, parameters: dict[str, Any]) -> list[Command]:
    rig = make_rig()
    rig.run(plan, parameters)
    return list(rig.log)


def kill_at(rig: Any, number: int, crash: type[BaseException], late: bool) -> None:
    """Kill the experiment at command `number`: before it is handed over, or when it is done but not yet recorded."""
    if late:
        plain_after = type(rig).after

        def after(done: Done) -> None:
            plain_after(rig, done)
            if len(rig.log) == number + 1:
                raise crash

        rig.after = after
        return

    def before(n: int, command: Command) -> None:
        if n == number:
            raise crash

    rig.before = before


def revive(rig: Any) -> None:
    """A new experiment process: nothing remembered but the events."""
    del rig.__dict__["before"]
    rig.before = lambda number, command: None
    rig.__dict__.pop("after", None)
    rig.attach()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(("plan", "parameters"), [("explore", HILL), ("explore", {"count": 8}), ("zoom", {})])
def test_killed_at_every_command_it_goes_on_with_the_same(
    make_rig: Any, crash: type[BaseException], plan: str, parameters: dict[str, Any], late: bool
) -> None:
    expected = whole(make_rig, plan, parameters)
    assert len(expected) >= 3
    for number in range(len(expected)):
        rig = make_rig()
        kill_at(rig, number, crash, late)
        with pytest.raises(crash):
            rig.run(plan, parameters)
        revive(rig)
        summary = rig.run(plan, parameters, resume=True)
        assert summary["succeeded"]
        # what was measured but not looked at is measured again: its data went with the process
        again = len(rig.log) - len(expected)
        assert again in ((0, 1) if late else (0,))
        assert [command for command, _ in itertools.groupby(rig.log)] == expected


class WithTip(Plan):
    """Comes to the surface, measures some places, and goes away."""

    def run(self, ctx: PlanContext) -> PlanSteps:
        yield Approach()
        yield SetDrive(amplitude=1.5)
        yield SetDrive(frequency=3e5)
        for i in range(3):
            yield AcquireSpectrum((STEP / 2 + i * STEP, STEP / 2), BEPS())
        yield Withdraw()
        yield MoveProbe((STEP / 2, STEP / 2))
        return DONE


STEP = 5e-9
TIP, DRIVE = Approach(), SetDrive(amplitude=1.5)


@pytest.mark.parametrize("still", [False, True], ids=["made safe", "as it was"])
@pytest.mark.parametrize(("killed", "wanted"), [(1, [TIP]), (3, [TIP, DRIVE]), (5, [TIP, DRIVE]), (7, [DRIVE])])
def test_a_tip_that_the_gate_took_away_is_back_before_the_run_goes_on(
    make_rig: Any, crash: type[BaseException], killed: int, wanted: list[Command], still: bool
) -> None:
    rig = make_rig()
    kill_at(rig, killed, crash, late=False)
    with pytest.raises(crash):
        rig.run(WithTip)
    revive(rig)
    if still:
        rig.readback = {"feedback": "engaged", "drive": 1.5}
    before = len(rig.log)
    rig.run(WithTip, resume=True)
    done = rig.log[before:]
    assert done[0] == Read()
    if still:
        assert not [command for command in wanted if command in done]
    else:
        assert done[1 : 1 + len(wanted)] == wanted
        told = [event.text for event in rig.events if isinstance(event, Remark)]
        assert ("the tip was at the surface when the run was cut off: approaches" in told) == (TIP in wanted)


def test_costly_data_that_nobody_looked_at_are_not_measured_again_by_itself(
    make_rig: Any, crash: type[BaseException]
) -> None:
    for repeat in (False, True):
        rig = make_rig()
        rig.dose = 5.0
        kill_at(rig, 3, crash, late=True)
        with pytest.raises(crash):
            rig.run("explore", {"count": 5})
        revive(rig)
        if repeat:
            assert rig.run("explore", {"count": 5}, resume=True, repeat=True)["spectra_measured"] == 5
        else:
            with pytest.raises(PlanError, match=r"data of AcquireSpectrum \(5 e\) went with the interrupted run"):
                rig.run("explore", {"count": 5}, resume=True)


def test_killed_twice(make_rig: Any, crash: type[BaseException]) -> None:
    expected = whole(make_rig, "explore", HILL)
    rig = make_rig()
    for number in (5, 10):
        kill_at(rig, number, crash, late=False)
        with pytest.raises(crash):
            rig.run("explore", HILL, resume=number == 10)
        revive(rig)
    rig.run("explore", HILL, resume=True)
    assert rig.log == expected


def test_a_change_made_while_running_is_in_force_at_the_same_step_again(
    make_rig: Any, crash: type[BaseException], allowance: Any
) -> None:
    rig = make_rig()

    def before(number: int, command: Command) -> None:
        if number == 4:
            rig.controls.change(Change("budget", "", {"count": 10}))
        if number == 8:
            raise crash

    rig.before = before
    with pytest.raises(crash):
        rig.run("explore", {"count": 100, "overview": False})
    revive(rig)
    budget = allowance()
    rig.run("explore", {"count": 100, "overview": False}, resume=True, budget=budget)
    assert len(rig.log) == 10
    assert budget.allowance.count == budget.spent.count == 10


def test_a_refusal_is_remembered(make_rig: Any, crash: type[BaseException]) -> None:
    rig = make_rig()

    def before(number: int, command: Command) -> None:
        if command == MoveProbe(rig.info.grid.nearest((1 * NM, 1 * NM))):
            raise RefusedError("no", "max_step", "12 nm")
        if number == 1:
            raise crash

    class Careful(Plan):
        def run(self, ctx: PlanContext) -> PlanSteps:
            try:
                yield MoveProbe((1 * NM, 1 * NM))
            except RefusedError as error:
                yield MoveProbe((30 * NM if error.allowed == "12 nm" else 0.0, 0.0))
                yield MoveProbe((42 * NM, 0.0))
            return DONE

    rig.before = before
    with pytest.raises(crash):
        rig.run(Careful)
    revive(rig)
    rig.run(Careful, resume=True)
    assert [command.position[0] for command in rig.log] == [pytest.approx(32.5 * NM), pytest.approx(42.5 * NM)]


def test_a_costly_command_without_a_result_is_repeated_only_when_told(
    make_rig: Any, crash: type[BaseException]
) -> None:
    def cut(rig: Any) -> Any:
        rig.dose = 5.0

        def after(done: Done) -> None:
            if len(rig.log) == 4:
                raise crash
            rig.events.append(done)
            rig.controls.finished(done)

        rig.after = after
        with pytest.raises(crash):
            rig.run("explore", {"count": 5})
        revive(rig)
        return rig

    rig = cut(make_rig())
    with pytest.raises(PlanError, match=r"command 4 \(AcquireSpectrum, 5 e\): accepted before the crash"):
        rig.run("explore", {"count": 5}, resume=True)
    assert len(rig.log) == 4
    rig = cut(make_rig())
    rig.run("explore", {"count": 5}, resume=True, repeat=True)
    assert len(rig.log) == 7
    assert rig.log[3] == rig.log[4]


class Batch(Plan):
    """Hands over three, then waits."""

    def run(self, ctx: PlanContext) -> PlanSteps:
        tickets = []
        for i in range(3):
            tickets += [(yield Submit(AcquireSpectrum((i * 5 * NM, 0.0), BEPS())))]
        yield Checkpoint(0.5)
        results = yield Wait(tuple(tickets))
        return DONE | {"first": [each.first_index for each in results]}


@pytest.mark.parametrize("lost", [False, True])
def test_tickets_outlive_a_crash(make_rig: Any, crash: type[BaseException], lost: bool) -> None:
    """What is done already is not done again; a free command that nothing came of is."""
    rig = make_rig()

    def after(done: Done) -> None:
        if not (lost and done.id == 2):
            rig.events.append(done)
            rig.controls.finished(done)

    rig.after = after

    class Events(list):  # type: ignore[type-arg]
        def append(self, event: Any) -> None:
            super().append(event)
            if getattr(event, "target", "") == "plan" and type(event).__name__ == "Progress":
                raise crash

    rig.events = Events(rig.events)
    with pytest.raises(crash):
        rig.run(Batch)
    rig.events = list(rig.events)
    revive(rig)
    summary = rig.run(Batch, resume=True)
    assert summary["first"] == ([0, 3, 2] if lost else [0, 1, 2])
    assert len(rig.log) == (4 if lost else 3)
    assert any(isinstance(event, Remark) and "repeats command 2" in event.text for event in rig.events) is lost


@pytest.mark.parametrize("source", ["clock", "chance"])
def test_a_plan_that_is_not_deterministic_is_told_so(make_rig: Any, crash: type[BaseException], source: str) -> None:
    class Loose(Plan):
        def run(self, ctx: PlanContext) -> PlanSteps:
            for _ in range(4):
                x = time.perf_counter() % 1e-7 if source == "clock" else np.random.random() * 1e-7  # noqa: NPY002
                yield MoveProbe((x, 0.0))
            return DONE

    rig = make_rig()
    kill_at(rig, 3, crash, late=False)
    with pytest.raises(crash):
        rig.run(Loose)
    revive(rig)
    with pytest.raises(PlanError, match=r"step 0 is .*MoveProbe.*, the record has .*MoveProbe.*not deterministic"):
        rig.run(Loose, resume=True)
    assert len(rig.log) == 3


def test_a_run_that_ended_is_not_resumed(rig: Any, tmp_path: Path) -> None:
    rig.run("explore", {"count": 2})
    assert interrupted(rig.recorded(), "experiment") is None
    assert read_interrupted(rig.write(tmp_path / "events.jsonl"), "experiment") is None
    assert interrupted([], "experiment") is None


def test_the_record_on_disk_may_end_in_half_a_line(rig: Any, crash: type[BaseException], tmp_path: Path) -> None:
    kill_at(rig, 3, crash, late=False)
    with pytest.raises(crash):
        rig.run("explore", {"count": 5})
    path = rig.write(tmp_path / "events.jsonl")
    path.write_bytes(path.read_bytes() + b'{"type": "Observed", "step": 1')
    found = read_interrupted(path, "experiment")
    assert found is not None
    assert (found.plan, found.parameters, found.seed) == ("explore", {"count": 5}, 1)
    assert [each.kind for each in found.steps[:3]] == ["command", "propose", "command"]
    path.write_bytes(b"not json\n" + path.read_bytes())
    with pytest.raises(RecordError, match="line 1"):
        read_interrupted(path, "experiment")
    with pytest.raises(RecordError, match=r"events\.jsonl"):
        read_interrupted(tmp_path / "none", "experiment")


def test_commands_of_others_are_none_of_the_plans(rig: Any, crash: type[BaseException]) -> None:
    kill_at(rig, 2, crash, late=False)
    with pytest.raises(crash):
        rig.run("explore", {"count": 5})
    rig.events.append(
        Verdict(id=77, command=AcquireSpectrum((0.0, 0.0), BEPS()), holder="window", epoch=1, accepted=True)
    )
    found = interrupted(rig.recorded(), "experiment")
    assert found is not None
    assert found.unused == ()


def test_a_record_with_a_hole_is_not_resumed_and_says_which_step_is_lost(
    rig: Any, crash: type[BaseException]
) -> None:
    kill_at(rig, 4, crash, late=False)
    with pytest.raises(crash):
        rig.run("explore", {"count": 5})
    whole = [each.step for each in interrupted(rig.recorded(), "experiment").steps]  # type: ignore[union-attr]
    assert whole == list(range(len(whole)))
    rest = [event for event in rig.recorded() if not (isinstance(event, Observed) and event.step == 2)]
    found = interrupted(rest, "experiment")
    assert found is not None
    with pytest.raises(PlanError, match="no step 2: its events were lost"):
        found.check(repeat=True)
