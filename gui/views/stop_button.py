"""STOP: a flat rectangle with its key on it. It is no hard-wired switch, and does not look like one."""

from __future__ import annotations

from PySide6.QtCore import QSize
from PySide6.QtGui import QFont
from PySide6.QtWidgets import QApplication, QPushButton, QSizePolicy

from .style import STOP, icon

STOP_KEY = "F12"


class StopButton(QPushButton):
    """Acts when pressed down, not when let go."""

    def __init__(self, text: str = f"STOP  {STOP_KEY}", scale: float = 1.35) -> None:
        super().__init__(icon(STOP), text)
        font = QFont(QApplication.font())
        font.setBold(True)
        font.setPointSizeF(font.pointSizeF() * scale)
        self.setFont(font)
        self.setIconSize(QSize(22, 22))
        self.setSizePolicy(QSizePolicy.Policy.Minimum, QSizePolicy.Policy.Expanding)
        self.setAccessibleName("STOP")
        self._safe_state: str | None = None
        self.tell_safe_state("")
        self.setStyleSheet(
            f"StopButton {{ background: {STOP.background}; color: {STOP.text}; border: 2px solid {STOP.text};"
            " border-radius: 3px; padding: 6px 16px; }"
            "StopButton:pressed { background: #c96a10; }"
            "StopButton:focus { border-width: 3px; }"
        )

    def tell_safe_state(self, words: str) -> None:
        """Say what a STOP does. words: the instrument's safe state, "" = not known."""
        if words == self._safe_state:
            return
        self._safe_state = words
        known = f"Its safe state: {words}. " if words else ""
        self.setToolTip(
            f"The instrument goes to its safe state, every queue is flushed ({STOP_KEY}, anywhere in this window). "
            f"{known}Software: it does not replace the instrument's own hardware switch."
        )
