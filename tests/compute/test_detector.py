"""Where a detector's pixels lie: angles, annuli, deflections; what is missing or outside is named."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from probeloop.compute.detector import DetectorGeometry, detector_to_scan, standard_annuli
from probeloop.data.axes import Axis, StreamSpec
from probeloop.data.calibration import Calibration, CalibrationSet
from probeloop.data.errors import CalibrationError


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


def test_an_annulus_is_half_open_and_about_the_centre() -> None:
    geometry = DetectorGeometry((9, 9), (4.0, 4.0), (1e-3, 1e-3))
    ring = geometry.annulus(1e-3, 2e-3)
    y, x = np.mgrid[-4:5, -4:5]
    assert (ring == ((np.hypot(y, x) >= 1) & (np.hypot(y, x) < 2))).all()
    assert ring.sum() == 8


def test_an_annulus_partly_outside_warns_with_its_share_and_one_outside_is_refused() -> None:
    geometry = DetectorGeometry((64, 64), (31.0, 33.5), (2e-3, 2e-3))
    with pytest.warns(UserWarning, match=r"only \d+% of the annulus 50.0 to 90.0 mrad lies on the detector"):
        geometry.annulus(50e-3, 90e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        geometry.annulus(10e-3, geometry.inscribed)
    with pytest.raises(CalibrationError, match=r"no pixel lies between 500.0 and 900.0 mrad, the detector sees \d+"):
        geometry.annulus(0.5, 0.9)


def test_standard_annuli_are_multiples_of_the_convergence_angle() -> None:
    geometry = DetectorGeometry((64, 64), (31.5, 31.5), (1e-3, 1e-3))
    known = calibrations(convergence_angle=(10e-3,))
    annuli = standard_annuli(geometry, known, "me")
    assert annuli == {"bf": (0.0, 10e-3), "abf": (5e-3, 10e-3), "adf": (24e-3, pytest.approx(32e-3))}
    with pytest.raises(CalibrationError, match="me needs the calibration 'convergence_angle'"):
        standard_annuli(geometry, calibrations(), "me")


def test_deflection_is_in_the_scan_frame_and_an_empty_pattern_has_none() -> None:
    geometry = DetectorGeometry((8, 8), (4.0, 4.0), (2e-3, 3e-3))
    moments = np.array([[10.0, 20.0, -10.0], [0.0, 0.0, 0.0]])
    quarter = detector_to_scan(calibrations(scan_detector_rotation=(np.pi / 2,), scan_detector_flip=(1.0,)), "me")
    found = geometry.deflection(moments, quarter)
    np.testing.assert_allclose(found[0], (-2e-3, -6e-3), atol=1e-15)  # (6, -2) mrad, x towards -y, y towards x
    assert np.isnan(found[1]).all()
