"""The Nion driver and its bridge, in two processes, on a stand-in for Nion's libraries (tests/drivers/fake_usim)."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from probeloop.drivers.nion import Nion, link
from probeloop.drivers.nion.bridge import wire
from probeloop.drivers.nion.settings import NionSettings

from probeloop.data import commands as c
from probeloop.data.control import Failed
from probeloop.data.errors import DriverError, SettingsError
from probeloop.data.frame import FrameBuffer, FrameFlag
from probeloop.data.scan import Region
from probeloop.data.settings import convert
from probeloop.testing.check_driver import check_driver
from probeloop.testing.local_instrument import LocalInstrument

FAKE = Path(__file__).parent / "fake_usim"
VERSIONS = {"nionswift": "16.16.2", "nionswift-instrumentation": "23.6.2", "nionswift-usim": "5.4.2"}
REGION = Region(10e-9, -20e-9, 90e-9, 50e-9)


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An interpreter that finds the stand-in."""
    for name, version in VERSIONS.items():
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return script(tmp_path, f'PYTHONPATH="$PYTHONPATH:{FAKE}:{tmp_path}" exec {sys.executable} "$@"')


def script(folder: Path, line: str) -> Path:
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def make(python: Path) -> Iterator[Callable[..., Nion]]:
    made: list[Nion] = []

    def nion(**settings: Any) -> Nion:
        made.append(Nion(NionSettings(python=str(python), camera_pixels=32, **settings)))
        return made[-1]

    yield nion
    for each in made:
        each.close()


def frames_of(acquisition: Any, capacity: int = 7) -> dict[str, Any]:
    """Pump it to its end; return every column and the data."""
    kept: dict[str, list[Any]] = {}
    next(acquisition.frames)
    while True:
        buffer = FrameBuffer.allocate(acquisition.spec, capacity)
        try:
            n = acquisition.frames.send(buffer)
        except StopIteration:
            return {name: np.concatenate(rows) for name, rows in kept.items()}
        for name in ("data", "scan_index", "position", "flags", "time_ns"):
            kept.setdefault(name, []).append(getattr(buffer, name)[:n].copy())


def test_it_keeps_the_contract(python: Path) -> None:
    settings = NionSettings(python=str(python), camera_pixels=32)
    assert check_driver(lambda: Nion(settings)) == []


@pytest.mark.parametrize("order", ["raster", "serpentine"])
def test_every_frame_is_of_its_pixel(make: Callable[..., Nion], order: Any) -> None:
    nion = make()
    got = frames_of(nion.scan(c.Scan(REGION, (5, 9), 1e-4, order, frames=2)))
    assert got["scan_index"].size == 90
    places = REGION.positions((5, 9), got["scan_index"])
    assert np.allclose(got["position"], places)
    assert np.allclose(got["data"][:, 0, 0] * 1e-9, places[:, 0], atol=1e-14)  # x is right
    assert np.allclose(got["data"][:, 1, 0] * 1e-9, places[:, 1], atol=1e-14)  # y is down
    assert (np.diff(got["time_ns"]) >= 100_000).all()
    assert np.count_nonzero(got["flags"] & FrameFlag.LINE_START) == 10
    assert np.array_equal((got["flags"] & FrameFlag.REPEAT_VISIT) > 0, np.arange(90) >= 45)
    assert nion.read_back()["position_x"] == pytest.approx(places[-1, 0])


def test_the_flyback_time_passes_between_lines(make: Callable[..., Nion]) -> None:
    got = frames_of(make().scan(c.Scan(REGION, (3, 4), 1e-4, flyback_time=0.03)))
    steps = np.diff(got["time_ns"])
    assert (steps[[3, 7]] > 30e6).all()
    assert got["scan_index"].tolist() == list(range(12))


def test_knobs_are_turned_and_read_by_nions_names(make: Callable[..., Nion]) -> None:
    nion = make(controls={"C12.x": 3e-7})
    nion.set_aberrations(c.SetAberrations({"C10": -1e-7, "C12b": 2e-7, "C30": 1e-5}))
    values = nion.read_back()
    assert values["C10"] == pytest.approx(4e-7)
    assert values["C12a"] == pytest.approx(3e-7)
    assert values["C12b"] == pytest.approx(2e-7)
    nion.set_aberrations(c.SetAberrations({"C12a": 0.0, "C30": -2e-6}, absolute=True))
    values = nion.read_back()
    assert (values["C12a"], values["C30"]) == (0.0, pytest.approx(-2e-6))
    with pytest.raises(DriverError, match=r"no knob C50.*knobs: C10, C12a"):
        nion.set_aberrations(c.SetAberrations({"C50": 1e-3}))


