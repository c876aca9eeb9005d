"""Cameras that are not ideal: response, noise, dark and dead pixels, full counters, references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from probeloop.simulators.stem import StemSettings, StemSimulator
from probeloop.simulators.stem.camera import CameraSettings, RealSensor
from probeloop.simulators.stem.noise import stream_seed

from probeloop.data.commands import AcquireReference, Scan, SetDetector
from probeloop.data.driver import Acquisition
from probeloop.data.errors import DriverError
from probeloop.data.frame import FrameBuffer, FrameFlag
from probeloop.data.scan import Region
from probeloop.data.settings import SettingsError, convert
from probeloop.testing.check_driver import check_simulator

SMALL: dict[str, Any] = {
    "pixels": 32, "pixel_angle": 8.0, "tile": 4, "carbon": 0.1, "crystal": 0.4, "pace": None, "settling": 0.0,
}  # fmt: skip
CLEAN = {"hot": 0.0, "dead": 0.0}


def column(detector: Any, camera: dict[str, Any] | None = None, **parameters: Any) -> StemSimulator:
    return StemSimulator(
        StemSettings(**SMALL, detector=detector, camera=CameraSettings(**(camera or {})), **parameters)
    )


def frames(acquisition: Acquisition) -> tuple[np.ndarray, np.ndarray]:
    next(acquisition.frames)
    data, flags = [], []
    while True:
        buffer = FrameBuffer.allocate(acquisition.spec, 16)
        try:
            n = acquisition.frames.send(buffer)
        except StopIteration:
            return np.concatenate(data), np.concatenate(flags)
        data.append(buffer.data[:n].copy())
        flags.append(buffer.flags[:n].copy())


def read(kind: Any, image: np.ndarray, electrons: float, count: int, **settings: Any) -> np.ndarray:
    """Return `count` frames of a sensor lit with `image`, whose sum is 1, each of 1 ms."""
    sensor = RealSensor(kind, CameraSettings(**(CLEAN | settings)), image.shape[0], 1e-3, seed=1)
    wave = np.fft.ifftshift(np.sqrt(image)).astype(np.complex64)
    out = np.empty((count, *image.shape), np.uint16)
    for i in range(count):
        sensor.record(wave, electrons, 1e-3, (stream_seed(2), np.uint64(i)), out[i])
    return out.astype(float)


FLAT = np.full((64, 64), 1 / 4096)


@pytest.mark.parametrize("kind", ["counting", "integrating"])
@pytest.mark.parametrize("mtf", [1.0, 0.5])
def test_stripes_at_nyquist_keep_their_transfer(kind: Any, mtf: float) -> None:
    stripes = FLAT * (1 + 0.8 * (-1.0) ** np.arange(64))[None, :]
    mean = read(kind, stripes, 4e5, 40, mtf=mtf, gain_spread=0.0, dark_level=0.0, bit_depth=16).mean(0)[8:-8, 8:-8]
    contrast = (mean[:, ::2] - mean[:, 1::2]).mean() / (2 * mean.mean())
    assert contrast == pytest.approx(0.8 * mtf, abs=0.01)


def test_a_counter_keeps_white_noise_and_an_integrating_sensor_blurs_it() -> None:
    counted = read("counting", FLAT, 4096 * 5.0, 60, mtf=0.4)[:, 4:-4, 4:-4]
    assert counted.mean() == pytest.approx(5.0, rel=0.01)
    assert counted.var(axis=0).mean() == pytest.approx(5.0, rel=0.03)
    summed = read("integrating", FLAT, 4096 * 5.0, 60, mtf=0.4, read_noise=0.5, gain_spread=0.0)[:, 4:-4, 4:-4]
    assert summed.mean() == pytest.approx(100 + 20 * 5.0, rel=0.01)
    for seen, low, high in ((counted, -0.02, 0.02), (summed, 0.35, 0.6)):
        off = seen - seen.mean(axis=0)
        assert low < (off[:, :, 1:] * off[:, :, :-1]).mean() / off.var() < high


def test_counters_are_full_and_say_so() -> None:
    stem = column("counting", CLEAN, beam_current=900.0)
    scan = Scan(Region(0, 0, 1e-9, 1e-9), (2, 2), 0.1)
    data, flags = frames(stem.scan(scan))
    assert data.max() == 4095
    assert np.all(flags & int(FrameFlag.SATURATED))
    stem.set_detector(SetDetector(bit_depth=6))
    assert frames(stem.scan(scan))[0].max() == 63
    with pytest.raises(DriverError, match="24 bits"):
        stem.set_detector(SetDetector(bit_depth=24))
    with pytest.raises(DriverError, match="roi"):
        stem.set_detector(SetDetector(roi=(0, 0, 8, 8)))


def test_a_busy_pixel_misses_electrons() -> None:
    seen = read("counting", FLAT, 4096 * 50.0, 20, mtf=1.0, dead_time=1e-5)
    assert seen.mean() == pytest.approx(50 / (1 + 50 * 1e-5 / 1e-3), rel=0.01)


def test_dark_frames_show_level_current_noise_hot_and_dead_pixels() -> None:
    stem = column("integrating", {"dark_current": 3000.0, "hot": 0.02, "dead": 0.02})
    dark, _ = frames(stem.acquire_reference(AcquireReference("dark", 200)))
    truth, mean = stem.truth(), dark.mean(axis=0)
    hot, dead = truth["hot_pixels"], truth["dead_pixels"]
    assert hot.any()
    assert dead.any()
    good = ~(hot | dead)
    assert mean[good].mean() == pytest.approx(100 + 3000 * 1e-3, abs=0.5)
    assert dark.var(axis=0)[good].mean() == pytest.approx(3.0**2 + 3 + 1 / 12, rel=0.05)
    assert mean[hot & ~dead].min() > 1000
    assert mean[dead].max() == 0
    again, _ = frames(stem.acquire_reference(AcquireReference("dark", 200)))
    assert (again != dark).any()  # new noise in a new reference


def test_a_gain_reference_finds_the_gain_of_each_pixel() -> None:
    stem = column("integrating", CLEAN | {"mtf": 1.0}, beam_current=200.0)
    dark, _ = frames(stem.acquire_reference(AcquireReference("dark", 50)))
    lit, _ = frames(stem.acquire_reference(AcquireReference("gain", 200)))
    found = lit.mean(axis=0) - dark.mean(axis=0)
    np.testing.assert_allclose(found / found.mean(), stem.truth()["pixel_gain"], atol=0.02)
    calibration = next(k for k in stem.describe().calibrations if k.kind == "counts_per_electron")
    electrons = 200e-12 * 1e-3 / 1.602176634e-19 / 1024
    assert found.mean() == pytest.approx(electrons * (calibration.value or (0,))[0], rel=0.02)
    assert frames(column("ideal").acquire_reference(AcquireReference("gain", 20)))[0].std() > 0


def test_gaps_and_the_beam_stop_are_dark() -> None:
    stem = column("counting", CLEAN | {"gap": 2, "beam_stop": 17.0})
    lit, _ = frames(stem.acquire_reference(AcquireReference("gain", 20)))
    shadow = stem.truth()["camera_shadow"]
    assert shadow[15:17].all()
    assert shadow[:, 15:17].all()
    assert shadow[18, 16]
    assert not shadow[20, 20]
    assert lit[:, shadow].max() == 0
    assert lit[:, ~shadow].mean() > 0


@pytest.mark.parametrize("detector", ["counting", "integrating"])
def test_two_threads_give_the_same_bits(detector: Any) -> None:
    made = []
    for threads in (1, 2):
        stem = column(detector, threads=threads)
        made.append(frames(stem.scan(Scan(Region(0, 0, 1e-9, 1e-9), (6, 6), 1e-4)))[0])
        stem.close()
    np.testing.assert_array_equal(made[0], made[1])


def test_with_everything_on_it_keeps_the_contract_of_a_simulator() -> None:
    everything: dict[str, Any] = {
        "detector": "integrating", "damage": "both", "corrector_drift": 2e-9, "corrector_noise": 0.02, "threads": 2,
        "drift_walk": 1e-10, "line_jitter": 1e-11, "scan_settling": 1e-4, "knobs": "third",
    }  # fmt: skip
    assert check_simulator(lambda: StemSimulator(StemSettings(**SMALL, **everything))) == []


def test_settings_are_checked_with_their_path() -> None:
    with pytest.raises(SettingsError, match=r"camera\.mtf"):
        convert(StemSettings, {"camera": {"mtf": 2.0}})
    with pytest.raises(SettingsError, match="detector"):
        convert(StemSettings, {"detector": "film"})
    assert convert(StemSettings, {"critical_dose": "10 e/Å^2"}, spelled=True).critical_dose == 1e21
