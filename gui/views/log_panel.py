"""The log, with a level and a text to look for; and the refusals of the gate, in words."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QLabel, QLineEdit, QPushButton, QVBoxLayout, QWidget

from ..models.journal import LEVELS, Level
from ..models.station import Station
from .tables import PlainTable

_SHOWN = 500


class LogPanel(QWidget):
    """Shows the journal, newest at the end; it follows unless a person scrolled up."""

    def __init__(self, station: Station) -> None:
        super().__init__()
        self._station = station
        self._seen: tuple[int, str, str] | None = None
        self.level = QComboBox()
        self.level.addItems(LEVELS)
        self.level.setCurrentText("info")
        self.level.setAccessibleName("Least level shown")
        self.filter = QLineEdit()
        self.filter.setPlaceholderText("Find (Ctrl+F)")
        self.filter.setClearButtonEnabled(True)
        self.filter.setAccessibleName("Text to look for in the log")
        self.note = QLineEdit()
        self.note.setPlaceholderText("Note for the record, then Enter (Ctrl+N)")
        self.note.setAccessibleName("Note for the record")
        self.send = QPushButton("Note")
        self.table = PlainTable("Log", (("Time", ""), ("Level", ""), ("From", ""), ("Text", "")), (), 3)
        top = QHBoxLayout()
        top.setSpacing(6)
        for widget in (QLabel("Level"), self.level, self.filter, self.note, self.send):
            top.addWidget(widget)
        top.setStretch(2, 1)
        top.setStretch(3, 1)
        column = QVBoxLayout(self)
        column.setContentsMargins(4, 4, 4, 4)
        column.setSpacing(4)
        column.addLayout(top)
        column.addWidget(self.table, 1)
        self.note.returnPressed.connect(self._note)
        self.send.clicked.connect(self._note)

    def _note(self) -> None:
        text = self.note.text().strip()
        if text:
            self._station.note(text[:4000])
            self.note.clear()

    def refresh(self) -> None:
        """Look again."""
        level: Level = LEVELS[self.level.currentIndex()]
        mark = (self._station.journal.version, level, self.filter.text())
        if mark == self._seen:
            return
        self._seen = mark
        lines = self._station.journal.lines(level, self.filter.text())[-_SHOWN:]
        bar = self.table.verticalScrollBar()
        follows = bar.value() >= bar.maximum() - 2
        self.table.show_rows(
            [
                (line.at, line.level, line.who, line.text + (f"  (× {line.times})" if line.times > 1 else ""))
                for line in lines
            ]
        )
        if follows:
            self.table.scrollToBottom()


class RefusalsTable(PlainTable):
    """What the gate refused: reason, limit, what is allowed."""

    def __init__(self, station: Station) -> None:
        columns = (
            ("Time", ""),
            ("Command", ""),
            ("From", "who sent it"),
            ("Why not", "the gate's reason"),
            ("Limit", "that it would cross"),
            ("Allowed", "what the gate would let through"),
        )
        super().__init__("Refusals", columns, (), 3)
        self.setWordWrap(True)
        self.setTextElideMode(Qt.TextElideMode.ElideRight)
        self._station = station
        self._seen = -1

    def refresh(self) -> None:
        """Look again, newest first."""
        if self._station.journal.refused == self._seen:
            return
        self._seen = self._station.journal.refused
        self.show_rows(
            [
                (r.at, r.command, r.holder, r.reason, r.limit, r.allowed)
                for r in reversed(self._station.journal.refusals)
            ]
        )
