"""The live map: which topic and channel, the picture, value under the pointer, click to move the probe."""

from __future__ import annotations

import time

import numpy as np
import pyqtgraph as pg
from msgspec import convert
from PySide6.QtCore import QSignalBlocker, Qt
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QLabel, QSizePolicy, QToolButton, QVBoxLayout, QWidget

from probeloop.api import Region, display

from ..models.levels import Levels
from ..models.maps import LiveMap
from ..models.station import Station
from .contrast_row import ContrastRow
from .picture_view import PictureView, colour_table
from .style import ElidedLabel

_LEVELS_S = 0.2
_WAY = 200  # places that the line of the way goes back


class MapView(QWidget):
    """Draws the newest state of one LiveMap; `refresh` is called by the window's timer."""

    def __init__(self, station: Station, title: str = "Map", colours: str = "gray", *, small: bool = False) -> None:
        """Make one; a small one has no room for the contrast, nor for the way between the places."""
        super().__init__()
        self._station, self._small = station, small
        self.levels = Levels()
        self.picture = PictureView(f"Live {title.lower()}", self.levels)
        self.contrast = ContrastRow(self.picture, self.levels, title.lower(), colours)
        self.topic = QComboBox()
        self.topic.setAccessibleName("Topic shown as map")
        self.topic.setToolTip("Which topic is drawn")
        self.topic.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToContents)
        self.topic.setSizePolicy(QSizePolicy.Policy.Minimum, QSizePolicy.Policy.Fixed)
        self.channel = QComboBox()
        self.channel.setAccessibleName("Channel of the topic")
        self.channel.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToContents)
        self.channel.hide()
        self.fit = QToolButton()
        self.fit.setText("Fit")
        self.fit.setToolTip("Show the whole map (right click; Ctrl+0). Wheel: zoom; drag: shift")
        self.pin = QToolButton()
        self.pin.setText("Pin")
        self.pin.setCheckable(True)
        self.pin.setToolTip("The plan measures only in the part of the map that is seen now, until this is let go")
        self.pin.hide()
        self.about = ElidedLabel("About the map")
        self.value = ElidedLabel("Value under the pointer")
        self.value.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Preferred)
        self.probe = pg.ScatterPlotItem(size=15, symbol="+", pen=pg.mkPen("#ffb000", width=2), brush=None)
        self.points = pg.ScatterPlotItem(size=4 if small else 9, pen=pg.mkPen("#ffffff", width=1))
        self.points.setToolTip("Measured by the plan: colour is the value, a cross is an invalid measurement")
        self.way = pg.PlotCurveItem(pen=pg.mkPen(255, 255, 255, 90, width=1))
        self._points_drawn: tuple[int, object] = (-1, None)
        self.pinned = pg.PlotCurveItem(pen=pg.mkPen("#ffb000", width=2, style=Qt.PenStyle.DashLine))
        for item in (self.way, self.points, self.pinned, self.probe):
            self.picture.box.addItem(item, ignoreBounds=True)
        self._drawn: tuple[str, int, int] | None = None
        self._next_levels = 0.0
        self._held_until = 0.0
        self._chosen_by_hand = False
        self.paints = 0

        top = QHBoxLayout()
        top.setSpacing(6)
        heading = QLabel(f"<b>{title}</b>")
        for widget in (heading, self.topic, self.channel):
            top.addWidget(widget)
        top.addWidget(self.about, 1)
        top.addWidget(self.value)
        top.addWidget(self.pin)
        top.addWidget(self.fit)
        column = QVBoxLayout(self)
        column.setContentsMargins(6, 4, 3, 4)
        column.setSpacing(4)
        column.addLayout(top)
        column.addWidget(self.picture, 1)
        column.addWidget(self.contrast)
        self.contrast.setVisible(not small)
        self.fit.clicked.connect(self.picture.fit)
        self.pin.clicked.connect(self._pin)
        self.topic.activated.connect(self._by_hand)
        self.channel.currentIndexChanged.connect(lambda _: self._again())
        self.picture.clicked.connect(self._clicked)
        self.picture.hovered.connect(self._hovered)

    @property
    def live(self) -> LiveMap | None:
        """The map that is shown."""
        return self._station.feed.maps.get(self.topic.currentText())

    def choose(self, topic: str) -> None:
        """Show a topic, now or as soon as it is there."""
        if self.topic.findText(topic) < 0:
            self.topic.addItem(topic)
        self.topic.setCurrentText(topic)
        self._chosen_by_hand = True
        self._again()

    def _by_hand(self) -> None:
        self._chosen_by_hand = True
        self._again()

    def _again(self) -> None:
        self._drawn = None
        self._next_levels = 0.0

    def refresh(self) -> bool:
        """Draw if there is something new; return whether it did."""
        live = self.live
        if live is None:
            return False
        mark = (live.topic, live.version, self.channel.currentIndex())
        if mark == self._drawn:
            return False
        shown = live.picture(self.channel.currentIndex())
        if shown is None:
            return False
        data, extent = shown
        now = time.monotonic()
        # contrast is followed a few times a second: more would flicker, and cost
        if now >= self._next_levels:
            self._next_levels = now + _LEVELS_S
            self.levels.follow(data)
            self.contrast.bar.show_picture(data, live.spec.units if live.spec is not None else "")
        same = self._drawn is not None and self._drawn[::2] == mark[::2]
        rows = live.take_changed_rows()
        self._drawn = mark
        self.picture.draw(data, extent, rows if same else None)
        self.paints += 1
        return True

    def refresh_slowly(self) -> None:
        """Update lists and words, a few times a second."""
        maps = self._station.feed.maps
        known = {self.topic.itemText(i) for i in range(self.topic.count())}
        for name in sorted(set(maps) - known):
            self.topic.addItem(name)
        if not self._chosen_by_hand:
            drawable = [name for name, live in maps.items() if live.picture() is not None]
            best = min(drawable, key=self._rank, default="")
            if best and best != self.topic.currentText():
                self.topic.setCurrentText(best)
                self._again()
        live = self.live
        if live is None:
            self.about.say("no map yet")
            return
        self._show_channels(live)
        self.about.say(self._words(live))
        self._show_probe()
        self._show_points()
        self._show_pinned()

    def _pin(self, on: bool) -> None:
        extent = self.picture.extent
        if on and (extent is None or extent.units != "m"):
            self._station.journal.say("this map has no scale, so a part of it is no region", "warning")
            self.pin.setChecked(False)
            return
        self._station.pin(self.picture.seen() if on else None)

    def _show_pinned(self) -> None:
        """Draw the region that the plan keeps to, and say with the button whether there is one."""
        told = self._station.rig.pinned
        self.pin.setVisible(self._station.can_pin)
        self.pin.setChecked(bool(told))
        corners = np.empty((0, 2))
        if told and self.picture.extent is not None and self.picture.extent.units == "m":
            corners = convert(told, Region).corners()
        closed = np.array([self.picture.place(x, y) for x, y in [*corners, *corners[:1]]], float).reshape(-1, 2)
        self.pinned.setData(closed[:, 0], closed[:, 1])

    def _rank(self, name: str) -> tuple[int, str]:
        """Return what a person wants to see first: the dragged detector, then one number a pixel, then the rest."""
        plugin = self._station.rig.plugins.get(name.partition(".")[0])
        live = self._station.feed.maps[name]
        if plugin is not None and {"inner", "outer"} <= set(plugin.values):
            return 0, name
        scalar = live.spec is not None and live.spec.kind == "values" and not live.spec.frame_shape
        return (1 if scalar else 2), name

    def _words(self, live: LiveMap) -> str:
        spec = live.spec
        if spec is None or live.data is None:
            return "this topic carries no map"
        axes = spec.nav if spec.kind != "image" else spec.sig
        if len(axes) != 2:
            return "not a map of two axes"
        y, x = axes
        size = f"{x.size} × {y.size}"
        step = "uncalibrated" if x.scale is None else f"{display(x.scale, x.units)}/px"
        units = f"  [{spec.units}]" if spec.units else ""
        return f"{size}, {step}, {live.share:.0%} measured{units}"

    def _show_channels(self, live: LiveMap) -> None:
        names = live.channels
        if [self.channel.itemText(i) for i in range(self.channel.count())] != list(names):
            with QSignalBlocker(self.channel):
                at = max(0, self.channel.currentIndex())
                self.channel.clear()
                self.channel.addItems(list(names))
                self.channel.setCurrentIndex(min(at, len(names) - 1))
            self._again()
        self.channel.setVisible(bool(names))

    def _show_points(self) -> None:
        """Lay what the plan measured over the map, coloured by value from low (dark) to high (bright)."""
        points = self._station.rig.points
        mark = (len(points), points[-1] if points else None)
        if mark == self._points_drawn or self.picture.extent is None or self.picture.extent.units != "m":
            return
        self._points_drawn = mark
        values = np.array([np.nan if value is None else value for _, _, value in points], float)
        good = np.isfinite(values)
        low, high = (values[good].min(), values[good].max()) if good.any() else (0.0, 1.0)
        table = colour_table("viridis")
        way = np.array([self.picture.place(x, y) for x, y, _ in points[-_WAY:]], float).reshape(-1, 2)
        if not self._small:
            self.way.setData(way[:, 0], way[:, 1])
        shades = np.where(good, (values - low) / ((high - low) or 1.0), 0.0) * 255
        self.points.setData(
            [
                {
                    "pos": self.picture.place(x, y),
                    "symbol": "o" if ok else "x",
                    "brush": pg.mkBrush(*table[int(shade)]),
                }
                for (x, y, _), ok, shade in zip(points, good, shades, strict=True)
            ]
        )

    def _show_probe(self) -> None:
        frames = [f for f in self._station.feed.frames.values() if f.position is not None]
        calibrated = self.picture.extent is not None and self.picture.extent.units == "m"
        newest = max(frames, key=lambda f: f.exposed_ns, default=None)
        if newest is None or newest.position is None or not calibrated:
            self.probe.setData([], [])
            return
        x, y = self.picture.place(*newest.position)
        self.probe.setData([x], [y])

    def _hovered(self, place: tuple[float, float] | None) -> None:
        live = self.live
        found = live.value_at(*place, self.channel.currentIndex()) if live is not None and place else None
        if found is None or place is None or self.picture.extent is None:
            self.value.say(" ")
            return
        units = self.picture.extent.units
        where = ", ".join(display(v, units) if units != "px" else f"{v:.0f} px" for v in place)
        value = "not measured" if np.isnan(found[1]) else f"{found[1]:.4g}"
        unit = f" {live.spec.units}" if live is not None and live.spec is not None and live.spec.units else ""
        self.value.say(f"({where}): {value}{unit if value != 'not measured' else ''}")

    def _clicked(self, x: float, y: float, modifiers: Qt.KeyboardModifier) -> None:
        extent = self.picture.extent
        if not modifiers & Qt.KeyboardModifier.ControlModifier:
            return
        if extent is None or extent.units != "m":
            self._station.journal.say("this map has no scale, so a click is no place", "warning")
            return
        self._station.move_probe(x, y)
