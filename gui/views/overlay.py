"""What lies over a picture: a scale bar that follows the zoom, and the ground under pixels that are not measured."""

from __future__ import annotations

import math
from typing import Any

import pyqtgraph as pg
from PySide6.QtCore import QRectF, Qt
from PySide6.QtGui import QBrush, QColor, QFont, QPainter, QPixmap
from PySide6.QtWidgets import QApplication, QStyleOptionGraphicsItem, QWidget

PREFIXES = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"), (1e-12, "p"))
SCALED = ("m", "rad", "V", "s", "Hz", "A")


def scene_unit(width: float, units: str) -> tuple[float, str]:
    """Return (inside units per drawn unit, its name), so that coordinates are neither tiny nor huge."""
    if units not in SCALED or not width:
        return 1.0, units
    for factor, prefix in PREFIXES:
        if abs(width) >= factor:
            return factor, prefix + units
    return PREFIXES[-1][0], PREFIXES[-1][1] + units


def round_length(most: float) -> float:
    """Return the largest 1, 2 or 5 times a power of ten that is not above `most`."""
    power = 10.0 ** math.floor(math.log10(most))
    return next(step * power for step in (5.0, 2.0, 1.0) if step * power <= most * (1 + 1e-9))


class ScaleBar(QWidget):
    """Drawn in the lower left corner over a view box, in real units."""

    def __init__(self, over: QWidget, box: pg.ViewBox) -> None:
        super().__init__(over)
        self._over, self._box = over, box
        self.unit = "px"
        self.text = ""
        self.length_px = 0.0
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.setAccessibleName("Scale bar")
        font = QFont(QApplication.font())
        font.setBold(True)
        self.setFont(font)
        box.sigRangeChanged.connect(lambda *_: self.fit())

    def fit(self) -> None:
        """Choose a length again."""
        over = self._over
        pixel = self._box.viewPixelSize()[0]
        if not pixel or not math.isfinite(pixel) or pixel <= 0:
            return
        length = round_length(max(pixel * max(60.0, over.width() * 0.25), 1e-300))
        self.length_px = length / pixel
        self.text = f"{length:g} {self.unit}"
        height = self.fontMetrics().height() + 16
        width = round(max(self.length_px, self.fontMetrics().horizontalAdvance(self.text)) + 20)
        self.setGeometry(10, over.height() - height - 10, width, height)
        self.update()

    def paintEvent(self, event: Any) -> None:
        """Draw bar and length on a dark ground, readable over any picture."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(0, 0, 0, 170))
        painter.drawRoundedRect(QRectF(self.rect()), 3, 3)
        painter.setBrush(QColor("#ffffff"))
        painter.drawRect(QRectF(10, self.height() - 10, self.length_px, 4))
        painter.setPen(QColor("#ffffff"))
        box = QRectF(0, 2, self.width(), self.height() - 12)
        painter.drawText(box, Qt.AlignmentFlag.AlignCenter, self.text)


# ground and lines, by what the colour map does not contain
TEAL, BRICK = ("#27444c", "#4d7f8c"), ("#5a3a32", "#96665a")


def _hatch(ground: str, line: str) -> QBrush:
    tile = QPixmap(12, 12)
    tile.fill(QColor(ground))
    painter = QPainter(tile)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(QColor(line))
    for x in (-12, 0, 12):
        painter.drawLine(x, 12, x + 12, 0)
    painter.end()
    return QBrush(tile)


class Missing(pg.GraphicsObject):  # type: ignore[misc]
    """A hatched ground, so that a pixel without a value is never taken for a dark one."""

    def __init__(self) -> None:
        super().__init__()
        self._rect = QRectF(0, 0, 1, 1)
        self._brush = _hatch(*TEAL)
        self.setZValue(-10)

    def set_colours(self, ground: str, line: str) -> None:
        """Use a ground that the colour map of the picture does not contain."""
        self._brush = _hatch(ground, line)
        self.update()

    def set_rect(self, rect: QRectF) -> None:
        """Lie under `rect`."""
        if rect != self._rect:
            self.prepareGeometryChange()
            self._rect = QRectF(rect)

    def boundingRect(self) -> QRectF:
        """Return where it lies."""
        return self._rect

    def paint(self, painter: QPainter, option: QStyleOptionGraphicsItem, widget: QWidget | None = None) -> None:
        """Fill in device pixels, so that the hatch does not scale."""
        there = painter.worldTransform().mapRect(self._rect)
        painter.save()
        painter.resetTransform()
        painter.fillRect(there, self._brush)
        painter.restore()
