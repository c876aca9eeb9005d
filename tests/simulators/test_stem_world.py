"""Specimens in the instrument: frames by seed and thread, faults before anything is built, the bench's parts."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from probeloop.simulators.stem import StemSettings, StemSimulator, benchmark
from probeloop.simulators.stem.physics import Geometry
from probeloop.simulators.stem.scattering import ScatteringSettings
from probeloop.simulators.stem.specimen import StructureSettings
from probeloop.simulators.stem.world import World

from probeloop.data.aberrations import NAMES, Aberrations, wavelength
from probeloop.data.commands import Scan, SetAberrations
from probeloop.data.errors import DriverError, SettingsError
from probeloop.data.frame import FrameBuffer
from probeloop.data.scan import Region
from probeloop.data.settings import convert
from probeloop.discover import load_simulator
from probeloop.testing.check_driver import check_simulator

SMALL: dict[str, Any] = {
    "pixels": 64, "pixel_angle": 2.0, "tile": 4, "convergence": 20.0, "pace": None, "settling": 0.0,
    "specimen": "srtio3",
}  # fmt: skip


def frames(**parameters: Any) -> np.ndarray:
    stem = load_simulator("stem", SMALL | parameters)
    taken = stem.scan(Scan(Region(0, 0, 4e-10, 4e-10), (3, 4), 1e-4))
    room = np.zeros(16 * (taken.spec.frame_bytes + 64) + 4096, np.uint8)
    buffer = FrameBuffer.over(room, taken.spec, 16)
    next(taken.frames)
    count = taken.frames.send(buffer)
    made = buffer.data[:count].copy()
    stem.close()
    return made


@pytest.mark.parametrize("specimen", ["srtio3", "mos2", "pbtio3", "carbon", "gold", "plasmonic"])
def test_every_specimen_scans(specimen: str) -> None:
    structure = {"film": 0.5, "side": 3.0, "gap": 1.0, "radius": 1.0}
    if specimen not in ("mos2", "gold"):
        structure["thickness"] = 0.8
    made = frames(specimen=specimen, structure=structure)
    assert made.shape == (12, 64, 64)
    assert made.sum(axis=(1, 2)).mean() == pytest.approx(50e-12 * 1e-4 / 1.602e-19, rel=0.1)


def test_a_specimen_keeps_the_simulators_contract() -> None:
    parameters = convert(StemSettings, SMALL | {"specimen": "mos2", "tile": 6})
    assert check_simulator(lambda: StemSimulator(parameters)) == []


def test_frames_are_the_same_bits_with_any_number_of_threads() -> None:
    blurred = {"samples": 3, "focal_spread": 3.0, "source_size": 0.05, "slices": 2, "configurations": 2}
    one = frames(scattering=blurred)
    np.testing.assert_array_equal(one, frames(scattering=blurred, threads=2))
    assert (one != frames(scattering=blurred, seed=2)).any()
    assert benchmark.deterministic(4)


def test_the_truth_of_a_specimen_is_told() -> None:
    stem = StemSimulator(convert(StemSettings, SMALL | {"specimen": "pbtio3"}))
    truth = stem.truth()
    assert truth["specimen"] == "pbtio3"
    assert truth["potential"].shape == (256, 256)
    assert truth["thickness"] == pytest.approx(20e-9, rel=0.02)
    assert truth["polarisation"](0.0, 3e-9).shape == (2,)
    stem.close()


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        ({"pixel_angle": 0.5}, r"bright-field disc.*1 mrad < convergence <= 10.7 mrad"),
        ({"offset": {"C13": 1e-9}}, "no aberration is named C13"),
        ({"beam_current": 0.0}, "beam_current.*0.01 <= number"),
        ({"beam_current": float("nan")}, "beam_current"),
        ({"specimen": "unobtainium"}, "bicrystal | srtio3"),
        ({"specimen": "bicrystal", "scattering": {"slices": 4}}, "needs another specimen"),
        ({"scattering": {"slices": 0}}, r"scattering.slices.*1 <= whole number <= 200"),
        ({"scattering": {"focal_spread": 3.0}}, "3 <= samples <= 31"),
        ({"scattering": {"haadf_inner": 90.0, "haadf_outer": 80.0}}, "must be smaller"),
        ({"scattering": {"haadf_method": "configurations"}}, "8 <= configurations <= 64"),
        ({"structure": {"thickness": 0.0}}, r"structure.thickness.*0.1 <= number <= 100 \[nm\]"),
    ],
)
def test_bad_settings_are_refused_with_what_is_allowed(parameters: dict[str, Any], match: str) -> None:
    with pytest.raises(SettingsError, match=match):
        convert(StemSettings, SMALL | parameters)


@pytest.mark.parametrize(
    ("scattering", "structure", "match"),
    [
        ({"slices": 40}, {"thickness": 2.0}, r"scattering.slices.*1 <= slices <= 10"),
        ({"slices": 4, "memory": 8}, {"film": 1.0}, r"need 9 MB.*9 <= memory"),
        ({"configurations": 8, "haadf_method": "configurations"}, {}, r"band limit.*haadf_outer <= 41 mrad"),
        ({}, {"thickness": 3.0}, r"structure.thickness.*mos2 is as thick as one layer"),
        ({"haadf_inner": 20.0}, {}, r"bright-field disc.*20 mrad < haadf_inner"),
    ],
)
def test_what_cannot_be_calculated_is_refused_before_it_is(
    scattering: dict[str, Any], structure: dict[str, Any], match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*_: Any) -> None:
        raise AssertionError("built")

    monkeypatch.setattr("probeloop.simulators.stem.world.transmissions", build)
    name, tile = ("gold", 520) if "memory" in scattering else ("srtio3" if scattering else "mos2", 256)
    geometry = Geometry(64, 2e-3, wavelength(200e3), 20e-3)
    with pytest.raises(SettingsError, match=match):
        World(name, StructureSettings(**structure), ScatteringSettings(**scattering), geometry, 200e3, tile, 1)


def test_bad_commands_are_refused() -> None:
    for dwell in (0.0, float("nan"), float("inf")):
        with pytest.raises((SettingsError, msgspec.ValidationError, ValueError)):
            convert_scan(dwell)
    stem = StemSimulator(convert(StemSettings, SMALL))
    with pytest.raises(DriverError, match=r"no knob C99.*C10"):
        stem.set_aberrations(SetAberrations({"C99": 1e-9}))
    half = stem.describe().limits.region[1][0]
    with pytest.raises(DriverError, match=r"leaves the specimen.*nm"):
        stem.scan(Scan(Region(0, 0, 5 * half, 1e-10), (2, 2), 1e-4))
    with pytest.raises(DriverError, match="dose"):
        stem._exposer.expose(
            [Aberrations()],
            np.zeros((1, 2)),
            np.zeros(1, int),
            float("nan"),
            1e-3,
            stem._pattern(),
            np.zeros((1, 64, 64)),
        )
    stem.close()


def convert_scan(dwell: float) -> Scan:
    from probeloop.data.settings import revalidate

    return revalidate(Scan(Region(0, 0, 1e-10, 1e-10), (2, 2), dwell), Scan)


def test_a_new_probe_is_quick() -> None:
    geometry = Geometry(256, wavelength(200e3) / 3.1e-9, wavelength(200e3), 25e-3)
    world = World("srtio3", StructureSettings(), ScatteringSettings(), geometry, 200e3, 256, 1)
    assert benchmark._new_probe(world) < 15  # ms; 0.8 on an idle machine, asked for: 5
    probe = world.probe(Aberrations(**dict.fromkeys(NAMES, 1e-10)))
    assert probe.size == 256


def test_the_bench_knows_poisson_and_finds_what_is_not() -> None:
    assert all(benchmark.poisson_p_value(mean, 3, frames=20) > 1e-3 for mean in (0.02, 3.0, 30.0))
    real = benchmark.count_electrons
    try:
        benchmark.count_electrons = lambda a, *rest: real(a * np.float32(1.02), *rest)
        assert benchmark.poisson_p_value(30.0, 3, frames=20) < 1e-6
    finally:
        benchmark.count_electrons = real


def test_the_bench_says_what_it_could_not_compare(tmp_path: Any) -> None:
    found = benchmark.agreement(tmp_path)
    assert found["agreement_complex64"] is None
    assert "no reference" in found["agreement_note"]
    assert json.dumps(found)
    real = benchmark.agreement()
    assert real["agreement_complex64"] < 1e-4
    assert real["agreement_complex128"] < 1e-6
