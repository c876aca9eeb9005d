"""The window offscreen, on a rig that is on the real bus but not there."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from probeloop.gui.models.levels import Levels
from probeloop.gui.models.rig import PlanState
from probeloop.gui.models.stop import StopResult
from probeloop.gui.views.overlay import round_length, scene_unit
from probeloop.gui.views.parameter_form import ParameterForm
from probeloop.gui.views.picture_view import COLOUR_MAPS, colour_table
from probeloop.gui.views.plan_panel import words
from probeloop.gui.views.spectrum_view import SpectrumView
from probeloop.gui.views.stop_panel import StopPanel
from probeloop.gui.views.style import BADGES, STOP, contrast
from probeloop.gui.views.window import SHORTCUTS, Window
from PySide6.QtCore import QObject, Qt, Signal
from PySide6.QtWidgets import QAbstractButton, QComboBox, QLabel, QLineEdit

from probeloop.data import control
from probeloop.data.axes import Axis, Channel, StreamSpec
from probeloop.data.commands import MoveProbe
from probeloop.data.latency import LoopTimings


def ready(qtbot: Any, window: Window, fake: Any) -> None:
    qtbot.waitUntil(lambda: len(window.station.feed.rows) == 2 and bool(window.station.rig.plugins), timeout=5000)
    fake.scan()
    qtbot.waitUntil(lambda: window.map.paints > 0 and window.pattern.paints > 0, timeout=5000)
    qtbot.waitUntil(lambda: window.pattern.annulus is not None, timeout=5000)


def test_the_map_is_drawn_with_missing_pixels_showing_the_ground(qtbot: Any, window: Window, fake: Any) -> None:
    qtbot.waitUntil(lambda: len(window.station.feed.rows) == 2, timeout=5000)
    fake.begin()
    for _ in range(fake.n // 2):
        fake.line()
    qtbot.waitUntil(lambda: window.map.paints > 0, timeout=5000)
    qtbot.wait(100)
    drawn = window.map.picture.shown
    assert np.isfinite(drawn[0]).all()
    assert np.isnan(drawn[-1]).all()
    picture = window.map.picture
    colour = picture.grab().toImage().pixelColor(picture.width() // 2, picture.height() * 3 // 4)
    assert colour.blue() > colour.red() + 15, "gray maps hold no such colour"
    window.refresh_slowly()
    assert "50% measured" in window.map.about.whole
    assert "100 pm/px" in window.map.about.whole


def test_dragging_a_ring_changes_cells_already_scanned(qtbot: Any, window: Window, fake: Any) -> None:
    ready(qtbot, window, fake)
    live = window.map.live
    assert live is not None
    before, begun = np.array(live.data), time.monotonic()
    ring = window.pattern.outer
    for size in np.linspace(ring.radius * 2, ring.radius * 2.8, 10):
        ring.scale(size / ring.size()[0], center=(0.5, 0.5))
        qtbot.wait(10)
    qtbot.waitUntil(lambda: fake.parameters["outer"] == pytest.approx(280, rel=0.01), timeout=2000)
    qtbot.waitUntil(lambda: bool((live.data != before).mean() > 0.9), timeout=2000)
    assert time.monotonic() - begun < 2.0
    assert fake.parameters["inner"] == pytest.approx(60, rel=0.01)


def test_the_inner_ring_can_not_pass_the_outer_one(qtbot: Any, window: Window, fake: Any) -> None:
    ready(qtbot, window, fake)
    window.pattern.inner.scale(10.0, center=(0.5, 0.5))
    qtbot.waitUntil(lambda: fake.parameters["inner"] > 100, timeout=2000)
    assert fake.parameters["inner"] < fake.parameters["outer"]


def test_stop_by_its_key_while_a_text_field_has_the_focus(qtbot: Any, window: Window, fake: Any) -> None:
    ready(qtbot, window, fake)
    window.log.filter.setFocus()
    qtbot.keyClick(window.log.filter, Qt.Key.Key_F12)
    qtbot.waitUntil(lambda: window.station.stopping.result is not None, timeout=2000)
    result = window.station.stopping.result
    assert result is not None
    assert result.confirmed
    assert result.latency_ns < 100e6
    qtbot.waitUntil(lambda: window.banner.state.text == "STOPPED", timeout=2000)
    assert window.banner.rearm.isVisible()
    assert not window.plan.run.isEnabled()


def test_the_stop_button_acts_when_pressed_not_when_let_go(qtbot: Any, window: Window, fake: Any) -> None:
    qtbot.waitUntil(lambda: bool(window.station.rig.origin), timeout=5000)
    qtbot.waitUntil(lambda: "Its safe state: " in window.banner.stop.toolTip(), timeout=2000)
    qtbot.mousePress(window.banner.stop, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: fake.stopped_ns > 0, timeout=2000)


def test_the_stop_window_says_what_came_of_it(qtbot: Any) -> None:
    class Door:
        busy, result, pressed = False, None, 0

        def press(self) -> None:
            self.pressed += 1
            self.result = StopResult(True, "stopped, confirmed after 4 ms", 4_000_000)

    door = Door()
    panel = StopPanel("demo", door)  # type: ignore[arg-type]
    qtbot.addWidget(panel)
    assert panel.windowFlags() & Qt.WindowType.WindowStaysOnTopHint
    qtbot.keyClick(panel, Qt.Key.Key_F12)
    panel.refresh()
    assert (door.pressed, panel.said.text()) == (1, "stopped, confirmed after 4 ms")
    qtbot.mousePress(panel.button, Qt.MouseButton.LeftButton)
    assert door.pressed == 2


def test_the_banner_says_simulated_and_shows_record_and_dose(qtbot: Any, window: Window, fake: Any) -> None:
    qtbot.waitUntil(lambda: window.banner.origin.text == "SIMULATED", timeout=5000)
    qtbot.waitUntil(lambda: window.banner.recording.text == "REC", timeout=5000)
    assert window.banner.dose.text() == "dose 2.4 × 10⁶ e est., 76% left\nmax 30 e/Å²"


@pytest.mark.parametrize("name", [*BADGES, "STOP"])
def test_every_badge_can_be_read(name: str) -> None:
    badge = STOP if name == "STOP" else BADGES[name]
    assert contrast(badge.background, badge.text) >= 4.5


def test_states_differ_by_shape_and_word_not_by_colour_alone() -> None:
    states = ["live", "ready", "settling", "paused", "stale", "gone", "stopped"]
    assert len({BADGES[name].shape for name in states}) == len(states)


def test_stop_is_not_red_on_yellow() -> None:
    assert STOP.background not in ("#ff0000", "#ffff00")
    assert STOP.shape == "square"


@pytest.mark.parametrize(("most", "length"), [(7.3, 5), (2, 2), (1.99, 1), (0.0301, 0.02), (999, 500)])
def test_a_scale_bar_is_a_round_length(most: float, length: float) -> None:
    assert round_length(most) == pytest.approx(length)


@pytest.mark.parametrize(
    ("width", "units", "unit"), [(1.2e-8, "m", "nm"), (3e-6, "m", "µm"), (0.2, "rad", "mrad"), (64, "px", "px")]
)
def test_pictures_are_drawn_in_a_handy_unit(width: float, units: str, unit: str) -> None:
    assert scene_unit(width, units)[1] == unit


def test_measured_points_lie_on_the_map_where_they_were_measured(qtbot: Any, window: Window, fake: Any) -> None:
    ready(qtbot, window, fake)
    found = [{"position": [1e-9, -2e-9], "value": 3.0}, {"position": [0, 0], "value": 0.0, "valid": False}]
    fake.say(control.Observed(step=1, kind="observe", value={"value": found}))
    qtbot.waitUntil(lambda: len(window.map.points.points()) == 2, timeout=2000)
    point, invalid = window.map.points.points()
    assert (point.pos().x(), point.pos().y()) == pytest.approx((1.0, -2.0))
    assert invalid.symbol() == "x"


def test_the_scale_bar_follows_the_zoom(qtbot: Any, window: Window, fake: Any) -> None:
    ready(qtbot, window, fake)
    bar, box = window.map.picture.scale_bar, window.map.picture.box
    wide = bar.text
    box.scaleBy((0.2, 0.2))
    assert bar.text != wide
    value, unit = bar.text.split()
    assert unit == "nm"
    assert float(value) == pytest.approx(bar.length_px * box.viewPixelSize()[0])


def test_a_map_of_other_pixels_fills_the_same_place(qtbot: Any, window: Window, fake: Any) -> None:
    ready(qtbot, window, fake)
    picture = window.map.picture
    extent = picture.extent
    assert extent is not None
    for size in (32, 128, 17):
        picture.draw(np.random.default_rng(0).random((size, size)), extent)
        place = picture.image.mapRectToParent(picture.image.boundingRect())
        f = picture.unit_factor
        wanted = (extent.x / f, extent.y / f, extent.width / f, extent.height / f)
        assert place.getRect() == pytest.approx(wanted)


def test_a_complex_loop_is_drawn_by_its_real_part() -> None:
    bias = np.concatenate([np.linspace(0, 8, 16), np.linspace(8, -8, 32), np.linspace(-8, 0, 16)])
    loop = (np.where(bias > 2, 1.0, -1.0) * np.exp(0.1j)).astype(np.complex64)
    axis, more = Axis("step", 64, 1.0), {"channels": (Channel("response", "piezoresponse", "m"),), "units": "m"}
    for aux, wanted in (({"bias": tuple(bias)}, loop.real), ({}, np.abs(loop))):
        spec = StreamSpec("spectrum", "spectra", "<c8", (), (axis,), aux=aux, **more)
        frame = SimpleNamespace(topic="spectrum", version=1, spec=spec, data=loop, scan_index=-1)
        view = SpectrumView(SimpleNamespace(feed=SimpleNamespace(frames={"spectrum": frame})))
        assert view.refresh_slowly()
        assert view.refresh_slowly()
        np.testing.assert_allclose(view.curves[0].getData()[1], wanted, rtol=1e-6)
        view.deleteLater()


def test_the_gate_s_refusals_are_in_their_table_and_counted_on_its_tab(qtbot: Any, window: Window, fake: Any) -> None:
    qtbot.waitUntil(lambda: len(window.station.feed.rows) == 2, timeout=5000)
    fake.say(control.Verdict(id=1, command=MoveProbe((8e-8, 0.0)), holder="experiment", epoch=1, accepted=False,
                             reason="too far", limit="max_step", allowed="20 nm"))  # fmt: skip
    qtbot.waitUntil(lambda: window.station.journal.refused == 1, timeout=2000)
    window.tables.setCurrentWidget(window.refusals)
    window.refresh_slowly()
    cells = [window.refusals.item(0, i).text() for i in range(1, 6)]
    assert cells == ["MoveProbe at (80 nm, 0 m)", "experiment", "too far", "max_step", "20 nm"]
    assert "(1)" in window.tables.tabText(window.tables.indexOf(window.refusals))


def test_the_latency_view_says_that_no_loop_was_closed_then_draws_its_stages(
    qtbot: Any, window: Window, fake: Any
) -> None:
    ready(qtbot, window, fake)
    view = window.latency
    window.tables.setCurrentWidget(view)
    window.refresh_slowly()
    assert view.none.isVisible()
    assert "no closed loop yet" in view.none.text()
    loop = LoopTimings()
    loop.take(
        control.Result(trace=control.Trace(exposed=1_000, published=34_000, received=900_000, applied=9_001_000))
    )
    fake.state["latency"] = msgspec.to_builtins(loop.counted)
    qtbot.waitUntil(lambda: bool(window.station.rig.latency), timeout=5000)
    window.refresh_slowly()
    assert view.loop.isVisible()
    shown = [[view.loop.item(y, x).text() for x in (0, 2, 3, 4)] for y in range(view.loop.rowCount())]
    assert ["software, in all", "9 ms", "9 ms", "1"] in shown
    assert ["camera", "32 µs", "32 µs", "1"] in shown
    assert view.loop.item(0, 0).font().bold()
    assert "end of exposure" in view.loop.item(0, 1).toolTip()
    row = [line[0] for line in shown].index("camera")
    picture = view.loop.viewport().grab(view.loop.visualItemRect(view.loop.item(row, 1))).toImage()
    ground = picture.pixelColor(picture.width() - 12, picture.height() // 2)
    drawn = [x for x in range(picture.width()) if picture.pixelColor(x, picture.height() - 4) != ground]
    bar = 6 + (picture.width() - 12) * np.log10(33) / 7
    assert any(abs(x - bar) < 8 for x in drawn)
    names = [view.transport.item(y, 0).text() for y in range(view.transport.rowCount())]
    assert "camera → this window" in names


def test_knob_and_measurement_have_columns_of_their_own(qtbot: Any, window: Window) -> None:
    qtbot.waitUntil(lambda: "C30" in window.station.rig.knobs, timeout=5000)
    window.aberrations.refresh()
    rows = [[window.aberrations.item(y, x).text() for x in range(3)] for y in range(window.aberrations.rowCount())]
    assert rows[0] == ["C10", "12 nm", "not measured"]
    assert ["C30", "uncalibrated", "not measured"] in rows


def test_a_form_shows_units_refuses_in_words_and_sends_one_change(qtbot: Any) -> None:
    fields = {
        "inner": {"type": "number", "minimum": 0, "maximum": 9, "unit": "mrad"},
        "order": {"enum": ["a", "b"]},
        "n": {"type": "integer", "minimum": 1, "maximum": 5},
    }
    schema = {"properties": fields}
    form = ParameterForm(schema, {"inner": 2.0, "order": "b", "n": 3})
    qtbot.addWidget(form)
    assert form.values() == {"inner": 2.0, "order": "b", "n": 3}
    line = form.findChild(QLineEdit, "")
    assert line is not None
    assert "0 ≤ number ≤ 9 mrad" in line.toolTip()
    sent: list[dict[str, Any]] = []
    form.changed.connect(sent.append)
    line.setFocus()
    line.selectAll()
    qtbot.keyClicks(line, "12")
    line.setModified(True)
    qtbot.keyClick(line, Qt.Key.Key_Return)
    assert sent == []
    assert "allowed: 0 ≤ number ≤ 9 mrad" in form.problem.text()
    line.selectAll()
    qtbot.keyClicks(line, "4.5")
    qtbot.keyClick(line, Qt.Key.Key_Return)
    assert sent == [{"inner": 4.5}]


def test_a_plan_is_run_with_the_form_s_values(qtbot: Any, window: Window, fake: Any) -> None:
    qtbot.waitUntil(lambda: window.plan.plan.count() == 2, timeout=5000)
    window.plan.plan.setCurrentText("explore")
    window.plan.seed.setText("7")
    qtbot.mouseClick(window.plan.run, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: any(isinstance(r, control.Run) for r in fake.requests), timeout=2000)
    run = next(r for r in fake.requests if isinstance(r, control.Run))
    assert run == control.Run("explore", {"order": "random", "count": 100, "dwell_time": 1.0, "save": True}, 7)
    qtbot.waitUntil(lambda: window.plan.abort.isEnabled() and not window.plan.run.isEnabled(), timeout=2000)


def test_the_plan_that_runs_is_shown_until_a_person_chose_another(qtbot: Any, window: Window, station: Any) -> None:
    plans = window.plan.plan
    qtbot.waitUntil(lambda: plans.count() == 2, timeout=5000)
    for name in ("overview", "explore"):
        station.rig.plan = PlanState(name, "running")
        window.plan.refresh()
        assert plans.currentText() == name
    plans.setCurrentText("overview")
    plans.activated.emit(plans.currentIndex())
    station.rig.plan = PlanState("explore", "finished")
    station.rig.plan = PlanState("overview", "running")
    station.rig.plan = PlanState("explore", "running")
    window.plan.refresh()
    assert plans.currentText() == "overview"


def test_progress_is_told_in_words() -> None:
    assert (
        words(PlanState("explore", "running", 0.5, 1.0, 42.0, "50 of 100"))
        == "explore: running, 42 s left. 50 of 100"
    )
    assert words(PlanState("explore", "failed", reason="no contrast")) == "explore: failed. no contrast"
    assert words(PlanState()) == "no plan ran yet"


def test_the_layout_comes_back(qtbot: Any, window: Window, station: Any) -> None:
    window.map.contrast.set_colours("viridis")
    window.pattern.log.setChecked(False)
    window.save()
    again = Window(station)
    qtbot.addWidget(again)
    assert again.map.contrast.colours.currentText() == "viridis"
    assert not again.pattern.log.isChecked()
    again.save = lambda: None  # type: ignore[method-assign]
    again.close()


def test_everything_one_can_use_has_a_name_and_the_keys_are_listed(window: Window) -> None:
    for kind in (QComboBox, QLineEdit):
        nameless = [w for w in window.findChildren(kind) if not w.accessibleName()]
        assert [w for w in nameless if w.objectName() != "qt_spinbox_lineedit"] == []
    silent = [b for b in window.findChildren(QAbstractButton) if not (b.text() or b.accessibleName() or b.toolTip())]
    assert [b for b in silent if not b.objectName().startswith("qt_") and not isinstance(b.parent(), QLineEdit)] == []
    assert all(isinstance(w.text(), str) for w in window.findChildren(QLabel))
    assert SHORTCUTS[0][0] == "F12"


@pytest.mark.parametrize("name", COLOUR_MAPS)
def test_colour_maps_rise_in_brightness_so_that_anyone_can_read_them(name: str) -> None:
    table = colour_table(name).astype(float)
    brightness = table @ [0.2126, 0.7152, 0.0722]
    assert table.shape == (256, 3)
    assert (np.diff(brightness) > -0.6).all()
    assert brightness[-1] - brightness[0] > 120


def test_locked_levels_stay_when_the_picture_changes() -> None:
    levels = Levels()
    levels.set(1, 2)
    levels.follow(np.full((8, 8), 50.0))
    assert (levels.low, levels.high) == (1, 2)


def test_emitting_a_bool_does_not_wear_out_true(qtbot: Any) -> None:
    class Emitter(QObject):
        said = Signal(bool)

    emitter = Emitter()
    before = sys.getrefcount(True)
    for _ in range(5000):
        emitter.said.emit(True)
    assert abs(sys.getrefcount(True) - before) < 50