def test_annular_channels_come_as_images(make: Callable[..., Nion]) -> None:
    nion = make()
    square = Region(10e-9, 0.0, 60e-9, 40e-9)
    made = nion.scan(c.Scan(square, (4, 6), 1e-5, "serpentine", 2, ("HAADF", "MAADF")))
    assert made.topic == made.spec.name == "scan"
    assert [each.name for each in made.spec.channels] == ["HAADF", "MAADF"]
    got = frames_of(made)
    assert got["data"].shape == (48, 2)
    assert np.allclose(
        got["data"][:, 0] - 10, got["scan_index"]
    )  # the ramp plus the centre [nm], and nothing mirrored
    for command, words in (
        (c.Scan(square, (4, 4), 1e-5, channels=("HAADF",)), "square pixels"),
        (c.Scan(Region(0, 0, 1e-8, 1e-8, 0.1), (4, 4), 1e-5, channels=("HAADF",)), "rotation = 0"),
        (c.Scan(Region(0, 0, 1e-8, 1e-8), (4, 4), 1e-5, channels=("bf",)), "no detector bf.*HAADF, MAADF"),
    ):
        with pytest.raises(DriverError, match=words):
            nion.scan(command)


def test_a_spectrum_has_its_energy_axis(make: Callable[..., Nion]) -> None:
    nion = make()
    made = nion.acquire_spectrum(c.AcquireSpectrum((1e-9, 2e-9), c.EELS(1e-3, 3, offset=-5.0, dispersion=0.25)))
    (axis,) = made.spec.sig
    assert (axis.offset, axis.scale, axis.units) == (-5.0, 0.25, "eV")
    got = frames_of(made)
    assert got["data"].tolist() == [[12 * i for i in range(64)]]  # four rows, three read-outs
    assert nion.read_back()["energy_offset"] == -5.0
    with pytest.raises(DriverError, match=r"no EDS.*ask for EELS"):
        nion.acquire_spectrum(c.AcquireSpectrum((0.0, 0.0), c.EDS(1e-3)))


def test_without_a_beam_frames_are_dark_and_dark_frames_give_the_beam_back(make: Callable[..., Nion]) -> None:
    nion = make()
    lit = frames_of(nion.scan(c.Scan(REGION, (2, 2), 1e-4)))["data"]
    assert (lit != 0).any()
    dark = frames_of(nion.acquire_reference(c.AcquireReference("dark", 9)))
    assert dark["data"].shape == (9, 32, 32)
    assert (dark["data"] == 0).all()
    assert nion.read_back()["blanked"] is False
    away = frames_of(nion.acquire_reference(c.AcquireReference("vacuum_probe", 3)))["data"]
    assert (away[:, 2] == 5000).all()  # nm, the stage
    assert nion.read_back()["stage_x"] == 0.0
    with pytest.raises(DriverError, match="takes no gain reference"):
        nion.acquire_reference(c.AcquireReference("gain"))
    nion.blank(c.Blank())
    assert nion.read_back()["blanked"] is True
    assert (frames_of(nion.scan(c.Scan(REGION, (2, 2), 1e-4)))["data"] == 0).all()
    frames_of(nion.acquire_reference(c.AcquireReference("dark", 2)))
    assert nion.read_back()["blanked"] is True


def test_a_long_exposure_is_cut_off_and_the_next_scan_works(make: Callable[..., Nion]) -> None:
    nion = make()
    made = nion.scan(c.Scan(REGION, (4, 4), 5.0))
    next(made.frames)
    timer = threading.Timer(0.2, nion.make_safe)
    timer.start()
    begun = time.monotonic()
    with pytest.raises(StopIteration):
        made.frames.send(FrameBuffer.allocate(made.spec, 4))
    assert time.monotonic() - begun < 1.0
    timer.join()
    assert nion.read_back()["blanked"] is True
    nion.unblank(c.Unblank())
    assert frames_of(nion.scan(c.Scan(REGION, (2, 2), 1e-4)))["scan_index"].size == 4


