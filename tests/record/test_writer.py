"""The record opens in HyperSpy, at any moment, and says what was measured."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from record_blocks import F_LETTER, block_of, frames_spec, map_spec, rows, spectrum_spec

from probeloop.data.axes import Axis, StreamSpec
from probeloop.data.frame import BlockFlag, FrameFlag
from probeloop.record.chunks import Disk
from probeloop.record.session import SessionWriter

hs = pytest.importorskip("hyperspy.api")


def test_scan_of_frames_opens_in_hyperspy_with_axes_units_and_mask(tmp_path: Path) -> None:
    spec = frames_spec()
    data = np.random.default_rng(1).integers(0, 900, (4, 5, 6, 7)).astype(np.uint16)
    writer = SessionWriter(tmp_path, about=lambda g: {"command_id": 11, "cause": [["camera", 3]]})
    for row in range(3):
        writer.add(rows(spec, row, data))
    writer.flush()
    signal = hs.load(str(tmp_path / "camera" / "1.zspy"))  # recorder still running
    assert signal.data.shape == (4, 5, 6, 7)
    np.testing.assert_array_equal(signal.data[:3], data[:3])
    assert not signal.data[3].any()
    axes = {a.name: a for a in signal.axes_manager._axes}
    assert [(n, axes[n].scale, axes[n].offset, str(axes[n].units)) for n in ("y", "x", "ky", "kx")] == [
        ("y", 1.0, 2.0, "nm"), ("x", 0.5, 0.0, "nm"), ("ky", 1.0, -3.0, "mrad"), ("kx", 1.0, -3.0, "mrad"),
    ]  # fmt: skip
    assert signal.axes_manager.signal_dimension == 2
    assert signal.metadata.Signal.signal_origin == "simulation"
    ours = signal.original_metadata.probeloop
    np.testing.assert_array_equal(ours.present, np.arange(20).reshape(4, 5) < 15)
    assert ours.complete is False
    assert ours.command_id == 11
    assert json.loads(ours.cause) == [["camera", 3]]
    assert not (tmp_path / "camera" / "1.zspy" / ".zmetadata").exists()
    writer.add(rows(spec, 3, data, flags=BlockFlag.SCAN_END))
    writer.close()
    signal = hs.load(str(tmp_path / "camera" / "1.zspy"))
    np.testing.assert_array_equal(signal.data, data)
    assert signal.original_metadata.probeloop.complete is True
    assert (tmp_path / "camera" / "1.zspy" / ".zmetadata").exists()
    np.testing.assert_array_equal(signal.original_metadata.probeloop.time_ns.ravel(), 1000 + np.arange(20))


@pytest.mark.parametrize("channels", [0, 3])
def test_letter_f_stays_an_f_and_unmeasured_is_nan(tmp_path: Path, channels: int) -> None:
    spec = map_spec(*F_LETTER.shape, channels)
    values = F_LETTER if not channels else np.stack([F_LETTER * (k + 1) for k in range(channels)], axis=-1)
    writer = SessionWriter(tmp_path)
    for row in (0, 1, 2, 4, 5):
        writer.add(rows(spec, row, values))
    writer.close()
    signal = hs.load(str(tmp_path / "scan" / "1.zspy"))
    assert signal.axes_manager.signal_dimension == 2
    want = values.astype(np.float32).copy()
    want[3] = np.nan
    np.testing.assert_array_equal(signal.data, np.moveaxis(want, -1, 0) if channels else want)


@pytest.mark.filterwarnings("ignore:The NestedDirectoryStore:FutureWarning")
def test_the_layout_is_the_one_hyperspy_writes(tmp_path: Path) -> None:
    """Every file that HyperSpy writes for the same signal is there, with the same keys."""
    writer = SessionWriter(tmp_path)
    writer.add(block_of(frames_spec(2, 2), np.ones((4, 6, 7), np.uint16), np.arange(4)))
    writer.close()
    ours = tmp_path / "camera" / "1.zspy"
    theirs = tmp_path / "theirs.zspy"
    hs.load(str(ours)).save(str(theirs))

    def described(folder: Path) -> dict[str, set[str]]:
        found = {}
        for file in folder.rglob(".z*"):
            if file.name != ".zmetadata" and "FileIO" not in str(file):
                found[str(file.relative_to(folder))] = set(json.loads(file.read_text()))
        return found

    mine, reference = described(ours), described(theirs)
    assert set(reference) <= set(mine)
    assert {k: v for k, v in mine.items() if k in reference} == reference
    a, b = (json.loads((f / ".zattrs").read_text()) for f in (ours, theirs))
    assert a == b
    again = hs.load(str(theirs))
    np.testing.assert_array_equal(again.original_metadata.probeloop.present, np.ones((2, 2), bool))


def test_points_append_to_one_file_beside_position_time_and_generation(tmp_path: Path) -> None:
    spec = spectrum_spec()
    loops = np.random.default_rng(2).normal(size=(30, 8))
    writer = SessionWriter(tmp_path)
    for i in range(20):
        writer.add(block_of(spec, loops[i : i + 1], [0], index=i, generation=i + 1))
        if i == 7:
            writer.flush()
            assert hs.load(str(tmp_path / "spectrum.zspy")).data.shape == (8, 8)
    writer.close()
    writer = SessionWriter(tmp_path)  # a recorder that was restarted
    for i in range(20, 30):
        writer.add(block_of(spec, loops[i : i + 1], [0], index=i, generation=i + 1))
    writer.close()
    signal = hs.load(str(tmp_path / "spectrum.zspy"))
    np.testing.assert_array_equal(signal.data, loops)
    ours = signal.original_metadata.probeloop
    np.testing.assert_array_equal(ours.generation, np.arange(30) + 1)
    assert ours.position.shape == (30, 2)
    assert ours.present.all()
    assert signal.axes_manager.navigation_size == 30
    assert signal.axes_manager.signal_size == 8


def test_revised_cells_are_overwritten_and_frames_without_a_pixel_left_out(tmp_path: Path) -> None:
    spec = map_spec(3, 4)
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    writer = SessionWriter(tmp_path)
    for row in range(3):
        writer.add(rows(spec, row, values))
    writer.flush()
    writer.flush()
    stray = block_of(spec, np.full(2, 99, np.float32), [5, 6], index=12)
    stray.frame_flags[:] = int(FrameFlag.FLYBACK)
    writer.add(stray)
    writer.add(block_of(spec, np.full(2, -1, np.float32), [1, 2], index=14, revision=2))
    writer.close()
    signal = hs.load(str(tmp_path / "scan" / "1.zspy"))
    values[0, 1:3] = -1
    np.testing.assert_array_equal(signal.data, values)
    np.testing.assert_array_equal(signal.original_metadata.probeloop.revision[0], [0, 2, 2, 0])


def test_a_row_too_large_for_a_chunk_is_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probeloop.record.schema.SPLIT_ROW_BYTES", 200)
    monkeypatch.setattr("probeloop.record.schema.CHUNK_BYTES", 200)
    spec = frames_spec(3, 5)
    data = np.random.default_rng(3).integers(0, 900, (3, 5, 6, 7)).astype(np.uint16)
    writer = SessionWriter(tmp_path)
    order = np.random.default_rng(4).permutation(15)
    for i, cell in enumerate(order):
        writer.add(block_of(spec, data.reshape(15, 6, 7)[cell : cell + 1], [cell], index=i))
        writer.flush()
    writer.close()
    np.testing.assert_array_equal(hs.load(str(tmp_path / "camera" / "1.zspy")).data, data)


class Failing:
    """`os` whose n-th call fails: once (transient), or from then on (persistent)."""

    def __init__(self, at: int, persistent: bool) -> None:
        self.at, self.persistent, self.calls, self.failed = at, persistent, 0, 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == self.at or (self.persistent and self.calls > self.at):
                self.failed += 1
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **kwargs)

        return call


def _measure(folder: Path, system: Any) -> SessionWriter:
    scan, points = map_spec(4, 3), spectrum_spec()
    values = np.arange(12, dtype=np.float32).reshape(4, 3) + 1
    writer = SessionWriter(folder, Disk(system))
    for row in range(4):
        writer.add(rows(scan, row, values))
        writer.add(block_of(points, np.full((1, 8), row + 1.0), [0], index=row, generation=row + 1))
        writer.flush()
    return writer


@pytest.mark.parametrize("every", [17, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("persistent", [False, True], ids=["transient", "persistent"])
def test_whatever_call_fails_the_session_opens_and_keeps_what_was_acknowledged(
    tmp_path: Path, persistent: bool, every: int
) -> None:
    n, tried = 1, 0
    while True:
        folder = tmp_path / str(n)
        folder.mkdir()
        system = Failing(n, persistent)
        writer = _measure(folder, system)
        if not system.failed:
            break
        assert any("No space left" in fault for fault in writer.faults), n
        kept = writer.kept
        if n % 41 == 0 or n < 3:  # HyperSpy itself is slow: our reader checks the others
            for path in folder.rglob("*.zspy"):
                hs.load(str(path))
        for name, path in (("scan", folder / "scan" / "1.zspy"), ("spectrum", folder / "spectrum.zspy")):
            if not path.exists():
                assert kept[name] == 0
                continue
            present = _array(path, "original_metadata/probeloop/present")
            data = _array(path, "data")
            if name == "scan":
                assert present.sum() == kept[name], n
                np.testing.assert_array_equal(data[present], (np.arange(12).reshape(4, 3) + 1)[present])
            else:
                assert len(data) == kept[name], n
                assert len(present) >= kept[name], n
                np.testing.assert_array_equal(data[:, 0], np.arange(len(data)) + 1)
        if not persistent:
            writer.flush()  # the next one makes it good
            assert writer.kept == {"scan": 12, "spectrum": 4}, n
        n, tried = n + (1 if n < 20 else every), tried + 1
    assert tried > 40
    assert writer.kept == {"scan": 12, "spectrum": 4}


def _array(path: Path, name: str) -> Any:
    from probeloop.record.stored import StoredArray

    return StoredArray.open(next(path.glob("Experiments/*/")) / name).read()


def test_a_transient_failure_is_made_good(tmp_path: Path) -> None:
    writer = _measure(tmp_path, Failing(60, persistent=False))
    assert writer.faults
    writer.close()
    assert np.isfinite(hs.load(str(tmp_path / "scan" / "1.zspy")).data).all()
    assert hs.load(str(tmp_path / "spectrum.zspy")).data.shape == (4, 8)


def test_a_full_disk_gives_up_the_oldest_and_counts_it(tmp_path: Path) -> None:
    from probeloop.record.writer import ScanFile

    spec = frames_spec(40, 5)
    file = ScanFile(Disk(Failing(1, persistent=True)), tmp_path / "1.zspy", spec, {}, open_bytes=1)
    file.zspy.data.layout = file.zspy.data.layout.__class__((), (40, 5), (6, 7), (1, 5), np.dtype("<u2"), 0)
    for row in range(40):
        file.add(rows(spec, row, np.ones((40, 5, 6, 7), np.uint16)))
    assert file.lost == 39 * 5
    assert file.kept == 0
    assert file.fault is not None


def test_points_that_are_on_disk_leave_the_memory(tmp_path: Path) -> None:
    spec = StreamSpec("power", "image", "<f4", sig=(Axis("ky", 64), Axis("kx", 64)), sync="none")
    images = np.random.default_rng(1).normal(size=(700, 64, 64)).astype(np.float32)
    writer = SessionWriter(tmp_path)
    held = []
    for i, image in enumerate(images):
        writer.add(block_of(spec, image[None], [-1], index=i))
        if i % 10 == 9:
            writer.flush()
            held.append(writer.held_bytes)
    writer.close()
    assert max(held) <= 4 << 20  # of 11 MB in all
    np.testing.assert_array_equal(hs.load(str(tmp_path / "power.zspy")).data, images)
