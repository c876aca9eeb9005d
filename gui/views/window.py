"""The operator's window: pictures in the middle, panels around them, the banner over all."""

from __future__ import annotations

import base64
from typing import Any

from PySide6.QtCore import QByteArray, QEvent, QObject, Qt, QTimer
from PySide6.QtGui import QKeySequence, QShortcut
from PySide6.QtWidgets import (
    QApplication,
    QDockWidget,
    QMainWindow,
    QMessageBox,
    QSplitter,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from ..models.layout import load_layout, save_layout
from ..models.station import Station
from .aberrations_table import AberrationsTable
from .banner import BannerView
from .latency_view import LatencyView
from .learned_maps import LearnedMaps
from .log_panel import LogPanel, RefusalsTable
from .map_view import MapView
from .pattern_view import PatternView
from .plan_panel import PlanPanel
from .plugins_panel import PluginsPanel
from .spectrum_view import SpectrumView
from .stop_button import STOP_KEY
from .topics_table import TopicsTable

FRAME_MS, SLOW_MS = 16, 250
IDLE_MS, IDLE_TICKS = 50, 60
REFUSALS = "Re&fusals"
SHORTCUTS = (
    (STOP_KEY, "STOP: the instrument goes to its safe state"),
    ("F5", "run the chosen plan"),
    ("F6", "pause or resume the plan"),
    ("Ctrl+R", "start or stop the record"),
    ("Ctrl+0", "show the whole map and frame"),
    ("Ctrl+E", "contrast of the map once"),
    ("Ctrl+L", "logarithm of the frame on or off"),
    ("Ctrl+F", "find in the log"),
    ("Ctrl+N", "note for the record"),
    ("Ctrl+click", "move the probe there (with control)"),
    ("F1", "this list"),
)


class Window(QMainWindow):
    """Draws what `station` knows; holds no state of its own but the layout."""

    def __init__(self, station: Station) -> None:
        super().__init__()
        self.station = station
        self.setWindowTitle(f"probeloop: {station.rig_id}")
        self.banner = BannerView(station)
        self.banner.stop_asked.connect(station.stop)
        self.map = MapView(station)
        self.learned = LearnedMaps(station)
        self.pattern = PatternView(station)
        self.spectrum = SpectrumView(station)
        self.plan = PlanPanel(station)
        self.plugins = PluginsPanel(station)
        self.topics = TopicsTable(station)
        self.aberrations = AberrationsTable(station)
        self.latency = LatencyView(station)
        self.log = LogPanel(station)
        self.refusals = RefusalsTable(station)
        self._build()
        self._shortcuts()
        self.resize(1400, 900)
        self._restore()
        application = QApplication.instance()
        if application is not None:
            application.installEventFilter(self)
        self._idle = 0
        self._frames = QTimer(self)
        self._frames.setTimerType(Qt.TimerType.PreciseTimer)
        self._frames.timeout.connect(self.refresh)
        self._frames.start(FRAME_MS)
        self._slow = QTimer(self)
        self._slow.timeout.connect(self.refresh_slowly)
        self._slow.start(SLOW_MS)
        self.refresh_slowly()

    def _build(self) -> None:
        right = QSplitter(Qt.Orientation.Vertical)
        for widget, stretch in ((self.learned, 4), (self.pattern, 3), (self.spectrum, 1)):
            right.addWidget(widget)
            right.setStretchFactor(right.indexOf(widget), stretch)
        self.learned.hide()
        self.spectrum.hide()
        self.pictures = QSplitter(Qt.Orientation.Horizontal)
        self.pictures.addWidget(self.map)
        self.pictures.addWidget(right)
        self.pictures.setStretchFactor(0, 3)
        self.pictures.setStretchFactor(1, 2)
        self.pictures.setChildrenCollapsible(False)
        middle = QWidget()
        column = QVBoxLayout(middle)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addWidget(self.banner)
        column.addWidget(self.pictures, 1)
        self.setCentralWidget(middle)
        self.setDockOptions(QMainWindow.DockOption.AllowTabbedDocks | QMainWindow.DockOption.AllowNestedDocks)
        self.setTabPosition(Qt.DockWidgetArea.AllDockWidgetAreas, QTabWidget.TabPosition.North)
        side, foot = Qt.DockWidgetArea.RightDockWidgetArea, Qt.DockWidgetArea.BottomDockWidgetArea
        docks = [
            self._dock(title, widget, side) for title, widget in (("Plan", self.plan), ("Plug-ins", self.plugins))
        ]
        self.splitDockWidget(docks[0], docks[1], Qt.Orientation.Vertical)
        self.tables = QTabWidget()
        self.tables.setDocumentMode(True)
        self.tables.addTab(self.topics, "&Topics")
        self.tables.addTab(self.latency, "Late&ncy")
        self.tables.addTab(self.aberrations, "A&berrations")
        self.tables.addTab(self.refusals, REFUSALS)
        self.tables.addTab(self.log, "&Log")
        bottom = self._dock("Tables", self.tables, foot)
        bottom.setTitleBarWidget(QWidget())  # the tabs say it already
        self.setCorner(Qt.Corner.BottomRightCorner, side)
        self.resizeDocks([bottom], [190], Qt.Orientation.Vertical)
        self.resizeDocks(docks, [300, 400], Qt.Orientation.Vertical)
        self.resizeDocks(docks[:1], [320], Qt.Orientation.Horizontal)

    def _dock(self, title: str, widget: QWidget, area: Qt.DockWidgetArea) -> QDockWidget:
        dock = QDockWidget(title, self)
        dock.setObjectName(title)
        dock.setWidget(widget)
        # a closed panel has no menu to come back from, so it can be moved and floated only
        dock.setFeatures(
            QDockWidget.DockWidgetFeature.DockWidgetMovable | QDockWidget.DockWidgetFeature.DockWidgetFloatable
        )
        self.addDockWidget(area, dock)
        return dock

    def _shortcuts(self) -> None:
        actions: dict[str, Any] = {
            "F5": self.plan.run_plan,
            "F6": self.plan.pause_or_resume,
            "Ctrl+R": self.plan.toggle_record,
            "Ctrl+0": self.fit_pictures,
            "Ctrl+E": self.map.contrast.take_once,
            "Ctrl+L": self.pattern.log.toggle,
            "Ctrl+F": lambda: self._go_to_log(self.log.filter),
            "Ctrl+N": lambda: self._go_to_log(self.log.note),
            "F1": self.show_shortcuts,
        }
        for keys, action in actions.items():
            QShortcut(QKeySequence(keys), self, activated=action)  # type: ignore[call-overload]

    def _go_to_log(self, widget: QWidget) -> None:
        self.tables.setCurrentWidget(self.log)
        widget.setFocus()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """STOP on its key, whatever has the focus; dialogs and text fields included."""
        if event.type() == QEvent.Type.KeyPress and event.key() == Qt.Key.Key_F12:  # type: ignore[attr-defined]
            self.station.stop()
            return True
        return False

    def fit_pictures(self) -> None:
        """Show the whole map and the whole frame."""
        self.map.picture.fit()
        self.learned.fit()
        self.pattern.picture.fit()

    def show_shortcuts(self) -> None:
        """Show the keys."""
        rows = "".join(f"<tr><td><b>{keys}</b>&nbsp;&nbsp;</td><td>{text}</td></tr>" for keys, text in SHORTCUTS)
        box = QMessageBox(self)
        box.setWindowTitle("Keys")
        box.setText(f"<table>{rows}</table>")
        box.open()

    def refresh(self) -> None:
        """Draw the newest frame and map, if they are new."""
        drawn = [self.map.refresh(), self.learned.refresh(), self.pattern.refresh()]
        self._idle = 0 if any(drawn) else self._idle + 1
        wanted = FRAME_MS if self._idle < IDLE_TICKS else IDLE_MS
        if wanted != self._frames.interval():
            self._frames.setInterval(wanted)  # nothing to draw for a second: look 20 times a second

    def refresh_slowly(self) -> None:
        """Everything that a person reads."""
        self.banner.refresh()
        self.map.refresh_slowly()
        self.pattern.refresh_slowly()
        learned = self.learned.refresh_slowly()
        self.learned.setVisible(learned)
        spectra = self.spectrum.refresh_slowly()
        self.spectrum.setVisible(spectra)
        self.pattern.setVisible(self.pattern.topic.count() > 0 or not (spectra or learned))
        self.plan.refresh()
        self.plugins.refresh()
        for panel in (self.topics, self.latency, self.aberrations, self.log, self.refusals):
            if panel.isVisible():
                panel.refresh()
        refused = self.station.journal.refused
        at = self.tables.indexOf(self.refusals)
        self.tables.setTabText(at, f"{REFUSALS} ({refused})" if refused else REFUSALS)

    # --- layout -----------------------------------------------------------------------------------------

    def _restore(self) -> None:
        saved = load_layout()
        for key, restore in (("geometry", self.restoreGeometry), ("docks", self.restoreState),
                             ("pictures", self.pictures.restoreState)):  # fmt: skip
            if isinstance(saved.get(key), str):
                restore(QByteArray(base64.b64decode(saved[key])))
        self.map.contrast.set_colours(str(saved.get("map_colours", "gray")))
        self.pattern.contrast.set_colours(str(saved.get("frame_colours", "inferno")))
        self.pattern.log.setChecked(bool(saved.get("log", True)))

    def save(self) -> None:
        """Keep the layout for the next time."""

        def text(state: QByteArray) -> str:
            return base64.b64encode(bytes(state.data())).decode()

        save_layout(
            {
                "geometry": text(self.saveGeometry()),
                "docks": text(self.saveState()),
                "pictures": text(self.pictures.saveState()),
                "map_colours": self.map.contrast.colours.currentText(),
                "frame_colours": self.pattern.contrast.colours.currentText(),
                "log": self.pattern.log.isChecked(),
            }
        )

    def closeEvent(self, event: Any) -> None:
        """Save the layout, end the timers and the threads."""
        self.save()
        self._frames.stop()
        self._slow.stop()
        application = QApplication.instance()
        if application is not None:
            application.removeEventFilter(self)
        self.station.close()
        super().closeEvent(event)
