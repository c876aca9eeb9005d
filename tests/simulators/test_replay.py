"""Replayed files: every value where it was measured, bit for bit, or a refusal that says why."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from probeloop.simulators.replay import Replay, ReplaySettings

from probeloop.data.axes import Axis, StreamSpec
from probeloop.data.commands import BEPS, EELS, AcquireSpectrum, MoveProbe, Scan
from probeloop.data.driver import Acquisition, Instrument, missing_verbs
from probeloop.data.errors import DriverError, SettingsError, SourceError
from probeloop.data.frame import BlockFlag, FrameBlock, FrameBuffer, FrameFlag
from probeloop.data.scan import Region
from probeloop.data.settings import convert, unbounded_floats
from probeloop.record.session import SessionWriter

h5py = pytest.importorskip("h5py")

F = np.array(
    [[1, 1, 1, 1, 0], [1, 0, 0, 0, 0], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 0, 0, 0, 0]], np.float32
)
BIAS = np.array([0.0, 1, 2, 1, 0, -1, -2, -1])


def take(acquisition: Acquisition, capacity: int = 64) -> Iterator[FrameBuffer]:
    """Run an acquisition as the pump does; yield buffers cut to what was filled."""
    frames = acquisition.frames
    assert next(frames) == 0
    while True:
        buffer = FrameBuffer.allocate(acquisition.spec, capacity)
        try:
            n = frames.send(buffer)
        except StopIteration:
            return
        names = ("data", "time_ns", "scan_index", "position", "dose", "flags")
        cut = {name: getattr(buffer, name)[:n] for name in names}
        yield FrameBuffer(buffer.spec, n, buffer.header, **cut)


def whole(instrument: Replay, shape: tuple[int, int], **more: Any) -> Scan:
    """A scan of all that was measured."""
    (x0, y0), (x1, y1) = instrument.describe().limits.region
    return Scan(Region((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0), shape, more.pop("dwell_time", 1e-3), **more)


def scanned(instrument: Replay, command: Scan) -> np.ndarray:
    """Return the map of a scan, (ny, nx, *frame)."""
    acquisition = instrument.scan(command)
    out = np.full((command.shape[0] * command.shape[1], *acquisition.spec.frame_shape), np.nan)
    for buffer in take(acquisition):
        out[buffer.scan_index] = buffer.data
    return out.reshape((*command.shape, *acquisition.spec.frame_shape))


def nsid(path: Path, channels: list[tuple[str, str, str, np.ndarray]]) -> None:
    """Write maps [y, x] the way sidpy does: stored [x, y], the phase's places called "deg"."""
    with h5py.File(path, "w") as file:
        for i, (quantity, units, place_units, values) in enumerate(channels):
            group = file.create_group(f"Measurement_000/Channel_{i}/Channel_{i}")
            data = group.create_dataset(f"Channel_{i}", data=values.T)
            data.attrs["DIMENSION_LABELS"] = np.array(["x", "y"], dtype=h5py.string_dtype())
            data.attrs["quantity"], data.attrs["units"] = quantity, units
            for axis, (label, n, step) in enumerate((("x", values.shape[1], 2e-9), ("y", values.shape[0], 3e-9))):
                scale = group.create_dataset(label, data=np.arange(n) * step)
                scale.make_scale(label)
                scale.attrs["units"] = place_units
                data.dims[axis].attach_scale(scale)


def beps(path: Path, spectra: np.ndarray) -> None:
    """Write spectra (ny, nx, E) the way the BEPS file does: stored [x, y, V]."""
    ny, nx, n = spectra.shape
    with h5py.File(path, "w") as file:
        group = file.create_group("Channel_000/generic")
        data = group.create_dataset("generic", data=np.ascontiguousarray(spectra.transpose(1, 0, 2)))
        data.attrs["DIMENSION_LABELS"] = np.array(["X", "Y", "Voltage"], dtype=h5py.string_dtype())
        data.attrs["quantity"], data.attrs["units"] = "Piezoresponse", "a.u."
        sides = (("X", np.arange(nx) * 2e-9, "m"), ("Y", np.arange(ny) * 3e-9, "m"), ("Voltage", BIAS[:n], "V"))
        for axis, (label, values, units) in enumerate(sides):
            scale = group.create_dataset(label, data=values)
            scale.make_scale(label)
            scale.attrs["units"] = units
            data.dims[axis].attach_scale(scale)


