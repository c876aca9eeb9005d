"""The instrument's process on a local bus: requests, lease, frames, parking, STOP, the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
import pytest

from probeloop.bus.event import EventReader
from probeloop.bus.node import Bus
from probeloop.bus.request import Client
from probeloop.bus.subscribe import Subscriber
from probeloop.data import commands as c
from probeloop.data import control
from probeloop.data.clock import MonotonicClock, VirtualClock
from probeloop.data.control import Accepted, Description, Refused, Submit, decode_event, decode_reply, encode
from probeloop.data.driver import InstrumentInfo
from probeloop.data.errors import ContractError
from probeloop.data.latency import read_histograms
from probeloop.data.limits import Limits
from probeloop.data.scan import Region
from probeloop.instrument.service import run_instrument
from probeloop.testing.fake_driver import FAKE_LIMITS, SMALL_SCAN, FakeDriver

FREE = Limits(
    **{name: getattr(FAKE_LIMITS, name) for name in FAKE_LIMITS.__struct_fields__} | {"dose": None, "area_dose": None}
)
SLOW_SCAN = c.Scan(Region(0.0, 0.0, 16e-9, 16e-9), (16, 16), 1e-3, frames=20)


class Rig:
    """A client of a running instrument."""

    def __init__(self, bus: Bus, driver: FakeDriver) -> None:
        self.bus, self.driver = bus, driver
        self.client = Client(bus, "instrument")
        self.reader = EventReader(bus)
        self.events: list[Any] = []
        self.epoch = 0

    def ask(self, request: control.Request) -> Any:
        return decode_reply(self.client.call(encode(request), 5.0))

    def take(self, holder: str = "experiment") -> None:
        self.epoch = self.ask(control.TakeControl(holder)).epoch

    def send(self, command: c.Command, **fields: Any) -> Any:
        return self.ask(Submit(command, fields.pop("holder", "experiment"), self.epoch, **fields))

    def until(self, kind: type, seconds: float = 10.0, **fields: Any) -> Any:
        clock = MonotonicClock()
        deadline = clock.now_ns() + round(seconds * 1e9)
        while True:
            for event in self.events:
                if isinstance(event, kind) and all(getattr(event, k) == v for k, v in fields.items()):
                    return event
            assert clock.now_ns() < deadline, f"no {kind.__name__} {fields} among {self.events[-5:]}"
            self.ask(control.Heartbeat("experiment", self.epoch))
            self.events += [decode_event(body) for body in self.reader.read(0.2)]

    def done(self, reply: Any) -> control.Result:
        assert isinstance(reply, Accepted), reply
        result: control.Result = self.until(control.Done, id=reply.id).result
        return result


@contextmanager
def running(rig_id: str, driver: FakeDriver, **options: Any) -> Iterator[Rig]:
    ready, stop = threading.Event(), threading.Event()
    with Bus(rig_id, "instrument", local=True) as bus, Bus(rig_id, "test", local=True) as mine:
        rig = Rig(mine, driver)
        thread = threading.Thread(
            target=run_instrument,
            args=(bus, driver),
            kwargs={"stop": stop, "ready": ready.set, **options},
            name="service",
        )
        thread.start()
        try:
            assert ready.wait(10.0)
            yield rig
        finally:
            stop.set()
            thread.join(10.0)
            rig.client.close()
            rig.reader.close()
        assert not thread.is_alive()
    assert driver.values["blanked"]


def scanning(rig: Rig) -> Accepted:
    """Begin a scan; return what was said to it once it is under way."""
    rig.take()
    rig.done(rig.send(c.Unblank()))
    reply: Accepted = rig.send(SLOW_SCAN)
    rig.until(control.Generation, command_id=reply.id)
    return reply


def test_frames_come_in_order_with_their_generation_announced(rig_id: str) -> None:
    with running(rig_id, FakeDriver(modality="stem")) as rig:
        frames = Subscriber(rig.bus, "camera", "lossless")
        rig.take()
        rig.done(rig.send(c.Unblank()))
        cause = (("camera", 3),)
        result = rig.done(rig.send(SMALL_SCAN, cause=cause, trace=control.Trace(exposed=MonotonicClock().now_ns())))
        assert (result.topic, result.count, result.first_index, result.first_valid_index) == ("camera", 256, 0, 0)
        assert result.physical_ns is not None
        assert 0 < result.trace.verdict <= result.trace.applied
        made = rig.until(control.Generation, id=result.generation)
        assert made.scan == SMALL_SCAN
        got, flags = [], []
        while (block := frames.receive(0.2)) is not None:
            assert block.generation == result.generation
            got += block.scan_index.tolist()
            flags.append(int(block.flags))
            assert np.all(block.dose > 0) or not block.count
            assert block.data.nbytes <= 1 << 20
        assert got == list(range(256))
        assert (flags[0], flags[-1]) == (1, 2)
        state = rig.ask(control.Describe()).state
        assert state["loop_latency_us"]["n"] == 1
        stages = read_histograms(state["latency"])
        assert {name: histogram.n for name, histogram in stages.items()} == {
            "gate": 1, "instrument": 1, "software": 1, "physical": 1
        }  # fmt: skip
        assert stages["physical"].longest == result.physical_ns
        assert stages["software"].longest == result.trace.loop_latency_ns
        assert state["dose"]["spent"] > 0
        frames.close()


def test_describe_says_all_that_a_process_needs(rig_id: str) -> None:
    with running(rig_id, FakeDriver(modality="stem", commands=("Scan", "MoveProbe", "Blank"))) as rig:
        said = rig.ask(control.Describe())
        assert isinstance(said, Description)
        assert msgspec.convert(said.state["info"], InstrumentInfo) == rig.driver.describe()
        assert said.state["topics"] == {"camera": 128, "spectrum": 64}
        names = set(said.schema["$defs"])
        assert {"Scan", "MoveProbe", "Read"} <= names
        assert not names & {"Unblank", "SetBias", "ScanPath"}
        refused = rig.ask(Submit(c.Unblank(), "experiment", 1))
        assert isinstance(refused, Refused)
        assert refused.limit == "commands"


def test_a_lossless_reader_loses_nothing_and_the_source_waits(rig_id: str) -> None:
    with running(rig_id, FakeDriver(modality="stem", can_wait=True)) as rig:
        frames = Subscriber(rig.bus, "camera", "lossless", credit=True)  # without, 206 blocks overrun its depth of 64
        rig.take()
        rig.done(rig.send(c.Unblank()))
        reply = rig.send(c.Scan(Region(0.0, 0.0, 16e-9, 16e-9), (64, 64), 1e-4))
        count = 0
        while (block := frames.receive(0.5)) is not None:
            count += block.count
        assert rig.done(reply).count == count == 4096
        assert frames.stats.lost == 0
        frames.close()


def test_only_one_holds_control_and_the_operator_takes_it(rig_id: str) -> None:
    with running(rig_id, FakeDriver(modality="stem")) as rig:
        rig.take()
        assert rig.ask(control.TakeControl("other")).reason == "'experiment' holds control"
        assert isinstance(rig.ask(control.TakeControl("other", force=True)), Refused)
        old = rig.epoch
        taken = rig.ask(control.TakeControl("operator-1", force=True))
        assert taken.epoch > old
        assert isinstance(rig.ask(control.Heartbeat("experiment", old)), Refused)
        assert rig.send(c.Unblank()).limit == "lease"


def test_pause_holds_and_parks_resume_goes_on(rig_id: str) -> None:
    driver = FakeDriver(modality="stem", clock=VirtualClock(pace=4.0), limits=FREE)
    with running(rig_id, driver) as rig:
        reply = scanning(rig)
        rig.ask(c.Pause())
        clock = MonotonicClock()
        for _ in range(20):
            rig.ask(control.Heartbeat("experiment", rig.epoch))
            clock.wait_until(clock.now_ns() + 50_000_000)
        state = rig.ask(control.Describe()).state
        assert (state["paused"], state["parked"], state["blanked"]) == (True, True, True)
        before = len(driver.calls)
        clock.wait_until(clock.now_ns() + 50_000_000)
        assert len(driver.calls) == before
        rig.ask(c.Resume())
        result = rig.done(reply)
        assert (result.count, result.aborted, result.stopped) == (20 * 256, False, False)


def test_abort_ends_a_scan_and_nothing_else(rig_id: str) -> None:
    driver = FakeDriver(modality="stem", clock=VirtualClock(pace=1.0), limits=FREE)
    with running(rig_id, driver) as rig:
        reply = scanning(rig)
        rig.ask(control.Abort("enough"))
        result = rig.done(reply)
        assert (result.aborted, result.stopped) == (True, False)
        assert result.count < 20 * 256
        assert rig.done(rig.send(c.MoveProbe((1e-9, 0.0)))).generation > 0


def test_the_end_of_a_scan_that_stop_cut_off_says_so_before_the_stop_is_told(rig_id: str) -> None:
    driver = FakeDriver(modality="stem", clock=VirtualClock(pace=1.0), limits=FREE)
    with running(rig_id, driver) as rig:
        reply = scanning(rig)
        assert isinstance(rig.ask(c.Stop("enough")), Accepted)
        result = rig.done(reply)
        assert (result.aborted, result.stopped) == (True, True)


def test_stop_during_a_hanging_call_is_safe_and_says_so(rig_id: str) -> None:
    driver = FakeDriver(modality="stem", hang=("move_probe",))
    with running(rig_id, driver) as rig:
        rig.take()
        reply = rig.send(c.MoveProbe((1e-9, 0.0)))
        assert driver.hanging.wait(5.0)
        stopped = rig.ask(c.Stop("hangs"))
        assert isinstance(stopped, Accepted)
        rig.until(control.Done, id=reply.id)
        assert rig.send(c.Unblank()).limit == "latched fault"
        assert isinstance(rig.ask(control.Rearm("policy")), Refused)
        assert isinstance(rig.ask(control.Rearm("operator")), Accepted)
        assert rig.until(control.StateChange, target="proof test").state == "passed"
        assert rig.send(c.Unblank()).limit == "lease"  # a reset permits, it does not restart


class NeverSafe(FakeDriver):
    """Its beam can't be blanked."""

    def make_safe(self) -> None:
        super().make_safe()
        self.values["blanked"] = getattr(self, "closing", False)

    def close(self) -> None:
        self.closing = True
        super().close()


