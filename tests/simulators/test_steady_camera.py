"""The camera that waits for nobody: its frames are what it says they are, and what it misses it counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from probeloop.simulators.steady_camera import SteadyCamera, SteadyCameraSettings

from probeloop.data.clock import VirtualClock
from probeloop.data.commands import Scan
from probeloop.data.driver import Acquisition
from probeloop.data.frame import FrameBuffer, FrameFlag
from probeloop.data.scan import Region
from probeloop.testing.check_driver import check_simulator

LINES = Scan(Region(0.0, 0.0, 1e-8, 1e-8), (4, 8), 1e-3)


def camera(**parameters: Any) -> SteadyCamera:
    made = SteadyCamera(SteadyCameraSettings(pixels=16, pool=5, **parameters))
    made.clock = VirtualClock(None)
    return made


def take(taken: Acquisition, capacity: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return data, scan index and flags of all frames."""
    buffer = FrameBuffer.allocate(taken.spec, capacity)
    next(taken.frames)
    parts: list[tuple[np.ndarray, ...]] = []
    while True:
        try:
            n = taken.frames.send(buffer)
        except StopIteration:
            return tuple(np.concatenate(column) for column in zip(*parts, strict=True))  # type: ignore[return-value]
        parts.append((buffer.data[:n].copy(), buffer.scan_index[:n].copy(), buffer.flags[:n].copy()))


def test_it_keeps_the_contract() -> None:
    assert check_simulator(lambda: SteadyCamera(SteadyCameraSettings(pixels=16))) == []


def test_every_frame_is_what_the_camera_says_it_is_over_two_scans() -> None:
    made = camera()
    for scan in range(2):
        taken = made.scan(LINES)
        assert not taken.spec.can_wait
        data, index, flags = take(taken)
        assert index.tolist() == list(range(32))
        numbers = 32 * scan + index
        assert np.array_equal(data, made.expected(numbers))
        assert np.array_equal(np.ascontiguousarray(data[:, 0, :4]).view("<i8").ravel(), numbers)
        assert [i for i in range(32) if flags[i] & FrameFlag.LINE_START] == [0, 8, 16, 24]
    assert made.missed == 0
    assert data[:, 1:].mean() == pytest.approx(0.15, abs=0.02)


def test_frames_dropped_and_flipped_are_those_and_no_others() -> None:
    made = camera(drop_frames=(0, 1, 2, 7), flip_frames=(9,))
    data, index, _ = take(made.scan(LINES))
    assert sorted(set(range(32)) - set(index.tolist())) == [0, 1, 2, 7]
    wrong = (data != made.expected(index)).any(axis=(1, 2))
    assert index[wrong].tolist() == [9]
    assert np.count_nonzero(data != made.expected(index)) == 1


def test_what_nobody_took_in_time_is_missed_and_counted_and_the_rest_stays_in_place() -> None:
    made = camera(buffer=4)
    clock, taken = made.clock, made.scan(LINES)
    assert isinstance(clock, VirtualClock)
    buffer = FrameBuffer.allocate(taken.spec, 2)
    next(taken.frames)
    assert taken.frames.send(buffer) == 2
    clock.spend(0.018)  # 20 are exposed, 2 are taken, 4 are kept
    assert taken.frames.send(buffer) == 2
    assert buffer.scan_index[:2].tolist() == [16, 17]
    assert made.missed == made.read_back()["frames_missed"] == 14
    assert np.array_equal(buffer.data[:2], made.expected(np.array([16, 17])))
    assert buffer.time_ns[0] - 16 * 1_000_000 == buffer.time_ns[1] - 17 * 1_000_000


def test_it_misses_a_whole_rest_of_a_scan_and_ends() -> None:
    made = camera(buffer=1)
    clock, taken = made.clock, made.scan(LINES)
    assert isinstance(clock, VirtualClock)
    buffer = FrameBuffer.allocate(taken.spec, 2)
    next(taken.frames)
    clock.spend(10.0)
    with pytest.raises(StopIteration):
        taken.frames.send(buffer)
    assert made.missed == 32
