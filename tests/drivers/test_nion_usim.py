"""The Nion driver against nionswift-usim, which other people wrote."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from probeloop.drivers.nion import Nion
from probeloop.drivers.nion.settings import NionSettings

from probeloop.data import commands as c
from probeloop.data.aberrations import Aberrations, chi, to_nion
from probeloop.data.errors import DriverError
from probeloop.data.frame import FrameBuffer
from probeloop.data.scan import Region
from probeloop.testing.check_driver import check_driver

pytestmark = pytest.mark.peers("nion")
FLAT = {"C10": 0.0}
FIELD = Region(0.0, 0.0, 240e-9, 240e-9)  # nearly all of the flakes


@pytest.fixture(scope="module")
def python() -> str:
    root = Path(os.environ.get("PROBELOOP_PEERS") or Path(__file__).parents[2] / ".peers")
    found = root / "nion" / "bin" / "python"
    if not found.is_file():
        pytest.skip("nionswift-usim is not there: make peers")
    return str(found)


@pytest.fixture
def nion(python: str) -> Iterator[Nion]:
    made = Nion(NionSettings(python=python, camera_pixels=64, field=300.0, controls=FLAT))
    yield made
    made.close()


def pumped(acquisition: Any, capacity: int = 16) -> tuple[Any, Any]:
    """Return (data by scan index, starts [ns])."""
    data, index, times = [], [], []
    next(acquisition.frames)
    while True:
        buffer = FrameBuffer.allocate(acquisition.spec, capacity)
        try:
            n = acquisition.frames.send(buffer)
        except StopIteration:
            break
        data.append(buffer.data[:n].copy())
        index.append(buffer.scan_index[:n].copy())
        times.append(buffer.time_ns[:n].copy())
    order = np.concatenate(index)
    made = np.concatenate(data)
    if order.size and len(set(order.tolist())) == order.max() + 1:  # all of them
        mapped = np.empty_like(made)
        mapped[order] = made
        made = mapped
    return made, np.concatenate(times)


def test_it_keeps_the_contract(python: str) -> None:
    settings = NionSettings(python=python, camera_pixels=64)
    assert check_driver(lambda: Nion(settings)) == []


def annular(nion: Nion, region: Region, n: int) -> Any:
    """What the annular detector sees of each of (n, n) pixels: the mean of five by five places in it."""
    image, _ = pumped(nion.scan(c.Scan(region, (5 * n, 5 * n), 1e-6, channels=("HAADF",))), 1024)
    return image.reshape(n, 5, n, 5).mean(axis=(1, 3))


def alike(a: Any, b: Any) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))


def orientations(image: Any) -> dict[str, Any]:
    """The eight ways to look at a square image."""
    turned = {f"{90 * k} deg": np.rot90(image, k) for k in range(4)}
    return turned | {f"{name}, transposed": np.ascontiguousarray(each).T for name, each in turned.items()}


def test_what_lies_at_plus_x_appears_at_plus_x(python: str) -> None:
    """Scan unit and camera raster, each with conventions of its own, see the same asymmetric sample alike."""
    nion = Nion(NionSettings(python=python, camera_pixels=128, controls=FLAT))
    try:
        look_both_ways(nion)
    finally:
        nion.close()


def look_both_ways(nion: Nion) -> None:
    image = annular(nion, FIELD, 48)
    rastered, _ = pumped(nion.scan(c.Scan(FIELD, (48, 48), 1e-4)))
    absorbed = -rastered.sum(axis=(1, 2)).reshape(48, 48)
    found = {name: alike(each, absorbed) for name, each in orientations(image).items()}
    best = max(found, key=lambda name: found[name])
    assert best == "0 deg"
    assert found[best] > 0.9
    assert sorted(found.values())[-2] < 0.75
    # and a part of it, off the centre, is that part
    part = Region(50e-9, -40e-9, 80e-9, 80e-9)
    crop = image[8:24, 26:42]  # 5 nm a pixel: x 10 to 90 nm, y -80 to 0 nm
    assert alike(crop, annular(nion, part, 16)) > 0.9
    got, _ = pumped(nion.scan(c.Scan(part, (16, 16), 1e-4)))
    assert alike(crop, -got.sum(axis=(1, 2)).reshape(16, 16)) > 0.8


def test_rays_move_as_the_conventions_say(python: str) -> None:
    """A ray at angle t lands at grad chi(t): an image in a pixel of the disc is shifted by minus that."""
    settings = {"C10": 1e-6, "C12.x": 0.0, "C12.y": 0.0}
    for extra in ({}, {"C12a": 8e-7}, {"C12b": 8e-7}, {"C21a": 1.5e-5}, {"C23b": 1.5e-5}):
        nion = Nion(NionSettings(python=python, camera_pixels=64, controls=settings))
        try:
            values = Aberrations(C10=1e-6, **extra)
            nion.set_aberrations(c.SetAberrations(extra, absolute=True))
            assert nion.read_back().items() >= {"C10": 1e-6, **extra}.items()
            frames, _ = pumped(nion.scan(c.Scan(FIELD, (60, 60), 1e-4)))
            angle = nion.about["pixel_angle"]
            straight = frames[:, 31:34, 31:34].mean(axis=(1, 2)).reshape(60, 60)
            for ky, kx in ((0, 18), (18, 0), (-12, 12)):
                seen = frames[:, 32 + ky, 32 + kx].reshape(60, 60)
                moved = shift_of(straight, seen) * 4e-9  # (y, x) [m]; pixels of 4 nm
                expected = -gradient(values, kx * angle, ky * angle)
                assert np.abs(moved - expected).max() < 8e-9, (extra, ky, kx, moved, expected)
        finally:
            nion.close()


def gradient(values: Aberrations, x: float, y: float) -> Any:
    step = 1e-5
    dy = chi(values, x, y + step, 1.0) - chi(values, x, y - step, 1.0)
    dx = chi(values, x + step, y, 1.0) - chi(values, x - step, y, 1.0)
    return np.array([float(dy), float(dx)]) / (4 * np.pi * step)


def shift_of(reference: Any, image: Any) -> Any:
    """By how much `image` is moved (y, x) [pixels]: the place that correlates best, within 15."""
    best, at = -2.0, (0, 0)
    for y in range(-15, 16):
        for x in range(-15, 16):
            a = reference[max(0, -y) : 60 - max(0, y), max(0, -x) : 60 - max(0, x)]
            b = image[max(0, y) : 60 - max(0, -y), max(0, x) : 60 - max(0, -x)]
            value = alike(a, b)
            if value > best:
                best, at = value, (y, x)
    return np.array(at, float)


def test_every_knob_is_a_control_and_reads_back(nion: Nion) -> None:
    knobs = nion.describe().limits.knobs
    wanted = {name: high / (3 + i) for i, (name, (_, high)) in enumerate(knobs.items())}
    nion.set_aberrations(c.SetAberrations(wanted, absolute=True))
    values = nion.read_back()
    assert {name: values[name] for name in wanted} == pytest.approx(wanted)
    raw = nion._bridge.values.ask("get", 5.0, names=list(to_nion(Aberrations(**wanted))))[0]["values"]
    assert raw == pytest.approx(to_nion(Aberrations(**wanted)))
    with pytest.raises(DriverError, match="usim has no control 'C12'"):
        nion._bridge.values.ask("get", 5.0, names=["C12"])


def test_the_disc_is_where_the_calibrations_say(nion: Nion) -> None:
    got, _ = pumped(nion.acquire_reference(c.AcquireReference("dark", 4)))
    lit, _ = pumped(nion.acquire_reference(c.AcquireReference("vacuum_probe", 4)))
    dark, bright = got.mean(axis=0), lit.mean(axis=0)
    assert abs(float(dark.mean())) < 0.05 * float(bright.mean())
    calibrations = {each.kind: each.value for each in nion.describe().calibrations}
    ky, kx = np.indices((64, 64))
    disc = bright > bright.max() / 2
    assert bright[disc].std() < 0.01 * bright[disc].mean()  # nothing of the sample
    centre = (ky[disc].mean(), kx[disc].mean())
    assert centre == pytest.approx(calibrations["pattern_centre"], abs=0.6)
    radius = np.sqrt(disc.sum() / np.pi) * calibrations["detector_scale"][0]
    assert radius == pytest.approx(calibrations["convergence_angle"][0], rel=0.03)


def test_a_blanked_beam_gives_nothing(nion: Nion) -> None:
    nion.blank(c.Blank())
    frames, _ = pumped(nion.scan(c.Scan(FIELD, (3, 3), 1e-3)))
    image, _ = pumped(nion.scan(c.Scan(FIELD, (8, 8), 1e-5, channels=("HAADF", "MAADF"))))
    spectrum, _ = pumped(nion.acquire_spectrum(c.AcquireSpectrum((0.0, 0.0), c.EELS(1e-2))))
    nion.unblank(c.Unblank())
    lit, _ = pumped(nion.scan(c.Scan(FIELD, (3, 3), 1e-3)))
    assert abs(float(frames.mean())) < 1e-3 * float(lit.mean())
    assert not image.any()
    assert not spectrum.any()


def test_a_spectrum_has_its_zero_loss_at_zero(nion: Nion) -> None:
    made = nion.acquire_spectrum(c.AcquireSpectrum((0.0, 0.0), c.EELS(1e-2, 2)))
    (counts,), _ = pumped(made)
    energies = made.spec.sig[0].values()
    assert energies.size == 1024
    assert abs(energies[int(np.argmax(counts))]) <= made.spec.sig[0].scale
    nion.set_spectrometer(c.SetSpectrometer(energy_offset=-100.0))
    made = nion.acquire_spectrum(c.AcquireSpectrum((0.0, 0.0), c.EELS(1e-2)))
    (counts,), _ = pumped(made)
    assert abs(made.spec.sig[0].values()[int(np.argmax(counts))]) <= made.spec.sig[0].scale


def test_the_same_seed_gives_the_same_frames(python: str) -> None:
    seen = []
    for _ in range(2):
        made = Nion(NionSettings(python=python, camera_pixels=64, seed=5))
        seen.append(pumped(made.scan(c.Scan(FIELD, (3, 3), 1e-3)))[0])
        made.close()
    assert np.array_equal(*seen)


def test_stop_in_mid_scan(nion: Nion) -> None:
    made = nion.scan(c.Scan(FIELD, (32, 32), 5e-2))
    took: list[float] = []

    def stop() -> None:
        begun = time.monotonic()
        nion.make_safe()
        took.append(time.monotonic() - begun)

    timer = threading.Timer(0.3, stop)
    timer.start()
    pumped(made)
    timer.join()
    assert took[0] < 0.5
    assert nion.read_back()["blanked"] is True


def test_a_killed_bridge(nion: Nion) -> None:
    os.kill(nion._bridge.process.pid, signal.SIGKILL)
    with pytest.raises(DriverError, match=r"the Nion bridge ended \(SIGKILL\)"):
        pumped(nion.scan(c.Scan(FIELD, (64, 64), 1e-2))) if nion._bridge.process.wait() is None else nion._work(
            "begin", 0.0
        )
    frames, _ = pumped(nion.scan(c.Scan(FIELD, (2, 2), 1e-3)))
    assert frames.shape == (4, 64, 64)


def test_a_run_of_the_rig_is_a_4d_record_that_hyperspy_opens(python: str, tmp_path: Path) -> None:
    hs: Any = pytest.importorskip("hyperspy.api")
    plan = tmp_path / "raster.toml"
    plan.write_text(
        'use = "overview"\n[parameters]\nshape = [12, 16]\ndwell_time = "1 ms"\n'
        "region = { centre_x = 0.0, centre_y = 0.0, width = 80e-9, height = 60e-9 }\n"
    )
    made = subprocess.run(
        [sys.executable, "-m", "probeloop.cli", "run", "nion-usim", "--plan", str(plan), "--headless", "--json",
         "--record", str(tmp_path), "--set", f"instrument.python={python}", "--set", f"name=nion-{os.getpid()}"],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    summary = json.loads(made.stdout)
    assert summary["plans"][0]["state"] == "finished", summary
    (record,) = tmp_path.glob("*/camera/*.zspy")
    signal_ = hs.load(record)
    assert signal_.axes_manager.navigation_shape == (16, 12)
    assert signal_.axes_manager.signal_shape == (128, 128)
    (x, y), (kx, ky) = signal_.axes_manager.navigation_axes, signal_.axes_manager.signal_axes
    assert [axis.name for axis in (x, y, kx, ky)] == ["x", "y", "kx", "ky"]
    assert (x.units, kx.units) == ("nm", "mrad")
    assert (x.scale, y.scale) == (pytest.approx(5.0), pytest.approx(5.0))
    assert (x.offset, y.offset) == (pytest.approx(-37.5), pytest.approx(-27.5))
    assert kx.scale == ky.scale == pytest.approx(120 / 128, rel=1e-6)
    assert kx.offset == pytest.approx(-60.0, rel=1e-6)
    assert signal_.original_metadata.probeloop.complete
    assert float(np.asarray(signal_.data).max()) > 0


def test_a_killed_instrument_is_made_safe_by_the_guard_and_its_bridge_ends(python: str, tmp_path: Path) -> None:
    name = f"nion-{os.getpid()}-killed"
    run = subprocess.Popen(
        [sys.executable, "-m", "probeloop.cli", "run", "nion-usim", "--headless", "--json", "--record", str(tmp_path),
         "--set", f"instrument.python={python}", "--set", f"name={name}"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip

    def pids(*words: str) -> list[int]:
        found = [each for each in psutil.process_iter(["cmdline", "ppid"]) if each.info["cmdline"]]
        return [each.pid for each in found if all(any(w in part for part in each.info["cmdline"]) for w in words)]

    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*/camera/*")):  # the raster runs
        assert time.monotonic() < deadline
        assert run.poll() is None
        time.sleep(0.1)
    (instrument,) = pids("probeloop.rig.process", name, "instrument.json")
    bridges = [each.pid for each in psutil.Process(instrument).children()]
    assert len(bridges) == 1
    os.kill(instrument, signal.SIGKILL)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 1, err
    summary = json.loads(out)
    assert [act.partition(":")[0] for act in summary["guard"]] == ["made safe"]
    while psutil.pid_exists(bridges[0]):
        assert time.monotonic() < deadline + 60
        time.sleep(0.1)
