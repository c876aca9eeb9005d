"""The score of a map of walls, on images whose answer is known, and on measured scans."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
import scipy.ndimage as ndi
from probeloop.plugins.ridges import ridge_map
from probeloop.plugins.wall_score.plan import Marks, Scored, WallScore, agreements, bits, packed
from probeloop.plugins.wall_score.reference import antiparallel_walls, low_amplitude, noise_floor
from probeloop.plugins.wall_score.score import AREAS, above_chance, agreement, best_lines, widened
from probeloop.plugins.wall_score.transform import WallReference
from probeloop.simulators.replay.readers import locate, read

from probeloop.api import (
    Axis,
    Channel,
    Checkpoint,
    InstrumentInfo,
    Limits,
    PlanContext,
    PlanError,
    Reduce,
    Result,
    Scan,
    SourceError,
    StreamSpec,
)
from probeloop.data.errors import SettingsError
from probeloop.testing.check_plan import check_plan

SIDE = 128
NOISE = 0.02


def scene(seed: int = 0, size: float = 14.0) -> tuple[Any, Any, Any]:
    """Return the amplitude and phase of antiparallel domains, and their walls (mask)."""
    rng = np.random.default_rng(seed)
    field = ndi.gaussian_filter(rng.normal(size=(SIDE, SIDE)), size)
    up = field > np.median(field)
    response = ndi.gaussian_filter(np.where(up, 1.0, -1.0), 1.2).astype(complex)
    response += NOISE * (rng.normal(size=up.shape) + 1j * rng.normal(size=up.shape))
    wall = np.zeros_like(up)
    wall[:, 1:] |= up[:, 1:] != up[:, :-1]
    wall[1:] |= up[1:] != up[:-1]
    return np.abs(response), np.angle(response * np.exp(0.4j)), wall


@pytest.mark.parametrize("seed", range(3))
def test_the_reference_lies_on_the_walls_and_along_all_of_them(seed: int) -> None:
    amplitude, phase, wall = scene(seed)
    found = antiparallel_walls(amplitude, phase)
    inside = np.zeros_like(wall)
    inside[8:-8, 8:-8] = True
    assert widened(widened(wall))[found].mean() > 0.97
    assert widened(widened(found))[wall & inside].mean() > 0.95
    assert found.mean() < 0.6 * wall.mean() + 0.01  # a line, no band


def test_noise_without_a_phase_and_small_turns_are_no_walls() -> None:
    rng = np.random.default_rng(1)
    noise = np.abs(rng.normal(size=(SIDE, SIDE))), rng.uniform(-np.pi, np.pi, (SIDE, SIDE))
    assert antiparallel_walls(*noise).sum() == 0
    amplitude, phase, _ = scene()
    assert antiparallel_walls(amplitude, 0.5 * phase).sum() == 0
    assert antiparallel_walls(np.full((SIDE, SIDE), np.nan), phase).sum() == 0
    assert antiparallel_walls(np.ones((SIDE, SIDE)), np.zeros((SIDE, SIDE))).sum() == 0


def test_a_phase_that_is_wrapped_at_another_place_gives_the_same_reference() -> None:
    amplitude, phase, _ = scene()
    for turn in (1.0, 2.5, 4.0):
        other = np.angle(np.exp(1j * (phase + turn)))
        assert (antiparallel_walls(amplitude, other) != antiparallel_walls(amplitude, phase)).mean() < 1e-3


def test_the_noise_floor_is_that_of_the_pixels() -> None:
    smooth = ndi.gaussian_filter(np.random.default_rng(0).normal(size=(SIDE, SIDE)), 12) * 50
    noisy = smooth + 0.3 * np.random.default_rng(1).normal(size=(SIDE, SIDE))
    assert noise_floor(noisy) == pytest.approx(0.3, rel=0.15)


def test_a_perfect_map_finds_all_and_nothing_else_once_its_area_is_allowed() -> None:
    wall = np.zeros((SIDE, SIDE), bool)
    wall[40, 10:100] = True
    for area in AREAS:
        found = agreement(wall.astype(float), wall, area)
        assert found.recall == 1
        assert found.precision == 1
        assert found.area <= area
        assert 0 < found.chance < 2 * found.area + 0.01
    assert above_chance((agreement(wall.astype(float), wall, 0.05),)) > 0.9


def test_a_map_that_knows_nothing_scores_chance_and_a_wrong_one_nothing() -> None:
    _, _, wall = scene()
    reference = antiparallel_walls(*scene()[:2])
    above = [
        above_chance(tuple(agreement(scene(seed)[2] * 1.0, reference, area) for area in AREAS))
        for seed in range(10, 22)
    ]
    assert abs(np.mean(above)) < 0.05  # the walls of other specimens
    noise = np.random.default_rng(0).random(reference.shape)
    for area in AREAS:
        found = agreement(noise, reference, area)
        assert found.recall == pytest.approx(found.chance, abs=0.05)
        assert found.chance == pytest.approx(found.area, abs=0.01)
        assert found.area == pytest.approx(area, rel=0.1)
    away = ndi.distance_transform_edt(~wall)
    assert agreement(away, reference, 0.05).recall == 0


def test_the_order_of_the_pixels_is_all_that_counts() -> None:
    amplitude, phase, _ = scene()
    reference, ridges = antiparallel_walls(amplitude, phase), ridge_map(amplitude, "dark", "ratio")
    first, again = (agreement(each, reference, 0.05) for each in (ridges, (ridges / ridges.max()) ** 3 * 7))
    assert first == again
    assert first.recall > 0.5 > 0.2 > first.chance


def test_constant_and_missing_maps_predict_nothing() -> None:
    reference = antiparallel_walls(*scene()[:2])
    for values in (np.zeros((SIDE, SIDE)), np.full((SIDE, SIDE), np.nan)):
        lines, wide = best_lines(values, 0.05)
        assert lines.sum() == wide.sum() == 0
        found = agreement(values, reference, 0.05)
        assert (found.recall, found.precision, found.chance) == (0, 0, 0)
    assert math.isnan(agreement(np.ones((SIDE, SIDE)), np.zeros((SIDE, SIDE), bool), 0.05).recall)


def test_low_amplitude_is_one_where_it_is_lowest() -> None:
    values = low_amplitude(np.arange(100.0).reshape(10, 10))
    assert (values[0, 0], values[9, 9]) == (1, 0)
    assert (np.diff(values.ravel()) <= 0).all()
    assert low_amplitude(np.ones((4, 4))).max() == low_amplitude(np.full((4, 4), np.nan)).max() == 0


def test_a_mask_comes_back_from_its_numbers() -> None:
    for shape in ((5, 7), (16, 48), (SIDE, SIDE)):
        mask = np.random.default_rng(1).random(shape) > 0.7
        assert (bits(packed(mask), shape) == mask).all()
    one = np.zeros((8, 48))
    one[:, 47] = 1.0
    assert (bits(Marks((8, 48))(one), (8, 48)) == (one > 0)).all()


AXES = (Axis("y", SIDE, 1e-9, 0.0, "m"), Axis("x", SIDE, 1e-9, 0.0, "m"))


def reference_of(spec: StreamSpec, data: Any, **parameters: Any) -> Any:
    plugin = WallReference(WallReference.Parameters(**parameters))
    assert set(plugin.outputs(spec)) == {"antiparallel", "low_amplitude"}
    made = plugin.update(data)
    assert made is not None
    return made["antiparallel"][0]


def test_the_reference_is_the_same_from_two_channels_and_from_the_lock_in_itself() -> None:
    amplitude, phase, _ = scene()
    wanted = antiparallel_walls(amplitude, phase)
    two = StreamSpec(
        "scan",
        "values",
        "<f8",
        nav=AXES,
        channels=(Channel("h", "Height"), Channel("p", "Phase"), Channel("amplitude")),
    )
    assert ((reference_of(two, np.stack([0 * phase, phase, amplitude], -1)) > 0) == wanted).all()
    lock_in = StreamSpec("scan", "values", "<c16", nav=AXES)
    assert ((reference_of(lock_in, amplitude * np.exp(1j * phase)) > 0) != wanted).mean() < 1e-3
    half = np.stack([0 * phase, phase, amplitude], -1)
    half[60:] = np.nan
    assert np.isnan(reference_of(two, half)[60:]).all()
    with pytest.raises(SettingsError, match="phase"):
        reference_of(msgspec.structs.replace(two, channels=(Channel("a"), Channel("b"), Channel("amplitude"))), half)


INFO = InstrumentInfo(
    name="r", modality="none", origin="replay", commands=("Scan",), limits=Limits(region=((0.0, 0.0), (1e-6, 1e-6)))
)


def play(images: dict[str, Any], **parameters: Any) -> dict[str, Any]:
    wanted = {"shape": (SIDE, SIDE), **parameters}
    plan = WallScore(msgspec.convert(wanted, WallScore.Parameters))
    policy: Any = None
    generator = plan.run(PlanContext(np.random.default_rng(0), INFO, policy, tuple(images)))
    answer: Any = None
    while True:
        try:
            step = generator.send(answer)
        except StopIteration as end:
            return dict(end.value)
        answer = None
        if isinstance(step, Scan):
            answer = Result(generation=1, topic="scan")
        elif isinstance(step, Reduce):
            answer = step.function(images[step.topic])
        else:
            assert isinstance(step, Checkpoint)


def test_the_plan_gives_the_figures_of_the_functions() -> None:
    amplitude, phase, _ = scene()
    reference = antiparallel_walls(amplitude, phase)
    images = {"walls.antiparallel": reference * 1.0, "ridges": ridge_map(amplitude), "low": low_amplitude(amplitude)}
    images["relief"] = ridge_map(ndi.gaussian_filter(np.random.default_rng(1).normal(size=(SIDE, SIDE)), 4), "both")
    maps = {"sato": "ridges", "low_amplitude": "low"}
    walls = play(images, maps=maps, height="relief")["walls"]
    found = tuple(agreement(images["ridges"], reference, area) for area in AREAS)
    assert walls["map"] == "sato"
    assert set(walls["at"]) == {"2", "5", "10"}
    assert walls["at"]["5"]["recall"] == pytest.approx(found[1].recall)
    assert walls["auc"]["sato"] == pytest.approx(above_chance(found))
    assert walls["auc"]["sato"] > 0.3
    assert set(walls["auc"]) == set(walls["auc_height"]) == set(maps)
    assert abs(walls["auc_height"]["sato"]) < 0.2
    assert walls["reference_pixels"] == reference.sum()


def test_without_antiparallel_walls_the_plan_says_so_and_gives_no_figure() -> None:
    images = {
        "walls.antiparallel": np.zeros((SIDE, SIDE)),
        "ridges.mean": np.random.default_rng(0).random((SIDE, SIDE)),
    }
    summary = play(images)
    assert "nothing to compare" in summary["message"]
    assert summary["walls"]["auc"] == {"ridges": None}
    with pytest.raises(PlanError, match="not there"):
        play({"ridges.mean": images["ridges.mean"]})
    with pytest.raises(PlanError, match="pixels"):
        play({**images, "ridges.mean": np.zeros((4, 4))})


def test_the_plan_survives_a_kill_at_every_step() -> None:
    parameters = WallScore.Parameters(shape=(32, 32), height="relief")
    assert check_plan(WallScore, parameters) == []


def test_agreements_come_back_from_their_numbers() -> None:
    reference = antiparallel_walls(*scene()[:2])
    told = Scored(packed(reference), (SIDE, SIDE), 20)(low_amplitude(scene()[0]))
    assert agreements(told)[2].area == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("name", ["PTO_Funakubo0001", "PZT_final0001"])
def test_on_measured_walls_a_ridge_filter_finds_more_than_chance(name: str) -> None:
    """The wall pictures were looked at; see docs/forward.md for all five files."""
    try:
        (scan,) = read(locate(f"pfm/{name}.h5"))
    except SourceError as error:
        pytest.skip(str(error))
    channels = {channel.name: scan.data[..., i].astype(float) for i, channel in enumerate(scan.channels)}
    amplitude = channels["amplitude_retrace"]
    reference = antiparallel_walls(amplitude, channels["phase_retrace"])
    assert 0.003 < reference.mean() < 0.03
    found = tuple(agreement(ridge_map(amplitude, "dark", "ratio"), reference, area) for area in AREAS)
    assert above_chance(found) > 0.4
