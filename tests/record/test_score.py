"""Scores of sessions whose every error is known beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from record_blocks import block_of, frames_spec, map_spec

from probeloop.data import control
from probeloop.data.aberrations import Aberrations, strehl, wavelength
from probeloop.data.calibration import Calibration
from probeloop.data.commands import BEPS, AcquireSpectrum, SetAberrations
from probeloop.record.score import agreement, score_session
from probeloop.record.session import SessionWriter
from probeloop.record.truth import write_values

ANGLE = Calibration(
    id="angle", kind="convergence_angle", value=(0.025,), sigma=(0.0,), units="rad", method="test",
    time="2026-01-01T00:00:00+00:00", valid_for={"voltage": 200e3},
)  # fmt: skip
GAIN = msgspec.structs.replace(ANGLE, id="gain", kind="counts_per_electron", value=(2.0,), valid_for={})
PIXELS = 20


def session(folder: Path, events: list[control.Event], truth: dict[str, Any], start: dict[str, Any]) -> Path:
    """Write a scan of 4 x 5 frames of 84 counts, and a map c0 of 0 .. 19, as generation 2; the truth beside it."""
    writer = SessionWriter(folder)
    index = np.arange(PIXELS)
    writer.add(block_of(frames_spec(), np.full((PIXELS, 6, 7), 2, np.uint16), index, generation=2))
    values = np.stack([index, -index], axis=1).astype(np.float32)
    writer.add(block_of(map_spec(4, 5, 2), values, index, generation=2))
    writer.close()
    (folder / "calibration").mkdir()
    for each in (ANGLE, GAIN):
        (folder / "calibration" / f"{each.id}.json").write_bytes(msgspec.json.encode(each))
    (folder / "events.jsonl").write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in events))
    write_values(folder / "truth", "start", start)
    write_values(folder / "truth", "2", truth)
    return folder


def seen(**more: Any) -> dict[str, Any]:
    """Return what was true: as recorded, but for a shift of the specimen by (3, 4) nm and 1 % of bending."""
    index = np.arange(PIXELS)
    place = np.stack([index * 1e-9, np.full(PIXELS, 7e-9)], axis=1)
    return {"time_ns": 1000 + index, "position": place - [3e-9, 4e-9], "electrons": np.array([50.0])} | more


def generation(at: int) -> control.Generation:
    return control.Generation(id=2, command_id=1, topic="camera", time_ns=at)


def test_position_counts_and_calibrations_are_what_they_were_made_to_be(tmp_path: Path) -> None:
    shuffled = seen()
    order = np.random.default_rng(0).permutation(PIXELS)
    shuffled = {k: v[order] if len(v) > 1 else v for k, v in shuffled.items()}
    start = {"calibrations": {"convergence_angle": [0.02], "counts_per_electron": 2.0}, "potential": np.ones(3)}
    made = score_session(session(tmp_path, [], shuffled, start))
    assert made["position"]["rms_m"] == pytest.approx(5e-9)
    assert made["position"]["within_scan_rms_m"] == pytest.approx(0, abs=1e-20)
    assert made["counts"]["share_detected"] == pytest.approx(42 / 50)
    assert made["counts"]["dose_error"] == pytest.approx(2 / 50 - 1)
    assert made["counts"]["frames"] == PIXELS
    assert made["calibrations"]["convergence_angle"]["relative"] == [pytest.approx(0.25)]
    assert made["calibrations"]["counts_per_electron"]["error"] == [0.0]
    assert made["not_scored"].keys() == {"drift", "focus", "potential"}


def test_truths_are_joined_to_channels_and_outputs_by_name(tmp_path: Path) -> None:
    truth = seen(c1=-2.0 * np.arange(PIXELS) + 5, scan=np.zeros((PIXELS, 3)), bogus=np.arange(3.0))
    made = score_session(session(tmp_path, [], truth, {}))
    (score,) = made["maps"]
    assert (score["name"], score["topic"], score["generation"]) == ("c1", "scan", 2)
    assert score["correlation"] == pytest.approx(1.0)
    assert score["slope"] == pytest.approx(0.5)
    assert score["rms_of_fit"] == pytest.approx(0, abs=1e-9)
    assert "frames of (2,)" in made["not_scored"]["scan of generation 2"]


def test_agreement_of_complex_values_and_of_too_few() -> None:
    true = np.exp(1j * np.linspace(0, 3, 50))
    made = agreement(2 * np.exp(0.3j) * true, true)
    assert made["correlation"] == pytest.approx(1.0)
    assert made["slope"] == pytest.approx(2.0)
    assert agreement(np.array([1.0, np.nan, 2.0]), np.ones(3))["correlation"] is None
    assert agreement(np.arange(5.0), np.ones(5))["correlation"] is None


def test_drift_references_are_held_against_the_drift_of_the_frames_before_them(tmp_path: Path) -> None:
    def reference(at: int, x: float, y: float) -> control.StateChange:
        return control.StateChange(target="drift", state="set", time_ns=at, data={"x": x, "y": y, "sigma": 1e-10})

    events = [generation(10), reference(20, 1e-9, 0.0), reference(30, 2e-9, 1e-9)]
    drift = np.full((PIXELS, 2), 3e-9)
    folder = session(tmp_path, events, seen(drift=drift), {})
    made = score_session(folder)["drift"]
    assert made["references"] == 2
    assert made["rms_m"] == pytest.approx(np.hypot(1e-9, 1e-9))
    (folder / "events.jsonl").write_bytes(b"".join(msgspec.json.encode(e) + b"\n" for e in events[:2]))
    assert score_session(folder)["drift"]["max_m"] == pytest.approx(np.hypot(2e-9, 3e-9))


def plan(at: int, state: str, **data: Any) -> control.StateChange:
    return control.StateChange(target="plan", state=state, time_ns=at, data={"plan": "autofocus", **data})


def test_what_autofocus_left_is_scored_by_the_next_frame_or_the_end(tmp_path: Path) -> None:
    applied = {"C10": 1e-8, "C12a": 0.0, "C12b": 0.0}
    finished = plan(30, "finished", applied_m=applied, succeeded=True)
    events: list[control.Event] = [plan(5, "running"), generation(10), finished]
    truth = seen(C10=np.linspace(1e-7, 20e-9, PIXELS), C30=np.array([1e-6]))
    end = {"aberrations": Aberrations(C10=-1e-9, C12a=0.5e-9, C30=1e-6)}
    folder = session(tmp_path, events, truth, end)
    (made,) = score_session(folder)["focus"]
    wave = wavelength(200e3)
    assert made["strehl_end"] * made["strehl_attainable"] == pytest.approx(strehl(end["aberrations"], wave, 0.025))
    assert made["strehl_start"] < 0.1 < 0.9 < made["strehl_end"] <= 1.0
    best = -0.5 * 1e-6 * 0.025**2  # defocus that balances C30, to a few tenths of a nanometre
    assert made["residual_m"]["C10"] == pytest.approx(-1e-9 - best, abs=0.3e-9)
    assert made["residual_m"]["C12a"] == pytest.approx(0.5e-9, abs=0.02e-9)
    turned = control.Verdict(
        id=9, command=SetAberrations({"C10": 1e-9}), holder="p", epoch=1, accepted=True, time_ns=40
    )
    (folder / "events.jsonl").write_bytes(b"".join(msgspec.json.encode(e) + b"\n" for e in [*events, turned]))
    made = score_session(folder)
    assert made["focus"] == []
    assert "no frame of known aberrations" in made["not_scored"]["plan autofocus 1"]


def test_what_scalarizers_said_of_single_measurements(tmp_path: Path) -> None:
    def observed(at: int, number: int, value: float, valid: bool) -> control.Observed:
        told = {"position": [0.0, 0.0], "value": value, "valid": valid, "generation": number}
        return control.Observed(
            step=at, kind="observe", time_ns=at, value={"step": {"scalarizer": "loop_area"}, "value": [told]}
        )

    events = [observed(i, 10 + i, 2.0 * i, i != 3) for i in range(6)]
    folder = session(tmp_path, [*events, control.Done(id=1, result=control.Result())], seen(), {})
    for i in range(6):
        write_values(folder / "truth", str(10 + i), {"loop_area": np.array([float(i)]), "broken": np.array([i >= 3])})
    made = {score["name"]: score for score in score_session(folder)["observations"]}
    assert made["loop_area"]["slope"] == pytest.approx(2.0)
    assert made["loop_area"]["values"] == 5
    assert made["broken"] == {"name": "broken", "values": 6, "bad": 3, "bad_rejected": 1, "good_rejected": 0}


def test_a_list_of_spectra_is_joined_in_the_order_of_their_measurements(tmp_path: Path) -> None:
    def measured(number: int) -> control.Generation:
        command = AcquireSpectrum((0.0, 0.0), BEPS())
        return control.Generation(id=number, command_id=number, topic="spectrum", scan=command, time_ns=number)

    told = [{"position": [0, 0], "value": 3.0 * i, "valid": i != 2, "generation": 20 + i} for i in range(5)]
    step = control.Observed(
        step=1, kind="observe", time_ns=99, value={"step": {"scalarizer": "loop_area"}, "value": told}
    )
    known = [{"number": i, "broken": "jump" if i == 2 else "", "area": float(i), "place": [0, 0]} for i in range(5)]
    events = [*(measured(20 + i) for i in range(5)), step]
    folder = session(tmp_path, events, seen(), {"spectra": known})
    made = {score["name"]: score for score in score_session(folder)["observations"]}
    assert made["loop_area"]["slope"] == pytest.approx(3.0)
    assert (made["broken"]["bad"], made["broken"]["bad_rejected"], made["broken"]["good_rejected"]) == (1, 1, 0)
    write_values(folder / "truth", "start", {"spectra": known[:3]})
    missed = score_session(folder)["not_scored"]
    assert missed["spectra"] == "3 of them are known, 5 were measured"


def test_a_dry_run_turns_nothing(tmp_path: Path) -> None:
    tried = control.Verdict(
        id=1, command=SetAberrations({"C10": 1e-6}), holder="p", epoch=1, accepted=True, dry_run=True, time_ns=50
    )
    events = [plan(5, "running"), generation(10), plan(30, "finished", applied_m={"C10": 0.0}), tried]
    folder = session(tmp_path, events, seen(C10=np.array([0.0])), {"aberrations": Aberrations()})
    (made,) = score_session(folder)["focus"]
    assert made["strehl_end"] == pytest.approx(1.0, abs=1e-3)