def write_f(folder: Path, kind: str) -> Path:
    """Write the letter F as `kind` of file; return its path."""
    if kind == "nsid":
        nsid(folder / "f.h5", [("HeightRetrace", "m", "m", F), ("PhaseRetrace", "deg", "deg", F * 90)])
        return folder / "f.h5"
    if kind == "npy":
        np.save(folder / "f.npy", F)
        text = '{"a": {"field_of_view_x": 10.0, "field_of_view_y": 18.0, "field_of_view_units": "nm"}}'
        (folder / "f.json").write_text(text)
        return folder / "f.npy"
    if kind == "ibw":
        return write_ibw(folder / "f.ibw")
    writer = SessionWriter(folder)  # HyperSpy's format, read back by RosettaSciIO
    nav = (Axis("y", F.shape[0], 3e-9, 0.0, "m"), Axis("x", F.shape[1], 2e-9, 0.0, "m"))
    buffer = FrameBuffer.allocate(StreamSpec("f", "values", "<f4", nav, units="m"), F.size)
    buffer.data[:], buffer.scan_index[:] = F.ravel(), np.arange(F.size)
    columns = (buffer.time_ns, buffer.scan_index, buffer.position, buffer.dose, buffer.flags)
    writer.add(FrameBlock(buffer.spec, 0, F.size, BlockFlag(0), 1, 0, -1, 0, 0, 0, buffer.data, *columns))
    writer.close()
    return folder if kind == "session" else folder / "f" / "1.zspy"


def write_ibw(path: Path) -> Path:
    """Write a version 5 Igor binary wave of F: (x, y, 1 channel), little-endian."""
    import struct

    values = F.T[..., None]
    wave = bytearray(320)
    struct.pack_into("<ii", wave, 12, values.size, 2)  # npnts, NT_FP32
    wave[28:29] = b"f"
    struct.pack_into("<4i", wave, 68, *values.shape, 0)
    struct.pack_into("<4d", wave, 84, 2e-9, 3e-9, 1.0, 1.0)
    for i in (0, 1):
        wave[152 + 4 * i : 153 + 4 * i] = b"m"
    body = values.astype("<f4").tobytes(order="F")
    head = bytearray(64)
    struct.pack_into("<hhi", head, 0, 5, 0, 320 + len(body))
    total = sum(struct.unpack("<192h", bytes(head + wave))) & 0xFFFF
    checksum = -total & 0xFFFF
    struct.pack_into("<H", head, 2, checksum)
    path.write_bytes(bytes(head + wave) + body)
    return path


@pytest.mark.parametrize("kind", ["nsid", "npy", "ibw", "zspy", "session"])
@pytest.mark.parametrize("order", ["raster", "serpentine"])
def test_letter_f_comes_back_an_f_through_every_reader(tmp_path: Path, kind: str, order: Any) -> None:
    instrument = Replay(ReplaySettings(file=str(write_f(tmp_path, kind)), pace="unlimited"))
    np.testing.assert_allclose(instrument.main.step, (2e-9, 3e-9), rtol=1e-6)
    made = scanned(instrument, whole(instrument, F.shape, order=order))
    made = made[..., 0] if made.ndim == 3 else made
    np.testing.assert_array_equal(made, F)
    settled = instrument.move_probe(MoveProbe((6e-9 + instrument.main.origin[0], instrument.main.origin[1])))
    assert settled > 0
    assert instrument.read_back()["position_x"] == pytest.approx(6e-9 + instrument.main.origin[0])


