"""Contrast of a picture: followed, once, locked; its colour map; its histogram."""

from __future__ import annotations

from PySide6.QtCore import QSignalBlocker, Signal
from PySide6.QtWidgets import QComboBox, QGridLayout, QPushButton, QSizePolicy, QToolButton, QWidget

from ..models.levels import Levels
from .level_bar import LevelBar
from .overlay import BRICK, TEAL
from .picture_view import COLOUR_MAPS, PictureView, colour_table


class ContrastRow(QWidget):
    """Controls of the levels and colours of one PictureView."""

    changed = Signal()

    def __init__(self, view: PictureView, levels: Levels, name: str, colours: str) -> None:
        super().__init__()
        self._view, self._levels = view, levels
        self.bar = LevelBar(levels, name)
        self.auto = QToolButton()
        self.auto.setText("Auto")
        self.auto.setCheckable(True)
        self.auto.setChecked(True)
        self.auto.setToolTip("Contrast follows the picture; unchecked: locked")
        self.auto.setAccessibleName(f"Contrast of the {name} follows")
        self.once = QPushButton("Once")
        self.once.setToolTip("Set the contrast for what is shown now, and lock it")
        self.once.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
        self.colours = QComboBox()
        self.colours.addItems(COLOUR_MAPS)
        self.colours.setCurrentText(colours)
        self.colours.setToolTip("Colour map; all of them can be read by colour-blind eyes")
        self.colours.setAccessibleName(f"Colour map of the {name}")
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(6)
        grid.setVerticalSpacing(2)
        grid.addWidget(self.bar, 0, 0, 2, 1)
        grid.addWidget(self.auto, 0, 1)
        grid.addWidget(self.once, 0, 2)
        grid.addWidget(self.colours, 1, 1, 1, 2)
        grid.setColumnStretch(0, 1)
        self.auto.toggled.connect(self._follow)
        self.once.clicked.connect(self.take_once)
        self.colours.currentTextChanged.connect(self.set_colours)
        self.bar.moved.connect(self._dragged)
        self.set_colours(colours)

    def set_colours(self, name: str) -> None:
        """Use a colour map by name."""
        if name not in COLOUR_MAPS:
            return
        with QSignalBlocker(self.colours):
            self.colours.setCurrentText(name)
        table = colour_table(name)
        self._view.set_colours(table)
        self._view.missing.set_colours(*(BRICK if name in ("viridis", "cividis") else TEAL))
        self.bar.set_colours(table)
        self.changed.emit()

    def take_once(self) -> None:
        """Set the levels for what is shown, and lock them."""
        if self._view.shown is not None:
            self._levels.once(self._view.shown)
        self._show_mode()
        self._view.relevel()
        self.bar.update()

    def _follow(self, on: bool) -> None:
        self._levels.mode = "auto" if on else "locked"
        if on and self._view.shown is not None and self._levels.follow(self._view.shown):
            self._view.relevel()
        self.bar.update()

    def _dragged(self) -> None:
        self._show_mode()
        self._view.relevel()

    def _show_mode(self) -> None:
        with QSignalBlocker(self.auto):
            self.auto.setChecked(self._levels.mode == "auto")
