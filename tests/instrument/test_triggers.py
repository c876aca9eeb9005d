"""Lost triggers: pixels in a row without a frame trip, a single dropped or doubled frame never does."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spoilt import Spoilt

from probeloop.data import commands as c
from probeloop.data import control
from probeloop.data.axes import Axis, StreamSpec
from probeloop.data.control import Accepted, Done
from probeloop.data.driver import Acquisition
from probeloop.data.frame import FrameFlag
from probeloop.data.limits import Limits
from probeloop.data.scan import Region, visit_order
from probeloop.instrument.lines import Lines
from probeloop.instrument.triggers import MISSED, OVERDUE, Triggers, longest_run
from probeloop.testing.fake_driver import FAKE_LIMITS, SMALL_SCAN, FakeDriver
from probeloop.testing.local_instrument import LocalInstrument

SHAPE = (16, 16)
MISSED_FLAG, SETTLING, FLYBACK = int(FrameFlag.TRIGGER_MISSED), int(FrameFlag.SETTLING), int(FrameFlag.FLYBACK)


def limits(**changes: Any) -> Limits:
    return Limits(**{**{name: getattr(FAKE_LIMITS, name) for name in FAKE_LIMITS.__struct_fields__}, **changes})


def longest(index: Any, flags: Any = None, block: int = 7) -> int:
    """Return the longest run that a map of 16 x 16 reports for these frames."""
    spec = StreamSpec("camera", "frames", "<u2", (Axis("y", 16), Axis("x", 16)), (Axis("k", 2),))
    runs = [0]
    lines = Lines(spec, 1, lambda gap: None, runs.append)
    index = np.asarray(index, np.int64)
    flags = np.zeros(len(index), np.uint16) if flags is None else np.asarray(flags, np.uint16)
    for at in range(0, len(index), block):
        lines.add(index[at : at + block], flags[at : at + block], at)
    lines.close()
    return max(runs)


@given(st.lists(st.booleans(), max_size=60), st.integers(0, 9))
def test_the_longest_run_is_what_counting_one_by_one_finds(marked: list[bool], before: int) -> None:
    run = most = before
    for mark in marked:
        run = run + 1 if mark else 0
        most = max(most, run)
    if marked:
        assert longest_run(np.asarray(marked), before) == (most, run)


@pytest.mark.parametrize("order", ["raster", "serpentine"])
@pytest.mark.parametrize(("first", "count"), [(3, 1), (3, 5), (10, 20), (28, 8), (40, 100), (250, 6), (0, 3)])
def test_pixels_in_a_row_are_counted_in_the_order_of_the_visits(order: Any, first: int, count: int) -> None:
    visits = visit_order(SHAPE, order)
    assert longest(np.delete(visits, np.arange(first, first + count))) == count


def test_many_single_losses_are_no_run() -> None:
    assert longest(np.arange(256)[np.arange(256) % 3 != 0]) == 1


def test_dropped_and_doubled_frames_are_counted_as_what_they_are() -> None:
    assert longest([*range(53), *range(54, 90), 90, 90, *range(91, 256)]) == 1
    assert longest(np.arange(256)) == 0
    assert longest(np.tile(np.arange(256), 3)) == 0


def test_a_whole_line_between_ends_a_run_and_what_was_excused() -> None:
    lost = {*range(27, 32), *range(48, 53)}  # the end of one line and the beginning of the next but one
    assert longest([i for i in range(256) if i not in lost]) == 5
    early = 100  # the free-running camera before the first trigger
    rest = [i for i in range(256) if not 40 <= i < 60]
    assert longest([*[-1] * early, *rest], [*[SETTLING] * early, *[0] * len(rest)]) == 20


def test_a_scan_without_any_frame_lost_all_of_them() -> None:
    assert longest([]) == 256


@pytest.mark.parametrize("lost", [0, 40])
@pytest.mark.parametrize("settling", [5, 100])
def test_frames_of_a_settling_lens_lost_no_trigger(settling: int, lost: int) -> None:
    before, after = np.arange(40), np.arange(40 + settling + lost, 256)
    index = [*before, *[-1] * settling, *after]
    flags = [*[0] * 40, *[SETTLING] * settling, *[0] * len(after)]
    assert longest(index, flags) == lost
    flyback = [FLYBACK if flag else 0 for flag in flags]
    assert longest(index, flyback) == settling + lost  # a frame of the way back stands for no pixel


def scanned(order: Any, flags: Any = None, most: int = 256) -> LocalInstrument:
    driver = Spoilt(modality="stem", limits=limits(missed_triggers=most))
    driver.order, driver.flags = order, flags
    rig = LocalInstrument(driver)
    rig.take()
    rig.do(c.Unblank())
    rig.do(SMALL_SCAN)
    rig.advance(0.1)
    return rig


def test_too_many_pixels_in_a_row_trip() -> None:
    rig = scanned([*range(40), *range(105, 256)], most=64)
    assert rig.desk.state.fault == f"alarm {MISSED}: 65 px is above 64 px"
    assert rig.driver.values["blanked"]  # type: ignore[attr-defined]
    assert isinstance(rig.rearm(), Accepted)  # it is over: a scan that begins counts anew
    rig.driver.order = np.arange(256)  # type: ignore[attr-defined]
    rig.take()
    rig.do(c.Unblank())
    rig.do(SMALL_SCAN)
    rig.advance(0.1)
    assert rig.desk.state.fault == ""


def test_a_run_at_the_very_end_trips_too() -> None:
    assert MISSED in scanned(np.arange(190), most=64).desk.state.fault


def test_frames_that_no_trigger_asked_for_trip_at_once() -> None:
    """A dead trigger line and a camera that runs on: frames come, and none of them is a pixel."""
    order, flags = np.full(70, -1), np.full(70, MISSED_FLAG, np.uint16)
    rig = scanned([*range(256), *order], [*np.zeros(256, np.uint16), *flags], most=64)
    assert rig.desk.state.fault == f"alarm {MISSED}: 70 px is above 64 px"


def test_a_new_acquisition_owes_nothing_of_the_old_one() -> None:
    order, flags = [*range(256), *[-1] * 40], np.repeat([0, MISSED_FLAG], [256, 40])
    rig = scanned(order, flags, most=64)
    rig.driver.order, rig.driver.flags = [*[-1] * 40, *range(256)], flags[::-1]  # type: ignore[attr-defined]
    rig.do(SMALL_SCAN)
    rig.advance(0.1)
    assert rig.desk.state.fault == ""
    rig.driver.order, rig.driver.flags = np.arange(256), None  # type: ignore[attr-defined]
    rig.do(SMALL_SCAN)
    assert rig.desk.triggers.reading(0).values[MISSED] == 0


def test_one_good_frame_ends_a_run_and_the_longest_is_kept() -> None:
    triggers = Triggers()
    for count in (40, 40):
        triggers.frames(np.full(count, MISSED_FLAG, np.uint16))
        triggers.frames(np.zeros(1, np.uint16))
    assert triggers.reading(0).values[MISSED] == 40
    triggers.missed(3)
    assert triggers.reading(0).values[MISSED] == 40
    triggers.reset()
    assert triggers.reading(0).values[MISSED] == 0


@pytest.mark.parametrize("most", [1, 256])
def test_a_single_dropped_or_doubled_frame_never_trips(most: int) -> None:
    order = [*range(53), *range(54, 90), 90, -1, *range(91, 256)]
    flags = np.zeros(len(order), np.uint16)
    flags[90] = MISSED_FLAG | int(FrameFlag.PATTERN_REPEAT)
    assert scanned(order, flags, most).desk.state.fault == ""


RUNNING_ON = [*range(256), *[-1] * 70]
MUTATIONS = {  # what is taken away, and the lost triggers that then pass
    (Triggers, "missed"): ([*range(40), *range(105, 256)], None),
    (Lines, "_count_run"): ([*range(40), *range(105, 256)], None),
    (Lines, "close"): (range(190), None),
    (Triggers, "frames"): (RUNNING_ON, np.repeat([0, MISSED_FLAG], [256, 70])),
}


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: f"{each[0].__name__}.{each[1]}")
def test_each_way_of_losing_triggers_is_found_by_one_part(mutation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    order, flags = MUTATIONS[mutation]
    assert MISSED in scanned(list(order), flags, most=64).desk.state.fault
    monkeypatch.setattr(*mutation, lambda *arguments: None)
    assert scanned(list(order), flags, most=64).desk.state.fault == ""


def test_giving_control_back_in_the_middle_of_a_scan_is_no_lost_trigger() -> None:
    """make_safe ends the driver's frames: that scan is aborted, and what did not come was not to come."""
    driver = FakeDriver(modality="stem", limits=limits(missed_triggers=4))
    rig = LocalInstrument(driver)
    rig.take()
    rig.do(c.Unblank())

    def third(call: Any) -> None:
        if call.verb == "frames" and sum(made.verb == "frames" for made in driver.calls) == 3:
            driver.watch = lambda call: None
            rig.handle(control.ReleaseControl("experiment"))

    driver.watch = third
    rig.do(SMALL_SCAN)
    rig.advance(0.2)
    assert rig.desk.state.fault.startswith("after control was given back")  # as before: the frames still hung inside
    assert MISSED not in rig.desk.state.fault
    assert next(e.result for e in rig.events if isinstance(e, Done) and e.result.topic).aborted


