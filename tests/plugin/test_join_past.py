"""Finished cells of a joined map follow a change: of an input, of both, of its own parameters, of the process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from probeloop.data.control import Accepted, Remark, Revision
from probeloop.data.frame import BlockFlag, FrameBlock

from .conftest import Camera
from .stage import END, EVERY, Both, Stage, Times, map_of


def test_finished_cells_follow_what_an_input_comes_from(stage: Stage, camera: Camera, tmp_path: Path) -> None:
    record = stage.record(tmp_path, "camera", "a.out")
    a = stage.host("a", Times(), history=camera.history)
    stage.host("p", Both(), "camera", "a.out", history=record.history)
    reader = stage.reader("p.out")
    camera.scan(1)
    stage.settle()
    record.write()
    np.testing.assert_array_equal(map_of(reader), 102.0 * EVERY)

    assert a.set_parameters({"factor": 7.0}) == Accepted(id=1)
    stage.until(lambda: not a.past.busy)
    stage.settle()
    assert list(reader.drain()) == [], "the record does not hold the new cells yet, and the old ones are not taken"
    record.write()
    stage.until(lambda: not stage.hosts["p"].past.busy)
    np.testing.assert_array_equal(map_of(reader), 107.0 * EVERY)

    for factor in (11.0, 13.0):  # dragged on, while the record lags
        a.set_parameters({"factor": factor})
        stage.until(lambda: not a.past.busy)
        record.write()
        stage.settle()
    stage.until(lambda: not stage.hosts["p"].past.busy)
    np.testing.assert_array_equal(map_of(reader), 113.0 * EVERY)
    assert stage.gaps() == []
    assert not any(isinstance(event, Remark) for event in stage.told)


def test_both_inputs_may_be_done_again_at_a_time(stage: Stage, camera: Camera, tmp_path: Path) -> None:
    record = stage.record(tmp_path, "a.out", "b.out")
    hosts = [stage.host(name, Times(), history=camera.history) for name in ("a", "b")]
    stage.host("p", Both(), "a.out", "b.out", history=record.history)
    reader = stage.reader("p.out")
    camera.scan(1)
    stage.settle()
    record.write()
    for host, factor in zip(hosts, (5.0, 9.0), strict=True):
        host.set_parameters({"factor": factor})
    stage.until(lambda: not any(host.past.busy for host in hosts))
    record.write()
    stage.until(lambda: not stage.hosts["p"].past.busy)
    np.testing.assert_array_equal(map_of(reader), 509.0 * EVERY)


def test_its_own_parameters_change_the_finished_cells_too(stage: Stage, camera: Camera, tmp_path: Path) -> None:
    record = stage.record(tmp_path, "camera", "a.out")
    stage.host("a", Times())
    join = stage.host("p", Both(), "camera", "a.out", history=record.history)
    reader = stage.reader("p.out")
    camera.announce(1)
    camera.block(np.arange(40), 1, BlockFlag.SCAN_BEGIN)
    stage.settle()
    record.write()
    assert join.set_parameters({"weight": 10.0}, 0) == Accepted(id=1)
    camera.block(np.arange(40, 64), 1, END)
    stage.hosts["a"].step()
    join.step(1)
    new = [(b.revision, b.scan_index[0]) for b in reader.drain()]
    assert new == [(0, 0), (1, 40)], "new frames come first"
    stage.until(lambda: not join.past.busy)
    redone = list(map(FrameBlock.copy, reader.drain()))
    assert {b.revision for b in redone} == {1}
    assert np.array_equal(np.sort(np.concatenate([b.scan_index for b in redone])), np.arange(40))
    assert all(np.array_equal(b.data, 12.0 * b.scan_index) for b in redone)
    assert [(e.revision, e.topic) for e in stage.told if isinstance(e, Revision) and e.target == "p"] == [
        (0, "p.out"), (1, "p.out"),
    ]  # fmt: skip


def test_cells_that_are_not_on_record_are_said_to_be_old(
    stage: Stage, camera: Camera, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("probeloop.plugin.past._AGAIN_NS", 0)
    stage.host("a", Times(), history=camera.history)
    record = stage.record(tmp_path, "a.out")
    stage.host("p", Both(), "camera", "a.out", history=record.history)
    camera.scan(1)
    stage.settle()
    record.write()
    stage.hosts["a"].set_parameters({"factor": 7.0})
    stage.until(lambda: any(isinstance(event, Remark) for event in stage.told))
    (remark,) = [event for event in stage.told if isinstance(event, Remark)]
    assert remark.text == "p: 64 finished cells have an old result or none: no record of camera and a.out"
    assert not stage.hosts["p"].past.busy


def test_a_scan_that_was_on_is_taken_up_from_the_record(stage: Stage, camera: Camera, tmp_path: Path) -> None:
    record = stage.record(tmp_path, "camera", "a.out")
    stage.host("a", Times())
    camera.announce(1)
    camera.block(np.arange(30), 1, BlockFlag.SCAN_BEGIN)
    stage.settle()
    camera.block(np.arange(30, 32), 1)  # of these the join sees one topic alone
    record.write()
    join = stage.host("p", Both(), "camera", "a.out", history=record.history)
    reader = stage.reader("p.out")
    for host in stage.hosts.values():
        host.refresh()
    camera.publisher.refresh()
    join.adopt_scan()
    camera.block(np.arange(32, 64), 1, END)
    stage.settle()
    record.write()
    stage.until(lambda: not join.past.busy)
    np.testing.assert_array_equal(map_of(reader), 102.0 * EVERY)
    assert stage.gaps() == []
    assert join.describe()["inputs"]["a.out"]["unmatched"] == 2
