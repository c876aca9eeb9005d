"""Colours and type of the window: badges with a contrast of at least 4.5 to 1, icons that are shapes, not colours.

Everything else follows the system, light or dark.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PySide6.QtCore import QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QFont, QIcon, QPainter, QPen, QPixmap, QPolygonF
from PySide6.QtWidgets import QApplication, QLabel, QSizePolicy, QWidget


@dataclass(frozen=True)
class Badge:
    """Background, text, and the shape that says the same without colour."""

    background: str
    text: str
    shape: str


BADGES = {
    "live": Badge("#1b6e3c", "#ffffff", "disc"),
    "ready": Badge("#2f5d8a", "#ffffff", "ring"),
    "settling": Badge("#5b4a9e", "#ffffff", "waves"),
    "paused": Badge("#f2c14e", "#1a1a1a", "bars"),
    "stale": Badge("#8a4b00", "#ffffff", "clock"),
    "gone": Badge("#4a4a4a", "#ffffff", "cross"),
    "stopped": Badge("#9b1c1c", "#ffffff", "square"),
    "experiment": Badge("#e6e6e6", "#1a1a1a", "ring"),
    "simulation": Badge("#ffd7f0", "#5a0a41", "waves"),
    "replay": Badge("#d5e8ff", "#0b2f5c", "triangle"),
    "": Badge("#e6e6e6", "#1a1a1a", "cross"),
    "uncalibrated": Badge("#fff1c9", "#5c3d00", "cross"),
    "recording": Badge("#9b1c1c", "#ffffff", "disc"),
    "not recording": Badge("#e6e6e6", "#1a1a1a", "ring"),
    "ok": Badge("#1b6e3c", "#ffffff", "disc"),
    "error": Badge("#9b1c1c", "#ffffff", "cross"),
    "off": Badge("#e6e6e6", "#1a1a1a", "ring"),
}
STOP = Badge("#f28c28", "#101010", "square")


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, 1 to 21 (WCAG 2.1, relative luminance)."""

    def luminance(name: str) -> float:
        colour = QColor(name)
        parts = [
            v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4
            for v in (colour.redF(), colour.greenF(), colour.blueF())
        ]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def shape(name: str, colour: str, size: int = 18) -> QPixmap:
    """Draw an icon [px]; it needs no font and no file."""
    ratio = 2
    pixmap = QPixmap(size * ratio, size * ratio)
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.scale(size * ratio / 16, size * ratio / 16)
    pen = QPen(QColor(colour), 2.0)
    pen.setCapStyle(Qt.PenCapStyle.RoundCap)
    painter.setPen(pen)
    if name in ("disc", "square", "bars", "triangle"):
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(colour))
    match name:
        case "disc":
            painter.drawEllipse(QRectF(3, 3, 10, 10))
        case "ring":
            painter.drawEllipse(QRectF(3, 3, 10, 10))
        case "square":
            painter.drawRect(QRectF(3, 3, 10, 10))
        case "bars":
            painter.drawRect(QRectF(3.5, 3, 3.5, 10))
            painter.drawRect(QRectF(9, 3, 3.5, 10))
        case "triangle":
            painter.drawPolygon(QPolygonF([QPointF(4, 2.5), QPointF(13, 8), QPointF(4, 13.5)]))
        case "waves":
            for y in (5.0, 10.5):
                painter.drawPolyline(
                    QPolygonF([QPointF(2, y + 1), QPointF(5, y - 1.5), QPointF(8, y + 1), QPointF(11, y - 1.5),
                               QPointF(14, y + 1)])
                )  # fmt: skip
        case "clock":
            painter.drawEllipse(QRectF(2.5, 2.5, 11, 11))
            painter.drawPolyline(QPolygonF([QPointF(8, 4.8), QPointF(8, 8), QPointF(10.5, 9.5)]))
        case _:
            painter.drawLine(QPointF(3.5, 3.5), QPointF(12.5, 12.5))
            painter.drawLine(QPointF(12.5, 3.5), QPointF(3.5, 12.5))
    painter.end()
    pixmap.setDevicePixelRatio(ratio)
    return pixmap


def icon(badge: Badge) -> QIcon:
    """Return the badge's shape as an icon in its text colour."""
    return QIcon(shape(badge.shape, badge.text))


class BadgeLabel(QWidget):
    """Icon and word on a coloured ground."""

    def __init__(self, name: str, *, large: bool = False) -> None:
        super().__init__()
        self._badge, self._word, self._large = BADGES[""], "", large
        font = QFont(QApplication.font())
        font.setBold(True)
        if large:
            font.setPointSizeF(font.pointSizeF() * 1.35)
        self.setFont(font)
        self._icon = shape(self._badge.shape, self._badge.text)
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self.setAccessibleName(name)

    def show_badge(self, kind: str, text: str, tip: str = "") -> None:
        """Show a kind of BADGES with a text."""
        if tip != self.toolTip():
            self.setToolTip(tip)
        badge = BADGES.get(kind, BADGES[""])
        if (self._badge, self._word) == (badge, text):
            return
        self._badge, self._word = badge, text
        self._icon = shape(badge.shape, badge.text, self._icon_size())
        self.setAccessibleDescription(text)
        self.updateGeometry()
        self.update()

    def _icon_size(self) -> int:
        return 22 if self._large else 16

    def sizeHint(self) -> QSize:
        """Return what icon, word and margins need."""
        text = self.fontMetrics().size(0, self._word)
        height = max(text.height(), self._icon_size()) + (14 if self._large else 8)
        return QSize(10 + self._icon_size() + 7 + text.width() + 12, height)

    def paintEvent(self, event: Any) -> None:
        """Draw it without a style sheet, which a change of state would have to polish again."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(self._badge.background))
        painter.drawRoundedRect(QRectF(self.rect()), 4, 4)
        size = self._icon_size()
        painter.drawPixmap(10, (self.height() - size) // 2, self._icon)
        painter.setPen(QColor(self._badge.text))
        box = QRectF(10 + size + 7, 0, self.width(), self.height())
        painter.drawText(box, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, self._word)

    @property
    def text(self) -> str:
        """What it says."""
        return self._word


class ElidedLabel(QLabel):
    """A line that gives way: what does not fit ends in dots and is in the tool tip."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._whole = ""
        self.setAccessibleName(name)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        self.setMinimumWidth(40)

    def say(self, text: str) -> None:
        """Show a text."""
        if text != self._whole:
            self._whole = text
            self.setAccessibleDescription(text)
            self._fit()

    @property
    def whole(self) -> str:
        """The whole text."""
        return self._whole

    def sizeHint(self) -> QSize:
        """Return what the whole text needs."""
        return QSize(self.fontMetrics().horizontalAdvance(self._whole) + 4, super().sizeHint().height())

    def resizeEvent(self, event: Any) -> None:
        """Fit again."""
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        shown = self.fontMetrics().elidedText(self._whole, Qt.TextElideMode.ElideRight, self.width())
        self.setText(shown)
        self.setToolTip(self._whole if shown != self._whole else "")
