"""The annular detector against the naive numpy line, its defaults, what it refuses and what it warns of."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from probeloop.plugins.annular_detector import AnnularDetector

from probeloop.api import Axis, Calibration, CalibrationError, CalibrationSet, Context, SettingsError, StreamSpec
from probeloop.data.settings import convert
from probeloop.testing.streams import block_of

CALIBRATIONS = {"pattern_centre": (31.0, 33.5), "detector_scale": (2e-3,), "convergence_angle": (10e-3,)}


def context(**changes: tuple[float, ...] | None) -> Context:
    values = {k: v for k, v in {**CALIBRATIONS, **changes}.items() if v is not None}
    return Context(calibrations=CalibrationSet(tuple(Calibration(id=k, kind=k, value=v) for k, v in values.items())))


def spec(dtype: str = "<u2") -> StreamSpec:
    return StreamSpec(
        "camera", "frames", dtype, (Axis("y", 3), Axis("x", 4)), (Axis("ky", 64), Axis("kx", 64)), units="e"
    )


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4", "<i4", "<f4", "<f8"])
def test_it_is_the_sum_between_two_angles(dtype: str) -> None:
    detector = AnnularDetector(AnnularDetector.Parameters(inner=12.0, outer=50.0), context())
    out = detector.outputs(spec(dtype))["intensity"]
    assert (out.kind, out.units) == ("values", "e")
    block = block_of(spec(dtype), np.random.default_rng(0).integers(0, 99, (12, 64, 64)))
    y, x = np.mgrid[:64, :64]
    radius = np.hypot(y - 31.0, x - 33.5) * 2.0
    naive = (block.data.astype(float) * ((radius >= 12) & (radius < 50))).sum((1, 2))
    np.testing.assert_allclose(detector.process(block)["intensity"], naive, rtol=1e-6)


def test_the_default_is_2_4_convergence_angles_to_the_edge_and_is_shown() -> None:
    detector = AnnularDetector(None, context())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector.outputs(spec())
    assert detector.parameters.inner == pytest.approx(24.0)
    assert detector.parameters.outer == pytest.approx(60.0)  # 30 pixels and half of one to the right-hand edge


@pytest.mark.parametrize("kind", list(CALIBRATIONS))
def test_an_absent_calibration_is_named(kind: str) -> None:
    with pytest.raises(CalibrationError, match=f"annular_detector needs the calibration '{kind}'"):
        AnnularDetector(None, context(**{kind: None})).outputs(spec())


def test_with_both_angles_given_the_convergence_angle_is_not_needed() -> None:
    parameters = AnnularDetector.Parameters(inner=10.0, outer=20.0)
    made = AnnularDetector(parameters, context(convergence_angle=None)).outputs(spec())
    assert made == AnnularDetector(parameters, context()).outputs(spec())
    with pytest.raises(CalibrationError, match="convergence_angle"):
        AnnularDetector(AnnularDetector.Parameters(), context(convergence_angle=None)).outputs(spec())


def test_beyond_the_detector_it_warns_with_the_share_collected() -> None:
    detector = AnnularDetector(AnnularDetector.Parameters(inner=50.0, outer=90.0), context())
    with pytest.warns(UserWarning, match=r"only \d+% of the annulus 50.0 to 90.0 mrad lies on the detector"):
        detector.outputs(spec())


def test_an_annulus_outside_is_refused() -> None:
    detector = AnnularDetector(AnnularDetector.Parameters(inner=500.0, outer=900.0), context())
    with pytest.raises(CalibrationError, match="no pixel lies between"):
        detector.outputs(spec())


def test_inner_must_be_below_outer() -> None:
    with pytest.raises(SettingsError, match="must be below outer"):
        convert(AnnularDetector.Parameters, {"inner": 20.0, "outer": 10.0})
    assert convert(AnnularDetector.Parameters, {"inner": "0.06 rad"}, spelled=True).inner == pytest.approx(60.0)
