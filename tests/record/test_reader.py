"""A session is read with care: bombs, torn chunks and foreign files are refused before anything is decoded."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numcodecs
import numpy as np
import pytest
from record_blocks import block_of, frames_spec, map_spec, rows, spectrum_spec

from probeloop.data.errors import RecordError
from probeloop.record.codec import decode, encode
from probeloop.record.history import SessionHistory
from probeloop.record.reader import Session, open_session
from probeloop.record.session import SessionWriter
from probeloop.record.stored import StoredArray


def recorded(folder: Path) -> Path:
    """Write a small session; return the chunk folder of its frames."""
    spec = frames_spec()
    data = np.arange(20 * 42, dtype=np.uint16).reshape(4, 5, 6, 7)
    writer = SessionWriter(folder)
    for row in (0, 1, 3):
        writer.add(rows(spec, row, data))
    writer.add(block_of(map_spec(2, 3, 2), np.arange(12, dtype=np.float32).reshape(6, 2), np.arange(6), generation=4))
    writer.add(block_of(spectrum_spec(), np.ones((1, 8)), [0], generation=5))
    writer.close()
    return next(folder.glob("camera/1.zspy/Experiments/*/data"))


def test_blocks_come_back_with_their_columns_while_it_is_being_written(tmp_path: Path) -> None:
    recorded(tmp_path)
    session = open_session(tmp_path)
    blocks = list(session.blocks("camera", 1))
    index = np.concatenate([b.scan_index for b in blocks])
    np.testing.assert_array_equal(index, [*range(10), *range(15, 20)])
    data = np.concatenate([b.data for b in blocks])
    np.testing.assert_array_equal(data.reshape(15, -1)[:, 0], index * 42)
    np.testing.assert_array_equal(np.concatenate([b.time_ns for b in blocks]), 1000 + index)
    np.testing.assert_allclose(np.concatenate([b.position for b in blocks])[:, 0], index * 1e-9)
    assert all(b.spec == frames_spec() for b in blocks)
    scan = session.topic("scan")
    np.testing.assert_array_equal(scan.data(), np.arange(12, dtype=np.float32).reshape(2, 3, 2))
    np.testing.assert_array_equal(np.concatenate([b.data for b in scan.blocks()]).ravel(), np.arange(12))
    assert [b.generation for b in session.blocks("spectrum", 5)] == [5]
    with pytest.raises(RecordError, match="there is: camera, scan, spectrum"):
        session.topic("image")


def test_wanted_pixels_come_back_and_what_is_known_of_every_frame(tmp_path: Path) -> None:
    recorded(tmp_path)
    history, wanted = SessionHistory(tmp_path), np.zeros(20, bool)
    wanted[[2, 3, 11, 16]] = True
    found = list(history.blocks("camera", 1, wanted))
    pixels = np.concatenate([b.scan_index for b in found])
    np.testing.assert_array_equal(pixels, [2, 3, 16])
    np.testing.assert_array_equal(np.concatenate([b.data for b in found]).reshape(3, -1)[:, 0], pixels * 42)
    kept = history.kept("camera", 1, 20)
    assert kept is not None
    index, time_ns = kept
    np.testing.assert_array_equal(np.flatnonzero(index < 0), range(10, 15))
    np.testing.assert_array_equal(time_ns[pixels], 1000 + pixels)
    assert history.kept("camera", 1, 21) is None, "a scan of another shape"
    assert history.kept("nothing", 1, 20) is None
    assert list(history.blocks("nothing", 1, wanted)) == []


def test_what_is_no_session_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no session"):
        Session(tmp_path / "gone")
    with pytest.raises(RecordError, match="is no session"):
        Session(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [2**20, 2**20, 2**10, 2**10]},
        {"chunks": [4, 5, 2**14, 2**14]},
        {"compressor": {"id": "pickle"}},
        {"filters": [{"id": "pickle"}]},
        {"dtype": "|O"},
        {"shape": [-4, 5, 6, 7]},
        {"shape": "x"},
        {"dimension_separator": "."},
        {"fill_value": {"a": 1}},
    ],
)
def test_a_hostile_description_is_refused_at_once(tmp_path: Path, change: dict[str, object]) -> None:
    head = recorded(tmp_path) / ".zarray"
    head.write_text(json.dumps({**json.loads(head.read_text()), **change}))
    begun = time.perf_counter()
    with pytest.raises(RecordError):
        StoredArray.open(head.parent).read()
    assert time.perf_counter() - begun < 0.1


def test_bombs_and_torn_chunks_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    data = recorded(tmp_path)
    stored = StoredArray.open(data)
    chunk = data / "0" / "0" / "0" / "0"
    whole = chunk.read_bytes()
    bomb = numcodecs.Blosc(cname="zstd", clevel=9).encode(np.zeros(16 << 20, np.uint8))
    for bad in (bytes(bomb), whole[:-5], whole[:10], b"", bytes(100), whole[:16] + bytes(len(whole) - 16)):
        chunk.write_bytes(bad)
        with pytest.raises(RecordError):
            stored.read()
    chunk.write_bytes(whole)
    assert stored.read().max() == 20 * 42 - 1
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(decode(encode(array), (3, 4), array.dtype), array)


def test_torn_events_are_left_out(tmp_path: Path) -> None:
    recorded(tmp_path)
    (tmp_path / "events.jsonl").write_text('{"type":"Remark","text":"whole"}\n{"type":"Rem')
    assert [e.text for e in Session(tmp_path).events()] == ["whole"]  # type: ignore[union-attr]


def test_a_topic_that_cannot_be_a_file_is_refused_and_the_others_go_on(tmp_path: Path) -> None:
    writer = SessionWriter(tmp_path)
    for name in ("../x", "con", "a/b", "x" * 200, ""):
        writer.add(block_of(map_spec(1, 2).__class__(name, "values", "<f4"), np.zeros(1, np.float32), [0]))
    writer.add(block_of(spectrum_spec(), np.ones((1, 8)), [0]))
    writer.close()
    assert len(writer.faults) == 5
    assert [t.topic for t in Session(tmp_path).topics()] == ["spectrum"]
