"""STOP and what came of it, always on top."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QLabel, QVBoxLayout, QWidget

from ..models.stop import StopThread
from .stop_button import STOP_KEY, StopButton


class StopPanel(QWidget):
    """One button; its key and the space bar work too."""

    def __init__(self, rig_id: str, door: StopThread) -> None:
        super().__init__(None, Qt.WindowType.WindowStaysOnTopHint | Qt.WindowType.Window)
        self._door = door
        self.setWindowTitle(f"STOP {rig_id}")
        self.button = StopButton(f"STOP  {STOP_KEY}", scale=2.0)
        self.button.setMinimumSize(220, 90)
        self.said = QLabel(f"{rig_id}: ready. This window works without the other one.")
        self.said.setWordWrap(True)
        self.said.setAccessibleName("Result of STOP")
        column = QVBoxLayout(self)
        column.addWidget(self.button, 1)
        column.addWidget(self.said)
        self.button.pressed.connect(self._press)
        self.resize(280, 160)

    def _press(self) -> None:
        self._door.press()
        self.said.setText("STOP sent, waiting for the instrument to confirm")

    def keyPressEvent(self, event: Any) -> None:
        """STOP on its key."""
        if event.key() == Qt.Key.Key_F12:
            self._press()
        else:
            super().keyPressEvent(event)

    def refresh(self) -> None:
        """Show what came of it."""
        result = self._door.result
        if result is not None and not self._door.busy and self.said.text() != result.text:
            self.said.setText(result.text)
