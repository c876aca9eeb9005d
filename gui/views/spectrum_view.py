"""The newest spectrum or waveform, with the units of its axis."""

from __future__ import annotations

import numpy as np
import pyqtgraph as pg
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from ..models.station import Station

_CURVES = 8


class SpectrumView(QWidget):
    """Draws a frame with one detector axis as curves, one a channel."""

    def __init__(self, station: Station) -> None:
        super().__init__()
        self._station = station
        self._drawn: tuple[str, int] | None = None
        self.topic = QComboBox()
        self.topic.setAccessibleName("Topic shown as spectrum")
        self.topic.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToContents)
        self.about = QLabel("no spectra yet")
        self.plot = pg.PlotWidget(background=None)
        self.plot.setAccessibleName("Newest spectrum")
        self.plot.setMinimumHeight(90)
        ink = self.palette().text().color()
        for side in ("bottom", "left"):
            self.plot.getAxis(side).setPen(ink)
            self.plot.getAxis(side).setTextPen(ink)
            self.plot.getAxis(side).enableAutoSIPrefix(False)
        self.curves = [self.plot.plot(pen=pg.mkPen(pg.intColor(i + 2, 9, values=1, maxValue=200), width=2))
                       for i in range(_CURVES)]  # fmt: skip
        top = QHBoxLayout()
        for widget in (QLabel("<b>Spectrum</b>"), self.topic, self.about):
            top.addWidget(widget)
        top.addStretch(1)
        column = QVBoxLayout(self)
        column.setContentsMargins(3, 4, 6, 4)
        column.addLayout(top)
        column.addWidget(self.plot, 1)

    def refresh_slowly(self) -> bool:
        """List the topics that carry spectra, draw what is new; return whether there is any."""
        frames = self._station.feed.frames
        names = sorted(name for name, f in frames.items() if f.spec is not None and len(f.spec.sig) == 1)
        if [self.topic.itemText(i) for i in range(self.topic.count())] != names:
            self.topic.clear()
            self.topic.addItems(names)
        newest = frames.get(self.topic.currentText())
        if newest is None or newest.spec is None or newest.data is None:
            return bool(names)
        mark = (newest.topic, newest.version)
        if mark == self._drawn:
            return True
        self._drawn = mark
        spec, data = newest.spec, np.asarray(newest.data)
        axis = spec.sig[-1]
        x, name, units = axis.values(), axis.name, axis.units if axis.scale is not None else "channel"
        bias = spec.aux.get("bias", ())
        if len(bias) == axis.size:  # a waveform is looked at over its bias: a loop
            x, name, units = np.asarray(bias), "bias", "V"
        if np.iscomplexobj(data):  # of a loop the part in phase, whose sign says which way it is switched
            data = data.real if name == "bias" else np.abs(data)
        rows = data.reshape(-1, axis.size)[:_CURVES]
        for i, curve in enumerate(self.curves):
            curve.setData(x, rows[i]) if i < len(rows) else curve.setData([], [])
        self.plot.setLabel("bottom", f"{name} [{units}]" if units else name)
        self.plot.setLabel("left", f"signal [{spec.units}]" if spec.units else "signal")
        self.about.setText(
            f"frame {newest.version}" + (f", pixel {newest.scan_index}" if newest.scan_index >= 0 else "")
        )
        return True
