"""Sequences of commands against a driver that records every call: what reaches it keeps every limit.

The oracle below knows the limits in words of its own. With any one check taken away, it must find a call, a
verdict or a refusal that breaks them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from types import MappingProxyType
from typing import Any, ClassVar

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from probeloop.data import commands as c
from probeloop.data import driver as contract
from probeloop.data.control import Accepted, Rearm, Refused, SetParameters, Verdict
from probeloop.data.limits import Limits
from probeloop.data.scan import Region
from probeloop.instrument.checks import CHECKS
from probeloop.instrument.drift import Drift
from probeloop.testing.fake_driver import ELEMENTARY_CHARGE, FAKE_LIMITS, Call, FakeDriver
from probeloop.testing.local_instrument import LocalInstrument

NM = 1e-9
LIMITS = Limits(
    **{name: getattr(FAKE_LIMITS, name) for name in FAKE_LIMITS.__struct_fields__}
    | {
        "max_scan_points": 300,
        "dose": 2e8,
        "area_dose": 1e27,
        "camera_length": (0.05, 0.5),
        "convergence_angle": (0.001, 0.05),
        "stage": {"x": (-1e-3, 1e-3)},
        "vendor_routines": ("tune",),
    }
)
BOUNDS = {"camera_length": (0.05, 0.5), "convergence_angle": (0.001, 0.05), "energy_offset": (-50, 2000),
          "dispersion": (0.01, 1), "slit": (0, 50)}  # fmt: skip
EXTRA = {"SetOptics": "set_optics", "MoveStage": "move_stage", "VendorRoutine": "vendor"}
DECLARED = (*contract.VERBS, *EXTRA)
UNDECLARED = "ScanPath"


class Driver(FakeDriver):
    """With the verbs that no Protocol has yet, and one that it has but does not declare."""

    def set_optics(self, command: c.SetOptics) -> int:
        return self._do("set_optics", command)

    def move_stage(self, command: c.MoveStage) -> int:
        return self._do("move_stage", command)

    def vendor(self, command: c.VendorRoutine) -> int:
        return self._do("vendor", command)


@pytest.fixture(autouse=True)
def verbs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, verb in EXTRA.items():
        monkeypatch.setitem(contract.VERBS, name, ("Extra", verb))


def of(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


HERE = Region(0.0, 0.0, 16 * NM, 16 * NM)
EDGE = Region(45 * NM, 0.0, 16 * NM, 16 * NM)
TURNED = Region(41 * NM, 0.0, 16 * NM, 16 * NM, 0.785)
LOOSE, TIGHT = {"frame": "specimen"}, {"frame": "specimen", "position_tolerance": 1 * NM}
EDS, IV, BEPS = c.EDS(1e-3), c.IV(0.5, 1.0, 4), c.BEPS((0.5, 1.0), drive=0.1)
SPOT = (0.0, 0.0)
# What a check forbids, in states in which it is the only one that does; or what leads into such a state.
FOCUS: dict[str, tuple[Any, ...]] = {
    "valid": (c.SetFeedback("on", setpoint=math.inf), c.Approach(), c.Scan(HERE, (4, 4), 1e-4, frames=0)),
    "known": (c.ScanPath((SPOT, (5 * NM, 0.0)), 1e-4), c.Unblank()),
    "fault": (c.SetDetector(inserted=False), c.SetBias(0.5)),
    "lease": (c.SetDetector(inserted=False), c.SetBias(0.5)),
    "epoch": (c.SetDetector(inserted=False), c.SetBias(0.5)),
    "late": (c.SetDetector(inserted=False), c.Blank(), c.Unblank()),
    "drift": (c.MoveProbe((5 * NM, 0.0), **TIGHT), c.MoveProbe(SPOT, **LOOSE), c.Scan(HERE, (4, 4), 1e-4, **TIGHT)),
    "region": (c.Scan(EDGE, (4, 4), 1e-4), c.Scan(TURNED, (4, 4), 1e-4), c.MoveProbe((0.0, 60 * NM)),
               c.MoveProbe((0.0, 30 * NM)), c.AcquireSpectrum((60 * NM, 0.0), IV)),
    "grid": (c.MoveProbe((0.5 * NM, 0.0)), c.AcquireSpectrum((0.0, 0.3 * NM), IV), c.MoveProbe(SPOT)),
    "step": (c.MoveProbe((30 * NM, 0.0)), c.MoveProbe((-30 * NM, 0.0)), c.ApplyPulse((-30 * NM, 0.0), 1.0, 1e-3)),
    "tip_speed": (c.Scan(HERE, (4, 4), 1e-6), c.Scan(HERE, (4, 4), 1e-4)),
    "dwell": (c.Scan(HERE, (1, 1), 0.12), c.Scan(HERE, (4, 4), 1e-4), c.Scan(HERE, (4, 4), 1e-8)),
    "points": (c.Scan(HERE, (20, 20), 1e-4), c.Scan(HERE, (16, 16), 1e-4)),
    "feedback": (c.Approach(), c.Withdraw(), c.SetFeedback("on"), c.SetFeedback("hold")),
    "lateral": (c.Approach(), c.SetFeedback("hold"), c.MoveProbe((5 * NM, 0.0)), c.MoveProbe(SPOT), c.Withdraw()),
    "bias": (c.SetBias(7.0), c.SetBias(2.0), c.AcquireSpectrum(SPOT, c.IV(0.5, 6.0, 4)),
             c.AcquireSpectrum(SPOT, c.BEPS((9.0,)))),
    "bias_ramp": (c.SetBias(0.5, 50.0), c.AcquireSpectrum(SPOT, c.IV(0.5, 1.0, 4, ramp=100.0))),
    "bias_contact": (c.Approach(), c.SetBias(-0.5), c.SetBias(0.001), c.SetBias(0.5), c.SetFeedback("hold")),
    "drive": (c.SetDrive(amplitude=3.0), c.SetDrive(frequency=1e9), c.SetDrive(amplitude=1.0)),
    "pulses": (c.ApplyPulse(SPOT, 1.0, 1e-3), c.ApplyPulse((5 * NM, 0.0), -1.0, 1e-3)),
    "knobs": (c.SetAberrations({"C10": 6e-7}), c.SetAberrations({"C10": -4e-7}), c.SetAberrations({"C12a": 9e-8})),
    "absolute": (c.SetAberrations({"C10": 6e-7}, True), c.SetAberrations({"C12a": 9e-8}, True)),
    "beam_current": (c.SetBeam(300e-12), c.SetBeam(20e-12)),
    "beam_on": (c.Blank(), c.Scan(HERE, (4, 4), 1e-4), c.AcquireSpectrum(SPOT, EDS), c.Unblank()),
    "detector_flux": (c.SetBeam(150e-12), c.SetDetector(inserted=True), c.Unblank(), c.Blank(), c.SetBeam(50e-12)),
    "camera_length": (c.SetOptics(camera_length=5.0), c.SetOptics(camera_length=0.1)),
    "convergence_angle": (c.SetOptics(convergence_angle=0.15), c.SetOptics(convergence_angle=0.02)),
    "stage": (c.MoveStage(x=5e-3), c.MoveStage(x=6e-4, absolute=False), c.MoveStage(x=1e-4, y=1e-3)),
    "spectrometer": (c.SetSpectrometer(3000.0), c.SetSpectrometer(None, 5.0), c.SetSpectrometer(slit=60.0)),
    "vendor": (c.VendorRoutine("erase"), c.VendorRoutine("tune")),
    "dose": (c.Scan(HERE, (16, 16), 1e-3),),
    "area_dose": (c.AcquireSpectrum(SPOT, c.EDS(0.02)), c.AcquireSpectrum(SPOT, c.EDS(0.05))),
}  # fmt: skip
OTHERS = (c.MoveProbe((math.nan, 0.0)), c.AcquireSpectrum(SPOT, BEPS), c.AcquireSpectrum(SPOT, IV, **LOOSE),
          c.ApplyPulse(SPOT, 8.0, 1e-3), c.AcquireReference("dark"), c.Read(), c.Annotate("x"))  # fmt: skip
EVERYTHING = tuple(command for commands in FOCUS.values() for command in commands) + OTHERS
pick = st.integers(0, 1 << 12)


class Oracle:
    """The limits, told again, at the driver."""

    def __init__(self, rig: LocalInstrument, driver: Driver) -> None:
        self.rig, self.driver, self.found = rig, driver, []
        self.pulses = 0
        self.electrons = 0.0
        self.spots: dict[Any, float] = defaultdict(float)
        driver.watch = self.call

    def call(self, call: Call) -> None:
        if call.command is None:
            if call.verb == "frames" and self.rig.desk.state.fault:
                self.found.append("a frame after the trip")
            return
        try:
            self.judge(call, call.command, call.state)
        except Exception as error:  # a malformed command must not get this far
            self.found.append(f"{call.verb}: {error!r}")

    def must(self, holds: bool, what: str) -> None:
        if not holds:
            self.found.append(what)

    def judge(self, call: Call, command: Any, state: dict[str, Any]) -> None:
        desk = self.rig.desk
        job = desk.running
        self.must(not desk.state.fault, "a call while tripped")
        if job is None:
            self.must(call.verb == "blank", f"{call.verb} without a job")
            return
        now = self.rig.clock.now_ns()
        self.must(type(command).__name__ in desk.info.commands, "an undeclared command")
        self.must(job.submit.holder == desk.state.holder != "", "a command of somebody else")
        self.must(job.submit.epoch == desk.state.epoch, "an old epoch")
        self.must(not job.submit.not_after or now <= job.submit.not_after, "a late command")
        self.must(finite(command), "a number that is none")
        self.must(command == msgspec.convert(msgspec.to_builtins(command), type(command)), "a number out of range")
        if getattr(job.submit.command, "frame", "") == "specimen" and hasattr(command, "frame"):
            sigma = desk.drift.at(self.driver.clock.now_ns())[1]
            self.must(sigma <= command.position_tolerance, "a place that is not known")
        self.places(command, state)
        self.tip(command, state)
        self.beam(command, state)
        if isinstance(command, c.SetAberrations):
            for name, value in command.values.items():
                start = 0.0 if command.absolute else state[name]
                self.must(abs(start + value) <= {"C10": 1e-6, "C12a": 1e-7}[name] * (1 + 1e-9), "a knob out of range")
                known = desk.state.measured.get(name, 0) >= now
                self.must(known or not command.absolute, "an absolute aberration without a measurement")
        for name, (low, high) in BOUNDS.items():
            self.must(low <= (getattr(command, name, None) or low) <= high, name)
        if isinstance(command, c.MoveStage):
            self.must(command.y is None, "an axis that is not there")
            self.must(command.x is None or not command.absolute or abs(command.x) <= 1e-3, "the stage")
        if isinstance(command, c.VendorRoutine):
            self.must(command.name == "tune", "a routine that is not allowed")

    def places(self, command: Any, state: dict[str, Any]) -> None:
        here = (state["position_x"], state["position_y"])
        if isinstance(command, c.Scan):
            touched = [tuple(p) for p in command.region.positions(command.shape)]
            self.must(len(touched) <= 300, "too many places")
            pitch = max(command.region.width / command.shape[1], command.region.height / command.shape[0])
            self.must(pitch / command.dwell_time <= 1e-3 * (1 + 1e-9), "too fast a tip")
            self.must(1e-6 <= command.dwell_time <= 0.1, "a dwell out of range")
        elif isinstance(command, c.MoveProbe | c.AcquireSpectrum | c.ApplyPulse):
            touched = [command.position]
            self.must(math.dist(here, command.position) <= 40 * NM * (1 + 1e-9), "too long a jump")
            self.must(all(abs(v / NM - round(v / NM)) < 1e-3 for v in command.position), "a place off the grid")
        else:
            return
        self.must(all(abs(v) <= 50 * NM * (1 + 1e-9) for p in touched for v in p), "a place outside the region")
        moves = isinstance(command, c.Scan) or math.dist(here, touched[0]) > 0
        self.must(not moves or state["feedback"] != "held", "a lateral move of a held tip")

    def tip(self, command: Any, state: dict[str, Any]) -> None:
        feedback = state["feedback"]
        if isinstance(command, c.Approach):
            self.must(feedback == "withdrawn", "an approach in contact")
        if isinstance(command, c.SetFeedback):
            self.must(feedback != "withdrawn", "feedback out of contact")
        kind = getattr(command, "kind", None)
        values: list[float] = []
        if isinstance(command, c.SetBias | c.ApplyPulse):
            values = [command.value]
        if isinstance(kind, c.IV):
            values = [kind.start, kind.stop]
        if isinstance(kind, c.BEPS):
            values = [*kind.waveform]
        self.must(all(abs(v) <= 5.0 for v in values), "a bias out of range")
        ramp = getattr(command, "ramp", getattr(kind, "ramp", 0.0))
        self.must(ramp <= 10.0, "too steep a ramp")
        holds = isinstance(kind, c.IV) and kind.hold
        if values and feedback == "engaged" and not holds:
            path = [state["bias"], *values]
            self.must(min(path) >= 0.01 or max(path) <= -0.01, "the bias crosses zero in contact")
        if isinstance(command, c.Approach):
            self.must(abs(state["bias"]) >= 0.01, "an approach without bias")
        if isinstance(command, c.ApplyPulse):
            self.pulses += 1
            self.must(self.pulses <= 3, "too many pulses")
        if isinstance(command, c.SetDrive):
            self.must(command.amplitude is None or command.amplitude <= 2.0, "the drive")
            self.must(command.frequency is None or command.frequency <= 1e6, "the drive's frequency")

    def beam(self, command: Any, state: dict[str, Any]) -> None:
        after = dict(state)
        if isinstance(command, c.Unblank):
            after["blanked"] = False
        if isinstance(command, c.SetBeam):
            after["beam_current"] = command.current
            self.must(command.current <= 200e-12, "too high a current")
        if isinstance(command, c.SetDetector) and command.inserted is not None:
            after["detector_inserted"] = command.inserted
        rate = after["beam_current"] / ELEMENTARY_CHARGE
        if not after["blanked"] and after["detector_inserted"]:
            self.must(rate / 64 <= 1e7, "too much on a camera pixel")
        if isinstance(command, c.Scan | c.AcquireSpectrum):
            self.must(not state["blanked"], "a measurement without beam")
        if isinstance(command, c.Scan):
            time = command.shape[0] * command.shape[1] * command.dwell_time * command.frames
        elif isinstance(command, c.AcquireSpectrum):
            time = getattr(command.kind, "exposure", 0.0)
            self.spots[command.position] += rate * time / 1e-20
            self.must(self.spots[command.position] <= 1e27, "too much dose on a place")
        else:
            return
        self.electrons += rate * time
        self.must(self.electrons <= 2e8, "too much dose")


def finite(value: Any) -> bool:
    if isinstance(value, msgspec.Struct | dict | tuple):
        inner = msgspec.to_builtins(value)
        return all(map(finite, inner.values() if isinstance(inner, dict) else inner))
    return not isinstance(value, float) or math.isfinite(value)


class GateMachine(RuleBasedStateMachine):
    """Any process may send anything, in any order."""

    without: ClassVar[str] = ""
    pool: ClassVar[tuple[Any, ...]] = EVERYTHING

    @initialize()
    def start(self) -> None:
        declared = tuple(name for name in DECLARED if name != UNDECLARED)
        self.driver = Driver(modality="stm", commands=declared, limits=LIMITS)
        checks = MappingProxyType({name: check for name, check in CHECKS.items() if name != self.without})
        self.rig = LocalInstrument(self.driver, checks=checks)
        self.rig.desk.drift = Drift(offset=(2 * NM, 0.0), sigma=2 * NM, references=1)
        self.oracle = Oracle(self.rig, self.driver)
        self.rig.take("experiment")
        self.rig.do(c.Unblank())

    def _send(self, command: Any, **fields: Any) -> None:
        state = self.rig.desk.state
        reply = self.rig.submit(command, **fields)
        if isinstance(command, c.Read | c.Annotate):
            return  # they move nothing: anyone may look and remark
        if isinstance(reply, Accepted):
            self.oracle.must(not state.fault, "accepted while tripped")
            self.oracle.must(fields.get("epoch", state.epoch) == state.epoch, "accepted of an old epoch")
        elif state.fault and finite(command) and isinstance(reply, Refused) and type(command).__name__ in DECLARED:
            allowed = reply.limit in ("latched fault", "commands", "type and range")
            self.oracle.must(allowed, f"refused while tripped, but for {reply.limit}")

    def _pick(self, number: int) -> Any:
        return self.pool[number % len(self.pool)]

    @rule(number=pick)
    def command(self, number: int) -> None:
        self._send(self._pick(number))
        self.run()

    @rule(numbers=st.lists(pick, min_size=2, max_size=6))
    def plan(self, numbers: list[int]) -> None:
        for number in numbers:
            self.command(number)

    @rule(number=pick)
    def burst(self, number: int) -> None:
        for _ in range(4):
            self._send(self._pick(number))
        self.run()

    @rule(number=pick, holder=of("experiment", "stranger", ""), back=of(0, 1))
    def forged(self, number: int, holder: str, back: int) -> None:
        self._send(self._pick(number), holder=holder, epoch=self.rig.desk.state.epoch - back)
        self.run()

    @rule(number=pick)
    def old(self, number: int) -> None:
        self.forged(number, "experiment", 1)

    @rule(number=pick)
    def foreign(self, number: int) -> None:
        self.forged(number, "stranger", 0)

    @rule(number=pick, wait=of(0.0, 0.2), deadline=of(0.1, 0.05))
    def late(self, number: int, wait: float, deadline: float) -> None:
        self._send(self._pick(number), not_after=self.rig.clock.now_ns() + round(deadline * 1e9))
        self.rig.clock.advance(wait)
        self.run()

    @rule()
    def run(self) -> None:
        while self.rig.desk.run_next():
            pass

    @rule(knob=of("C10", "C12a"))
    def measured(self, knob: str) -> None:
        self.rig.handle(SetParameters("measured", {"knobs": {knob: 1.0}}))

    @rule(number=pick, again=of(True, True, False))
    def stop(self, number: int, again: bool) -> None:
        self._send(self._pick(number))
        self.rig.handle(c.Stop("test"))
        self.run()
        self._send(self._pick(number))
        assert self.driver.values["blanked"]
        if again:
            self.rearm()

    @rule()
    def rearm(self) -> None:
        self.rig.handle(Rearm("stranger"))
        self.rig.rearm()
        self.rig.take("experiment")
        self._send(c.Unblank())

    @rule(seconds=of(0.1, 0.6, 4.0))
    def wait(self, seconds: float) -> None:
        self.rig.beat()
        self.rig.advance(seconds)

    @invariant()
    def nothing_broke_a_limit(self) -> None:
        if hasattr(self, "oracle"):
            assert not self.oracle.found, self.oracle.found
            if self.rig.desk.state.fault:
                assert self.driver.values["blanked"]
                assert self.driver.values["feedback"] == "withdrawn"

    def teardown(self) -> None:
        if hasattr(self, "rig"):
            refused = [e for e in self.rig.events if isinstance(e, Verdict) and not e.accepted]
            assert all(e.reason for e in refused)


def budget(examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )


def test_every_check_has_its_mutation() -> None:
    assert set(FOCUS) == set(CHECKS)


def test_no_sequence_breaks_a_limit() -> None:
    run_state_machine_as_test(GateMachine, settings=budget(30, 25))


@pytest.mark.parametrize("name", list(CHECKS))
def test_without_a_check_the_property_fails(name: str) -> None:
    whole = type("Whole", (GateMachine,), {"pool": FOCUS[name]})
    mutant = type("Mutant", (GateMachine,), {"without": name, "pool": FOCUS[name]})
    run_state_machine_as_test(whole, settings=budget(3, 10))
    with pytest.raises(AssertionError):
        run_state_machine_as_test(mutant, settings=budget(400, 15))  # ends at the first find, so more cost nothing
