"""The plug-in columns with the shipped weights: a table from a scan as it grows, and against plain maxima."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from probeloop.plugins.segment import Columns, Segment
from probeloop.plugins.segment.column_scores import column_quality
from probeloop.plugins.segment.ensemble import Ensemble
from probeloop.plugins.segment.generators import weights_at
from probeloop.plugins.segment.lattices import ColumnPicture, columns
from probeloop.plugins.segment.picture import generator
from probeloop.plugins.segment.weights import read_card
from scipy.spatial import cKDTree

from probeloop.api import Axis, SettingsError, StreamSpec

torch = pytest.importorskip("torch", reason="no torch: pip install 'probeloop[ml]'")
pytest.importorskip("safetensors", reason="no safetensors: pip install 'probeloop[ml]'")

SIZE, STEP = 80, 2e-11
AXES = (Axis("y", SIZE, STEP, -5e-10, "m"), Axis("x", SIZE, STEP, 3e-10, "m"))
SPEC = StreamSpec("haadf", "values", nav=AXES)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def picture() -> ColumnPicture:
    """A clear one of the scoring seeds."""
    made = (columns(generator("scoring", 21, i), SIZE, "perovskite") for i in range(50))
    return next(each for each in made if each.snr > 8 and len(each.positions) > 40)


def begun(**parameters: Any) -> Columns:
    plugin = Columns(Columns.Parameters(**parameters))
    plugin.outputs(SPEC)
    plugin.begin(SPEC)
    return plugin


def pixels(table: Any) -> Any:
    return (table["position"][:, ::-1] - [-5e-10, 3e-10]) / STEP


def test_the_shipped_weights_say_what_they_are() -> None:
    card = read_card(weights_at("columns"))
    assert card.trained["generator"] == "lattices"
    assert card.members >= 3
    assert sum(weights_at(kind).stat().st_size for kind in ("walls", "columns")) <= 10e6


def test_a_table_of_columns_with_errors(picture: ColumnPicture) -> None:
    made = begun().update(picture.values)
    assert made is not None
    table = made["table"]
    away, _ = cKDTree(pixels(table)).query(picture.positions)
    assert (away < 0.35 * picture.spacing).mean() > 0.9
    off, _ = cKDTree(picture.positions).query(pixels(table))
    right = off < 0.35 * picture.spacing
    assert np.median(off[right]) < 0.06 * picture.spacing
    fitted = np.isfinite(table["intensity"])
    assert fitted.mean() > 0.8
    assert (table["position_sigma"][fitted] > 0).all()
    assert np.median(table["position_sigma"][fitted]) < 2 * STEP
    assert (table["intensity"][fitted] > 0).all()
    assert len(set(table["id"])) == len(table)
    assert ((table["probability"] >= 0) & (table["probability"] <= 1)).all()
    assert np.median(table["width"][fitted]) / STEP == pytest.approx(picture.width, rel=0.4)


def test_it_is_the_map_of_segment_with_those_weights(picture: ColumnPicture) -> None:
    plain = Segment(Segment.Parameters(weights="columns"))
    plain.outputs(SPEC)
    plain.begin(SPEC)
    one, other = plain.update(picture.values), begun().update(picture.values)
    assert one is not None
    assert other is not None
    assert set(other) == {*one, "table"}
    assert np.array_equal(one["mean"], other["mean"])


def test_a_scan_that_grows_keeps_the_numbers_and_so_does_the_next_one(picture: ColumnPicture) -> None:
    plugin, half = begun(), picture.values.copy()
    half[SIZE // 2 :] = np.nan
    first = plugin.update(half)
    assert first is not None
    assert (pixels(first["table"])[:, 0] < SIZE / 2 + 1).all()
    second = plugin.update(picture.values)
    assert second is not None
    inner = {row["id"]: row["position"] for row in first["table"] if row["position"][1] < -5e-10 + 30 * STEP}
    later = {row["id"]: row["position"] for row in second["table"]}
    kept = [number for number in inner if number in later and np.hypot(*(inner[number] - later[number])) < STEP]
    assert len(kept) > 0.9 * len(inner) > 5
    plugin.begin(SPEC)
    third = plugin.update(picture.values)
    assert third is not None
    assert np.array_equal(third["table"]["id"], second["table"]["id"])


def test_a_picture_that_is_refused_leaves_the_last_table(picture: ColumnPicture) -> None:
    plugin = begun()
    good = plugin.update(picture.values)
    held = plugin.update(np.full((SIZE, SIZE), 3.0, np.float32))
    assert "constant" in plugin.notice
    assert good is not None
    assert held is not None
    assert held["table"].tobytes() == good["table"].tobytes()
    assert held["frame"][0, 2] == 0


def test_a_picture_without_a_scale_is_refused() -> None:
    with pytest.raises(SettingsError, match="no scale in metres"):
        Columns().outputs(StreamSpec("haadf", "values", nav=(Axis("y", 32), Axis("x", 32))))


@pytest.mark.bench
@pytest.mark.timeout(600)
def test_columns_are_found_better_than_by_plain_maxima() -> None:
    found = column_quality(Ensemble.from_file(weights_at("columns")), 1)
    for world in ("lattices", "stem"):
        ours, plain = found[world]["networks"], found[world]["plain"]
        assert ours["recall"] > plain["recall"]
        assert ours["precision"] > plain["precision"]
