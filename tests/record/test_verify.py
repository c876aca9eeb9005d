"""The independent checker: finds what is equal, and what is not."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from record_blocks import block_of

from probeloop.data.axes import Axis, StreamSpec
from probeloop.data.commands import BEPS, AcquireSpectrum
from probeloop.data.control import Generation
from probeloop.data.errors import RecordError
from probeloop.data.frame import FrameBlock, FrameBuffer
from probeloop.record.session import SessionWriter
from probeloop.record.verify import verify_session, verify_spectra

h5py = pytest.importorskip("h5py")


def replayed(file: Path, session: Path, count: int) -> None:
    """Record `count` spectra of the replay of `file` at random places."""
    from probeloop.simulators.replay import Replay, ReplaySettings

    instrument = Replay(ReplaySettings(file=str(file), pace="unlimited"))
    writer = SessionWriter(session)
    (x0, y0), (x1, y1) = instrument.describe().limits.region
    places = np.random.default_rng(1).uniform((x0, y0), (x1, y1), (count, 2))
    for i, (x, y) in enumerate(places):
        acquisition = instrument.acquire_spectrum(AcquireSpectrum((float(x), float(y)), BEPS()))
        buffer = FrameBuffer.allocate(acquisition.spec, 1)
        next(acquisition.frames)
        assert acquisition.frames.send(buffer) == 1
        writer.add(_as_block(buffer, i))
    writer.close()


def _as_block(buffer: FrameBuffer, i: int) -> FrameBlock:
    made = block_of(buffer.spec, buffer.data[:1], buffer.scan_index[:1], index=i, generation=i + 1)
    made.position[:] = buffer.position[:1]
    return made


def shuffled(source: Path, target: Path) -> None:
    """Copy the file with its pixels in another order."""
    target.write_bytes(source.read_bytes())
    with h5py.File(target, "r+") as file:
        data = file["Channel_000/generic/generic"]
        flat = data[()].reshape(-1, data.shape[-1])
        data[...] = np.random.default_rng(9).permutation(flat, axis=0).reshape(data.shape)


def test_a_hundred_loops_are_equal_bit_for_bit_also_with_shuffled_pixels(data_dir: Path, tmp_path: Path) -> None:
    source = data_dir / "spectra/BEPS_PTO_50x50.h5"
    other = tmp_path / "shuffled.h5"
    shuffled(source, other)
    for name, file, wrong in (("a", source, other), ("b", other, source)):
        session = tmp_path / name
        session.mkdir()
        replayed(file, session, 100)
        verdict = verify_spectra(session, file)
        assert (verdict.spectra_measured, verdict.spectra_equal) == (100, 100)
        assert verdict.cells >= 90
        assert verify_spectra(session, wrong).spectra_equal < 10  # it can fail
        assert verify_session(session) is None  # its events do not say which file it was
        told = Generation(id=1, command_id=1, topic="spectrum", settings={"file": str(file), "pixel_size": 0.0})
        (session / "events.jsonl").write_bytes(msgspec.json.encode(told) + b"\n")
        assert verify_session(session) == {
            "spectra_measured": 100, "spectra_equal": 100, "cells": verdict.cells, "file": file.name,
        }  # fmt: skip


def test_one_changed_bit_is_found(data_dir: Path, tmp_path: Path) -> None:
    source = data_dir / "spectra/BEPS_PTO_50x50.h5"
    other = tmp_path / "bit.h5"
    session = tmp_path / "s"
    session.mkdir()
    replayed(source, session, 5)
    other.write_bytes(source.read_bytes())
    with h5py.File(other, "r+") as file:
        data = file["Channel_000/generic/generic"]
        values = data[()]
        data[...] = np.nextafter(values, np.inf)
    assert verify_spectra(session, other).spectra_equal == 0


def test_a_file_that_is_no_spectra_is_refused(tmp_path: Path) -> None:
    session = tmp_path / "s"
    session.mkdir()
    writer = SessionWriter(session)
    spec = StreamSpec("spectrum", "spectra", "<f8", (), (Axis("step", 4),))
    writer.add(block_of(spec, np.zeros((1, 4)), [0]))
    writer.close()
    h5py.File(tmp_path / "e.h5", "w").close()
    with pytest.raises(RecordError, match="0 spectral datasets"):
        verify_spectra(session, tmp_path / "e.h5")
    assert verify_session(session) is None
