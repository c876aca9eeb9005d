"""Where the time goes: the closed loop by stage, and the way of blocks to their readers, each with its histogram."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PySide6.QtCore import QModelIndex, QPersistentModelIndex, QPointF, QRect, QRectF, Qt
from PySide6.QtGui import QFont, QPainter, QPalette, QPen
from PySide6.QtWidgets import (
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QStackedWidget,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableWidgetItem,
    QWidget,
)

from probeloop.api import Histogram, display

from ..models.latency import NO_LOOP, LatencyRow, Recent, loop_rows, transport_rows
from ..models.station import Station
from .tables import PlainTable

_BARS = 1  # the column of the histograms
_FIRST, _LAST = 3, 10  # decades of the axis [ns]: 1 us ... 10 s
_MARGIN = 6


def _x(duration_ns: float, box: QRectF) -> float:
    """Return where a duration lies on the axis [px]; what is outside it lies at its ends."""
    share = (math.log10(max(duration_ns, 1.0)) - _FIRST) / (_LAST - _FIRST)
    return box.left() + min(max(share, 0.0), 1.0) * box.width()


class HistogramCell(QStyledItemDelegate):
    """Draws a histogram over the axis of its header: bars, the median as a line, faint lines at 1 us, 1 ms, 1 s."""

    def paint(
        self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex
    ) -> None:
        """Draw the ground, then what was counted."""
        super().paint(painter, option, index)
        histogram = index.data(Qt.ItemDataRole.UserRole)
        if not isinstance(histogram, Histogram):
            return
        rect: QRect = option.rect
        palette: QPalette = option.palette
        selected = bool(option.state & QStyle.StateFlag.State_Selected)
        box = QRectF(rect).adjusted(_MARGIN, 3, -_MARGIN, -1)
        ink = palette.color(QPalette.ColorRole.HighlightedText if selected else QPalette.ColorRole.Text)
        faint = palette.color(QPalette.ColorRole.Mid)
        bar = ink if selected else palette.color(QPalette.ColorRole.Highlight)
        painter.save()
        painter.setPen(QPen(faint, 1, Qt.PenStyle.DotLine))
        for decade in range(_FIRST, _LAST, 3):
            at = round(_x(10.0**decade, box)) + 0.5
            painter.drawLine(QPointF(at, rect.top()), QPointF(at, rect.bottom()))
        for start, end, share in histogram.bars():
            left = min(_x(start, box), box.right() - 2)
            height = max(2.0, share * box.height())
            width = max(2.0, _x(end, box) - left - 0.5)
            painter.fillRect(QRectF(left, box.bottom() - height, width, height), bar)
        median = histogram.quantile(0.5)
        if median is not None:
            at = round(_x(median.value, box)) + 0.5
            painter.setPen(QPen(ink, 1.5))
            painter.drawLine(QPointF(at, rect.top() + 1), QPointF(at, rect.bottom()))
        painter.restore()


class AxisHeader(QHeaderView):
    """A header whose column of histograms shows their axis."""

    def paintSection(self, painter: QPainter, rect: QRect, logicalIndex: int) -> None:
        """Draw the section, and 1 us, 1 ms and 1 s where they are."""
        super().paintSection(painter, rect, logicalIndex)
        if logicalIndex != _BARS:
            return
        box = QRectF(rect).adjusted(_MARGIN, 0, -_MARGIN, 0)
        painter.save()
        painter.setPen(self.palette().color(QPalette.ColorRole.ButtonText))
        for decade in range(_FIRST, _LAST, 3):
            text = display(10.0 ** (decade - 9), "s")
            wide = self.fontMetrics().horizontalAdvance(text) + 4
            at = max(box.left(), _x(10.0**decade, box) - wide / 2)
            painter.drawText(QRectF(at, box.top(), wide, box.height()), Qt.AlignmentFlag.AlignVCenter, text)
        painter.restore()


class LatencyTable(PlainTable):
    """Lines of a label, a histogram, median, 99th percentile and count."""

    def __init__(self, name: str, first: str, tip: str) -> None:
        columns = (
            (first, tip),
            ("", "how often how long, on a logarithmic axis; the line is the median"),
            ("median", "half of them were faster; within 6 %"),
            ("99 %", "99 of 100 were faster; within 6 %"),
            ("n", "how many were timed"),
        )
        super().__init__(name, columns, (2, 3, 4), _BARS, AxisHeader(Qt.Orientation.Horizontal))
        self.setItemDelegateForColumn(_BARS, HistogramCell(self))

    def show_latencies(self, rows: Sequence[LatencyRow]) -> None:
        """Show these lines."""
        self.show_rows([(row.label, "", *row.cells) for row in rows])
        for y, row in enumerate(rows):
            bars = self._cell(y, _BARS)
            if bars.data(Qt.ItemDataRole.UserRole) != row.histogram:
                bars.setData(Qt.ItemDataRole.UserRole, row.histogram)
                longest = display(row.histogram.longest / 1e9, "s")
                bars.setToolTip(f"{row.words}\nlongest: {longest} of {row.histogram.n:,}")
            label = self._cell(y, 0)
            if label.toolTip() != row.words:
                label.setToolTip(row.words)
                font = QFont(self.font())
                font.setBold(row.total)
                for x in range(self.columnCount()):
                    self._cell(y, x).setFont(font)

    def _cell(self, y: int, x: int) -> QTableWidgetItem:
        found = self.item(y, x)
        assert found is not None
        return found


class LatencyView(QWidget):
    """The loop to the left, the bus to the right; says so where no loop was closed yet."""

    def __init__(self, station: Station) -> None:
        super().__init__()
        self._station = station
        self.loop = LatencyTable("Latency of the closed loop", "Closed loop, since the start", "of the rig")
        self.transport = LatencyTable("Latency on the bus", "On the bus, last minute", "published → in a reader")
        self._recent = Recent()
        self.none = QLabel(NO_LOOP)
        self.none.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.none.setWordWrap(True)
        self.left = QStackedWidget()
        self.left.addWidget(self.none)
        self.left.addWidget(self.loop)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(4)
        row.addWidget(self.left, 1)
        row.addWidget(self.transport, 1)

    def refresh(self) -> None:
        """Look again."""
        rig, feed = self._station.rig, self._station.feed
        rows = loop_rows(rig.latency)
        self.left.setCurrentWidget(self.loop if rows else self.none)
        self.loop.show_latencies(rows)
        self.transport.show_latencies(transport_rows(list(rig.plugins.values()), list(feed.rows), self._recent))
