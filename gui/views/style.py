"""Colours and type of the window: badges with a contrast of at least 4.5 to 1, icons that are shapes, not colours.

Everything else follows the system, light or dark.
"""

from __future__ import annotations

from dataclasses import dataclass

from PySide6.QtCore import QPointF, QRectF, Qt
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
        from PySide6.QtWidgets import QHBoxLayout

        self._shown: tuple[str, str] | None = None
        self._large = large
        self._icon, self._text = QLabel(), QLabel()
        font = QFont(QApplication.font())
        font.setBold(True)
        if large:
            font.setPointSizeF(font.pointSizeF() * 1.35)
        self._text.setFont(font)
        row = QHBoxLayout(self)
        row.setContentsMargins(10, 4 if not large else 7, 12, 4 if not large else 7)
        row.setSpacing(7)
        row.addWidget(self._icon)
        row.addWidget(self._text)
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
        self.setAccessibleName(name)
        self._name = name

    def show_badge(self, kind: str, text: str, tip: str = "") -> None:
        """Show a kind of BADGES with a text."""
        if tip != self.toolTip():
            self.setToolTip(tip)
        if self._shown == (kind, text):
            return
        self._shown = (kind, text)
        badge = BADGES.get(kind, BADGES[""])
        self._icon.setPixmap(shape(badge.shape, badge.text, 22 if self._large else 16))
        self._text.setText(text)
        self.setStyleSheet(
            f"BadgeLabel {{ background: {badge.background}; border-radius: 4px; }} QLabel {{ color: {badge.text}; }}"
        )
        self.setAccessibleDescription(text)

    @property
    def text(self) -> str:
        """What it says."""
        return self._text.text()


def small(text: str = "") -> QLabel:
    """Return a quiet label for explanations, in the system's own size."""
    label = QLabel(text)
    label.setWordWrap(True)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return label
