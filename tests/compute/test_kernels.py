"""The compiled sums against the naive numpy line, on every dtype; detector geometry; the one door to a GPU."""

from __future__ import annotations

import numpy as np
import pytest

from probeloop.compute.backend import array_module
from probeloop.compute.detector import DetectorGeometry, detector_to_scan
from probeloop.compute.kernels import bounding_box, first_moments, weighted_sums
from probeloop.data.axes import Axis, StreamSpec
from probeloop.data.calibration import Calibration, CalibrationSet
from probeloop.data.errors import CalibrationError, DropInError

DTYPES = ["u1", "<u2", "<u4", "<i2", "<i4", "<f4", "<f8", "<u8"]


def frames(dtype: str, shape: tuple[int, int, int] = (5, 33, 47)) -> np.ndarray:
    made = np.random.default_rng(1).integers(0, 200, shape).astype(dtype)
    made.flags.writeable = False
    return made


@pytest.mark.parametrize("dtype", DTYPES)
def test_weighted_sums_are_the_naive_line(dtype: str) -> None:
    data = frames(dtype)
    weight = np.zeros((33, 47), np.float32)
    weight[3:20, 7:40] = np.random.default_rng(2).random((17, 33))
    naive = (data.astype(np.float64) * weight).sum(axis=(1, 2))
    np.testing.assert_allclose(weighted_sums(data, weight), naive, rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_first_moments_are_the_naive_line(dtype: str) -> None:
    data = frames(dtype)
    y, x = np.mgrid[:33, :47]
    wide = data.astype(np.float64)
    naive = np.stack([wide.sum((1, 2)), (wide * (x - 20.25)).sum((1, 2)), (wide * (y - 16.5)).sum((1, 2))], -1)
    np.testing.assert_allclose(first_moments(data, 16.5, 20.25), naive, rtol=1e-5, atol=1e-2)


def test_counts_are_exact_and_the_largest_do_not_overflow() -> None:
    data = np.full((2, 256, 256), 65535, np.uint16)
    assert weighted_sums(data, np.ones((256, 256), np.float32)).tolist() == [65535.0 * 65536] * 2


def test_nothing_in_gives_nothing_out() -> None:
    assert weighted_sums(np.zeros((0, 4, 4), np.uint16), np.ones((4, 4), np.float32)).shape == (0,)
    assert weighted_sums(np.ones((2, 4, 4), np.uint16), np.zeros((4, 4), np.float32)).tolist() == [0, 0]
    assert bounding_box(np.zeros((4, 4))) == (0, 0, 0, 0)


def calibrations(**values: tuple[float, ...]) -> CalibrationSet:
    return CalibrationSet(tuple(Calibration(id=k, kind=k, value=v) for k, v in values.items()))  # type: ignore[arg-type]


SPEC = StreamSpec("camera", "frames", "<u2", sig=(Axis("ky", 64), Axis("kx", 32)))


def test_geometry_names_the_missing_calibration() -> None:
    with pytest.raises(CalibrationError, match="me needs the calibration 'detector_scale'"):
        DetectorGeometry.of(SPEC, calibrations(pattern_centre=(30.0, 15.0)), "me")
    with pytest.raises(CalibrationError, match="diffraction patterns"):
        DetectorGeometry.of(StreamSpec("v", "values"), calibrations(), "me")


def test_radius_share_and_edge() -> None:
    geometry = DetectorGeometry.of(SPEC, calibrations(pattern_centre=(30.0, 15.0), detector_scale=(1e-3,)), "me")
    y, x = np.mgrid[:64, :32]
    np.testing.assert_allclose(geometry.radius(), np.hypot(y - 30.0, x - 15.0) * 1e-3)
    assert geometry.inscribed == pytest.approx(15.5e-3)
    assert geometry.share(0.0, 15e-3) == pytest.approx(1.0, abs=0.03)
    assert geometry.share(15e-3, 30e-3) < 0.7


def test_rotation_turns_x_towards_minus_y_and_flip_turns_y_round() -> None:
    quarter = detector_to_scan(calibrations(scan_detector_rotation=(np.pi / 2,), scan_detector_flip=(1.0,)), "me")
    np.testing.assert_allclose(quarter @ (1.0, 0.0), (0.0, -1.0), atol=1e-12)
    flipped = detector_to_scan(calibrations(scan_detector_rotation=(0.0,), scan_detector_flip=(-1.0,)), "me")
    np.testing.assert_allclose(flipped @ (1.0, 2.0), (1.0, -2.0))


def test_the_cpu_is_numpy_and_a_missing_gpu_is_one_line() -> None:
    assert array_module() is np
    try:
        import cupy  # noqa: F401
    except ImportError:
        with pytest.raises(DropInError, match="no GPU"):
            array_module("cuda")
