"""The centre of mass against the naive numpy line, in the SCAN frame, in radians."""

from __future__ import annotations

import numpy as np
import pytest
from probeloop.plugins.centre_of_mass import CentreOfMass

from probeloop.api import Axis, Calibration, CalibrationError, CalibrationSet, Context, StreamSpec
from probeloop.testing.streams import block_of

KNOWN = {
    "pattern_centre": (7.25, 8.5),
    "detector_scale": (2e-3, 3e-3),
    "scan_detector_rotation": (0.4,),
    "scan_detector_flip": (-1.0,),
}


def context(**changes: tuple[float, ...] | None) -> Context:
    values = {k: v for k, v in {**KNOWN, **changes}.items() if v is not None}
    return Context(calibrations=CalibrationSet(tuple(Calibration(id=k, kind=k, value=v) for k, v in values.items())))


def spec(dtype: str = "<u2") -> StreamSpec:
    return StreamSpec(
        "camera", "frames", dtype, (Axis("y", 3), Axis("x", 4)), (Axis("ky", 16), Axis("kx", 20)), units="e"
    )


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4", "<i4", "<f4", "<f8"])
def test_it_is_the_first_moment_turned_into_the_scan_frame(dtype: str) -> None:
    plugin = CentreOfMass(None, context())
    out = plugin.outputs(spec(dtype))
    assert out["deflection"].frame_shape == (2,)
    assert out["deflection"].units == "rad"
    block = block_of(spec(dtype), np.random.default_rng(0).integers(0, 99, (12, 16, 20)))
    y, x = np.mgrid[:16, :20]
    wide = block.data.astype(float)
    total = wide.sum((1, 2))
    a = (wide * (x - 8.5)).sum((1, 2)) / total * 3e-3
    b = -(wide * (y - 7.25)).sum((1, 2)) / total * 2e-3
    cos, sin = np.cos(0.4), np.sin(0.4)
    naive = np.stack([cos * a + sin * b, -sin * a + cos * b], -1)
    found = plugin.process(block)
    np.testing.assert_allclose(found["deflection"], naive, rtol=2e-5, atol=1e-9)
    np.testing.assert_allclose(found["intensity"], total, rtol=1e-6)


def test_an_empty_pattern_has_no_centre() -> None:
    plugin = CentreOfMass(None, context())
    plugin.outputs(spec())
    data = np.zeros((12, 16, 20))
    data[3] = 1
    found = plugin.process(block_of(spec(), data))
    assert np.isnan(found["deflection"]).all(axis=1).tolist() == [i != 3 for i in range(12)]
    assert plugin.may_be_nan


@pytest.mark.parametrize("kind", list(KNOWN))
def test_an_absent_calibration_is_named(kind: str) -> None:
    with pytest.raises(CalibrationError, match=f"centre_of_mass needs the calibration '{kind}'"):
        CentreOfMass(None, context(**{kind: None})).outputs(spec())