def test_it_does_not_arm_when_the_proof_test_fails(rig_id: str) -> None:
    with running(rig_id, NeverSafe(modality="stem")) as rig:
        state = rig.ask(control.Describe()).state
        assert state["armed"] is False
        assert isinstance(rig.ask(control.TakeControl("experiment")), Refused)
        refused = rig.ask(control.Rearm("operator"))
        assert "blanked reads False" in refused.reason
        assert "NOT SAFE" in rig.ask(c.Stop()).reason


def test_a_driver_without_a_declared_verb_does_not_start(rig_id: str) -> None:
    driver = FakeDriver()
    driver.set_beam = None  # type: ignore[assignment,method-assign]
    with Bus(rig_id, "instrument", local=True) as bus, pytest.raises(ContractError, match="set_beam"):
        run_instrument(bus, driver, stop=threading.Event())


def test_nonsense_on_the_wire_is_refused(rig_id: str) -> None:
    with running(rig_id, FakeDriver()) as rig:
        assert isinstance(decode_reply(rig.client.call(b"\x93nonsense", 5.0)), Refused)
        assert isinstance(rig.ask(control.Run("raster")), Refused)
        assert isinstance(rig.ask(control.Note("hello")), Accepted)
        assert rig.until(control.Remark).text == "hello"


def test_shutdown_goes_safe_and_ends(rig_id: str) -> None:
    driver = FakeDriver(modality="stem")
    with running(rig_id, driver) as rig:
        rig.take()
        rig.done(rig.send(c.Unblank()))
        assert isinstance(rig.ask(control.Shutdown()), Accepted)