def test_a_killed_bridge_is_told_in_one_line_and_started_again(make: Callable[..., Nion]) -> None:
    nion = make()
    nion.set_aberrations(c.SetAberrations({"C10": 0.0}, absolute=True))
    made = nion.scan(c.Scan(REGION, (4, 4), 0.2))
    next(made.frames)
    first = nion._bridge.process.pid
    timer = threading.Timer(0.1, os.kill, (first, signal.SIGKILL))
    timer.start()
    with pytest.raises(DriverError, match=r"^the Nion bridge ended \(SIGKILL\)\. the next command starts another$"):
        made.frames.send(FrameBuffer.allocate(made.spec, 4))
    timer.join()
    nion.make_safe()
    assert nion.read_back() | {"C10": None} == nion.read_back()
    assert (nion.read_back()["running"], nion.read_back()["blanked"]) == (False, True)
    nion.move_probe(c.MoveProbe((1e-9, 1e-9)))
    values = nion.read_back()
    assert nion._bridge.process.pid != first
    assert values["blanked"] is True  # nobody put the beam of the new one on
    assert values["C10"] == pytest.approx(5e-7)


def test_behind_the_gate_a_killed_bridge_fails_one_command_and_the_beam_stays_off(make: Callable[..., Nion]) -> None:
    local = LocalInstrument(make())
    local.take()
    assert local.do(c.Unblank())
    assert local.do(c.Scan(REGION, (2, 2), 1e-3))
    timer = threading.Timer(0.1, os.kill, (local.driver._bridge.process.pid, signal.SIGKILL))
    timer.start()
    assert local.do(c.Scan(REGION, (4, 4), 0.2))
    timer.join()
    (failed,) = [event for event in local.events if isinstance(event, Failed)]
    assert failed.reason == "DriverError: the Nion bridge ended (SIGKILL). the next command starts another"
    assert local.desk.state.blanked
    assert local.do(c.SetAberrations({"C10": 1e-8}))
    assert local.driver.read_back()["blanked"] is True
    assert local.do(c.Unblank())
    assert local.do(c.Scan(REGION, (2, 2), 1e-3))
    assert local.frames("camera") == 8
    assert local.driver.read_back()["C10"] == pytest.approx(5.1e-7)


def test_a_mute_bridge_does_not_keep_anybody_from_being_safe(make: Callable[..., Nion]) -> None:
    nion = make()
    os.kill(nion._bridge.process.pid, signal.SIGSTOP)
    until(lambda: psutil.Process(nion._bridge.process.pid).status() == psutil.STATUS_STOPPED)
    begun = time.monotonic()
    nion.make_safe()
    assert time.monotonic() - begun < 0.5
    assert nion.read_back()["blanked"] is True
    nion.unblank(c.Unblank())
    assert nion.read_back()["blanked"] is False


@pytest.mark.parametrize("fault", ["hang", "fail"])
def test_a_library_that_hangs_or_fails(make: Callable[..., Nion], monkeypatch: Any, fault: str) -> None:
    monkeypatch.setenv("FAKE_USIM", fault)
    nion = make()
    made = nion.scan(c.Scan(Region(0, 0, 1e-8, 1e-8), (1, 4), 1e-4))
    next(made.frames)
    assert made.frames.send(FrameBuffer.allocate(made.spec, 2)) == 2  # the left half
    told: list[Exception] = []

    def right_half() -> None:
        try:
            made.frames.send(FrameBuffer.allocate(made.spec, 2))
        except Exception as error:
            told.append(error)

    thread = threading.Thread(target=right_half)
    thread.start()
    thread.join(0.3)
    begun = time.monotonic()
    nion.make_safe()
    assert time.monotonic() - begun < 0.5
    assert nion.read_back()["blanked"] is True
    if fault == "fail":
        assert "Nion's library failed in expose: RuntimeError: a frame that can't be drawn" in str(told[0])
    else:
        nion._bridge.kill()
    thread.join(5.0)
    assert len(told) == 1


