"""The newest detector frame with an annulus to drag: it sets inner and outer of an annular detector."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import QSignalBlocker, Qt, Signal
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QHBoxLayout,
    QLabel,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from probeloop.api import display

from ..models.levels import Levels
from ..models.maps import Extent
from ..models.pattern import (
    AnnularControl,
    Annulus,
    NewestFrame,
    annular_control,
    radius_to_units,
    ring_of,
    units_to_radius,
)
from ..models.station import Station
from .contrast_row import ContrastRow
from .picture_view import PictureView
from .style import ElidedLabel

_LEVELS_S = 0.25
_SEND_S = 0.1
_HOLD_S = 1.0


class Ring(pg.CircleROI):  # type: ignore[misc]
    """A circle about a fixed centre whose radius can be dragged at four grips or at its edge."""

    def __init__(self, colour: str, name: str) -> None:
        super().__init__((-1, -1), radius=1, movable=False, rotatable=False, pen=pg.mkPen(colour, width=2),
                         hoverPen=pg.mkPen(colour, width=4), handlePen=pg.mkPen(colour, width=2))  # fmt: skip
        for handle in list(self.getHandles()):
            self.removeHandle(handle)
        for at in ((1, 0.5), (0, 0.5), (0.5, 0), (0.5, 1)):
            self.addScaleHandle(at, (0.5, 0.5), lockAspect=True)
        self.setToolTip(name)
        self.setZValue(20)

    def place(self, x: float, y: float, radius: float) -> None:
        """Put it somewhere, without saying that it moved."""
        radius = max(radius, 1e-12)
        with QSignalBlocker(self):
            self.setSize((2 * radius, 2 * radius), update=False, finish=False)
            self.setPos((x - radius, y - radius), update=True, finish=False)

    @property
    def radius(self) -> float:
        """Its radius, drawn units."""
        return float(abs(self.size()[0])) / 2


class PatternView(QWidget):
    """Draws the newest frame of one topic and the annulus of one plug-in."""

    annulus_changed = Signal(float, float)

    def __init__(self, station: Station) -> None:
        super().__init__()
        self._station = station
        self.levels = Levels()
        self.picture = PictureView("Detector frame", self.levels)
        self.contrast = ContrastRow(self.picture, self.levels, "detector frame", "inferno")
        self.topic = QComboBox()
        self.topic.setAccessibleName("Topic shown as detector frame")
        self.topic.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToContents)
        self.topic.setSizePolicy(QSizePolicy.Policy.Minimum, QSizePolicy.Policy.Fixed)
        self.detector = QComboBox()
        self.detector.setAccessibleName("Annular detector that is dragged")
        self.detector.setToolTip("Plug-in whose inner and outer angle the rings set")
        self.detector.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToContents)
        self.detector.hide()
        self.log = QCheckBox("&Log")
        self.log.setChecked(True)
        self.log.setToolTip("Show log10(1 + counts); the data stay as they are")
        self.fit = QToolButton()
        self.fit.setText("Fit")
        self.about = ElidedLabel("About the detector frame")
        self.value = ElidedLabel("Value under the pointer")
        self.value.setAlignment(Qt.AlignmentFlag.AlignRight)
        self.angles = QLabel(" ")
        self.inner = Ring("#4cc9f0", "inner angle: drag")
        self.outer = Ring("#ffb000", "outer angle: drag")
        for ring in (self.inner, self.outer):
            ring.setVisible(False)
            self.picture.box.addItem(ring, ignoreBounds=True)
        self.annulus: Annulus | None = None
        self.control: AnnularControl | None = None
        self._drawn: tuple[str, int, bool] | None = None
        self._next_levels = self._next_send = self._hold_until = 0.0
        self._unsent = False
        self.paints = 0

        top = QHBoxLayout()
        top.setSpacing(6)
        for widget in (QLabel("<b>Frame</b>"), self.topic, self.log):
            top.addWidget(widget)
        top.addWidget(self.about, 1)
        top.addWidget(self.fit)
        rings = QHBoxLayout()
        rings.setSpacing(6)
        for widget in (self.detector, self.angles):
            rings.addWidget(widget)
        rings.addWidget(self.value, 1)
        column = QVBoxLayout(self)
        column.setContentsMargins(3, 4, 6, 4)
        column.setSpacing(4)
        column.addLayout(top)
        column.addWidget(self.picture, 1)
        column.addLayout(rings)
        column.addWidget(self.contrast)
        self.fit.clicked.connect(self.picture.fit)
        self.log.toggled.connect(lambda _: self._again())
        self.topic.currentIndexChanged.connect(lambda _: self._again())
        self.detector.currentIndexChanged.connect(lambda _: self._take_control_values())
        self.inner.sigRegionChanged.connect(lambda _: self._dragged("inner"))
        self.outer.sigRegionChanged.connect(lambda _: self._dragged("outer"))
        self.picture.hovered.connect(self._hovered)

    @property
    def newest(self) -> NewestFrame | None:
        """The frame that is shown."""
        return self._station.feed.frames.get(self.topic.currentText())

    def _again(self) -> None:
        self._drawn = None
        self._next_levels = 0.0

    def refresh(self) -> bool:
        """Draw if there is a newer frame, and send what was dragged; return whether it drew."""
        now = time.monotonic()
        if self._unsent and now >= self._next_send:
            self._send(now)
        newest = self.newest
        if newest is None:
            return False
        mark = (newest.topic, newest.version, self.log.isChecked())
        if mark == self._drawn:
            return False
        shown = newest.picture(self.log.isChecked())
        if shown is None:
            return False
        data, extent = shown
        if now >= self._next_levels:
            self._next_levels = now + _LEVELS_S
            self.levels.follow(data)
            units = newest.spec.units if newest.spec is not None and not self.log.isChecked() else ""
            self.contrast.bar.show_picture(data, units)
        self._drawn = mark
        fresh = extent != self.picture.extent
        self.picture.draw(data, extent)
        if fresh:
            self._take_control_values()
        self.paints += 1
        return True

    def refresh_slowly(self) -> None:
        """Update lists, words and what was read back."""
        frames = self._station.feed.frames
        known = {self.topic.itemText(i) for i in range(self.topic.count())}
        for name in sorted(set(frames) - known):
            if frames[name].picture(False) is not None:
                self.topic.addItem(name)
        newest = self.newest
        if newest is not None and newest.spec is not None:
            shape = " × ".join(map(str, reversed(newest.spec.frame_shape)))
            scan = f"pixel {newest.scan_index}" if newest.scan_index >= 0 else "no pixel"
            self.about.say(f"{scan}{', settling' if newest.settling else ''}, {shape}")
        controls = self._controls()
        names = list(controls)
        if [self.detector.itemText(i) for i in range(self.detector.count())] != names:
            with QSignalBlocker(self.detector):
                at = self.detector.currentText()
                self.detector.clear()
                self.detector.addItems(names)
                self.detector.setCurrentText(at)
        self.detector.setVisible(len(names) > 1)
        if time.monotonic() > self._hold_until and not self._unsent:
            found = controls.get(self.detector.currentText())
            if found != self.control or (self.annulus is None and found is not None):
                self._take_control_values()

    def _controls(self) -> dict[str, AnnularControl]:
        plugins = self._station.rig.plugins
        found = {name: annular_control(name, plugin.schema, plugin.values) for name, plugin in plugins.items()}
        return {name: control for name, control in found.items() if control is not None}

    def _centre(self, extent: Extent) -> tuple[float, float]:
        """Return the undiffracted beam: the calibration, else the axes' zero, else the middle."""
        found = self._station.rig.calibrations.get("pattern_centre")
        newest = self.newest
        if found and newest is not None and newest.spec is not None and len(found.get("value", ())) == 2:
            ky, kx = (float(v) for v in found["value"])
            y, x = newest.spec.sig[-2:]
            if extent.units == "px":
                return kx, ky
            return x.offset + kx * (x.scale or 1.0), y.offset + ky * (y.scale or 1.0)
        if extent.units != "px" and extent.x < 0 < extent.x + extent.width:
            return 0.0, 0.0
        return extent.x + extent.width / 2, extent.y + extent.height / 2

    def _take_control_values(self) -> None:
        """Put the rings where the plug-in says they are."""
        self.control = self._controls().get(self.detector.currentText())
        extent = self.picture.extent
        self.annulus = None
        if self.control is not None and extent is not None:
            self.annulus = ring_of(self.control, extent, self._centre(extent), self._station.rig.convergence)
        self._place_rings()
        self._show_angles()

    def _place_rings(self) -> None:
        ring = self.annulus
        for item in (self.inner, self.outer):
            item.setVisible(ring is not None)
        if ring is not None:
            x, y = self.picture.place(ring.x, ring.y)
            f = self.picture.unit_factor
            self.inner.place(x, y, ring.inner / f)
            self.outer.place(x, y, ring.outer / f)

    def _dragged(self, which: str) -> None:
        ring, extent, control = self.annulus, self.picture.extent, self.control
        if ring is None or extent is None or control is None:
            return
        radius = (self.inner if which == "inner" else self.outer).radius * self.picture.unit_factor
        convergence = self._station.rig.convergence
        most = (
            units_to_radius(control.most, control.unit, extent.units, convergence)
            if math.isfinite(control.most)
            else None
        )
        radius = min(radius, most) if most is not None else radius
        self.annulus = ring.resized(**{which: radius}, gap=extent.width / 512)
        inner = radius_to_units(self.annulus.inner, extent.units, control.unit, convergence)
        outer = radius_to_units(self.annulus.outer, extent.units, control.unit, convergence)
        if inner is None or outer is None:
            return
        self.control = replace(control, inner=_rounded(max(control.least, inner)), outer=_rounded(outer))
        self._unsent = True
        self._hold_until = time.monotonic() + _HOLD_S
        self._place_rings()
        self._show_angles()

    def _send(self, now: float) -> None:
        self._unsent = False
        self._next_send = now + _SEND_S
        control = self.control
        plugin = self._station.rig.plugins.get(control.plugin) if control is not None else None
        if control is None or plugin is None:
            return
        self._station.set_parameters(plugin, {"inner": control.inner, "outer": control.outer}, dragged=True)
        self.annulus_changed.emit(control.inner, control.outer)

    def _show_angles(self) -> None:
        control, extent = self.control, self.picture.extent
        if control is None or extent is None:
            self.angles.setText("")
        elif self.annulus is None:
            self.angles.setText(f"{control.plugin}: no annulus, the frame's angles are uncalibrated")
        else:
            unit = control.unit or "× convergence angle"
            name = f"{control.plugin}: " if self.detector.count() < 2 else ""
            shown = [
                radius_to_units(radius, extent.units, control.unit, self._station.rig.convergence)
                for radius in (self.annulus.inner, self.annulus.outer)
            ]
            words = " – ".join("?" if value is None else f"{value:.4g}" for value in shown)
            self.angles.setText(f"{name}<b>{words}</b> {unit}  (drag the rings)")

    def _hovered(self, place: tuple[float, float] | None) -> None:
        data, extent = self.picture.shown, self.picture.extent
        newest = self.newest
        raw: Any = newest.picture(False) if newest is not None else None
        if place is None or data is None or extent is None or raw is None:
            self.value.say(" ")
            return
        ny, nx = raw[0].shape
        ix = math.floor((place[0] - extent.x) / extent.width * nx)
        iy = math.floor((place[1] - extent.y) / extent.height * ny)
        if not (0 <= ix < nx and 0 <= iy < ny):
            self.value.say(" ")
            return
        x, y = self._centre(extent)
        angle = math.hypot(place[0] - x, place[1] - y)
        where = f"{angle:.0f} px" if extent.units == "px" else display(angle, extent.units)
        self.value.say(f"{where} from the centre: {np.asarray(raw[0][iy, ix]).item():.4g}")


def _rounded(value: float) -> float:
    """Return four significant digits: more would say more than a hand on a mouse knows."""
    return float(f"{value:.4g}")
