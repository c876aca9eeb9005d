"""The checkup as a plan: on a mis-set column, on what refuses, on what does not obey, and when it is cut off."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from probeloop.plugins.checkup import Checkup
from probeloop.plugins.checkup.commands import TARGETS, Loop, one
from probeloop.plugins.checkup.findings import Findings
from probeloop.simulators.stem.optics import Lens

from probeloop.data.calibration import Calibration, CalibrationSet
from probeloop.data.commands import Read, Scan, SetAberrations, SetBeam
from probeloop.data.control import Result
from probeloop.data.driver import InstrumentInfo
from probeloop.data.errors import RefusedError, SettingsError
from probeloop.data.limits import Limits
from probeloop.data.scan import Region
from probeloop.data.settings import convert
from probeloop.discover import load_simulator
from probeloop.plugin.contract import Checkpoint, PlanContext, Reduce
from probeloop.testing.check_plan import check_plan

SMALL = {"pixels": 64, "pixel_angle": 3.5, "tile": 14, "crystal": 0.8, "carbon": 2.0, "misalignment": 0.1}
KNOWN = (
    Calibration(id="a", kind="convergence_angle", value=(25e-3,), sigma=(5e-5,), valid_for={"voltage": 200e3}),
    Calibration(id="b", kind="detector_scale", value=(2.35e-3,)),
    Calibration(id="c", kind="pattern_centre", value=(64.0, 64.0)),
)
STEM = InstrumentInfo(
    name="column",
    modality="stem",
    origin="simulation",
    commands=("Scan", "Read", "SetAberrations", "SetBeam", "AcquireReference"),
    limits=Limits(region=((-1e-8, -1e-8), (1e-8, 1e-8)), knobs={"C10": (-1e-6, 1e-6)}, beam_current=(0.0, 1e-10)),
    topics={"camera": 32768},
    calibrations=KNOWN,
    camera_pixels=128 * 128,
)


def run_with(answer: Any, info: InstrumentInfo = STEM) -> tuple[dict[str, Any], list[Any]]:
    """Run the plan; answer(step) gives the answer, or an error to raise. Return the summary and the steps."""
    plan = Checkup()
    steps: list[Any] = []
    generator = plan.run(PlanContext(np.random.default_rng(0), info, lambda *_: None, plan.inputs()))  # type: ignore[arg-type, return-value]
    step = next(generator)
    while True:
        steps.append(step)
        made = None if isinstance(step, Checkpoint) else answer(step)
        try:
            step = generator.throw(made) if isinstance(made, Exception) else generator.send(made)
        except StopIteration as end:
            return dict(end.value), steps


def row(summary: dict[str, Any], check: str) -> dict[str, Any]:
    return next(each for each in summary["checks"] if each["check"] == check)


def test_it_recovers_what_a_column_hides() -> None:
    made = one(2, SMALL, points=32)
    summary = made["summary"]
    assert made["flip_right"]
    for name, most in TARGETS.items():
        assert made[name] <= most, name
    assert made["current_error"] < 0.02
    assert made["drift_rate"] == pytest.approx(made["drift_true"], abs=1.5e-12)
    assert row(summary, "pattern centre")["verdict"] == "wrong"
    assert row(summary, "scan detector rotation")["believed"] == [0.0]
    assert row(summary, "rotation by curl")["verdict"] == "passed"
    assert not [each["check"] for each in summary["checks"] if each["verdict"] == "failed"]
    assert summary["succeeded"]
    assert summary["not_put_back"] == {}
    assert {each["kind"] for each in summary["calibrations"]} >= {"scan_scale", "detector_scale", "beam_current"}
    assert all(msgspec.convert({"id": "x", **each}, Calibration).sigma for each in summary["calibrations"])


def test_a_lens_that_is_slower_than_declared_is_found() -> None:
    class Slow(Lens):
        """It says that it is settled 0.15 s before it is."""

        @property
        def settled_ns(self) -> int:
            return self._settled_ns - 150_000_000

        def turn(self, values: Any, absolute: bool, now_ns: int) -> int:
            return super().turn(values, absolute, now_ns) - 150_000_000

    told = []
    for lens in (None, Slow):
        column = load_simulator("stem", {**SMALL, "seed": 2, "pace": None, "settling": 0.16})
        if lens is not None:
            column._lens.__class__ = lens
        summary = Loop(column).run(Checkup(Checkup.Parameters(points=32)))
        column.close()
        told.append(row(summary, "settling")["verdict"])
        assert summary["not_put_back"] == {}
    assert told == ["passed", "failed"]


def test_it_keeps_the_contract_of_plans() -> None:
    assert check_plan(Checkup) == []
    assert check_plan(Checkup, info=STEM) == []


def test_what_is_refused_is_said_by_name_and_nothing_is_guessed() -> None:
    summary, steps = run_with(lambda step: RefusedError("no", "limit", "nothing"))
    assert summary["calibrations"] == []
    assert len([each for each in summary["checks"] if each["verdict"] == "cannot"]) >= 6
    assert "refused: no" in row(summary, "dark reference and hot pixels")["words"]
    assert any(isinstance(step, Scan) for step in steps)


def test_an_instrument_without_a_camera_says_what_it_cannot_do() -> None:
    probe = msgspec.structs.replace(STEM, name="tip", modality="afm", camera_pixels=0, topics={"scan": 8})
    probe = msgspec.structs.replace(probe, commands=("Scan", "Read", "Approach", "SetFeedback"))
    summary, _ = run_with(lambda step: Result(topic="scan"), probe)
    words = {each["check"]: each["words"] for each in summary["checks"] if each["verdict"] == "cannot"}
    assert "tip has no camera" in words["calibrations of the camera"]
    assert "brings the tip to the surface" in words["Approach"]
    assert "drift" in words


ALONE = msgspec.structs.replace(
    STEM, name="camera", calibrations=(), commands=("Scan", "SetDetector", "AcquireReference", "Read", "Stop")
)
WHOLE = Region(0.0, 0.0, 2e-8, 2e-8)


@pytest.mark.parametrize(("came", "verdict"), [(576, "passed"), (575, "failed"), (0, "failed")])
def test_a_detector_alone_scans_its_field_once_and_names_what_it_cannot_do(came: int, verdict: str) -> None:
    def answer(step: Any) -> Any:
        match step:
            case Read():
                return Result(readback={"trigger": "internal", "acquiring": False})
            case Scan():
                return Result(topic="camera", count=came)
            case Reduce():
                return (7.0, 0.5) if step.topic.endswith(".pattern") else (576.0,) + (0.0,) * 6
        raise AssertionError(f"{step} is none of its business")

    summary, steps = run_with(answer, ALONE)
    assert [step.region for step in steps if isinstance(step, Scan)] == [WHOLE]
    assert row(summary, "frames")["verdict"] == verdict
    assert summary["succeeded"] == (verdict == "passed")
    assert summary.get("dead_pixels") == (7 if came else None)
    cannot = {each["check"]: each["words"] for each in summary["checks"] if each["verdict"] == "cannot"}
    if not came:
        assert cannot.pop("dead pixels") == "no frame came"
    assert len(cannot) == 6
    assert all("camera is a detector alone" in words for words in cannot.values())
    assert "blank it by hand" in cannot["dark reference and hot pixels"]


def test_nobody_waits_for_triggers_that_may_never_come() -> None:
    summary, steps = run_with(lambda step: Result(readback={"trigger": "external"}), ALONE)
    assert not any(isinstance(step, Scan) for step in steps)
    assert row(summary, "frames")["verdict"] == "cannot"
    assert summary["succeeded"]


def test_a_detector_alone_keeps_the_contract_of_plans() -> None:
    assert check_plan(Checkup, info=ALONE) == []


def test_a_knob_that_does_not_obey_fails() -> None:
    values = {"C10": 0.0, "beam_current": 50e-12}

    def answer(step: Any) -> Any:
        match step:
            case Read():
                return Result(readback=dict(values))
            case SetBeam():
                values["beam_current"] = float(step.current or 0.0)
                return Result(readback=dict(values))
            case SetAberrations():
                return Result(readback=dict(values))  # it stays where it is
        return RefusedError("no", "limit", "nothing")

    summary, _ = run_with(answer)
    assert row(summary, "SetAberrations")["verdict"] == "failed"
    assert "C10 reads 0.0 m" in row(summary, "SetAberrations")["words"]
    assert row(summary, "SetBeam")["verdict"] == "passed"
    assert values["beam_current"] == 50e-12
    assert not summary["succeeded"]


def test_cut_off_with_a_knob_turned_it_says_what_is_not_put_back() -> None:
    disc = (64.0, 64.0, 10.6, 0.01, 3e4, 80.0, 0.0, 0.0, 1.0, 1.0)
    fit = (1.0, 0.0, 0.0, 1.0, 0.001, 4.0, 200.0)
    seen: list[str] = []

    def answer(step: Any) -> Any:
        if isinstance(step, Reduce):
            name = step.function.__qualname__
            return {
                "hot": (0.0, 0.0, 0.0), "totals": (64.0, 1e-4, 0.0, 3e4, 3e4, 3e4, 0.0),
                "disc_reading.<locals>.read_disc": disc, "lattice_reading.<locals>.read_lattice": fit,
                "curl_reading.<locals>.read_curl": (0.0, 1.0, 3.0, 0.0),
            }[name]  # fmt: skip
        if isinstance(step, SetAberrations):
            seen.append("turned" if step.values["C10"] > 2e-8 else "mild")
        if isinstance(step, Scan) and seen and seen[-1] == "turned":
            return RefusedError("aborted", "abort")
        return Result(readback={"C10": 0.0, "beam_current": 50e-12})

    summary, _ = run_with(answer)
    assert summary["not_put_back"] == {"C10": "+25 nm"}
    assert "not put back: C10 +25 nm" in summary["message"]
    assert not summary["succeeded"]
    assert row(summary, "scan scale")["verdict"] == "found"


def test_a_belief_holds_within_its_tolerance_and_angles_go_round() -> None:
    findings = Findings(
        CalibrationSet(
            (
                Calibration(id="r", kind="scan_detector_rotation", value=(math.pi - 0.001,)),
                Calibration(id="s", kind="detector_scale", value=(2e-3,)),
            )
        )
    )
    findings.calibrated("scan_detector_rotation", (-math.pi + 0.001,), 0.002, "rad", "test", {})
    findings.calibrated("detector_scale", (2.1e-3,), 1e-6, "rad/px", "test", {})
    findings.calibrated("scan_scale", (1.0,), 1e-3, "", "test", {})
    assert [each["verdict"] for each in findings.rows] == ["holds", "wrong", "found"]
    assert findings.summary()["message"].endswith("other than believed: detector scale")


def test_settings_that_cannot_show_the_lattice_are_refused() -> None:
    with pytest.raises(SettingsError, match="too coarse"):
        convert(Checkup.Parameters, {"step": 0.3})
    with pytest.raises(SettingsError, match="fewer than four cells"):
        convert(Checkup.Parameters, {"points": 24, "step": 0.05})
    with pytest.raises(SettingsError, match="lattice_a"):
        convert(Checkup.Parameters, {"lattice_a": float("nan")})
