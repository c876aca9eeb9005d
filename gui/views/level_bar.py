"""A histogram with black and white on it, to drag; looked at a few times a second, it costs a frame nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QPointF, QRectF, Qt, Signal
from PySide6.QtGui import QColor, QLinearGradient, QMouseEvent, QPainter, QPolygonF
from PySide6.QtWidgets import QSizePolicy, QWidget

from probeloop.api import display

from ..models.levels import Levels, robust_range
from .overlay import SCALED

_BINS = 96
_SAMPLES = 65_536
_GRIP = 9


class LevelBar(QWidget):
    """Shows `levels` over the histogram of the picture last given to `show_picture`."""

    moved = Signal()

    def __init__(self, levels: Levels, name: str) -> None:
        super().__init__()
        self.levels = levels
        self._counts = np.zeros(_BINS)
        self._range = (0.0, 1.0)
        self._colours: list[QColor] = [QColor("#000000"), QColor("#ffffff")]
        self._grip = -1
        self._units = ""
        self.setMinimumHeight(58)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setAccessibleName(f"Black and white of the {name}")
        self.setToolTip("Histogram. Drag black (left) or white (right); double-click: contrast once")
        self.setMouseTracking(True)

    def set_colours(self, table: NDArray[Any]) -> None:
        """Take the colour map, (n, 3) uint8."""
        picks = table[np.linspace(0, len(table) - 1, 12).astype(int)]
        self._colours = [QColor(*(int(v) for v in row[:3])) for row in picks]
        self.update()

    def show_picture(self, picture: NDArray[Any], units: str = "") -> None:
        """Count a regular subset of the picture, whose values are in `units`."""
        self._units = units
        found = robust_range(picture)
        if found is None:
            return
        low, high = min(found[0], self.levels.low), max(found[1], self.levels.high)
        margin = 0.08 * (high - low) or 1e-12
        if self._grip < 0:
            self._range = (low - margin, high + margin)
        step = max(1, int(np.sqrt(picture.size / _SAMPLES)))
        some = np.asarray(picture[::step, ::step], np.float64)
        counts, _ = np.histogram(some[np.isfinite(some)], _BINS, self._range)
        self._counts = np.sqrt(counts)
        self.update()

    def _x_of(self, value: float) -> float:
        low, high = self._range
        return (value - low) / (high - low) * (self.width() - 1)

    def paintEvent(self, event: Any) -> None:
        """Draw histogram, colours, grips and their values."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        palette = self.palette()
        text_height = self.fontMetrics().height()
        height = self.height() - text_height - 2
        painter.fillRect(QRectF(0, 0, self.width(), height), palette.base())
        black, white = self._x_of(self.levels.low), self._x_of(self.levels.high)
        gradient = QLinearGradient(black, 0, white, 0)
        for i, colour in enumerate(self._colours):
            gradient.setColorAt(i / (len(self._colours) - 1), colour)
        painter.fillRect(QRectF(0, height - 7, self.width(), 7), gradient)
        top = np.partition(self._counts, -2)[-2]  # a spike of empty pixels would flatten the rest
        if top > 0:
            xs = np.linspace(0, self.width(), _BINS)
            ys = (height - 8) * (1 - np.minimum(1.0, self._counts / top))
            outline = [QPointF(0, height - 8), *map(QPointF, xs, ys), QPointF(self.width(), height - 8)]
            painter.setPen(Qt.PenStyle.NoPen)
            shade = QColor(palette.text().color())
            shade.setAlpha(110)
            painter.setBrush(shade)
            painter.drawPolygon(QPolygonF(outline))
        painter.setPen(palette.text().color())
        for x in (black, white):
            painter.setBrush(palette.text())
            painter.drawRect(QRectF(x - 1.5, 0, 3, height))
        line = QRectF(0, height + 1, self.width(), text_height)
        painter.drawText(line, Qt.AlignmentFlag.AlignLeft, _number(self.levels.low, self._units))
        painter.drawText(line, Qt.AlignmentFlag.AlignRight, _number(self.levels.high, self._units))

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Take the nearer grip."""
        x = event.position().x()
        near = [abs(x - self._x_of(v)) for v in (self.levels.low, self.levels.high)]
        self._grip = int(np.argmin(near))
        self.mouseMoveEvent(event)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Move black or white."""
        if self._grip < 0 or not event.buttons() & Qt.MouseButton.LeftButton:
            return
        low, high = self._range
        value = low + min(1.0, max(0.0, event.position().x() / max(1, self.width() - 1))) * (high - low)
        black, white = self.levels.low, self.levels.high
        if self._grip == 0:
            self.levels.set(min(value, white - (high - low) * 1e-3), white)
        else:
            self.levels.set(black, max(value, black + (high - low) * 1e-3))
        self.update()
        self.moved.emit()

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """Let go."""
        self._grip = -1


def _number(value: float, units: str) -> str:
    return display(value, units, 4) if units in SCALED else f"{value:.4g} {units}".strip()
