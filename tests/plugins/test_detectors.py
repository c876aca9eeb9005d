"""Several detectors from one read: each is the naive numpy line, wherever its annulus lies."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from probeloop.plugins.annular_detector import AnnularDetector
from probeloop.plugins.centre_of_mass import CentreOfMass
from probeloop.plugins.detectors import Annulus, Detectors

from probeloop.api import Axis, Calibration, CalibrationError, CalibrationSet, Context, SettingsError, StreamSpec
from probeloop.data.settings import convert
from probeloop.testing.streams import block_of

KNOWN: dict[str, tuple[float, ...]] = {
    "pattern_centre": (21.3, 40.7),  # far off the middle
    "detector_scale": (2e-3, 3e-3),
    "convergence_angle": (12e-3,),
    "scan_detector_rotation": (0.4,),
    "scan_detector_flip": (-1.0,),
}
SHAPE = (64, 50)
ANNULI = {
    "bf": (0.0, 12.0),
    "narrow": (20.0, 22.5),
    "overlapping": (8.0, 40.0),
    "outside_in_part": (60.0, 130.0),
    "wide_open": (0.0, 1000.0),
}


def context(**changes: tuple[float, ...] | None) -> Context:
    values = {k: v for k, v in {**KNOWN, **changes}.items() if v is not None}
    made = tuple(Calibration(id=k, kind=k, value=v) for k, v in values.items())  # type: ignore[arg-type]
    return Context(calibrations=CalibrationSet(made))


def spec(dtype: str = "<u2") -> StreamSpec:
    sig = (Axis("ky", SHAPE[0]), Axis("kx", SHAPE[1]))
    return StreamSpec("camera", "frames", dtype, (Axis("y", 3), Axis("x", 4)), sig, units="e")


def parameters(annuli: dict[str, tuple[float, float]], centre_of_mass: bool = True) -> Detectors.Parameters:
    named = {name: Annulus(inner=inner, outer=outer) for name, (inner, outer) in annuli.items()}
    return Detectors.Parameters(annuli=named, centre_of_mass=centre_of_mass)


def made(plugin: Detectors, dtype: str, data: np.ndarray | None = None) -> tuple[dict[str, Any], np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        specs = plugin.outputs(spec(dtype))
    if data is None:
        data = np.random.default_rng(0).integers(0, 99, (12, *SHAPE))
    block = block_of(spec(dtype), data)
    found = plugin.process(block)
    assert set(found) == set(specs)
    assert all(found[name].shape[1:] == each.frame_shape for name, each in specs.items())
    return dict(found), block.data.astype(float)


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4", "<f4"])
def test_each_is_the_naive_line(dtype: str) -> None:
    found, wide = made(Detectors(parameters(ANNULI), context()), dtype)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    ky, kx = (y - 21.3) * 2.0, (x - 40.7) * 3.0
    radius = np.hypot(ky, kx)
    for name, (inner, outer) in ANNULI.items():
        naive = wide[:, (radius >= inner) & (radius < outer)].sum(-1)
        np.testing.assert_array_equal(found[name], naive.astype(np.float32), name)
    total = wide.sum((1, 2))
    np.testing.assert_array_equal(found["total"], total.astype(np.float32))
    a, b = (wide * kx).sum((1, 2)) / total * 1e-3, -(wide * ky).sum((1, 2)) / total * 1e-3
    cos, sin = np.cos(0.4), np.sin(0.4)
    np.testing.assert_allclose(found["deflection"], np.stack([cos * a + sin * b, -sin * a + cos * b], -1), rtol=1e-6)


def test_it_says_what_the_single_detectors_say() -> None:
    found, _ = made(Detectors(parameters({"a": (10.0, 50.0)}), context()), "<u2")
    block = block_of(spec(), np.random.default_rng(0).integers(0, 99, (12, *SHAPE)))
    annular = AnnularDetector(AnnularDetector.Parameters(inner=10.0, outer=50.0), context())
    centre = CentreOfMass(None, context())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        annular.outputs(spec())
    centre.outputs(spec())
    np.testing.assert_array_equal(found["a"], annular.process(block)["intensity"])
    np.testing.assert_array_equal(found["deflection"], centre.process(block)["deflection"])
    np.testing.assert_array_equal(found["total"], centre.process(block)["intensity"])


def test_left_out_annuli_are_those_of_the_convention_and_are_shown() -> None:
    plugin = Detectors(None, context(pattern_centre=(31.5, 24.5)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outputs = plugin.outputs(spec())
    assert list(outputs) == ["bf", "abf", "adf", "deflection", "total"]
    shown = {name: (a.inner, a.outer) for name, a in plugin.parameters.annuli.items()}
    assert shown == {
        "bf": (0.0, pytest.approx(12.0)),
        "abf": (pytest.approx(6.0), pytest.approx(12.0)),
        "adf": (pytest.approx(28.8), pytest.approx(64.0)),
    }


def test_without_the_centre_of_mass_its_calibrations_are_not_needed() -> None:
    bare = context(scan_detector_rotation=None, scan_detector_flip=None, convergence_angle=None)
    found, wide = made(Detectors(parameters({"all": (0.0, 1000.0)}, centre_of_mass=False), bare), "<u2")
    assert list(found) == ["all"]
    np.testing.assert_array_equal(found["all"], wide.sum((1, 2)))


@pytest.mark.parametrize("kind", list(KNOWN))
def test_an_absent_calibration_is_named(kind: str) -> None:
    with pytest.raises(CalibrationError, match=f"detectors needs the calibration '{kind}'"):
        Detectors(None, context(**{"pattern_centre": (31.5, 24.5), kind: None})).outputs(spec())


def test_an_empty_pattern_has_no_centre() -> None:
    data = np.zeros((12, *SHAPE))
    data[3] = 1
    found, _ = made(Detectors(parameters({"bf": (0.0, 12.0)}), context()), "<u2", data)
    assert np.isnan(found["deflection"]).all(axis=1).tolist() == [i != 3 for i in range(12)]
    assert found["bf"].tolist() == [0.0 if i != 3 else found["bf"][3] for i in range(12)]
    assert found["bf"][3] > 0


def test_an_annulus_in_part_outside_warns_and_one_outside_is_refused() -> None:
    with pytest.warns(UserWarning, match=r"only \d+% of the annulus 60.0 to 130.0 mrad lies on the detector"):
        Detectors(parameters({"a": (60.0, 130.0)}), context()).outputs(spec())
    for nothing in ((500.0, 900.0), (0.0, 0.5)):  # beyond the sensor; between two pixels
        with pytest.raises(CalibrationError, match="no pixel lies between"):
            Detectors(parameters({"a": nothing}), context()).outputs(spec())


@pytest.mark.parametrize(
    ("annuli", "words"),
    [
        ({"a": {"inner": 20.0, "outer": 20.0}}, "annuli.a: inner .20 mrad. must be below outer"),
        ({"a": {"inner": 30.0, "outer": 20.0}}, "must be below outer"),
        ({"Dark Field": {"inner": 0.0, "outer": 20.0}}, "annuli.Dark Field: no name"),
        ({"deflection": {"inner": 0.0, "outer": 20.0}}, "annuli.deflection: no name"),
        ({"a": {"inner": 0.0, "outer": 2000.0}}, "annuli"),
        ({"a": {"inner": 0.0}}, "outer"),
    ],
)
def test_a_faulty_annulus_is_named(annuli: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        convert(Detectors.Parameters, {"annuli": annuli})


def test_angles_are_spelled_in_a_rig() -> None:
    written = {"annuli": {"adf": {"inner": "0.06 rad", "outer": "200 mrad"}}}
    adf = convert(Detectors.Parameters, written, spelled=True).annuli["adf"]
    assert (adf.inner, adf.outer) == (pytest.approx(60.0), pytest.approx(200.0))
    with pytest.raises(SettingsError, match="no unit"):
        convert(Detectors.Parameters, {"annuli": {"adf": {"inner": 60.0, "outer": "200 mrad"}}}, spelled=True)
