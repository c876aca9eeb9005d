"""Which frame is which pixel: dropped and doubled frames, settling, broken drivers, block sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from spoilt import Spoilt

from probeloop.bus.topic import largest_block
from probeloop.data import commands as c
from probeloop.data.axes import Axis, StreamSpec
from probeloop.data.clock import ManualClock
from probeloop.data.control import Done, Failed, Gap, Remark
from probeloop.data.driver import Acquisition
from probeloop.data.frame import FrameFlag, block_bytes
from probeloop.instrument.lines import Lines
from probeloop.instrument.pump import BLOCK_BYTES, block_capacity, most_frames
from probeloop.testing.fake_driver import SMALL_SCAN, FakeDriver
from probeloop.testing.local_instrument import LocalInstrument, LocalOutlet


def lit(driver: FakeDriver) -> LocalInstrument:
    rig = LocalInstrument(driver)
    rig.take()
    rig.do(c.Unblank())
    return rig


def gaps(rig: LocalInstrument) -> list[Gap]:
    return [event for event in rig.events if isinstance(event, Gap)]


def test_a_dropped_and_a_doubled_frame_are_named_by_their_pixel() -> None:
    driver = Spoilt(modality="stem")
    driver.order = [*range(53), *range(54, 90), 90, 90, *range(91, 256)]
    rig = lit(driver)
    assert rig.do(SMALL_SCAN)
    found = gaps(rig)
    assert [(gap.count, gap.pixels) for gap in found] == [(1, (53,)), (0, (90,))]
    assert rig.frames("camera") == 256


def test_a_lost_line_a_lost_end_and_a_repeat_are_named() -> None:
    driver = Spoilt(modality="stem")
    driver.order = [*range(32), *range(48, 60), -1, *range(60, 250)]
    driver.flags = np.zeros(len(driver.order), np.uint16)
    driver.flags[44] = FrameFlag.PATTERN_REPEAT
    rig = lit(driver)
    rig.do(SMALL_SCAN)
    named = [gap.pixels for gap in gaps(rig)]
    assert tuple(range(32, 48)) in named
    assert tuple(range(250, 256)) in named
    assert (59,) in named


def test_an_aborted_scan_accuses_nobody() -> None:
    spec = StreamSpec("camera", "frames", "<u2", (Axis("y", 4), Axis("x", 4)), (Axis("k", 2),))
    told: list[Gap] = []
    lines = Lines(spec, 1, told.append)
    lines.add(np.arange(6), np.zeros(6, np.uint16), 0)
    assert told == []  # closing it is left out: the rest was never to come
    lines.close()
    assert told[0].count == 10


def test_serpentine_and_several_frames_of_a_map() -> None:
    rig = lit(FakeDriver(modality="stem"))
    rig.do(c.Scan(SMALL_SCAN.region, (16, 16), 1e-4, "serpentine", 3))
    assert gaps(rig) == []
    assert rig.frames("camera") == 3 * 256


def test_frames_before_the_change_has_settled_are_flagged_and_never_valid() -> None:
    """With a lens of 200 ms and 10,000 frames/s nobody uses a frame of the old state."""

    class Early(FakeDriver):
        def scan(self, command: c.Scan) -> Acquisition:
            made = super().scan(command)
            return replace(made, t_settled_ns=self.clock.now_ns() + 10_000_000)

    driver = Early(modality="stem", settling={"SetAberrations": 0.2})
    rig = lit(driver)
    before = driver.clock.now_ns()
    rig.do(c.SetAberrations({"C10": 1e-8}))
    rig.do(SMALL_SCAN)
    result = next(e.result for e in reversed(rig.events) if isinstance(e, Done))
    blocks = rig.topics["camera"].blocks
    flags = np.concatenate([block.frame_flags for block in blocks])
    times = np.concatenate([block.time_ns for block in blocks])
    settled = before + 210_000_000
    assert ((flags & FrameFlag.SETTLING) > 0).tolist() == (times < settled).tolist()
    assert result.first_valid_index == int(np.argmax(times >= settled)) == 100


def test_a_driver_that_lies_about_its_frames_fails_the_command() -> None:
    driver = Spoilt(modality="stem")
    driver.order = [0, 1, 256]
    rig = lit(driver)
    rig.do(SMALL_SCAN)
    failed = [event for event in rig.events if isinstance(event, Failed)]
    assert "outside the map" in failed[0].reason
    assert rig.topics["camera"].blocks[-1].flags == 1 | 2 | 4
    assert rig.do(c.MoveProbe((1e-9, 0.0)))  # and only that command


def test_a_spectrum_is_one_block() -> None:
    rig = lit(FakeDriver(modality="stem"))
    rig.do(c.AcquireSpectrum((0.0, 0.0), c.Diffraction(1e-3)))
    assert [(block.count, int(block.flags)) for block in rig.topics["spectrum"].blocks] == [(1, 3)]


@pytest.mark.parametrize(("pixels", "period"), [(8, 0), (256, 0), (1024, 0), (256, 1_000_000), (8, 100_000)])
def test_a_block_closes_at_one_mebibyte_and_two_milliseconds(pixels: int, period: int) -> None:
    spec = StreamSpec("camera", "frames", "<u2", (), (Axis("ky", pixels), Axis("kx", pixels)))
    made = Acquisition("camera", spec, (_ for _ in ()), 0, period)  # type: ignore[arg-type]
    n = block_capacity(made)
    assert n >= 1
    assert n == 1 or block_bytes(spec, n) <= BLOCK_BYTES
    assert not period or n == 1 or n * period <= 2_000_000
    assert most_frames(spec) == 1 or block_bytes(spec, most_frames(spec)) <= BLOCK_BYTES


class Blocked(LocalOutlet):
    """A topic whose reader gives no credit for a while."""

    def __init__(self, clock: ManualClock, seconds: float) -> None:
        super().__init__()
        self.clock, self.until = clock, clock.now_ns() + seconds * 1e9
        self.blocked_on = "recorder"
        self.news = ["recorder reads camera again"]

    def wait_for_credit(self, timeout_s: float, cancelled: Any = None) -> bool:
        if self.clock.now_ns() >= self.until or (cancelled is not None and cancelled()):
            return self.clock.now_ns() >= self.until
        self.clock.advance(timeout_s)
        return False

    def notices(self) -> list[str]:
        found, self.news = (self.news, []) if self.clock.now_ns() >= self.until else ([], self.news)
        return found


@pytest.mark.parametrize(("seconds", "said"), [(1.0, False), (5.0, True)])
def test_a_long_wait_for_a_reader_is_said_once_and_so_is_its_end(seconds: float, said: bool) -> None:
    rig = lit(FakeDriver(modality="stem"))
    rig.topics["camera"] = Blocked(rig.clock, seconds)
    assert rig.do(SMALL_SCAN)
    told = [event.text for event in rig.events if isinstance(event, Remark)]
    long = [
        "the acquisition waits for recorder since 2 s: it is slow, or stopped. Nothing is lost",
        "recorder reads camera again",
        "the acquisition goes on after 5 s",
    ]
    assert told == (long if said else ["recorder reads camera again"])
    assert rig.frames("camera") == 256


def test_a_wait_for_a_reader_ends_with_an_abort() -> None:
    rig = lit(FakeDriver(modality="stem"))
    topic = rig.topics["camera"] = Blocked(rig.clock, 1e6)
    advance = rig.clock.advance

    def abort_later(seconds: float) -> None:
        advance(seconds)
        if rig.clock.now_ns() > 10_000_000_000:
            rig.desk.scan.abort()

    rig.clock.advance = abort_later  # type: ignore[method-assign]
    rig.do(SMALL_SCAN)
    assert [int(block.flags) for block in topic.blocks] == [1 | 2 | 4]


@pytest.mark.parametrize("frame", [1, 4, 16, 400, 2048, 1 << 17, 3 << 20])
def test_the_budget_of_memory_knows_the_largest_block(frame: int) -> None:
    """What the rig reckons with before it starts is no less than what the pump then asks for, and at most twice."""
    spec = StreamSpec("camera", "frames", "|u1", (), (Axis("k", frame),))
    asked = block_bytes(spec, most_frames(spec))
    assert asked - 4096 <= largest_block("camera", frame) <= max(2 * asked, asked + 4096)
    single = block_bytes(spec, 1)
    assert single <= largest_block("spectrum", frame) + 4096
    assert largest_block("spectrum", frame) <= max(frame, single + 4096)
