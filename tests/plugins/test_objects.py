"""Walls, junctions, their shapes, and the same numbers from picture to picture."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import scipy.ndimage as ndi
import scipy.signal
from probeloop.plugins.objects.find import Grid, NoLines, find
from probeloop.plugins.objects.identity import Identities
from probeloop.plugins.objects.shape import _fit, _operators, shape_of
from probeloop.plugins.objects.transform import WallObjects

from probeloop.api import Axis, StreamSpec
from probeloop.data.errors import SettingsError
from probeloop.testing.check_plugin import check_plugin

STEP = 4e-9
GRID = Grid((1e-6, 2e-6), (STEP, STEP))
SIDE = 96
SPEC = StreamSpec(
    "segment.mean", "image", "<f4", sig=(Axis("y", SIDE, STEP, 2e-6, "m"), Axis("x", SIDE, STEP, 1e-6, "m"))
)


def drawn(*lines: Any, width: float = 1.5, side: int = SIDE) -> np.ndarray[Any, Any]:
    """Return probabilities of walls through the vertices (row, column) of each polyline."""
    y, x = np.mgrid[:side, :side].astype(float)
    away = np.full((side, side), np.inf)
    for line in lines:
        for (y0, x0), (y1, x1) in itertools.pairwise(line):
            along = np.clip(((y - y0) * (y1 - y0) + (x - x0) * (x1 - x0)) / ((y1 - y0) ** 2 + (x1 - x0) ** 2), 0, 1)
            away = np.minimum(away, np.hypot(y - y0 - along * (y1 - y0), x - x0 - along * (x1 - x0)))
    return 1 / (1 + np.exp(4 * (away - width)))


def circle(radius: float, centre: tuple[float, float] = (48, 48)) -> list[tuple[float, float]]:
    return [
        (centre[0] + radius * math.sin(t), centre[1] + radius * math.cos(t)) for t in np.linspace(0, 2 * np.pi, 90)
    ]


def run(plugin: WallObjects, data: Any) -> Any:
    made = plugin.update(np.asarray(data, np.float32))
    return None if made is None else made["table"]


def begun(**parameters: Any) -> WallObjects:
    plugin = WallObjects(WallObjects.Parameters(**parameters))
    plugin.outputs(SPEC)
    plugin.begin(SPEC)
    return plugin


@pytest.mark.parametrize("angle", [0, 20, 22.5, 45, 70, 90, 135, 160])
def test_a_straight_wall_has_its_length_and_angle_and_no_curvature(angle: float) -> None:
    c, s, half = math.cos(math.radians(angle)), math.sin(math.radians(angle)), 30
    line = [(48 - half * s, 48 - half * c), (48 + half * s, 48 + half * c)]
    (wall,) = find(drawn(line), GRID, 0.5, 6).walls
    assert wall.shape.length == pytest.approx(2 * half * STEP, rel=0.06)
    off = math.remainder(wall.shape.orientation - math.radians(angle), math.pi)
    assert abs(off) < math.radians(1.5)
    assert wall.shape.curvature < 1 / (80 * STEP)
    assert math.dist(wall.shape.middle, GRID.places(np.array([[48, 48]]))[0]) < 3 * STEP
    assert 0.8 < wall.probability.mean() <= 1
    assert not wall.branch.closed


@pytest.mark.parametrize("radius", [12, 20, 35])
def test_a_ring_is_a_loop_with_the_length_and_curvature_of_its_circle(radius: float) -> None:
    found = find(drawn(circle(radius)), GRID, 0.5, 6)
    (wall,) = found.walls
    assert wall.branch.closed
    assert not found.junctions
    assert wall.shape.length == pytest.approx(2 * math.pi * radius * STEP, rel=0.03)
    assert wall.shape.curvature == pytest.approx(1 / (radius * STEP), rel=0.15)


def test_a_cross_has_four_arms_and_one_junction_and_a_y_three() -> None:
    cross = find(drawn([(48, 8), (48, 88)], [(8, 40), (88, 56)]), GRID, 0.5, 6)
    assert (len(cross.walls), [j.degree for j in cross.junctions]) == (4, [4])
    assert math.dist(cross.junctions[0].place, GRID.places(np.array([[48, 48]]))[0]) < 2 * STEP
    assert sum(w.shape.length for w in cross.walls) == pytest.approx((80 + math.hypot(80, 16)) * STEP, rel=0.03)
    tee = find(drawn([(10, 48), (50, 48)], [(50, 48), (80, 20)], [(50, 48), (80, 76)]), GRID, 0.5, 6)
    assert (len(tee.walls), [j.degree for j in tee.junctions]) == (3, [3])
    assert all(len(w.branch.joins) == 1 for w in tee.walls)


def test_a_side_branch_that_is_too_short_is_pruned_and_the_wall_stays_one() -> None:
    line, spur = [(48, 8), (48, 88)], [(48, 50), (43, 50)]
    assert len(find(drawn(line, spur), GRID, 0.5, 8).walls) == 1
    assert len(find(drawn(line, [(48, 50), (30, 50)]), GRID, 0.5, 8).walls) == 3


@pytest.mark.parametrize("slope", [0.0, 0.3, -0.7])
def test_a_broad_band_is_one_wall_from_edge_to_edge(slope: float) -> None:
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    away = np.abs(x - 48 - slope * (y - 48)) / math.hypot(1, slope)
    (wall,) = find(np.exp(-((away / 12) ** 2)), GRID, 0.5, 6).walls
    rows = wall.branch.pixels[:, 0]
    assert rows.min() <= 1
    assert rows.max() >= SIDE - 2
    off = wall.branch.pixels[:, 1] - 48 - slope * (rows - 48)
    assert np.abs(off[(rows > 12) & (rows < SIDE - 13)]).max() < 2
    assert wall.shape.length == pytest.approx(SIDE * math.hypot(1, slope) * STEP, rel=0.08)


@pytest.mark.parametrize(("n", "window"), [(13, 13), (40, 13), (9, 7), (6, 5)])
def test_lines_are_smoothed_as_by_savitzky_and_golay(n: int, window: int) -> None:
    places = np.random.default_rng(n).normal(size=(n, 2)).cumsum(axis=0) * STEP
    for order, operator in enumerate(_operators(window)):
        wanted = scipy.signal.savgol_filter(places, window, 2, deriv=order, axis=0, mode="interp")
        np.testing.assert_allclose(_fit(places, operator), wanted, rtol=1e-9, atol=1e-9 * STEP)


def test_pixels_that_are_no_squares_are_measured_as_they_are() -> None:
    tall = Grid((0.0, 0.0), (STEP, 2 * STEP))
    across, down = (
        find(drawn(line), tall, 0.5, 6).walls[0].shape for line in ([(48, 8), (48, 88)], [(8, 48), (88, 48)])
    )
    assert across.length == pytest.approx(80 * STEP, rel=0.05)
    assert down.length == pytest.approx(160 * STEP, rel=0.05)
    assert shape_of(np.array([[0.0, 0.0], [STEP, 2 * STEP]])).orientation == pytest.approx(math.atan(2))


def test_an_empty_map_a_point_and_a_nan_line() -> None:
    assert find(np.zeros((50, 50)), GRID, 0.5, 6).walls == ()
    assert find(np.full((50, 50), np.nan), GRID, 0.5, 6).walls == ()
    for value in (0.0, 1.0, np.nan):
        assert len(find(np.full((1, 1), value), GRID, 0.5, 6).walls) == 0
    assert len(find(np.ones((1, 1)), GRID, 0.5, 1).walls) == 1
    cut = drawn([(8, 48), (88, 48)])
    cut[50] = np.nan
    assert len(find(cut, GRID, 0.5, 6).walls) == 2


def test_a_map_that_is_all_wall_is_refused_in_words_and_the_last_result_stays() -> None:
    with pytest.raises(NoLines, match="raise threshold"):
        find(np.ones((50, 50)), GRID, 0.5, 6)
    plugin = begun()
    assert run(plugin, np.ones((SIDE, SIDE))) is None
    assert "raise threshold" in plugin.notice
    assert len(run(plugin, drawn([(8, 48), (88, 48)]))) == 1
    assert plugin.notice == ""


def test_the_table_says_what_and_where_in_metres() -> None:
    plugin = begun()
    outputs = plugin.outputs(SPEC)
    made = plugin.update(np.asarray(drawn([(48, 8), (48, 88)], [(8, 40), (88, 56)]), np.float32))
    assert made is not None
    rows = made["table"]
    assert rows.dtype == outputs["table"].numpy_dtype
    assert [row["kind"] for row in rows] == [b"wall"] * 4 + [b"junction"]
    place = dict(zip(rows["label"].tolist(), rows["position"].tolist(), strict=True))[b"junction 1"]
    assert math.dist(place, (1e-6 + 48 * STEP, 2e-6 + 48 * STEP)) < 2 * STEP
    numbers = made["map"][0]
    assert set(np.unique(numbers)) == {0, 1, 2, 3, 4}
    more = [int((numbers == row["id"]).sum()) - row["pixels"] for row in rows[:4]]
    assert all(0 <= each <= 3 for each in more)  # the way to the junction
    assert ndi.label(numbers > 0, np.ones((3, 3)))[1] == 1


def test_a_wall_keeps_its_number_while_it_moves_and_a_removed_one_is_not_replaced() -> None:
    plugin, first = begun(memory=0), {}
    for i in range(8):
        plugin.begin(SPEC)
        lines = [[(20 + i, 8), (20 + i, 88)], [(60 - i, 8), (70 - i, 88)]] if i < 6 else [[(20 + i, 8), (20 + i, 88)]]
        rows = run(plugin, drawn(*lines))
        by_row = {round((float(row["position"][1]) - 2e-6) / STEP): int(row["id"]) for row in rows}
        upper = by_row[20 + i]
        first.setdefault("upper", upper)
        assert upper == first["upper"]
        if i < 6:
            first.setdefault("lower", (set(by_row.values()) - {upper}).pop())
            assert set(by_row.values()) == {upper, first["lower"]}
    plugin.begin(SPEC)
    plugin.begin(SPEC)
    rows = run(plugin, drawn([(27, 8), (27, 88)], [(52, 8), (62, 88)]))
    new = set(rows["id"].tolist()) - set(first.values())
    assert len(new) == 2  # forgotten after a scan without either


def test_the_larger_part_of_a_split_wall_keeps_its_number_and_gives_it_back_when_they_join() -> None:
    plugin = begun()
    (whole,) = run(plugin, drawn([(48, 8), (48, 88)]))["id"]
    plugin.begin(SPEC)
    rows = run(plugin, drawn([(48, 8), (48, 30)], [(48, 40), (48, 88)]))
    longest, other = rows[np.argsort(-rows["length"])]["id"]
    assert longest == whole
    assert other != whole
    plugin.begin(SPEC)
    (joined,) = run(plugin, drawn([(49, 8), (49, 88)]))["id"]
    assert joined == whole


def test_a_wall_that_is_not_scanned_yet_or_missed_once_gets_its_number_back() -> None:
    plugin = begun(memory=2)
    walls = drawn([(20, 8), (20, 88)], [(70, 8), (70, 88)])
    before = run(plugin, walls)["id"].tolist()
    plugin.begin(SPEC)
    half = walls.copy()
    half[40:] = np.nan
    assert run(plugin, half)["id"].tolist() == before[:1]
    assert run(plugin, walls)["id"].tolist() == before
    plugin.begin(SPEC)
    assert run(plugin, drawn([(20, 8), (20, 88)]))["id"].tolist() == before[:1]
    plugin.begin(SPEC)
    assert run(plugin, walls)["id"].tolist() == before


def test_numbers_are_given_once() -> None:
    known = Identities()
    line = np.stack([np.linspace(0, 1e-6, 50), np.zeros(50)], axis=1)
    assert known.number([line, line + np.array([0, 5e-7])], 1e-8) == [1, 2]
    assert sorted(known.number([line, line], 1e-8)) == [1, 3]  # twice the same: one is new
    assert known.number([], 1e-8) == []


def test_what_is_no_calibrated_map_is_refused() -> None:
    for spec in (
        StreamSpec("a", "image", "<f4", sig=(Axis("y", 8), Axis("x", 8))),
        StreamSpec("a", "values", "<c8", nav=SPEC.sig),
        StreamSpec("a", "spectra", "<f4", nav=SPEC.sig, sig=(Axis("e", 8),)),
    ):
        with pytest.raises(SettingsError):
            WallObjects().outputs(spec)


def test_it_keeps_its_contract_on_maps_of_probabilities() -> None:
    assert check_plugin(WallObjects) == []
