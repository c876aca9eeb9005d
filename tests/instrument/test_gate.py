"""The gate's pure core: its tables, its words, its clock."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import msgspec
import pytest

from probeloop.data import commands as c
from probeloop.data import control
from probeloop.data.clock import VirtualClock
from probeloop.data.control import Accepted, Refused, Submit
from probeloop.data.limits import Alarm, Limits
from probeloop.data.scan import Region
from probeloop.instrument import gate
from probeloop.instrument.checks import CHECKS
from probeloop.instrument.drift import Drift
from probeloop.instrument.gate import FEEDBACK, FEEDBACK_EVENTS, FEEDBACK_TABLE, MODE_TABLE, MODES, GateState, advance
from probeloop.instrument.limits import CAUSES, table
from probeloop.instrument.safety import OutputLeases
from probeloop.testing.fake_driver import SMALL_SCAN, FakeDriver
from probeloop.testing.local_instrument import LocalInstrument

STATES = {"tripped": GateState(fault="STOP"), "free": GateState(fault=""), "held": GateState(fault="", holder="a")}
EVENTS = {
    "TookControl": gate.TookControl("a", 5),
    "Released": gate.Released(),
    "Heard": gate.Heard(9),
    "Tripped": gate.Tripped("again"),
    "Rearmed": gate.Rearmed(),
}
COMMANDS = {
    "Approach": c.Approach(),
    "Withdraw": c.Withdraw(),
    "on": c.SetFeedback("on"),
    "hold": c.SetFeedback("hold"),
    "Lift": c.Lift(1e-9),
}


@pytest.fixture
def rig() -> LocalInstrument:
    made = LocalInstrument(FakeDriver(modality="stem"))
    made.take()
    return made


@pytest.mark.parametrize(("state", "event"), list(itertools.product(MODES, EVENTS)))
def test_lease_and_latch_follow_their_table(state: str, event: str) -> None:
    after = advance(STATES[state], EVENTS[event])  # type: ignore[arg-type]
    assert gate.mode(after) == MODE_TABLE[(state, event)]
    raises = event == "Tripped" or (state, event) in (("free", "TookControl"), ("held", "Released"))
    assert after.epoch - STATES[state].epoch == raises


@pytest.mark.parametrize(("state", "event"), list(itertools.product(FEEDBACK, COMMANDS)))
def test_feedback_follows_its_table(state: Any, event: str) -> None:
    driver = FakeDriver(modality="afm")
    rig = LocalInstrument(driver)
    rig.take()
    rig.desk.state = gate.replace(rig.desk.state, feedback=state)
    after = FEEDBACK_TABLE[(state, event)]
    if event == "Lift":
        assert rig.refusal(COMMANDS[event]).limit == "commands"  # type: ignore[union-attr]
        return
    assert (rig.refusal(COMMANDS[event]) is None) == (after is not None)
    if after is not None:
        reached = advance(rig.desk.state, gate.Applied(COMMANDS[event])).feedback
        assert reached == ("engaged" if after == "approaching" else after)


def test_the_tables_are_whole_and_printed() -> None:
    assert set(FEEDBACK_TABLE) == set(itertools.product(FEEDBACK, FEEDBACK_EVENTS))
    assert set(MODE_TABLE) == set(itertools.product(MODES, EVENTS))
    text = table()
    assert all(name in text for name in CHECKS)
    assert all(cause.name in text for cause in CAUSES)
    reaching = {(s, e) for (s, e), after in FEEDBACK_TABLE.items() if after in ("approaching", "engaged")}
    assert {e for s, e in reaching if s == "withdrawn"} == {"Approach"}


def test_the_alarms_of_an_instrument_are_printed_in_words() -> None:
    tip = Alarm(low=-1e-8, high=1e-8, units="A", when=("engaged", "held"), hold=0.2, stuck_after=5.0)
    where = ((0.0, 0.0), (1e-6, 1e-6))
    text = table(Limits(region=where, alarms={"tip_current": tip, "gauge": Alarm()}, missed_triggers=64))
    assert re.search(
        r"tip_current +engaged, held +above 10 nA or below -10 nA for 0.2 s, no value for 1 s, the same", text
    )
    assert re.search(r"gauge +always +no value for 1 s\n", text)
    assert re.search(r"pixels_without_frame +always +above 64 px", text)
    assert "tip_current" not in table()


def test_the_first_fault_stays_the_reason() -> None:
    state = advance(advance(GateState(fault=""), gate.Tripped("lost holder")), gate.Tripped("STOP"))
    assert (state.fault, state.epoch) == ("lost holder", 3)


@pytest.mark.parametrize(
    ("command", "limit", "allowed"),
    [
        (c.MoveProbe((45e-9, 0.0)), "max_step 40 nm", "steps of at most 4e-08 m"),
        (c.MoveProbe((0.4e-9, 0.0)), "grid", "(0.0, 0.0) m"),
        (c.MoveProbe((0.0, 51e-9)), "region", "x -5e-08 to 5e-08 m, y -5e-08 to 5e-08 m"),
        (c.SetAberrations({"C10": 2e-6}), "knobs.C10", "-1 µm to 1 µm"),
        (c.SetAberrations({"C30": 1e-9}), "knobs", "C10, C12a, drive, drive_frequency"),
        (c.SetBeam(1e-9), "beam_current", "0 A to 200 pA"),
        (c.SetSpectrometer(dispersion=2.0), "spectrometer.dispersion", "0.01 to 1"),
        (c.AcquireSpectrum((0.0, 0.0), c.EELS(1e-3, offset=-60.0)), "spectrometer.energy_offset", "-50 to 2000"),
        (SMALL_SCAN, "beam", "Unblank first"),
        (c.SetBias(9.0), "bias", "-5 to 5 V"),
        (c.SetOptics(camera_length=0.1), "commands", ""),
    ],
)
def test_a_refusal_names_limit_and_what_is_allowed(
    rig: LocalInstrument, command: c.Command, limit: str, allowed: str
) -> None:
    refused = rig.refusal(command)
    assert refused is not None
    assert refused.limit == limit
    assert allowed in refused.allowed
    assert len(rig.driver.calls) == 1  # the proof test's make_safe alone  # type: ignore[attr-defined]


def test_dry_run_judges_and_does_nothing(rig: LocalInstrument) -> None:
    rig.do(c.Unblank())
    reply = rig.submit(SMALL_SCAN, dry_run=True)
    assert isinstance(reply, Accepted)
    assert reply.cost.dose == pytest.approx(256 * 1e-4 * 50e-12 / 1.602176634e-19)
    assert reply.cost.time == pytest.approx(0.0256)
    assert rig.desk.queued == 0


def test_a_queue_is_judged_by_where_it_leads(rig: LocalInstrument) -> None:
    assert rig.refusal(SMALL_SCAN) is not None
    assert rig.refusal(c.Unblank()) is None
    assert rig.refusal(SMALL_SCAN) is None  # the Unblank before it has not run yet
    assert rig.refusal(c.SetAberrations({"C10": 6e-7})) is None
    assert rig.refusal(c.SetAberrations({"C10": 6e-7})) is not None


def test_what_changed_since_the_verdict_refuses_at_execution(rig: LocalInstrument) -> None:
    reply = rig.submit(c.Unblank(), not_after=rig.clock.now_ns() + 1000)
    assert isinstance(reply, Accepted)
    rig.clock.advance(1.0)
    rig.desk.run_next()
    failed = [event for event in rig.events if isinstance(event, control.Failed)]
    assert "late" in failed[0].reason
    assert rig.driver.values["blanked"]  # type: ignore[attr-defined]


def test_a_place_of_the_specimen_is_found_where_it_is_now(rig: LocalInstrument) -> None:
    rig.desk.drift = Drift(offset=(3e-9, -2e-9), sigma=0.5e-9, references=1)
    rig.do(c.MoveProbe((10e-9, 10e-9), frame="specimen", position_tolerance=1e-9))
    assert rig.desk.state.position == pytest.approx((13e-9, 8e-9))
    refused = rig.refusal(c.MoveProbe((10e-9, 10e-9), frame="specimen", position_tolerance=0.1e-9))
    assert refused is not None
    assert "register again" in refused.allowed
    edge = c.MoveProbe((48e-9, 0.0), frame="specimen", position_tolerance=1e-9)
    assert rig.refusal(edge).limit == "region"  # type: ignore[union-attr]


def test_silence_of_the_holder_makes_safe(rig: LocalInstrument) -> None:
    rig.do(c.Unblank())
    rig.do(c.Approach())
    rig.advance(2.9)
    assert rig.desk.state.fault == ""
    rig.advance(0.3)
    assert "silent" in rig.desk.state.fault
    assert rig.driver.values["feedback"] == "withdrawn"  # type: ignore[attr-defined]


def test_silence_with_all_safe_only_frees_the_lease(rig: LocalInstrument) -> None:
    rig.advance(4.0)
    assert (rig.desk.state.fault, rig.desk.state.holder) == ("", "")


def test_an_idle_beam_is_parked_and_comes_back_with_the_next_scan(rig: LocalInstrument) -> None:
    rig.do(c.Unblank())
    rig.advance(0.4)
    assert not rig.desk.state.blanked
    rig.advance(0.3)
    assert (rig.desk.state.blanked, rig.desk.state.parked) == (True, True)
    rig.beat()
    assert rig.do(SMALL_SCAN)
    assert rig.frames("camera") == 256
    rig.do(c.Blank())
    assert rig.refusal(SMALL_SCAN).limit == "beam"  # type: ignore[union-attr]


def test_giving_control_back_makes_safe_without_a_latch(rig: LocalInstrument) -> None:
    rig.do(c.Unblank())
    rig.handle(control.ReleaseControl("experiment"))
    assert rig.driver.values["blanked"]  # type: ignore[attr-defined]
    assert rig.desk.state.fault == ""
    assert isinstance(rig.take("other"), Accepted)
    assert rig.do(c.Unblank())


def test_a_lease_runs_out_by_itself() -> None:
    leases = OutputLeases(durations={"beam": 1.0}).renewed(("beam", "tip"), 0)
    assert leases.expired(1_000_000_000) == ()
    assert leases.expired(1_000_000_001) == ("beam",)
    assert leases.followed(("tip",), 2_000_000_000).expired(3_100_000_000) == ("tip",)


def test_malformed_commands_never_pass(rig: LocalInstrument) -> None:
    for command in (
        c.MoveProbe((math.nan, 0.0)),
        c.Scan(Region(0.0, 0.0, -1.0, 1e-9), (4, 4), 1e-4),
        c.SetBias("high"),  # type: ignore[arg-type]
        c.SetAberrations({"C10": math.inf}),
    ):
        refused = rig.handle(Submit(command, "experiment", rig.desk.state.epoch))
        assert isinstance(refused, Refused)
        assert refused.limit == "type and range"


def test_a_loop_without_a_waveform_is_held_against_the_instruments_own() -> None:
    loop = c.AcquireSpectrum((0.0, 0.0), c.BEPS(drive=0.1))
    for own, word in ((None, "not known"), ((-8.5, 8.5), "bias of -8.5 V"), ((-4.0, 4.0), "")):
        driver = FakeDriver(modality="afm")
        driver._info = msgspec.structs.replace(driver._info, own_waveform=own)
        rig = LocalInstrument(driver)
        rig.take()
        refused = rig.refusal(loop)
        assert word in refused.reason if refused is not None else not word


def test_a_paced_instrument_does_not_hurry_after_a_pause() -> None:
    driver = FakeDriver(modality="stem", clock=(clock := VirtualClock(1.0)))
    rig = LocalInstrument(driver)
    clock.spend(0.0)
    assert clock._anchor is not None
    rig.desk._after_pause(rig.desk.state.epoch)
    assert clock._anchor is None


@pytest.mark.parametrize("name", ["position_x", "beam_current"])
def test_what_the_hardware_can_not_read_leaves_the_dose_as_it_was_known(name: str) -> None:
    driver = FakeDriver(modality="stem")
    rig = LocalInstrument(driver)
    rig.take()
    rig.do(c.Unblank())
    before = rig.desk.state
    driver.values[name] = math.nan
    rig.desk.refresh_readback()
    driver.clock.spend(0.01)  # type: ignore[attr-defined]
    rig.desk.tick()
    assert rig.desk.state.position == before.position
    assert rig.desk.state.beam_current == before.beam_current
    assert math.isfinite(rig.desk.state.dose)
    assert rig.desk.state.dose > before.dose
