"""The operator changes what is interesting while a plan runs: all values are told anew, recorded, and resumed."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
import pytest
from probeloop.plugins.explore.policies import Raster

from probeloop.data.commands import AcquireSpectrum, Command
from probeloop.data.control import Observed, Refused, Remark, Result, SetReward
from probeloop.data.settings import Settings
from probeloop.data.units import quantity
from probeloop.experiment.changes import set_reward
from probeloop.experiment.controls import Change
from probeloop.experiment.interest import LOST, ScalarizerInput
from probeloop.experiment.reward import Rewards
from probeloop.experiment.streams import Frame
from probeloop.plugin.contract import Observation, Policy, Scalarizer

EXPLORE = {"order": "raster", "count": 8, "shape": (8, 8), "overview": False, "scalarizer": "peak"}


class Peak(Scalarizer):
    """The first number of a spectrum."""

    def scalarize(self, spectrum: Any, spec: Any) -> tuple[float, float, bool]:
        return float(spectrum[0]), math.nan, True


class Deep(Scalarizer):
    """The opposite of the first number, offset."""

    class Parameters(Settings):
        """offset: added."""

        offset: Annotated[float, quantity("", ge=0, le=100)] = 10.0

    def scalarize(self, spectrum: Any, spec: Any) -> tuple[float, float, bool]:
        return self.parameters.offset - float(spectrum[0]), 0.5, True


class Counting(Scalarizer):
    """How many spectra came before: what a scalarizer with a memory does."""

    remembers = True
    seen = 0

    def forget(self) -> None:
        self.seen = 0

    def scalarize(self, spectrum: Any, spec: Any) -> tuple[float, float, bool]:
        self.seen += 1
        return float(self.seen), 0.0, True


@pytest.fixture
def scalarizers() -> dict[str, ScalarizerInput]:
    kinds = {"peak": Peak(), "deep": Deep(), "counting": Counting()}
    return {name: ScalarizerInput(each, "spectrum") for name, each in kinds.items()}


def change_at(rig: Any, number: int, change: Change) -> None:
    """Tell the plan of a change just before its command `number` is carried out."""

    def before(n: int, command: Command) -> None:
        if n == number:
            rig.controls.change(change)

    rig.before = before


def observed(rig: Any) -> list[list[dict[str, Any]]]:
    return [step.value["value"] for step in rig.steps() if step.kind == "observe"]


def told_to_policy(monkeypatch: pytest.MonkeyPatch) -> list[list[Observation]]:
    told: list[list[Observation]] = []
    usual = Raster.tell

    def tell(self: Policy, observations: Any) -> None:
        told.append(list(observations))
        usual(self, observations)

    monkeypatch.setattr(Raster, "tell", tell)
    return told


SWAP = Change("scalarizer", "", {"scalarizer": "deep"})


def test_another_scalarizer_values_all_spectra_anew_and_the_policy_hears_of_it(
    rig: Any, scalarizers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = told_to_policy(monkeypatch)
    change_at(rig, 4, SWAP)
    summary = rig.run("explore", EXPLORE, scalarizers=scalarizers)
    every = observed(rig)
    assert [len(each) for each in every] == [1, 1, 1, 1, 5, 1, 1, 1]
    assert [one["scalarizer"] for each in every for one in each] == ["peak"] * 4 + ["deep"] * 8
    new, *again = every[4]
    assert not new["again"]
    assert all(one["again"] for one in again)
    before = [each[0] for each in every[:4]]
    assert [(one["generation"], one["position"]) for one in again] == [
        (b["generation"], b["position"]) for b in before
    ]
    assert [one["value"] for one in again] == pytest.approx([10 - b["value"] for b in before])
    assert [len(each) for each in told] == [1, 1, 1, 1, 5, 1, 1, 1]
    deepest = max(10 - rig.value(*command.position) for command in rig.log if isinstance(command, AcquireSpectrum))
    assert summary["best"]["value"] == pytest.approx(deepest)
    assert (summary["spectra_measured"], summary["invalid"]) == (8, 0)
    changes = [step.value for step in rig.steps() if step.kind == "change"]
    assert changes == [{"kind": "scalarizer", "target": "", "values": {"scalarizer": "deep"}}]
    assert any("valued anew" in event.text for event in rig.events if isinstance(event, Remark))


def test_a_run_killed_at_any_command_after_a_swap_goes_on_with_the_same_values(
    make_rig: Any, crash: type[BaseException], scalarizers: Any
) -> None:
    whole = make_rig()
    change_at(whole, 3, SWAP)
    whole.run("explore", EXPLORE, scalarizers=scalarizers)
    expected = observed(whole)
    for number in range(4, 8):
        rig = make_rig()
        change_at(rig, 3, SWAP)
        swap = rig.before

        def before(n: int, command: Command, swap: Any = swap, number: int = number) -> None:
            swap(n, command)
            if n == number:
                raise crash

        rig.before = before
        with pytest.raises(crash):
            rig.run("explore", EXPLORE, scalarizers=scalarizers)
        rig.before = lambda n, command: None
        rig.attach()
        rig.run("explore", EXPLORE, resume=True, scalarizers=scalarizers)
        assert [[one["value"] for one in each] for each in observed(rig)] == [
            [one["value"] for one in each] for each in expected
        ], number


def test_what_memory_lost_is_read_from_the_record_else_it_has_no_value(make_rig: Any, scalarizers: Any) -> None:
    spectra: dict[int, Frame] = {}

    def recorded(topic: str, result: Result) -> list[Frame]:
        return [spectra[result.generation]] if result.generation in spectra else []

    def forgetful(rig: Any) -> None:
        """Let the store go of all it holds when the swap comes."""

        def before(n: int, command: Command) -> None:
            if n == 4:
                held = rig.store.held
                for generation in (1, 2, 3):
                    [frame] = held(
                        "spectrum",
                        Result(generation=generation, topic="spectrum", first_index=generation - 1, count=1),
                    )
                    spectra[generation] = frame
                rig.store.held = lambda topic, result: []
                rig.controls.change(SWAP)

        rig.before = before

    rig = make_rig()
    forgetful(rig)
    summary = rig.run("explore", EXPLORE, scalarizers=scalarizers, recorded=recorded)
    _, *again = observed(rig)[4]
    assert [one["valid"] for one in again] == [True, True, True, False]
    assert again[3]["reason"] == LOST
    assert again[0]["value"] == pytest.approx(10 - rig.value(*again[0]["position"]))
    assert summary["invalid"] == 1
    warned = [event.text for event in rig.events if isinstance(event, Remark) and event.level == "warning"]
    assert warned == ["1 spectra are neither held nor recorded, and have no value now"]


def test_new_parameters_of_a_scalarizer_value_anew_what_it_judged(rig: Any, scalarizers: Any) -> None:
    deep = scalarizers["deep"].scalarizer
    change_at(rig, 2, Change("parameters", "deep", {"offset": 20.0}))
    rig.run("explore", {**EXPLORE, "count": 4}, scalarizers={"peak": scalarizers["deep"]}, drop_ins={"deep": deep})
    assert [len(each) for each in observed(rig)] == [1, 1, 1, 1]  # nobody asks for "deep" by that name
    rig.attach()
    change_at(rig, len(rig.log) + 2, Change("parameters", "peak", {"offset": 30.0}))
    rig.run("explore", {**EXPLORE, "count": 4}, scalarizers={"peak": scalarizers["deep"]}, drop_ins={"peak": deep})
    first, second, third, _ = observed(rig)[4:]
    assert [one["value"] - 10.0 for one in third[1:]] == pytest.approx([first[0]["value"], second[0]["value"]])


def test_new_weights_value_anew_too(rig: Any, scalarizers: Any) -> None:
    change_at(rig, 2, Change("reward", "", {"value": 3.0}))
    rig.run("explore", {**EXPLORE, "count": 4}, scalarizers=scalarizers)
    first, second, third, _ = observed(rig)
    assert [one["value"] for one in third[1:]] == pytest.approx([3 * first[0]["value"], 3 * second[0]["value"]])


def test_a_scalarizer_that_remembers_is_shown_all_before_when_it_is_swapped_in_and_after_a_crash(
    rig: Any, crash: type[BaseException], scalarizers: Any
) -> None:
    change_at(rig, 4, Change("scalarizer", "", {"scalarizer": "counting"}))
    swap = rig.before

    def before(n: int, command: Command) -> None:
        swap(n, command)
        if n == 6:
            raise crash

    rig.before = before
    with pytest.raises(crash):
        rig.run("explore", EXPLORE, scalarizers=scalarizers)
    assert [one["value"] for one in observed(rig)[4]] == [5.0, 1.0, 2.0, 3.0, 4.0]
    rig.before = lambda n, command: None
    store = rig.store
    rig.attach()
    fresh = {**scalarizers, "counting": ScalarizerInput(Counting(), "spectrum")}
    rig.run("explore", EXPLORE, resume=True, scalarizers=fresh, recorded=store.held)
    assert [each[0]["value"] for each in observed(rig)[4:]] == [5.0, 6.0, 7.0, 8.0]


def test_what_can_t_be_interesting_is_refused_with_the_reason(rig: Any, scalarizers: Any) -> None:
    class Picky(Scalarizer):
        """Takes nothing."""

        def scalarize(self, spectrum: Any, spec: Any) -> tuple[float, float, bool]:
            from probeloop.data.errors import CalibrationError

            raise CalibrationError("it needs an energy axis", "calibrate it")

    rig.run("explore", {**EXPLORE, "count": 2}, scalarizers=scalarizers)
    known = {**scalarizers, "picky": ScalarizerInput(Picky(), "")}

    class Run:
        """A run as far as it is looked at."""

        ended, loop, controls = False, rig.last_loop, rig.controls

    told: list[Any] = []

    def ask(request: SetReward, run: Any = Run) -> Any:
        return set_reward(request, run, Rewards(), known, lambda *args, **more: told.append((args, more)))

    refused = ask(SetReward(scalarizer="depth"))
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.allowed) == ("no scalarizer is called 'depth'", "peak, deep, counting, picky")
    refused = ask(SetReward(scalarizer="picky"))
    assert isinstance(refused, Refused)
    assert "picky can't judge these spectra: it needs an energy axis" in refused.reason
    assert ask(SetReward(scalarizer="deep"), None).reason == "no plan runs"
    assert not told
    assert not rig.controls.take_changes()
    assert not isinstance(ask(SetReward(scalarizer="deep")), Refused)
    assert [change.kind for change in rig.controls.take_changes()] == ["scalarizer"]
    assert told == [(("scalarizer", "set"), {"data": {"scalarizer": "deep"}})]


def test_an_observation_names_its_scalarizer_in_the_record(rig: Any, scalarizers: Any) -> None:
    rig.run("explore", {**EXPLORE, "count": 1}, scalarizers=scalarizers)
    [[told]] = observed(rig)
    assert told["scalarizer"] == "peak"
    assert told["again"] is False
    assert math.isfinite(told["value"])
    assert isinstance(next(event for event in rig.events if isinstance(event, Observed)), Observed)
    assert np.isfinite(told["position"]).all()
