"""What a plan has learned, in the report: the way, the map beside the truth, regret, patches in order."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest
from record_blocks import block_of, map_spec

from probeloop.data import control
from probeloop.data.axes import Axis, StreamSpec
from probeloop.record.history import SessionHistory
from probeloop.record.learned import Learned, ordered, regret
from probeloop.record.report import write_report
from probeloop.record.session import SessionWriter
from probeloop.record.tally import Tally
from probeloop.record.truth import write_values

N = 40
Y, X = np.mgrid[:N, :N]
TRUE = np.exp(-((X - 30) ** 2 + (Y - 8) ** 2) / 40.0)
LEARNED = {
    "maps": ["prediction", "uncertainty"], "images": ["scan"], "scalarizer": "area", "generation": 3,
    "shape": [N, N], "region": {}, "spectrum": {},
}  # fmt: skip


def session(folder: Path, truth: bool = True) -> Path:
    """An overview, two pictures of each map, five measurements of which the fourth is invalid."""
    writer = SessionWriter(folder)
    image = TRUE.astype(np.float32)
    writer.add(block_of(map_spec(N, N), image.reshape(-1), np.arange(N * N), generation=3))
    axes = (Axis("y", N, 1e-9, 0.0, "m"), Axis("x", N, 1e-9, 0.0, "m"))
    for name, map_ in (("prediction", 0.8 * TRUE), ("uncertainty", 1 - TRUE)):
        spec = StreamSpec(
            f"inverse.{name}", "image", "<f4", sig=axes, units="V", origin="simulation", may_be_nan=True
        )
        for i, scale in enumerate((0.1, 1.0)):
            writer.add(block_of(spec, (scale * map_).astype(np.float32)[None], [-1], index=i, generation=3))
    writer.close()
    if truth:
        write_values(folder / "truth", "start", {})
        write_values(folder / "truth", "learned", {"value": TRUE})
    events: list[control.Event] = []
    for i, (x, y) in enumerate([(5, 5), (20, 10), (28, 9), (30, 8), (31, 8)]):
        told = {"position": [x * 1e-9, y * 1e-9], "value": float(TRUE[y, x]), "valid": i != 3}
        value = {"step": {"scalarizer": "area"}, "value": [told]}
        events.append(control.Observed(step=i, kind="observe", value=value, time_ns=i + 1))
    data: dict[str, Any] = {"plan": "inverse", "message": "done", "spectra_measured": 5, "learned": LEARNED}
    events.append(control.StateChange(target="plan", state="finished", data=data, time_ns=9))
    (folder / "events.jsonl").write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in events))
    return folder


def figures(page: str) -> dict[str, Any]:
    """The figures of a page by their title."""
    made = {}
    for figure in re.findall(r"<figure>.*?</figure>", page, re.S):
        tree = ElementTree.fromstring(figure)
        caption = tree.find("figcaption")
        assert caption is not None
        made[caption.text or ""] = tree
    return made


def note(figure: Any) -> str:
    return str(figure.findtext("figcaption/small"))


def test_the_report_begins_with_what_was_learned(tmp_path: Path) -> None:
    page = write_report(session(tmp_path)).read_text(encoding="utf-8")
    found = figures(page)
    titles = list(found)
    assert titles[:3] == ["the way over scan", "learned map", "truth"]
    way = found["the way over scan"]
    assert len(way.findall(".//polyline")) == 1
    assert len(way.findall(".//circle")) == 5  # four valid ones, and the ring about the first
    assert "1 invalid" in note(way)
    labels = [[t.text for t in found[name].iter("text")][-3:] for name in ("learned map", "truth")]
    assert labels[0] == labels[1]  # on the same scale
    assert "correlation 1.00" in note(found["truth"])
    assert "by chance 0.1 would" in note(found["regret: the highest true value less the best one measured"])
    patches = found["structure and property: from low to high"]
    assert not [title for title in titles if title in ("inverse prediction", "inverse uncertainty")]  # not twice
    values = [t.text or "" for t in patches.iter("text")]
    assert len(values) >= 6
    assert len(patches.findall(".//image")) == len(values)


def test_without_a_truth_it_shows_the_best_value_so_far(tmp_path: Path) -> None:
    found = figures(write_report(session(tmp_path, truth=False)).read_text(encoding="utf-8"))
    assert "best value so far" in found
    assert "truth" not in found


def test_regret_never_rises_and_an_invalid_measurement_finds_nothing() -> None:
    pixels = np.array([[5.0, 5.0], [30.0, 8.0], [29.0, 8.0]])
    values = np.array([0.0, np.nan, 0.5])
    line = re.search(r'<path d="M([^"]*)" fill="none" stroke="#31688e"', regret(values, pixels, TRUE, "V"))
    assert line is not None
    heights = [float(point.split(",")[1]) for point in line.group(1).split("L")]
    assert heights[0] == heights[1] < heights[2]  # downwards on the page
    assert regret(values[:1], pixels[:1], TRUE, "V") == ""


@pytest.mark.parametrize("prediction", [np.zeros((N, N)), np.full((N, N), np.nan), np.zeros((5, 5))])
def test_what_has_no_order_makes_no_trouble(prediction: Any) -> None:
    image = np.ones(prediction.shape)
    made = ordered(image, prediction, "", "scan")
    assert made == "" or made.count("<image") >= 4


def test_a_plan_that_learned_nothing_says_nothing() -> None:
    events = [control.StateChange(target="plan", state="finished", data={"plan": "explore", "message": ""})]
    assert Learned.of(events) is None
    broken = control.StateChange(target="plan", state="finished", data={"plan": "x", "learned": {"generation": 1}})
    assert Learned.of([broken]) is None
    assert json.dumps(LEARNED)


def test_another_scalarizer_leaves_the_way_in_the_order_in_which_it_was_taken() -> None:
    def told(x: float, scalarizer: str, again: bool = False) -> dict[str, object]:
        return {"position": [x, 0.0], "value": x, "valid": True, "scalarizer": scalarizer, "again": again}

    steps = [
        [told(1.0, "area")],
        [told(2.0, "area")],
        [told(3.0, "bias"), told(1.0, "bias", True), told(2.0, "bias", True)],
    ]
    events = [control.Observed(step=i, kind="observe", value={"step": {}, "value": v}) for i, v in enumerate(steps)]
    assert [x for x, _, _ in Tally.of(events).observed["bias"]] == [1.0, 2.0, 3.0]


def test_what_was_recorded_of_a_generation_is_read_back(tmp_path: Path) -> None:
    history = SessionHistory(session(tmp_path))
    (overview,) = history.recorded("scan", 3)
    assert (overview.generation, overview.count) == (3, N * N)
    pictures = list(history.recorded("inverse.prediction", 3))
    assert [block.index for block in pictures] == [0, 1]
    assert list(history.recorded("scan", 4)) == []
    assert list(history.recorded("nothing", 3)) == []
