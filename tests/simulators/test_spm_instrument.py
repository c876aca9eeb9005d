"""The simulated scanning probe microscope as an instrument: contract, gate, safe state, determinism, bad input."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from probeloop.simulators.spm import SpmSettings, SpmSimulator
from probeloop.simulators.spm.commands import spm_lines_per_second
from spm_words import drawn, made, spectrum, whole

from probeloop.api import load_simulator
from probeloop.data.clock import MonotonicClock
from probeloop.data.commands import (
    BEPS,
    EDS,
    IV,
    AcquireSpectrum,
    Approach,
    Lift,
    MoveProbe,
    Read,
    Scan,
    SetBias,
    SetDrive,
    SetFeedback,
    Stop,
    Withdraw,
)
from probeloop.data.errors import DriverError, SettingsError
from probeloop.data.frame import FrameBuffer, FrameFlag
from probeloop.data.scan import Region
from probeloop.data.settings import convert, unbounded_floats
from probeloop.testing.check_driver import check_simulator
from probeloop.testing.local_instrument import LocalInstrument

SMALL: dict[str, Any] = {"cells": 128, "domain_size": 150.0}
SCAN = Scan(Region(0.0, 0.0, 2e-7, 2e-7), (8, 16), 1e-3)


@pytest.mark.parametrize(
    "parameters",
    [{"pace": "unlimited"}, {"pace": 40.0}, {"pace": "unlimited", "domains": "phase_field", "broken_share": 1.0}],
)
def test_it_keeps_its_contract(parameters: dict[str, Any]) -> None:
    assert check_simulator(lambda: SpmSimulator(SpmSettings(**SMALL, **parameters))) == []


def test_another_seed_is_another_specimen_with_other_noise() -> None:
    def picture(seed: int) -> Any:
        spm = made(seed=seed, **SMALL)
        return drawn(spm, whole(spm, (16, 16)))[0], spectrum(spm, (0.0, 0.0))[0]

    (first, loop), (again, loop_again), (other, other_loop) = picture(1), picture(1), picture(2)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(loop, loop_again)
    assert (first[..., 2] != other[..., 2]).all()
    assert (loop != other_loop).all()
    spm = made(**SMALL)
    one, two = (drawn(spm, whole(spm, (16, 16)))[0] for _ in range(2))
    assert (one[..., 2] != two[..., 2]).all()


def test_a_line_is_a_block_both_ways_in_specimen_order() -> None:
    spm = made(**SMALL)
    acquisition = spm.scan(SCAN)
    names = [(channel.name, channel.direction) for channel in acquisition.spec.channels]
    assert ("response_trace", "trace") in names
    assert ("response_retrace", "retrace") in names
    assert (acquisition.spec.dtype, acquisition.spec.sync) == ("<c8", "line")
    buffer = FrameBuffer.allocate(acquisition.spec, 4096)
    next(acquisition.frames)
    begun = spm.clock.now_ns()
    for row in range(8):
        assert acquisition.frames.send(buffer) == 16
        np.testing.assert_array_equal(buffer.scan_index[:16], row * 16 + np.arange(16))
        np.testing.assert_allclose(buffer.position[:16], SCAN.region.positions(SCAN.shape)[row * 16 :][:16])
        assert buffer.flags[0] & FrameFlag.LINE_START
        assert buffer.flags[15] & FrameFlag.LINE_END
        assert spm.clock.now_ns() - begun == (row + 1) * 32_000_000  # forth and back at 1 ms a pixel
        height = buffer.data[:16, 0].real
        assert np.corrcoef(height, buffer.data[:16, 1].real)[0, 1] > 0.3
    with pytest.raises(StopIteration):
        acquisition.frames.send(buffer)
    assert spm.read_back()["scanning"] is False


def test_it_keeps_the_pace_that_it_is_told() -> None:
    clock = MonotonicClock()
    took = {}
    for pace in (2.0, 8.0):
        spm = made(engaged=False, **(SMALL | {"pace": pace}))
        drawn(spm, Scan(Region(0.0, 0.0, 1e-7, 1e-7), (1, 8), 1e-4))  # whatever has to be compiled
        begun = clock.now_ns()
        drawn(spm, Scan(Region(0.0, 0.0, 1e-7, 1e-7), (10, 20), 2e-3))
        took[pace] = (clock.now_ns() - begun) / 1e9
    assert took[2.0] == pytest.approx(0.4, abs=0.1)
    assert took[8.0] == pytest.approx(0.1, abs=0.08)


def gated(**parameters: Any) -> tuple[SpmSimulator, LocalInstrument]:
    spm = made(engaged=False, **(SMALL | parameters))
    rig = LocalInstrument(spm)
    rig.take()
    return spm, rig


def test_the_gate_refuses_what_would_break_the_tip_and_without_it_the_tip_breaks() -> None:
    spm, rig = gated()
    assert rig.do(Approach())
    assert rig.do(SetFeedback("hold"))
    for command in (SCAN, MoveProbe((1e-7, 0.0)), Approach()):
        refused = rig.refusal(command)
        assert refused is not None
        assert "held" in refused.reason
    assert rig.do(Withdraw(1e-6))
    refused = rig.refusal(SetFeedback("hold"))
    assert refused is not None
    assert "withdrawn" in refused.reason
    assert spm.truth()["tip"]["crashes"] == 0
    spm.set_feedback(SetFeedback("hold"))  # past the gate: nothing stops the coarse drive
    spm.approach(Approach())
    assert spm.truth()["tip"]["crashes"] == 1
    rig.do(Read())
    rig.advance(0.1)
    assert "alarm deflection" in rig.desk.state.fault
    assert spm.read_back()["feedback"] == "withdrawn"
    spm.close()


def test_a_scan_beyond_the_tip_speed_is_refused_and_the_dwell_that_is_allowed_is_told() -> None:
    _, rig = gated()
    assert rig.do(Approach())
    refused = rig.refusal(Scan(Region(0.0, 0.0, 8e-7, 8e-7), (8, 8), 1e-3))
    assert refused is not None
    assert refused.limit == "max_tip_speed 5e-05 m/s"
    assert refused.allowed == "a dwell of at least 0.002 s"
    assert rig.refusal(Lift(1e-8)) is not None  # no verb for it yet


@pytest.mark.parametrize(
    ("z", "words"), [(-120e-9, "alarm deflection"), (1.95e-6, "alarm z_position")], ids=["deflection", "rail"]
)
def test_deflection_over_its_limit_and_z_at_its_rail_trip(z: float, words: str) -> None:
    spm, rig = gated()
    assert rig.do(Approach())
    rig.advance(0.3)
    assert rig.desk.state.fault == ""
    if z < 0:
        spm.feedback.state[5] = -z
    else:
        spm.feedback.state[0] = z
    rig.advance(0.4)
    assert words in rig.desk.state.fault
    assert spm.read_back()["feedback"] == "withdrawn"


def test_an_ordinary_session_through_the_gate_trips_nothing() -> None:
    spm, rig = gated(broken_share=0.0)
    for command in (
        Approach(), SetDrive(amplitude=1.0), SCAN, AcquireSpectrum((5e-8, 0.0), BEPS()), SetBias(2.0, 10.0), SCAN,
    ):  # fmt: skip
        assert rig.do(command), command
        rig.advance(0.1)
    assert rig.desk.state.fault == ""
    assert rig.frames("scan") == 256
    assert rig.frames("spectrum") == 1
    assert not [event for event in rig.events if type(event).__name__ in ("Failed", "Gap")]
    rig.submit(Stop())
    state = spm.read_back()
    assert (state["drive"], state["bias"], state["feedback"], state["scanning"]) == (0.0, 0.0, "withdrawn", False)


def test_make_safe_ends_a_slow_line_and_an_approach_at_once() -> None:
    clock = MonotonicClock()
    for command in (Approach(), Scan(Region(0.0, 0.0, 1e-7, 1e-7), (4, 100), 50e-3)):
        spm = made(engaged=False, **(SMALL | {"pace": 1.0}))

        def run(spm: SpmSimulator = spm, command: Any = command) -> None:
            spm.approach(command) if isinstance(command, Approach) else drawn(spm, command)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        begun = clock.now_ns()
        spm.make_safe()
        thread.join(5.0)
        assert not thread.is_alive()
        assert clock.now_ns() - begun < 0.5e9
        assert spm.read_back()["feedback"] == "withdrawn"
        assert spm.read_back()["scanning"] is False


def test_out_of_contact_there_is_no_response() -> None:
    spm = made(**SMALL)
    touching = np.abs(drawn(spm, SCAN)[0][..., 2]).mean()
    spm.withdraw(Withdraw(1e-6))
    away = drawn(spm, SCAN)[0]
    assert np.abs(away[..., 2]).mean() < 0.2 * touching
    assert np.abs(spectrum(spm, (0.0, 0.0))[0]).mean() < 0.2 * touching
    assert spm.truth()["spectra"][-1]["in_contact"] is False


def test_truth_reaches_no_topic() -> None:
    spm = made(**SMALL, broken_share=1.0)
    info, words = spm.describe(), ("broken", "domain", "distance", "defect", "truth")
    told = [*spm.read_back(), *info.topics, *spm.sense()]
    for acquisition in (spm.scan(SCAN), spm.acquire_spectrum(AcquireSpectrum((0.0, 0.0), BEPS()))):
        told += [acquisition.spec.encode().decode("latin1"), *acquisition.settings]
        acquisition.frames.close()
    assert not [word for word in words for text in told if word in text]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"domains": "ising"}, "random_field"),
        ({"width": "1 nm"}, "200 <= number <= 10000 [nm]"),
        ({"noise": float("nan")}, "noise"),
        ({"pace": 0.0}, "pace"),
        ({"domain_size": 21.0, "cells": 128}, "below 6 cells"),
        ({"domain_size": 1500.0}, "above the width"),
        ({"double_tip": 400.0}, "a quarter of the width"),
        ({"broken_share": 2.0}, "broken_share"),
        ({"temperature": 300.0}, "temperature"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_made(values: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError) as error:
        convert(SpmSettings, values, "instrument")
    assert any(words in str(problem) for problem in error.value.problems), error.value.problems


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s: s.scan(Scan(SCAN.region, (8, 8), 1e-3, order="serpentine")), "use raster"),
        (lambda s: s.scan(Scan(SCAN.region, (8, 8), 1e-3, channels=("colour",))), "height_trace"),
        (lambda s: s.scan(Scan(SCAN.region, (1, 5000), 1e-3)), "at most 4096"),
        (lambda s: s.acquire_spectrum(AcquireSpectrum((0.0, 0.0), EDS(1.0))), "ask for BEPS or ForceCurve"),
        (lambda s: s.acquire_spectrum(AcquireSpectrum((0.0, 0.0), IV(0.0, 1.0, 10))), "ask for BEPS or ForceCurve"),
        (lambda s: s.acquire_spectrum(AcquireSpectrum((0.0, 0.0), BEPS(waveform=(1.0, 2.0)))), "8 to 4096"),
        (lambda s: s.acquire_spectrum(AcquireSpectrum((0.0, 0.0), BEPS(waveform=(1.0,) * 16))), "stands still"),
        (lambda s: s.acquire_spectrum(AcquireSpectrum((0.0, 0.0), BEPS(cycles=100))), "1 to 64 cycles"),
        (lambda s: s.set_feedback(SetFeedback("on", setpoint=1e-3)), "1 nN to 500 nN"),
        (lambda s: s.set_feedback(SetFeedback("on", integral=-1.0)), "integral"),
        (lambda s: s.set_bias(SetBias(50.0)), "-20 to 20 V"),
        (lambda s: s.set_drive(SetDrive(amplitude=11.0)), "0 to 10 V"),
    ],
)
def test_bad_commands_are_refused_with_what_is_allowed(call: Any, words: str) -> None:
    with pytest.raises(DriverError) as error:
        call(made(engaged=False, **SMALL))
    assert words in str(error.value)


def test_settings_are_bounded_and_it_is_found_by_name() -> None:
    assert unbounded_floats(SpmSettings) == []
    spm = load_simulator("spm", {"cells": 128, "pace": "unlimited"})
    assert spm.truth()["up"].shape == (128, 128)
    spm.close()


@pytest.mark.bench
def test_lines_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    made_ = spm_lines_per_second(3.0)
    with capsys.disabled():
        print(f"\nspm: {made_:.0f} lines a second")
    assert made_ > 3000
