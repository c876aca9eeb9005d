"""Frames of every kind arrive as they are, at their pixel; the driver keeps its contract."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from merlin_site import FIELD, expected, scan, settings, site, take
from probeloop.drivers.merlin import Merlin
from probeloop.simulators.servers.merlin import MerlinServer, PoolSource

from probeloop.data import commands as c
from probeloop.data.errors import DriverError
from probeloop.data.frame import FrameBuffer, FrameFlag
from probeloop.data.scan import Region
from probeloop.testing.check_driver import check_driver

DTYPES = {1: "<u1", 6: "<u1", 12: "<u2", 24: "<u4"}


@pytest.mark.parametrize("quad", [False, True])
@pytest.mark.parametrize("form", ["processed", "raw"])
def test_every_counter_depth_arrives_bit_for_bit(form: str, quad: bool) -> None:
    with site((64, 128), quad=quad, file_format=form) as (driver, _, source):
        rng = np.random.default_rng(2)
        for depth, dtype in DTYPES.items():
            source.frames[:] = rng.integers(0, 1 << depth, source.frames.shape)
            source.frames[3, 5, 7] = 0xFFFFFF  # more than a counter can hold: it stops when it is full
            driver.set_detector(c.SetDetector(bit_depth=depth))  # type: ignore[arg-type]
            made = take(driver.scan(scan((5, 9))))
            assert made.error is None
            assert made.acquisition.spec.dtype == dtype
            assert made.pixels.tolist() == list(range(45))
            assert np.array_equal(made.data, expected(source, depth, np.arange(45)))
            assert made.acquisition.settings["header_counter_depth"] == depth


def test_columns_say_where_and_when() -> None:
    with site(rate=200.0) as (driver, _, source):
        taken = take(driver.scan(scan((2, 4), 5e-3, frames=2)))
        assert taken.scan_index.tolist() == [*range(8), *range(8)]
        assert np.allclose(taken.position[:8], Region(0.0, 0.0, FIELD, FIELD).positions((2, 4)))
        starts, ends = taken.flags & FrameFlag.LINE_START, taken.flags & FrameFlag.LINE_END
        assert np.flatnonzero(starts).tolist() == [0, 4, 8, 12]
        assert np.flatnonzero(ends).tolist() == [3, 7, 11, 15]
        steps = np.diff(taken.time_ns)
        assert steps.sum() == pytest.approx(15 * 5e6, rel=0.2)  # the detector's stamps, not when they came
        assert steps.min() >= 0
        good = taken.data == expected(source, 12, np.arange(16))
        assert good.all()
        spec = taken.acquisition.spec
        assert (spec.sync, spec.exposure_ns, spec.nav_shape, spec.frame_shape) == (
            "frame", 5_000_000, (2, 4), (32, 64)
        )  # fmt: skip
        assert [axis.scale for axis in spec.sig] == [None, None]
        assert [axis.units for axis in spec.nav] == ["m", "m"]


def test_it_keeps_its_contract() -> None:
    with MerlinServer(PoolSource((16, 64)), rate=0.0) as server:
        problems = check_driver(lambda: Merlin(settings(server)))
        assert [each for each in problems if "safe_state is empty" not in each] == []


@pytest.mark.parametrize("trigger", ["internal", "soft", "external"])
def test_every_trigger_runs(trigger: str) -> None:
    with site(trigger=trigger, rate=2000.0) as (driver, server, _source):
        for _ in range(2):
            taken = take(driver.scan(scan((3, 4))))
            assert taken.error is None
            assert taken.pixels.tolist() == list(range(12))
            assert taken.acquisition.spec.sync == ("pixel" if trigger == "external" else "frame")
        now = server.commands.now
        assert now["TRIGGERSTART"] == {"internal": 0, "soft": 5, "external": 1}[trigger]
        assert now["NUMFRAMESPERTRIGGER"] == (1 if trigger == "external" else 12)
        assert (now["NUMFRAMESTOACQUIRE"], now["ACQUISITIONPERIOD"]) == (12, 1.0)
        assert server.runs == 2


def test_what_is_set_is_read_back() -> None:
    with site(pixel_angle=0.5, can_wait=True) as (driver, server, _):
        driver.set_detector(c.SetDetector(exposure=2e-3, threshold=25e3, bit_depth=6))
        assert server.commands.now["THRESHOLD0"] == 25.0
        told = driver.read_back()
        assert (told["exposure"], told["threshold"], told["bit_depth"]) == (2e-3, 25e3, 6)
        assert (told["acquiring"], told["connected"], told["temperature"]) == (False, True, 25.0)
        reference = take(driver.acquire_reference(c.AcquireReference("dark", 3)))
        assert reference.error is None
        assert reference.acquisition.spec.can_wait
        assert reference.scan_index.tolist() == [-1, -1, -1]
        assert server.commands.now["ACQUISITIONPERIOD"] == 2.0
        with pytest.raises(DriverError, match="longer than the dwell time"):
            driver.scan(scan((2, 2), 1e-3))
        info = driver.describe()
        assert info.safe_readback == {"acquiring": False}
        assert [each.value for each in info.calibrations] == [(0.5e-3,)]


@pytest.mark.parametrize(("shape", "buffer", "count"), [((16, 64), 1, (50, 40)), ((64, 64), 8, (50, 60))])
def test_a_reader_that_is_late_loses_nothing(shape: tuple[int, int], buffer: int, count: tuple[int, int]) -> None:
    pause = threading.Event()
    with site(shape, buffer=buffer) as (driver, _, source):
        acquisition = driver.scan(scan(count))
        next(acquisition.frames)
        n, k, frames = 0, 0, FrameBuffer.allocate(acquisition.spec, 61)
        while n < count[0] * count[1]:
            rows = acquisition.frames.send(frames)
            pixels = np.arange(n, n + rows)
            assert np.array_equal(frames.scan_index[:rows], pixels)
            assert np.array_equal(frames.data[:rows], expected(source, 12, pixels))
            n, k = n + rows, k + 1
            pause.wait(0.05 if k % 16 == 1 else 0.0)  # the ring fills up, and is emptied
        with pytest.raises(StopIteration):
            acquisition.frames.send(frames)
        assert driver.read_back()["frames_missing"] == 0


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (c.Scan(Region(0.0, 0.0, FIELD / 2, FIELD / 2), (4, 4), 1e-3), "the scan unit decides which region"),
        (c.Scan(Region(1e-9, 0.0, FIELD, FIELD), (4, 4), 1e-3), "the scan unit decides which region"),
        (c.Scan(Region(0.0, 0.0, FIELD, FIELD), (4, 4), 1e-3, "serpentine"), "line by line"),
        (c.Scan(Region(0.0, 0.0, FIELD, FIELD), (4, 4), 1e-3, channels=("haadf",)), "one channel"),
        (c.Scan(Region(0.0, 0.0, FIELD, FIELD), (4000, 4000), 1e-3, frames=7), "112000000 frames in one run"),
        (c.SetDetector(bit_depth=16), "no counter of 16 bits"),
        (c.SetDetector(binning=2), "no region of interest or binning"),
        (c.SetDetector(inserted=False), "can't be retracted"),
        (c.AcquireReference("zero_loss"), "takes no zero_loss"),
    ],
)
def test_what_a_detector_alone_can_not_do_is_refused(command: c.Command, words: str) -> None:
    verbs = {"Scan": "scan", "SetDetector": "set_detector", "AcquireReference": "acquire_reference"}
    with site() as (driver, server, _):
        with pytest.raises(DriverError, match=words):
            getattr(driver, verbs[c.name_of(command)])(command)
        assert server.runs == 0
