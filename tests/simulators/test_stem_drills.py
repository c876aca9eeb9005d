"""The simulated column under its alarms: it runs as shipped without one, and each drill ends in the safe state."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from probeloop.simulators.stem import StemSettings, StemSimulator
from probeloop.simulators.stem.instrument import BEAM_MONITOR
from probeloop.simulators.stem.monitor import BeamMonitor

from probeloop.bus.event import EventReader
from probeloop.bus.node import Bus
from probeloop.bus.request import Client
from probeloop.data import control
from probeloop.data.clock import MonotonicClock
from probeloop.data.commands import Scan, Unblank
from probeloop.data.control import Accepted, Submit, decode_event, decode_reply, encode
from probeloop.data.limits import Limits
from probeloop.data.scan import Region
from probeloop.data.settings import convert
from probeloop.instrument.service import run_instrument
from probeloop.rig.load import load
from probeloop.rig.schema import limits_of
from probeloop.testing.check_driver import check_driver
from probeloop.testing.local_instrument import LocalInstrument

SMALL: dict[str, Any] = {
    "pixels": 32, "pixel_angle": 8.0, "tile": 4, "carbon": 0.1, "crystal": 0.4, "pace": None, "settling": 0.0,
}  # fmt: skip
SCAN = Scan(Region(0, 0, 1e-9, 1e-9), (32, 32), 1e-4)
IMPATIENT = {"alarms": {"beam_monitor": {"hold": 0.1, "stuck_after": 0.2, "missing_after": 0.2}}}


def column(**parameters: Any) -> StemSimulator:
    return StemSimulator(StemSettings(**(SMALL | parameters)))


def narrowed(stem: StemSimulator, wanted: dict[str, Any]) -> Limits:
    return limits_of(stem.describe().limits, wanted)


@pytest.mark.parametrize(
    ("drill", "words"),
    [
        ("none", ""),
        ("high_current", "nA is above 1.1 nA"),
        ("stuck_sensor", "stuck at"),
        ("missing_sensor", "no value for"),
    ],
)
def test_a_drill_of_the_monitor_trips_after_its_time(drill: Any, words: str) -> None:
    stem = column(drill=drill, drill_after=0.2)
    rig = LocalInstrument(stem, narrowed(stem, IMPATIENT))
    rig.take()
    rig.do(Unblank())
    assert rig.do(SCAN)  # 0.1 s of the column's clock
    rig.advance(0.45)
    assert rig.desk.state.fault == ""
    rig.do(SCAN)
    rig.do(SCAN)
    rig.advance(0.45)
    assert words in rig.desk.state.fault
    assert bool(rig.desk.state.fault) == bool(words)
    if words:
        assert stem.read_back()["blanked"] is True
        assert isinstance(rig.rearm(), Accepted)  # the beam is off, so nothing is judged; it comes back with the beam
        rig.take()
        rig.do(Unblank())
        rig.advance(0.45)
        assert words in rig.desk.state.fault
    stem.close()


@pytest.mark.parametrize("most", [1, 256])
def test_a_dropped_and_a_doubled_frame_trip_nothing(most: int) -> None:
    """Frame 5,003 is lost and 9,000 comes twice, as in the demonstration of places."""
    stem = column(drop_frames=(5003,), double_frames=(9000,))
    rig = LocalInstrument(stem, narrowed(stem, {"missed_triggers": most}))
    rig.take()
    rig.do(Unblank())
    assert rig.do(Scan(Region(0, 0, 1e-9, 1e-9), (96, 96), 1e-4))
    rig.advance(0.1)
    assert rig.frames("camera") == 96 * 96
    assert rig.desk.state.fault == ""
    assert rig.handle(control.Describe()).state["alarms"]["pixels_without_frame"]["value"] == 1.0  # type: ignore[union-attr]
    stem.close()


def test_many_dropped_frames_in_a_row_trip() -> None:
    stem = column(drop_frames=tuple(range(100, 500)))
    rig = LocalInstrument(stem)
    rig.take()
    rig.do(Unblank())
    rig.do(SCAN)
    rig.advance(0.1)
    assert rig.desk.state.fault == "alarm pixels_without_frame: 400 px is above 256 px"
    stem.close()


def test_the_monitor_is_noisy_repeats_itself_from_its_seed_and_follows_the_beam() -> None:
    first, again = (BeamMonitor(BEAM_MONITOR, 3, "none", 0) for _ in range(2))
    readings = [first.read(50e-12, 0) for _ in range(400)]
    assert readings == [again.read(50e-12, 0) for _ in range(400)]
    assert len(set(readings)) == 400
    assert np.mean(readings) == pytest.approx(50e-12, rel=0.01)
    assert np.std(readings) == pytest.approx(0.55e-12, rel=0.15)
    stem = column(beam_current=1000.0)  # the highest that may be asked for is no alarm
    highest = max(stem.sense()["beam_monitor"] or 0.0 for _ in range(2000))
    assert 0.95e-9 < highest < BEAM_MONITOR.high
    stem.make_safe()
    assert abs(stem.sense()["beam_monitor"] or 0.0) < 1e-12
    stem.close()


@pytest.mark.parametrize("drill", ["high_current", "silent_camera"])
def test_it_keeps_its_contract_in_a_drill(drill: Any) -> None:
    assert check_driver(lambda: column(drill=drill, drill_after=1e5)) == []


class Served:
    """The column on a bus of this process, scanning."""

    def __init__(self, rig_id: str, stem: StemSimulator, limits: Limits) -> None:
        self.stop, ready = threading.Event(), threading.Event()
        self.bus, self.mine = Bus(rig_id, "instrument", local=True), Bus(rig_id, "test", local=True)
        self.client, self.reader = Client(self.mine, "instrument"), EventReader(self.mine)
        self.thread = threading.Thread(
            target=run_instrument, args=(self.bus, stem, limits), kwargs={"stop": self.stop, "ready": ready.set}
        )
        self.thread.start()
        assert ready.wait(20.0)
        self.epoch = self.ask(control.TakeControl("experiment")).epoch

    def ask(self, request: control.Request) -> Any:
        return decode_reply(self.client.call(encode(request), 10.0))

    def send(self, command: Any) -> Any:
        return self.ask(Submit(command, "experiment", self.epoch))

    def tripped(self, seconds: float) -> str:
        """Live as a commander does for `seconds`, or until it trips; return why it did."""
        clock = MonotonicClock()
        deadline = clock.now_ns() + round(seconds * 1e9)
        while clock.now_ns() < deadline:
            self.ask(control.Heartbeat("experiment", self.epoch))
            for event in map(decode_event, self.reader.read(0.1)):
                if isinstance(event, control.StateChange) and (event.target, event.state) == ("gate", "tripped"):
                    return event.reason
        return ""

    def close(self) -> None:
        self.stop.set()
        self.thread.join(20.0)
        self.client.close()
        self.reader.close()
        self.bus.close()
        self.mine.close()
        assert not self.thread.is_alive()


def test_the_demonstration_as_shipped_never_trips(rig_id: str) -> None:
    rig = load("stem")
    stem = StemSimulator(convert(StemSettings, rig.instrument.parameters, spelled=True))
    served = Served(rig_id, stem, limits_of(stem.describe().limits, rig.limits))
    try:
        served.send(Unblank())
        for _ in range(2):
            assert isinstance(served.send(Scan(Region(0, 0, 6e-9, 6e-9), (48, 48), 0.5e-3)), Accepted)
        assert served.tripped(3.0) == ""
        state = served.ask(control.Describe()).state
        assert state["generation"] >= 2  # it did scan
        assert [each["stands"] for each in state["alarms"].values()] == ["", "", ""]
        assert state["alarms"]["beam_monitor"]["value"] is not None
    finally:
        served.close()


def test_a_silent_camera_is_found_while_the_commander_lives(rig_id: str) -> None:
    stem = column(pace=1.0, drill="silent_camera", drill_after=0.3)
    served = Served(rig_id, stem, narrowed(stem, {"frame_timeout": 1.0}))
    try:
        served.send(Unblank())
        served.send(Scan(Region(0, 0, 1e-9, 1e-9), (64, 64), 1e-3))
        assert served.tripped(60.0).startswith("alarm frame_overdue: ")
        assert stem.read_back()["blanked"] is True
        assert isinstance(served.ask(control.Rearm("operator")), Accepted)  # the pump was let go
    finally:
        served.close()