def test_a_phase_is_in_radian_and_its_places_in_metres(tmp_path: Path) -> None:
    instrument = Replay(ReplaySettings(file=str(write_f(tmp_path, "nsid")), pace="unlimited"))
    assert [(c.name, c.units, c.direction) for c in instrument.main.channels] == [
        ("height_retrace", "m", "retrace"), ("phase_retrace", "rad", "retrace"),
    ]  # fmt: skip
    made = scanned(instrument, whole(instrument, F.shape))
    np.testing.assert_allclose(made[..., 1], F * np.pi / 2, rtol=1e-6)
    only = instrument.scan(whole(instrument, F.shape, channels=("phase_retrace",)))
    assert only.spec.frame_shape == ()
    with pytest.raises(DriverError, match="no channel current was measured"):
        instrument.scan(whole(instrument, F.shape, channels=("current",)))


def test_a_region_shows_the_nearest_pixels_and_tells_their_true_places(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", np.arange(48, dtype=np.float64).reshape(6, 8))
    instrument = Replay(ReplaySettings(file=str(tmp_path / "m.npy"), pixel_size=10e-9, pace="unlimited"))
    command = Scan(Region(42e-9, 31e-9, 40e-9, 30e-9), (3, 4), 1e-3, flyback_time=1e-3)
    buffers = list(take(instrument.scan(command)))
    assert [len(b.data) for b in buffers] == [4, 4, 4]  # one block is one line
    assert all(b.flags[0] & FrameFlag.LINE_START and b.flags[-1] & FrameFlag.LINE_END for b in buffers)
    data = np.concatenate([b.data for b in buffers])
    places = np.concatenate([b.position for b in buffers])
    cells = np.rint(places / 10e-9 - 0.5).astype(int)
    np.testing.assert_array_equal(data, cells[:, 1] * 8 + cells[:, 0])
    asked = command.region.positions(command.shape)
    assert np.abs(places - asked).max() <= 5e-9 * (1 + 1e-6)
    times = np.concatenate([b.time_ns for b in buffers])
    np.testing.assert_array_equal(np.diff(times), [1e6, 1e6, 1e6, 2e6, 1e6, 1e6, 1e6, 2e6, 1e6, 1e6, 1e6])
    with pytest.raises(DriverError, match="nothing was measured at"):
        instrument.scan(Scan(Region(75e-9, 31e-9, 40e-9, 30e-9), (3, 4), 1e-3))
    with pytest.raises(DriverError, match="stay within"):
        instrument.move_probe(MoveProbe((-6e-9, 0.0)))


def test_a_finer_scan_flags_pixels_shown_twice(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", np.arange(6, dtype=np.float64).reshape(2, 3))
    instrument = Replay(ReplaySettings(file=str(tmp_path / "m.npy"), pixel_size=1e-9, pace="unlimited"))
    flags = np.concatenate([b.flags for b in take(instrument.scan(whole(instrument, (2, 6))))])
    np.testing.assert_array_equal(flags & FrameFlag.REPEAT_VISIT > 0, [False, True] * 6)


def test_spectra_are_those_of_the_file_and_a_second_visit_is_flagged(tmp_path: Path) -> None:
    spectra = np.random.default_rng(5).normal(size=(4, 3, 8))
    beps(tmp_path / "b.h5", spectra)
    instrument = Replay(ReplaySettings(file=str(tmp_path / "b.h5"), pace="unlimited"))
    assert isinstance(instrument, Instrument)
    assert missing_verbs(instrument) == []
    for visit in (0, 1):
        for iy, ix in ((0, 0), (3, 1), (1, 2)):
            acquisition = instrument.acquire_spectrum(AcquireSpectrum((ix * 2e-9 + 0.9e-9, iy * 3e-9), BEPS()))
            (buffer,) = take(acquisition, 1)
            assert buffer.data[0].tobytes() == spectra[iy, ix].tobytes()
            np.testing.assert_allclose(buffer.position[0], (ix * 2e-9, iy * 3e-9), atol=1e-18)
            assert bool(buffer.flags[0] & FrameFlag.REPEAT_VISIT) is bool(visit)
            assert acquisition.spec.aux["bias"] == tuple(BIAS)
            assert acquisition.spec.sig[0].name == "step"
            assert acquisition.topic == "spectrum"
    made = scanned(instrument, whole(instrument, (4, 3)))
    np.testing.assert_allclose(made[..., 0], np.ptp(spectra, axis=-1), rtol=1e-6)
    change = (np.roll(BIAS, -1) - np.roll(BIAS, 1)) / 2
    np.testing.assert_allclose(made[..., 1], np.abs((spectra * change).sum(axis=-1)), rtol=1e-5)
    with pytest.raises(DriverError, match="holds no EELS"):
        instrument.acquire_spectrum(AcquireSpectrum((0.0, 0.0), EELS(exposure=0.1)))
    with pytest.raises(DriverError, match="another waveform"):
        instrument.acquire_spectrum(AcquireSpectrum((0.0, 0.0), BEPS(waveform=(1.0,) * 8)))


def test_line_rate_is_kept_and_make_safe_ends_a_scan_within_half_a_second(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", np.zeros((4, 50)))
    instrument = Replay(ReplaySettings(file=str(tmp_path / "m.npy"), pixel_size=1e-9, pace=10.0))
    begun = time.monotonic()
    assert len(list(take(instrument.scan(whole(instrument, (4, 50), dwell_time=5e-3))))) == 4
    assert 0.095 < time.monotonic() - begun < 0.6  # 1 s of the instrument, ten times as fast
    made: list[int] = []
    slow = instrument.scan(whole(instrument, (4, 50), dwell_time=10.0))
    thread = threading.Thread(target=lambda: made.extend(len(b.data) for b in take(slow)))
    thread.start()
    threading.Event().wait(0.1)
    begun = time.monotonic()
    instrument.make_safe()
    thread.join(2)
    assert not thread.is_alive()
    assert time.monotonic() - begun < 0.5
    assert sum(made) < 200
    instrument.close()


def test_bad_files_are_one_line_with_the_next_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROBELOOP_DATA", str(tmp_path))
    np.save(tmp_path / "m.npy", np.zeros((4, 5)))
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    (tmp_path / "text.h5").write_text("this is no microscopy")
    (tmp_path / "notes.pdf").write_text("x")
    (tmp_path / "torn.dm3").write_bytes(b"\0\0\0\3\0\0")
    (tmp_path / "empty").mkdir()
    h5py.File(tmp_path / "other.h5", "w").close()
    wanted = {
        "gone.h5": "no file gone.h5",
        "m.npy": "pixel_size",
        "words.npy": "holds",
        "text.h5": "can't be read",
        "notes.pdf": "no reader for .pdf",
        "torn.dm3": "can't be read",
        "other.h5": "holds no sidpy/pyNSID dataset",
    }
    for name, message in wanted.items():
        with pytest.raises(SourceError, match=message) as caught:
            Replay(ReplaySettings(file=name))
        assert "\n" not in str(caught.value)
        assert caught.value.next_move, name
    with pytest.raises(SourceError, match="holds no dataset 'z'"):
        Replay(ReplaySettings(file="m.npy", dataset="z"))


def test_settings_come_from_a_rig_with_their_units() -> None:
    made = convert(ReplaySettings, {"file": "a", "pixel_size": "5 nm", "pace": "unlimited"}, spelled=True)
    assert (made.pixel_size, made.pace) == (pytest.approx(5e-9), "unlimited")
    assert unbounded_floats(ReplaySettings) == []
    with pytest.raises(SettingsError, match="pace"):
        convert(ReplaySettings, {"file": "a", "pace": "fast"})