def test_the_guard_reaches_the_bridge_of_a_lost_instrument(make: Callable[..., Nion]) -> None:
    nion = make()
    guard = Nion.guard_connection(nion.parameters)
    assert guard.read_back()["blanked"] is False
    assert nion._bridge.process.stdin is not None
    guard.make_safe()
    assert guard.read_back()["blanked"] is True
    nion.unblank(c.Unblank())
    nion._bridge.process.stdin.close()  # as the kernel does for an instrument that was killed
    until(lambda: guard.read_back()["blanked"])
    until(lambda: nion._bridge.ended)
    guard.close()
    nion.close()
    with pytest.raises(DriverError, match="no Nion bridge"):
        Nion.guard_connection(nion.parameters)


def until(found: Callable[[], Any], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_stranger_is_not_heard(make: Callable[..., Nion]) -> None:
    nion = make()
    with pytest.raises(DriverError, match="does not know you"):
        link.Line(nion._bridge.port, "0" * 32, "guard")
    with socket.create_connection(("127.0.0.1", nion._bridge.port)) as stranger:
        stranger.settimeout(2.0)
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(100) == b""
    assert nion.read_back()["running"] is True


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f'exec {sys.executable} "$@"', r"has no nionswift-usim \(tried: 5\.4\.2\): ModuleNotFoundError.*make peers"),
        ("echo good morning", r"did not start: it said b'good morning.*make peers"),
        ("echo broken >&2; exit 3", r"did not start: broken\. make peers"),
        ("exec sleep 60", r"does not start within 1 s\. raise start_timeout"),
    ],
)
def test_a_python_that_is_not_nions(tmp_path: Path, line: str, words: str) -> None:
    python = script(tmp_path, line if line.startswith("exec") else f"exec sh -c '{line}'")
    seconds = 1.0 if "sleep" in line else 20.0
    with pytest.raises(DriverError, match=words) as caught:
        Nion(NionSettings(python=str(python), start_timeout=seconds))
    assert "\n" not in str(caught.value)


def test_another_version_of_usim_that_does_not_fit(tmp_path: Path, python: Path) -> None:
    other = tmp_path / "nion" / "usim_device"
    other.mkdir(parents=True)
    (other / "InstrumentDevice.py").write_text("class AxisManager: pass\nclass ValueManager: pass\n")
    python.write_text(python.read_text().replace(f"{FAKE}:{tmp_path}", f"{tmp_path}:{FAKE}"))
    words = r"has nionswift-usim 5\.4\.2, which can't be used .*AttributeError: .*ScanDataGenerator"
    with pytest.raises(DriverError, match=words):
        Nion(NionSettings(python=str(python)))


def test_an_environment_that_is_missing(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PROBELOOP_PEERS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(link, "HERE", tmp_path / "a" / "b")
    with pytest.raises(DriverError, match=r"Nion's libraries are not installed: no nion/bin/python in .*make peers"):
        Nion(NionSettings())
    with pytest.raises(DriverError, match="there is no interpreter"):
        Nion(NionSettings(python=str(tmp_path / "none")))


def test_settings_that_do_not_fit() -> None:
    with pytest.raises(SettingsError, match="fills the camera"):
        convert(NionSettings, {"convergence": 80.0, "half_angle": 60.0})
    with pytest.raises(SettingsError, match="camera_pixels"):
        convert(NionSettings, {"camera_pixels": 33})
    with pytest.raises(SettingsError, match="attach needs port and key"):
        convert(NionSettings, {"attach": True, "port": 28700})


def test_bytes_that_are_no_message() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire.send(ours, {"do": "get"}, b"12345678")
        memory = memoryview(bytearray(16))
        head, payload = wire.receive(theirs, memory)
        assert (head, bytes(payload), bytes(memory[:8])) == ({"do": "get"}, b"12345678", b"12345678")
        wire.send(ours, {}, b"123")
        with pytest.raises(ValueError, match="no message"):
            wire.receive(theirs, most=2)
        theirs.recv(100)
        for header in (b"[1]", b"{", b"\xff\xff"):
            ours.sendall(wire._FRAME.pack(b"PLN1", len(header), 0) + header)
            with pytest.raises(ValueError):
                wire.receive(theirs)
        ours.sendall(wire._FRAME.pack(b"PLN1", 1 << 31, 0))
        with pytest.raises(ValueError, match="no message"):
            wire.receive(theirs)
        ours.close()
        with pytest.raises(ConnectionError):
            wire.receive(theirs)
