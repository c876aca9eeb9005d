"""Spectra that the experiment's memory let go of, read back from the session that is being written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from probeloop.data.axes import Axis, StreamSpec
from probeloop.data.control import Result
from probeloop.record.session import SessionWriter
from probeloop.rig.recorded import recorded_frames
from probeloop.testing.streams import block_of

SPEC = StreamSpec("spectrum", "spectra", "<f8", (), (Axis("step", 8, 1.0),), aux={"bias": tuple(range(8))})


def test_every_spectrum_comes_back_by_its_generation_while_the_session_is_written(tmp_path: Path) -> None:
    writer = SessionWriter(tmp_path)
    for i in range(5):
        data = np.full((1, 8), float(i))
        writer.add(block_of(SPEC, data, scan_index=np.array([i]), index=i, generation=10 + i))
    writer.flush()
    frames = recorded_frames(tmp_path)
    for i in (3, 0, 4):
        [found] = frames("spectrum", Result(generation=10 + i, topic="spectrum", first_index=i, count=1))
        np.testing.assert_array_equal(found.data, np.full(8, float(i)))
        assert (found.index, found.generation, found.spec) == (i, 10 + i, SPEC)
        assert found.position == pytest.approx((0.0, i * 1e-9))
    assert frames("spectrum", Result(generation=99, topic="spectrum", first_index=0, count=1)) == []
    assert frames("spectrum", Result(generation=12, topic="spectrum", first_index=4, count=1)) == []
    assert frames("camera", Result(generation=12, topic="camera", first_index=2, count=1)) == []
    writer.close()
