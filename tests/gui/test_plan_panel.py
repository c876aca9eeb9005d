"""What is interesting, chosen in the plan panel while a plan runs."""

from __future__ import annotations

from typing import Any

from probeloop.gui.models.rig import Rig
from probeloop.gui.views.plan_panel import PlanPanel

from probeloop.data import control

STATE = {
    "state": "running",
    "plan": "explore",
    "progress": 0.4,
    "message": "40 of 100 spectra",
    "parameters": {},
    "plans": ["explore"],
    "scalarizers": {"loop_area": "spectrum", "imprint": "spectrum", "novelty": ""},
    "scalarizer": "loop_area",
}


def observed(*told: dict[str, Any]) -> control.Observed:
    return control.Observed(step=1, kind="observe", value={"step": {"scalarizer": "loop_area"}, "value": list(told)})


def place(x: float, value: float, scalarizer: str, again: bool = False) -> dict[str, Any]:
    return {"position": [x, 0.0], "value": value, "valid": True, "scalarizer": scalarizer, "again": again}


def test_the_model_follows_which_scalarizer_counts_and_the_new_values() -> None:
    rig = Rig()
    rig.described("experiment", control.Description("experiment", "experiment", STATE))
    assert rig.scalarizers == ("loop_area", "imprint", "novelty")
    assert rig.scalarizer == "loop_area"
    rig.take(observed(place(1e-9, 5.0, "loop_area")))
    rig.take(observed(place(2e-9, 6.0, "loop_area")))
    rig.take(control.StateChange(target="scalarizer", state="set", data={"scalarizer": "imprint"}))
    assert rig.scalarizer == "imprint"
    again = [place(1e-9, 0.1, "imprint", True), place(2e-9, 0.2, "imprint", True)]
    rig.take(observed(place(3e-9, 0.3, "imprint"), *again))
    assert rig.points == [(1e-9, 0.0, 0.1), (2e-9, 0.0, 0.2), (3e-9, 0.0, 0.3)]


def test_the_choice_is_offered_while_a_plan_runs_and_asks_the_experiment(qtbot: Any, station: Any, fake: Any) -> None:
    panel = PlanPanel(station)
    qtbot.addWidget(panel)
    panel.show()
    panel.refresh()
    assert not panel.scalarizer.isVisible()
    station.rig.described("experiment", control.Description("experiment", "experiment", STATE))
    panel.refresh()
    assert panel.scalarizer.isVisible()
    assert panel.scalarizer.currentText() == "loop_area"
    panel.scalarizer.setCurrentText("novelty")
    panel.scalarizer.activated.emit(2)
    qtbot.waitUntil(lambda: any(isinstance(each, control.SetReward) for each in fake.requests), timeout=3000)
    asked = next(each for each in fake.requests if isinstance(each, control.SetReward))
    assert (asked.scalarizer, asked.weights) == ("novelty", None)
    station.rig.take(control.StateChange(target="plan", state="finished", data={"plan": "explore"}))
    panel.refresh()
    assert not panel.scalarizer.isVisible()
