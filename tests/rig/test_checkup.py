"""`probeloop checkup`: its drill, its figures, what it keeps, and what it says."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from probeloop.cli import main
from probeloop.data.calibration import Calibration
from probeloop.data.errors import RecordError
from probeloop.rig.calibrations import Calibrated, keep, kept, kept_file, superseded
from probeloop.rig.checkup import outcome, scored
from probeloop.rig.checkup_report import told, value
from probeloop.rig.schema import Rig, check
from probeloop.testing.fake_driver import FakeDriver

QUICK = """
schema = 1
[instrument]
use = "replay"
file = "map.npy"
pixel_size = "5 nm"
"""


def rig(**instrument: Any) -> Rig:
    return check({"schema": 1, "instrument": {"use": "stem", "seed": 1, **instrument}}, "column")


def found(kind: Any, *values: float, name: str = "checkup") -> Calibration:
    return Calibration(id=f"{name}-{kind}", kind=kind, value=values, sigma=values and (0.01,) * len(values))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROBELOOP_CALIBRATIONS", str(tmp_path / "kept"))
    return tmp_path / "kept"


def test_calibrations_are_kept_for_one_instrument_and_come_back(folder: Path) -> None:
    assert kept(rig()) == ()
    first = keep(rig(), [found("scan_scale", 1.05), found("beam_current", 4e-11)])
    assert first.parent == folder
    keep(rig(pace=7.0), [found("scan_scale", 1.06)])  # how fast it runs makes it no other instrument
    assert {each.kind: each.value for each in kept(rig())} == {"scan_scale": (1.06,), "beam_current": (4e-11,)}
    assert json.loads(first.with_suffix(".json.old").read_text())[0]["value"] == [1.05]
    assert kept(rig(seed=2)) == ()


def test_a_spoilt_file_is_told_before_anything_starts(folder: Path) -> None:
    path = kept_file(rig())
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(RecordError, match="mend or remove that file"):
        kept(rig())


def test_kept_ones_take_the_place_of_the_instruments_own_kind() -> None:
    old = [found("scan_scale", 1.0, name="own"), found("pattern_centre", 64.0, 64.0, name="own")]
    new = (found("scan_scale", 1.05),)
    assert [each.id for each in superseded(old, new)] == ["own-pattern_centre", "checkup-scan_scale"]
    driver = FakeDriver(modality="stem")
    wrapped = Calibrated(driver, new)
    assert wrapped.describe().calibrations[-1] == new[0]
    assert wrapped.read_back() == driver.read_back()
    driver.close()


def test_errors_go_round_the_circle_and_are_none_where_nothing_is_known() -> None:
    truth = {"scan_detector_rotation": [math.pi - 0.01], "scan_scale": [1.05], "pattern_centre": [60.0, 64.0],
             "scan_detector_flip": [-1.0]}  # fmt: skip
    measured = [found("scan_detector_rotation", 0.01 - math.pi), found("scan_scale", 1.071)]
    measured += [found("pattern_centre", 60.3, 63.6), found("scan_detector_flip", 1.0)]
    made = scored(measured, truth)
    assert made["rotation_error_deg"] == pytest.approx(math.degrees(0.02))
    assert made["scale_error"] == pytest.approx(0.02)
    assert made["centre_error_px"] == pytest.approx(0.5)
    assert made["flip_right"] is False
    assert made["camera_length_error"] is None
    assert scored([found("scan_scale", 1.0)], {})["scale_error"] is None


def test_outcome_writes_calibrations_and_fails_with_a_failed_check(folder: Path, tmp_path: Path) -> None:
    plan = {
        "state": "finished", "reason": "5 checks done", "dead_pixels": 3,
        "calibrations": [{"kind": "scan_scale", "value": [1.05], "sigma": [0.001], "units": "", "method": "lattice",
                          "valid_for": {}}],
        "checks": [
            {"check": "scan scale", "verdict": "wrong", "words": "lattice", "found": [1.05], "sigma": 0.001,
             "believed": [1.0], "units": ""},
            {"check": "drift", "verdict": "cannot", "words": "it does not scan"},
        ],
    }  # fmt: skip
    summary = {"plans": [plan], "problems": [], "frames_lost": 0}
    drill = {"passed": True, "stop_ms": 4.2, "words": "safe"}
    made = outcome(rig(), summary, drill, tmp_path, {"scan_scale": [1.0499]})
    assert made["passed"]
    assert made["stop_ms"] == 4.2
    assert made["dead_pixels"] == 3
    assert made["cannot"] == ["drift"]
    assert made["scale_error"] == pytest.approx(1e-4, rel=0.1)
    (path,) = (tmp_path / "calibration").glob("checkup-scan_scale-*.json")
    kept_there = msgspec.json.decode(path.read_bytes(), type=Calibration)
    assert (kept_there.value, kept_there.method) == ((1.05,), "lattice")
    assert kept_there.time
    lines = told({**made, "applied": False})
    assert any("scan scale" in line and "1.050 ± 0.001" in line and "WRONG" in line for line in lines)
    assert any("drift: it does not scan" in line for line in lines)
    assert any("--apply" in line for line in lines)
    bad = outcome(rig(), summary, {**drill, "passed": False}, tmp_path, {})
    assert not bad["passed"]
    none = outcome(rig(), {"plans": [], "problems": [], "frames_lost": 0, "ended": "interrupted"}, None, tmp_path, {})
    assert none["problems"] == ["interrupted"]
    assert not none["passed"]


def test_values_are_told_in_the_units_people_use() -> None:
    assert value({"check": "scan detector rotation", "found": [math.pi / 6], "units": "rad"}, "found") == "+30.00°"
    assert value({"check": "detector scale", "found": [2.35e-3], "units": "rad/px"}, "found") == "2.3500 mrad/px"
    assert value({"check": "beam current", "found": [5e-11], "units": "A"}, "found") == "50 pA"
    assert value({"check": "disc"}, "found") == ""


def test_on_a_recorded_map_it_drills_and_says_what_it_cannot_do(launch: Callable[..., Any], tmp_path: Path) -> None:
    y, x = np.mgrid[:48, :48]
    np.save(tmp_path / "map.npy", np.sin(y / 3.0) * np.cos(x / 5.0))
    (tmp_path / "quick.toml").write_text(QUICK)
    run = launch("checkup", str(tmp_path / "quick.toml"))
    made = run.summary()
    assert run.popen.returncode == 0
    assert made["passed"]
    assert made["problems"] == []
    assert 0 < made["stop_ms"] < 1000
    assert made["checks"][0]["check"] == "STOP drill"
    assert "in the middle of a scan" in made["checks"][0]["words"]
    assert {"calibrations of the camera", "drift"} <= set(made["cannot"])
    assert made["calibrations"] == []
    assert made["scale_error"] is None
    assert not made["simulated"]
    assert json.loads((run.folder / "checkup.json").read_text())["stop_ms"] == made["stop_ms"]
    run.nothing_left()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["checkup", "nothing"], "no rig 'nothing'"),
        (["checkup", "stem", "--lattice", "a"], "0.246,0.246,120"),
        (["checkup", "stem", "--lattice", "1,2,3,4"], "--lattice"),
        (["checkup", "stem", "--set", "nonsense"], "KEY.PATH=VALUE"),
    ],
)
def test_bad_input_is_one_line_with_the_next_move(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def test_its_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["checkup", "--help"])
    assert "probeloop checkup stem --headless --seed 3" in capsys.readouterr().out


@pytest.mark.bench
@pytest.mark.timeout(200)
def test_the_whole_command_recovers_a_mis_set_column(launch: Callable[..., Any], folder: Path) -> None:
    run = launch("checkup", "stem", "--seed", "5", "--apply", name="checkup-whole")
    made = run.summary(120)
    assert made["scale_error"] <= 0.01
    assert made["rotation_error_deg"] <= 1
    assert made["camera_length_error"] <= 0.01
    assert made["centre_error_px"] <= 0.3
    assert made["flip_right"] is True
    assert made["current_error"] < 0.02
    assert made["applied"]
    assert made["practice"]
    run.nothing_left()
    again = launch("checkup", "stem", "--seed", "5", name="checkup-whole").summary(120)
    verdicts = {each["check"]: each["verdict"] for each in again["checks"]}
    assert {verdicts[name] for name in ("scan scale", "detector scale", "pattern centre", "scan detector flip")} == {
        "holds"
    }


@pytest.mark.bench
def test_interrupted_it_leaves_the_instrument_safe(launch: Callable[..., Any]) -> None:
    run = launch("checkup", "stem", "--seed", "5")
    run.until(lambda: any(e["type"] == "Progress" and e["target"] == "plan" for e in run.events()), "the plan")
    run.popen.send_signal(signal.SIGINT)
    made = run.summary(30)
    assert run.popen.returncode == 1
    assert any("interrupted" in each for each in made["problems"])
    tripped = [e for e in run.events() if e.get("target") == "gate" and e.get("state") == "tripped"]
    assert "verified by read-back" in tripped[-1]["data"]["safe"]
    run.nothing_left()
