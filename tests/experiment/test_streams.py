"""Only frames of the right generation, settled, and not before the first valid one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from probeloop.data.axes import Axis, StreamSpec
from probeloop.data.clock import MonotonicClock
from probeloop.data.control import Result, StateChange
from probeloop.data.errors import PlanError
from probeloop.data.frame import BlockFlag, FrameFlag
from probeloop.experiment.controls import Controls, Ended
from probeloop.experiment.streams import FrameStore, Refusals

VALUES = StreamSpec("v", "values", "<f4", nav=(Axis("y", 2), Axis("x", 2)))
END = int(BlockFlag.SCAN_END)


@pytest.fixture
def store() -> FrameStore:
    return FrameStore(("v", "w"), MonotonicClock(), threading.Condition(), keep_bytes=1024)


def at_once(predicate: Callable[[], bool], timeout: float | None = None) -> bool:
    return predicate()


def result(generation: int, first: int, count: int, valid: int = -1, topic: str = "v") -> Result:
    return Result(generation=generation, topic=topic, first_index=first, count=count, first_valid_index=valid)


def test_settling_frames_and_other_generations_stay_out(store: FrameStore, make_block: Any) -> None:
    store.accept(make_block(VALUES, [1, 2, 3, 4], index=0, generation=1, flags=END))
    flags = [FrameFlag.SETTLING, FrameFlag.SETTLING, 0, 0]
    store.accept(make_block(VALUES, [90, 91, 5, 6], index=4, generation=2, frame_flags=flags))
    store.accept(make_block(VALUES, [7, 8], index=8, generation=2, scan_index=[0, 1], flags=END))
    found, seen = store.map("v", result(2, 4, 6, 6), at_once, 0.0)
    np.testing.assert_array_equal(found, [[7, 8], [5, 6]])
    assert seen.index == 9
    frames, _ = store.frames("v", result(2, 4, 6, 6), at_once, 0.0)
    assert [float(each.data) for each in frames] == [5, 6, 7, 8]
    assert {each.generation for each in frames} == {2}


def test_frames_before_the_first_valid_index_stay_out_though_not_flagged(store: FrameStore, make_block: Any) -> None:
    store.accept(make_block(VALUES, [1, 2, 3, 4], index=10, generation=3, flags=END))
    found, _ = store.map("v", result(3, 10, 4, 12), at_once, 0.0)
    np.testing.assert_array_equal(found, [[np.nan, np.nan], [3, 4]])
    frames, _ = store.frames("v", result(3, 10, 4, 12), at_once, 0.0)
    assert [each.index for each in frames] == [12, 13]


def test_only_old_frames_are_no_frames(store: FrameStore, make_block: Any) -> None:
    store.accept(make_block(VALUES, [1, 2, 3, 4], index=0, generation=1, flags=END))
    with pytest.raises(PlanError, match=r"frames 0-3 of 'v' did not come on 'v' within 0 s"):
        store.frames("v", result(2, 0, 4), at_once, 0.0)
    with pytest.raises(PlanError, match="no valid frame in 0-3 of generation 1"):
        store.frames("v", result(1, 0, 4, 99), at_once, 0.0)


def test_a_map_waits_for_the_end_of_its_scan(make_block: Any) -> None:
    controls = Controls(MonotonicClock())
    store = FrameStore(("v",), MonotonicClock(), controls.changed)
    store.accept(make_block(VALUES, [1, 2], index=0, generation=1))
    with pytest.raises(PlanError, match="no end of scan came on 'v' for generation 1"):
        store.map("v", result(1, 0, 4), controls.wait_for, 0.01)
    last = make_block(VALUES, [], index=2, generation=1, flags=END | BlockFlag.ABORTED)
    timer = threading.Timer(0.05, store.accept, (last,))
    timer.start()
    found, _ = store.map("v", result(1, 0, 4), controls.wait_for, 5.0)
    timer.join()
    np.testing.assert_array_equal(found, [[1, 2], [np.nan, np.nan]])


def test_a_map_that_does_not_come_says_what_its_plugin_said() -> None:
    controls, refusals = Controls(MonotonicClock()), Refusals()
    store = FrameStore(("v.mean",), MonotonicClock(), controls.changed, refusals=refusals)

    def told() -> str:
        with pytest.raises(PlanError) as missing:
            store.map("v.mean", result(1, 0, 4), controls.wait_for, 0.01)
        return str(missing.value)

    assert told().endswith("is the plug-in that makes it running?")
    refusals.hear(StateChange(target="v", state="refused", reason="no torch. pip install 'probeloop[ml]'"))
    refusals.hear(StateChange(target="w", state="running"))
    assert told().endswith("v refused: no torch. pip install 'probeloop[ml]'")
    refusals.hear(StateChange(target="v", state="running"))
    assert "refused" not in told()


def test_an_end_is_heard_while_waiting(make_block: Any) -> None:
    controls = Controls(MonotonicClock())
    store = FrameStore(("v",), MonotonicClock(), controls.changed)
    timer = threading.Timer(0.02, controls.end_with, ("stop", "STOP"))
    timer.start()
    with pytest.raises(Ended):
        store.map("v", result(1, 0, 4), controls.wait_for, 5.0)
    timer.join()


def test_frames_of_a_derived_topic_are_found_by_their_source(store: FrameStore, make_block: Any) -> None:
    derived = StreamSpec("w", "values", "<f4")
    store.accept(make_block(derived, [1, 2], index=0, generation=1, source_index=100))
    store.accept(make_block(derived, [3, 4], index=2, generation=1, source_index=102))
    frames, seen = store.frames("w", result(1, 101, 2), at_once, 0.0)
    assert [float(each.data) for each in frames] == [2, 3]
    assert (seen.topic, seen.index) == ("w", 2)


def test_the_memory_of_frames_is_bounded_and_their_loss_is_told(store: FrameStore, make_block: Any) -> None:
    big = StreamSpec("v", "frames", "<f4", sig=(Axis("ky", 8), Axis("kx", 8)))
    for i in range(10):
        store.accept(make_block(big, np.full((1, 8, 8), i), index=i, generation=i, flags=END))
    with pytest.raises(PlanError, match="no valid frame in 7-7"):
        store.frames("v", result(8, 7, 1), at_once, 0.0)
    assert len(store.frames("v", result(9, 9, 1), at_once, 0.0)[0]) == 1
    with pytest.raises(PlanError, match=r"did not come|no longer held"):
        store.frames("v", result(0, 0, 1), at_once, 0.0)


def test_a_map_that_is_too_large_or_none_is_told(make_block: Any) -> None:
    store = FrameStore(("v", "w"), MonotonicClock(), threading.Condition(), map_bytes=10)
    store.accept(make_block(VALUES, [1, 2, 3, 4], index=0, generation=1, flags=END))
    with pytest.raises(PlanError, match="MiB is more than"):
        store.map("v", result(1, 0, 4), at_once, 0.0)
    store.accept(make_block(StreamSpec("w", "values"), [1], index=0, generation=1, flags=END))
    with pytest.raises(PlanError, match="has no scan to make a map of"):
        store.map("w", result(1, 0, 1), at_once, 0.0)


def test_an_image_is_its_own_map(store: FrameStore, make_block: Any) -> None:
    image = StreamSpec("w", "image", "<f4", sig=(Axis("y", 2), Axis("x", 3)))
    store.accept(make_block(image, np.zeros((1, 2, 3)), index=0, generation=1))
    store.accept(make_block(image, np.ones((1, 2, 3)), index=1, generation=1, flags=END))
    found, _ = store.map("w", result(1, 0, 6), at_once, 0.0)
    np.testing.assert_array_equal(found, np.ones((2, 3)))