class Untimed(FakeDriver):
    """It says nothing of how long its frames take, nor does a spectrum; a scan settles for 1 s before its first."""

    def scan(self, command: c.Scan) -> Acquisition:
        return replace(super().scan(command), t_settled_ns=self.clock.now_ns() + 1_000_000_000, frame_period_ns=1)

    def acquire_spectrum(self, command: c.AcquireSpectrum) -> Acquisition:
        return replace(super().acquire_spectrum(command), frame_period_ns=0)


SLOW = c.Scan(Region(0.0, 0.0, 16e-9, 16e-9), (4, 4), 1.0)
FAST = c.Scan(Region(0.0, 0.0, 16e-9, 16e-9), (4, 4), 1e-4)


@pytest.mark.parametrize(
    ("driver", "command"),
    [
        (FakeDriver, SLOW),
        (FakeDriver, msgspec.structs.replace(FAST, flyback_time=1.0)),
        (Untimed, FAST),
        (Untimed, c.AcquireSpectrum((0.0, 0.0), c.EDS(1.0))),
    ],
    ids=["exposure", "flyback", "settling", "spectrum"],
)
def test_a_silent_camera_trips_when_its_frame_is_overdue_and_not_before(driver: Any, command: Any) -> None:
    patient = limits(frame_timeout=2.0, dwell_time=(1e-6, 1.0), dose=None, area_dose=None)
    made = driver(modality="stem", hang=("frames",), limits=patient)
    rig = LocalInstrument(made)
    rig.take()
    rig.do(c.Unblank())
    assert isinstance(rig.submit(command), Accepted)
    scan = threading.Thread(target=rig.desk.run_next)
    scan.start()
    assert made.hanging.wait(10.0)
    for _ in range(58):  # 1 s by its own numbers and 2 s of patience, less a little
        rig.beat()
        rig.advance(0.05)
    assert rig.desk.state.fault == ""
    for _ in range(5):
        rig.beat()
        rig.advance(0.05)
    scan.join(10.0)
    assert rig.desk.state.fault.startswith(f"alarm {OVERDUE}: 2.")
    assert rig.desk.state.fault.endswith(" s is above 2 s")
    assert isinstance(rig.rearm(), Accepted)


def test_a_wait_is_over_when_its_frame_is_there() -> None:
    triggers = Triggers()
    with triggers.waiting(1_000_000_000):
        assert triggers.reading(1_500_000_000).values[OVERDUE] == 0.5
        assert triggers.reading(500_000_000).values[OVERDUE] == 0.0
    assert triggers.reading(9_000_000_000).values[OVERDUE] == 0.0
