"""The driver against a control unit that speaks its protocol: what was sent arrives at its pixel, and is counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from dectris_words import FIELD, POOL, counts, equal, pumped, scan, settings
from probeloop.drivers.dectris import Dectris
from probeloop.simulators.servers.dectris import DectrisServer
from probeloop.simulators.servers.dectris_sending import Faults

from probeloop.api import AcquireReference, DriverError, FrameFlag, Region, Scan, SetDetector
from probeloop.testing.check_driver import check_driver

BOTH = pytest.mark.parametrize("stream", ["v1", "v2"])


@BOTH
@pytest.mark.parametrize("trigger", ["external", "internal", "soft"])
def test_it_keeps_its_contract(stream: str, trigger: str) -> None:
    with DectrisServer(POOL, rate=None) as server:
        assert check_driver(lambda: Dectris(settings(server, stream, trigger=trigger))) == []


@BOTH
@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("compression", ["bslz4", "lz4"])
def test_frames_arrive_bit_for_bit(stream: str, bits: int, compression: str) -> None:
    masked = np.zeros((24, 40), bool)
    masked[3, 5] = True
    with DectrisServer(POOL, bits=bits, masked=masked) as server:
        driver = Dectris(settings(server, stream, compression=compression))
        made = driver.scan(scan(4, 5))
        got = pumped(made)
        assert got.error is None
        assert got.scan_index.tolist() == list(range(20))
        assert equal(got, server)
        assert got.data.dtype == np.dtype(f"<u{bits // 8}")
        assert (got.data[:, 3, 5] == made.settings["masked_value"]).all()  # what is no count stays what it is
        assert counts(driver) == {"received": 20}
        driver.close()


@pytest.mark.parametrize("grouping", ["image", "single", "glued"])
@pytest.mark.parametrize("trigger", ["external", "internal"])
def test_every_grouping_of_stream_v1(grouping: Any, trigger: str) -> None:
    with DectrisServer(POOL, grouping=grouping) as server:
        driver = Dectris(settings(server, "v1", trigger=trigger))
        for _ in range(2):
            got = pumped(driver.scan(scan(3, 4)))
            assert got.error is None
            assert got.scan_index.tolist() == list(range(12))
            assert equal(got, server)
        driver.close()


def test_the_columns_say_where_and_when() -> None:
    with DectrisServer(POOL, rate=200) as server:
        driver = Dectris(settings(server, trigger="external", pixel_angle=2.0))
        made = driver.scan(scan(4, 5, frames=2))
        got = pumped(made)
        assert made.spec.nav_shape == (4, 5)
        assert (made.spec.sync, made.spec.stamp, made.spec.origin) == ("pixel", "arrival", "experiment")
        assert [(a.name, a.size, a.scale, a.units) for a in made.spec.sig] == [
            ("ky", 24, 2e-3, "rad"),
            ("kx", 40, 2e-3, "rad"),
        ]
        assert got.scan_index.tolist() == [*range(20), *range(20)]
        again = (got.flags & FrameFlag.REPEAT_VISIT) != 0
        assert again.tolist() == [False] * 20 + [True] * 20
        assert ((got.flags & FrameFlag.LINE_START) != 0).tolist() == [n % 5 == 0 for n in range(40)]
        assert ((got.flags & FrameFlag.LINE_END) != 0).tolist() == [n % 5 == 4 for n in range(40)]
        assert np.allclose(got.position[:20], Region(0.0, 0.0, *FIELD).positions((4, 5)))
        assert (np.diff(got.time_ns) >= 0).all()
        assert got.time_ns[-1] - got.time_ns[0] > 20e6
        driver.close()


def test_without_an_angle_the_detector_is_uncalibrated() -> None:
    with DectrisServer(POOL) as server:
        driver = Dectris(settings(server))
        assert driver.describe().calibrations == ()
        made = driver.scan(scan(1, 1))
        assert [(axis.scale, axis.units) for axis in made.spec.sig] == [(None, "px")] * 2
        pumped(made)
        driver.close()
        declared = settings(server, pixel_angle=2.0, convergence_angle=25.0, pattern_centre=(11.5, 19.5))
        known = {each.kind: each.value for each in Dectris(declared).describe().calibrations}
        assert known == {"detector_scale": (2e-3,), "convergence_angle": (25e-3,), "pattern_centre": (11.5, 19.5)}


@BOTH
def test_what_goes_wrong_is_counted_exactly(stream: str) -> None:
    """Random faults of every kind: the counts are those that were injected, the good frames stay at their pixels."""
    kinds = ["size", "cut", "shape", "type", *(["flip", "block"] if stream == "v1" else ["block"])]
    with DectrisServer(POOL) as server:
        driver = Dectris(settings(server, stream, verify=True))
        for seed in range(12):
            rng = np.random.default_rng(seed)
            ny, nx = int(rng.integers(2, 7)), int(rng.integers(2, 9))
            total = ny * nx
            numbers = rng.permutation(total)
            drop, bad, twice = np.split(numbers, np.sort(rng.integers(0, total // 2 + 1, 2)))[:3]
            twice, junk = twice[: total // 3], rng.permutation(total)[: int(rng.integers(0, 4))]
            server.faults = Faults(
                drop=frozenset(drop.tolist()), duplicate=frozenset(twice.tolist()), garbage=frozenset(junk.tolist()),
                corrupt={int(number): str(rng.choice(kinds)) for number in bad},
                stale=int(rng.integers(0, 4)), extra=int(rng.integers(0, 4)),
            )  # fmt: skip
            before = server.sent
            got = pumped(driver.scan(scan(ny, nx)), int(rng.integers(1, 12)))
            extra = server.sent - before - (total - len(drop))  # the driver disarms, which cuts them short
            assert 0 <= extra <= server.faults.extra
            lost = len(drop) + len(bad)
            wanted = {
                "received": total - lost, "lost": lost, "repeated": len(twice), "refused": len(bad),
                "stale": server.faults.stale, "garbage": len(junk), "beyond": extra,
            }  # fmt: skip
            assert counts(driver) == {name: number for name, number in wanted.items() if number}, seed
            assert equal(got, server)
            good = got.scan_index >= 0
            missing = set(drop.tolist()) | set(bad.tolist())
            assert got.scan_index[good].tolist() == [n for n in range(total) if n not in missing]
            repeats = (got.flags & FrameFlag.PATTERN_REPEAT) != 0
            assert np.array_equal(repeats, ~good)
            assert repeats.sum() == len(twice)
        driver.close()


def test_several_channels_lead_the_frame() -> None:
    names = ("threshold_1", "threshold_2")
    with DectrisServer(POOL, channels=names) as server:
        driver = Dectris(settings(server, channels=("threshold_2", "threshold_1")))
        made = driver.scan(scan(2, 3))
        got = pumped(made)
        assert [channel.name for channel in made.spec.channels] == ["threshold_2", "threshold_1"]
        assert got.data.shape == (6, 2, 24, 40)
        assert all(np.array_equal(got.data[n, c], server.expected(n)) for n in range(6) for c in range(2))
        driver.close()
        other = Dectris(settings(server, channels=("difference",)))
        assert pumped(other.scan(scan(1, 2))).error is not None
        assert other.read_back()["remark"].startswith(
            "frame 0 refused: no channel 'difference' in it, only threshold_1"
        )
        other.close()


@BOTH
def test_references_are_frames_without_a_pixel(stream: str) -> None:
    with DectrisServer(POOL) as server:
        driver = Dectris(settings(server, stream, trigger="external"))
        made = driver.acquire_reference(AcquireReference("dark", 5))
        got = pumped(made)
        assert made.spec.sync == "none"
        assert got.scan_index.tolist() == [-1] * 5
        assert np.array_equal(got.data, np.stack([server.expected(n) for n in range(5)]))
        assert counts(driver) == {"received": 5}
        with pytest.raises(DriverError, match="takes no zero_loss reference"):
            driver.acquire_reference(AcquireReference("zero_loss"))
        driver.close()


def test_it_is_set_and_read_back() -> None:
    with DectrisServer(POOL) as server:
        driver = Dectris(settings(server))
        driver.set_detector(SetDetector(inserted=True, exposure=0.02, threshold=42e3, bit_depth=32))
        values = driver.read_back()
        assert (values["exposure"], values["threshold"], values["bit_depth"]) == (0.02, 42e3, 32)
        assert (values["temperature"], values["humidity"], values["state"]) == (24.5, 12.0, "idle")
        assert values["acquiring"] is False
        made = driver.scan(scan(1, 2, 0.05))
        assert (server.config.get("count_time"), server.config.get("frame_time")) == (0.02, 0.05)
        assert made.settings["count_time"] == 0.02
        assert made.settings["series"] == 1
        assert driver.read_back()["acquiring"] is True
        assert made.spec.exposure_ns == 20_000_000
        assert pumped(made).data.dtype == np.dtype("<u4")
        driver.set_detector(SetDetector(roi=(0, 0, 24, 40)))
        for command, words in (
            (SetDetector(inserted=False), "does not move"),
            (SetDetector(binning=2), "no binning"),
            (SetDetector(roi=(0, 0, 8, 8)), "no region by its corners"),
            (SetDetector(bit_depth=12), "allowed: 8, 16, 32"),
            (SetDetector(threshold=1.0), "allowed: 1000 to 200000"),
            (SetDetector(exposure=1e-9), "allowed: 1e-07 to 3600"),
        ):
            with pytest.raises(DriverError, match=words):
                driver.set_detector(command)
        driver.close()


def test_what_the_scan_unit_decides_is_refused() -> None:
    with DectrisServer(POOL) as server:
        driver = Dectris(settings(server))
        region, part = Region(0.0, 0.0, *FIELD), Region(0.0, 0.0, FIELD[0] / 2, FIELD[1])
        for command, words in (
            (Scan(part, (2, 2), 1e-3), "scan unit decides what is scanned"),
            (Scan(region, (2, 2), 1e-3, "serpentine"), "order = 'raster'"),
            (Scan(region, (2, 2), 1e-3, flyback_time=1e-3), "no flyback"),
            (Scan(region, (1_000_000, 1_000_000), 1e-3), "at most in a series"),
        ):
            with pytest.raises(DriverError, match=words):
                driver.scan(command)
        driver.set_detector(SetDetector(exposure=0.02))
        with pytest.raises(DriverError, match=r"an exposure of 0\.02 s in a dwell time of 0\.001 s"):
            driver.scan(scan(2, 2))
        driver.close()
        outside = Dectris(settings(server, trigger="external"))
        assert pumped(outside.scan(Scan(region, (2, 2), 1e-3, flyback_time=1e-3))).error is None
        outside.close()
