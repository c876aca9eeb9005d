"""Tables that are filled anew a few times a second without flicker and without losing the selection."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem

RIGHT = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
LEFT = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter


class PlainTable(QTableWidget):
    """Rows of text. numbers: columns set to the right; wide: the column that takes what is left; header: its own."""

    def __init__(
        self, name: str, columns: Sequence[tuple[str, str]], numbers: Sequence[int], wide: int,
        header: QHeaderView | None = None,
    ) -> None:  # fmt: skip
        super().__init__(0, len(columns))
        if header is not None:
            self.setHorizontalHeader(header)
        self.setAccessibleName(name)
        self._numbers = set(numbers)
        for i, (title, tip) in enumerate(columns):
            item = QTableWidgetItem(title)
            item.setToolTip(tip)
            item.setTextAlignment(RIGHT if i in self._numbers else LEFT)
            self.setHorizontalHeaderItem(i, item)
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(self.fontMetrics().height() + 8)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setAlternatingRowColors(True)
        self.setShowGrid(False)
        self.setWordWrap(False)
        header = self.horizontalHeader()
        header.setHighlightSections(False)
        for i in range(len(columns)):
            mode = QHeaderView.ResizeMode.Stretch if i == wide else QHeaderView.ResizeMode.ResizeToContents
            header.setSectionResizeMode(i, mode)

    def show_rows(self, rows: Sequence[Sequence[str]]) -> None:
        """Show these rows; only cells that changed are touched."""
        if self.rowCount() != len(rows):
            self.setRowCount(len(rows))
        for y, row in enumerate(rows):
            for x, text in enumerate(row):
                item = self.item(y, x)
                if item is None:
                    item = QTableWidgetItem()
                    item.setTextAlignment(RIGHT if x in self._numbers else LEFT)
                    self.setItem(y, x, item)
                if item.text() != text:
                    item.setText(text)
                    item.setToolTip(text)
