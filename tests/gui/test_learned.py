"""What a plan learns, beside the map, and a region that an operator pins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from probeloop.gui.models.rig import PlanState
from probeloop.gui.views.window import Window

from probeloop.data import control
from probeloop.data.axes import StreamSpec
from probeloop.experiment.showing import MapTopics

PINNABLE = {"type": "object", "properties": {"pinned": {"anyOf": [{"type": "object"}, {"type": "null"}]}}}


@pytest.fixture
def screen(fake: Any) -> Iterator[MapTopics]:
    made = MapTopics(fake.bus)
    yield made
    made.close()


def show(screen: MapTopics, fake: Any, kind: str, values: Any) -> None:
    spec = StreamSpec(
        f"inverse.{kind}", "image", "<f4", sig=fake.map_spec.nav, units="eV", origin="simulation", sync="none",
        may_be_nan=True,
    )  # fmt: skip
    screen.show(spec, fake.generation, np.asarray(values, np.float32), 0)


def test_prediction_and_uncertainty_stand_beside_the_map_with_what_was_measured_on_top(
    qtbot: Any, window: Window, fake: Any, screen: MapTopics
) -> None:
    qtbot.waitUntil(lambda: len(window.station.feed.rows) == 2, timeout=5000)
    fake.scan()
    assert not window.learned.isVisible()
    show(screen, fake, "prediction", fake.truth)
    show(screen, fake, "uncertainty", 1 - fake.truth)
    qtbot.waitUntil(
        lambda: len(window.station.feed.rows) == 4, timeout=5000
    )  # it reads them from the next picture on
    screen.refresh()
    show(screen, fake, "prediction", 2 * fake.truth)
    show(screen, fake, "uncertainty", 1 - fake.truth)
    qtbot.waitUntil(lambda: window.learned.isVisible(), timeout=5000)
    prediction, uncertainty = window.learned.views["prediction"], window.learned.views["uncertainty"]
    qtbot.waitUntil(lambda: prediction.paints > 0 and uncertainty.paints > 0, timeout=5000)
    qtbot.waitUntil(lambda: float(np.nanmax(prediction.picture.shown)) > 1.5 * fake.truth.max(), timeout=5000)
    assert prediction.topic.currentText() == "inverse.prediction"
    assert "[eV]" in prediction.about.whole
    assert window.map.topic.currentText() == "annular_detector.intensity"
    places = [(1e-10 * k, -5e-11 * k) for k in range(4)]
    told = [{"position": list(place), "value": 1.0 + k, "valid": k != 2} for k, place in enumerate(places)]
    fake.say(control.Observed(step=1, kind="observe", value={"step": {}, "value": told}))
    qtbot.waitUntil(lambda: len(window.station.rig.points) == 4, timeout=5000)
    window.refresh_slowly()
    x, y = window.map.way.getData()
    np.testing.assert_allclose(np.stack([x, y], 1), [window.map.picture.place(*place) for place in places])
    for view in (window.map, prediction, uncertainty):
        assert [spot.symbol() for spot in view.points.points()] == ["o", "o", "x", "o"]


def test_the_part_that_is_seen_is_pinned_and_let_go(qtbot: Any, window: Window, fake: Any) -> None:
    qtbot.waitUntil(lambda: len(window.station.feed.rows) == 2, timeout=5000)
    fake.scan()
    qtbot.waitUntil(lambda: window.map.paints > 0, timeout=5000)
    assert not window.map.pin.isVisible()
    rig = window.station.rig
    rig.plans["inverse"], rig.plan = PINNABLE, PlanState("inverse", "running")
    window.refresh_slowly()
    assert window.map.pin.isVisible()
    picture = window.map.picture
    picture.box.setRange(xRange=picture.place(-1e-9, 2e-9), yRange=picture.place(0.0, 1e-9), padding=0)
    window.map.pin.click()

    def asked() -> list[Any]:
        return [r.values["pinned"] for r in fake.requests if isinstance(r, control.SetParameters)]

    qtbot.waitUntil(lambda: len(asked()) == 1, timeout=5000)
    region = asked()[0]
    assert region["centre_x"] == pytest.approx(0.5e-9, abs=1e-11)
    assert region["centre_y"] == pytest.approx(0.5e-9, abs=1e-11)
    assert 0.99e-9 < region["height"] < 3.3e-9
    qtbot.waitUntil(lambda: bool(rig.pinned), timeout=5000)
    window.refresh_slowly()
    assert window.map.pin.isChecked()
    assert len(window.map.pinned.getData()[0]) == 5
    window.map.pin.click()
    qtbot.waitUntil(lambda: asked()[1:] == [None], timeout=5000)
    qtbot.waitUntil(lambda: not rig.pinned, timeout=5000)
    window.refresh_slowly()
    assert not window.map.pin.isChecked()
    assert not len(window.map.pinned.getData()[0])
