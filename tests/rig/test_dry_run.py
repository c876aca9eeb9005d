"""A plan rehearsed on its simulator: commands, time, dose, refusals, and the same as a run of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from probeloop.cli import main
from probeloop.rig.dry_run import rehearsed, told
from probeloop.rig.load import load
from probeloop.rig.run import load_with_plan

EXPLORE = (
    '{use = "explore", seed = 1, parameters = {order = "hill_climb", count = 12, shape = [16, 16], '
    'dwell_time = "2 ms", scalarizer = "loop_area"%s}}'
)
SPM = ["instrument.cells=256", "instrument.drift=0.0"]
STEM_SCAN = (
    '{use = "overview", parameters = {region = {centre_x = 0.0, centre_y = 0.0, width = 2e-9, height = 2e-9}, '
    'shape = [8, 8], dwell_time = "1 ms"}}'
)


def spm(plan: str = EXPLORE % "", *more: str) -> dict[str, Any]:
    return rehearsed(load("spm", [*SPM, f"plan=[{plan}]", *more]))


@pytest.fixture(scope="module")
def explored() -> dict[str, Any]:
    return spm()


def test_commands_and_the_parts_of_the_time_are_told(explored: dict[str, Any]) -> None:
    [plan] = explored["plans"]
    assert (plan["state"], plan["spectra"]) == ("finished", 12)
    assert plan["commands"]["AcquireSpectrum"] == 12
    assert plan["commands"]["Scan"] == 1
    time = plan["time_s"]
    assert time["total"] == pytest.approx(sum(each for part, each in time.items() if part != "total"), rel=1e-6)
    scan = 2 * 16 * 16 * 2e-3  # every line forth and back
    assert time["scans"] == pytest.approx(scan, rel=0.2)
    loops = 12 * 64 * 2 * 4e-3 * 2  # a cycle that is not kept and one that is, a pulse and a read each
    assert loops <= time["spectra"] < 1.2 * loops
    assert plan["dose_e"] == 0.0
    assert plan["first_refusal"] is None
    assert any("nothing was measured" in line for line in told({**explored, "on": "spm"}))


def test_the_same_seed_says_the_same_again(explored: dict[str, Any]) -> None:
    again = spm()["plans"][0]
    assert again["commands"] == explored["plans"][0]["commands"]
    assert again["summary"] == explored["plans"][0]["summary"]
    parts = {part: each for part, each in again["time_s"].items() if part not in ("choices", "total")}
    assert parts.items() <= explored["plans"][0]["time_s"].items()


def test_a_budget_and_a_limit_are_the_first_refusal_with_what_is_allowed() -> None:
    spent = spm(EXPLORE % "", "budget.count=5")["plans"][0]
    assert spent["spectra"] == 5
    assert spent["first_refusal"]["limit"] == "budget"
    assert spent["first_refusal"]["command"] == "AcquireSpectrum"
    small = spm(EXPLORE % ", region = {centre_x = 0.0, centre_y = 0.0, width = 4e-6, height = 4e-6}")
    refusal = small["plans"][0]["first_refusal"]
    assert not small["ok"]
    assert refusal["command"] == "Scan"
    assert "region" in refusal["limit"]
    assert refusal["allowed"]
    assert any(refusal["reason"] in line for line in told({**small, "on": "spm"}))


def test_a_plan_sees_the_plug_ins_it_reads() -> None:
    seen = spm(EXPLORE % ', images = ["flat.flat", "pfm.phase"]')["plans"][0]
    assert (seen["state"], seen["message"].split(",")[0]) == ("finished", "12 of 12 spectra")
    assert not seen["plugins_refused"]


def test_dose_is_charged_whole_and_at_the_worst_place() -> None:
    summary = rehearsed(load("stem", [f"plan=[{STEM_SCAN}]", "plugins={}", "instrument.pixels=64"]))
    [plan] = summary["plans"]
    electrons = 30e-12 / 1.602e-19 * 64 * 1e-3
    assert plan["state"] == "finished"
    assert plan["dose_e"] > 0.5 * electrons
    assert plan["highest_e_per_m2"] >= plan["dose_e"] / (2.6e-9) ** 2
    refused = rehearsed(
        load("stem", [f"plan=[{STEM_SCAN}]", "plugins={}", "instrument.pixels=64", "limits.dose=1e3"])
    )["plans"][0]
    assert refused["state"] == "failed"
    assert "dose" in refused["first_refusal"]["limit"]


def test_a_plan_behind_one_that_tripped_the_gate_is_not_begun() -> None:
    lit = (  # 12 ms of 30 pA are allowed, so the first scan fits and time with the beam on spends the rest
        '{use = "overview", parameters = {region = {centre_x = 0.0, centre_y = 0.0, width = 2e-9, height = 2e-9}, '
        'shape = [3, 3], dwell_time = "1 ms"}}'
    )
    plans = f"plan=[{', '.join([lit] * 4)}]"
    summary = rehearsed(load("stem", [plans, "plugins={}", "instrument.pixels=64", "limits.dose=3.5e6"]))
    states = [each["state"] for each in summary["plans"]]
    assert states[0] == "finished"
    assert states[-1] in ("failed", "stopped", "not begun")
    assert "dose" in " ".join(str(each["message"]) + str(each["first_refusal"]) for each in summary["plans"])
    assert sum(line.startswith("overview") for line in told({**summary, "on": "stem"})) == 4
    assert not summary["ok"]


def test_hardware_is_not_touched_and_the_command_line_says_what_to_do(capsys: Any) -> None:
    for arguments, words in (
        (["plan", "spm"], "add --dry-run"),
        (["plan", "merlin", "--dry-run"], "--on spm, --on stem"),
        (["plan", "spm", "--dry-run", "--plan", "explor"], "did you mean explore"),
        (["plan", "nowhere", "--dry-run"], "no rig 'nowhere'"),
    ):
        assert main(arguments) == 2
        assert words in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    assert "probeloop plan spm --dry-run" in capsys.readouterr().out


def test_json_for_scripts(capsys: Any) -> None:
    few = ["--set", "plan.parameters.count=2", "--set", "plan.parameters.overview=false", "--plan", "explore"]
    assert main(["plan", "spm", "--dry-run", "--json", "--set", "instrument.cells=256", *few]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["rig"] == "spm"
    assert summary["plans"][0]["spectra"] == 2


def test_one_plan_of_several_is_chosen_by_name_and_set() -> None:
    rig = load_with_plan("spm", "explore", 4, ["plan.parameters.count=7", "instrument.cells=256"])
    [plan] = rig.plans
    assert (plan.use, plan.seed, plan.parameters["count"]) == ("explore", 4, 7)
    assert rig.instrument.parameters["cells"] == 256
    assert load_with_plan("spm", None, None, ["plan.parameters.shape=[8, 8]"]).plans[0].parameters["shape"] == [8, 8]
