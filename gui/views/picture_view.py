"""A picture with real units: image, missing ground, scale bar, levels, colour map."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from PySide6.QtCore import QEvent, QObject, QRectF, Qt, Signal
from PySide6.QtGui import QCursor
from PySide6.QtWidgets import QWidget

from probeloop.api import Region

from ..models.levels import Levels
from ..models.maps import Extent
from .overlay import Missing, ScaleBar, scene_unit

COLOUR_MAPS = ("gray", "cividis", "viridis", "inferno")
GROUND = "#2b2830"


def colour_table(name: str) -> NDArray[np.uint8]:
    """Return a colour map as (256, 3) uint8; all but gray are safe for colour-blind eyes, and so is gray."""
    if name == "gray":
        ramp = np.arange(256, dtype=np.uint8)
        return np.stack([ramp] * 3, axis=1)
    table: NDArray[np.uint8] = pg.colormap.get(name).getLookupTable(nPts=256, alpha=False)
    return table


def to_bytes(data: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Return values as 1 (low and below) to 255 (high and above), 0 where there is none."""
    scale = np.float32(254.0 / (high - low))
    scaled = np.subtract(data, np.float32(low), dtype=np.float32)
    scaled *= scale
    np.clip(scaled, 0.0, 254.0, out=scaled)
    scaled += 1.5  # NaN stays NaN, and becomes 0 here
    np.nan_to_num(scaled, copy=False, nan=0.0)
    indices: NDArray[np.uint8] = scaled.astype(np.uint8)
    return indices


class PictureView(pg.GraphicsView):  # type: ignore[misc]
    """Draws one array. Coordinates are the extent's, times `unit_factor` for its inside units."""

    clicked = Signal(float, float, object)
    hovered = Signal(object)

    def __init__(self, name: str, levels: Levels, *, y_down: bool = True) -> None:
        super().__init__(background=GROUND)
        self.levels = levels
        self.box = pg.ViewBox(enableMenu=False, lockAspect=True, invertY=y_down)
        self.box.setDefaultPadding(0.02)
        self.setCentralItem(self.box)
        self.image = pg.ImageItem(axisOrder="row-major")
        self.missing = Missing()
        self.missing.setVisible(False)
        self.box.addItem(self.missing, ignoreBounds=True)
        self.box.addItem(self.image)
        self.scale_bar = ScaleBar(self, self.box)
        self.scale_bar.hide()
        self.extent: Extent | None = None
        self.shown: NDArray[Any] | None = None
        self._index = np.zeros((0, 0), np.uint8)
        self._by_hand = False
        self.box.sigRangeChangedManually.connect(lambda *_: self._zoomed())
        self._levels_drawn = (np.nan, np.nan)
        self.unit_factor = 1.0
        self.setAccessibleName(name)
        self.setMinimumSize(160, 160)
        self.scene().sigMouseClicked.connect(self._on_click)
        self.scene().sigMouseMoved.connect(self._on_move)
        self.scene().installEventFilter(self)

    def set_colours(self, table: NDArray[Any]) -> None:
        """Use a colour map, (256, 3) uint8; its first colour gives way to "not measured"."""
        opaque = np.full((256, 1), 255, np.uint8)
        opaque[0] = 0
        self.image.setLookupTable(np.hstack([table, opaque]))

    def draw(self, data: NDArray[Any], extent: Extent, rows: tuple[int, int] | None = None) -> None:
        """Show an array; a new extent is fitted into the view.

        rows: the only ones [first, last) that differ from what was drawn before; None = any may.
        """
        levels = (self.levels.low, self.levels.high)
        finer = self._index.shape != data.shape
        if rows is None or self._index.shape != data.shape or levels != self._levels_drawn:
            self._index = np.empty(data.shape, np.uint8) if self._index.shape != data.shape else self._index
            rows = (0, len(data))
        # one byte a pixel, 0 = not measured: Qt draws that as it is, and only what is new is worked out
        part = slice(*rows)
        self._index[part] = to_bytes(data[part], *levels)
        self._levels_drawn, self.shown = levels, data
        self.image.setImage(self._index, autoLevels=False, levels=(0, 255))
        if extent != self.extent:
            self._fit(extent)
        elif finer:  # the image's transform is that of a pixel, not of the whole
            self.image.setRect(self._rect(extent))

    def _rect(self, extent: Extent) -> QRectF:
        f = self.unit_factor
        return QRectF(extent.x / f, extent.y / f, extent.width / f, extent.height / f)

    def _fit(self, extent: Extent) -> None:
        self._by_hand = self._by_hand and self.extent is not None and self.extent.units == extent.units
        self.extent = extent
        self.unit_factor, unit = scene_unit(max(extent.width, extent.height), extent.units)
        rect = self._rect(extent)
        self.image.setRect(rect)
        self.missing.set_rect(rect)
        self.missing.setVisible(True)
        self.scale_bar.unit = unit or "px"
        self.scale_bar.setVisible(True)
        self.box.setLimits(maxXRange=8 * rect.width(), maxYRange=8 * rect.height())
        if not self._by_hand or self._left(rect):
            self.fit()
        else:
            self.scale_bar.fit()

    def _zoomed(self) -> None:
        self._by_hand = True

    def _left(self, rect: QRectF) -> bool:
        """Whether a person's zoom shows little of the picture: then it is fitted again."""
        seen: QRectF = self.box.viewRect()
        common = seen.intersected(rect)
        part: float = common.width() * common.height()
        return part < 0.1 * float(seen.width() * seen.height())

    def fit(self) -> None:
        """Show the whole picture."""
        self._by_hand = False
        if self.extent is not None:
            self.box.setRange(self.image.mapRectToParent(self.image.boundingRect()), padding=0.02)
            self.scale_bar.fit()

    def seen(self) -> Region | None:
        """Return the part of a map in metres that is seen, None where nothing of it is."""
        if self.extent is None:
            return None
        part = self.box.viewRect().intersected(self._rect(self.extent))
        at, f = part.center(), self.unit_factor
        return None if part.isEmpty() else Region(at.x() * f, at.y() * f, part.width() * f, part.height() * f)

    def relevel(self) -> None:
        """Use the levels again, without new data."""
        if self.shown is not None and self.extent is not None:
            self.draw(self.shown, self.extent)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Return drawn coordinates of a place in the extent's units."""
        return x / self.unit_factor, y / self.unit_factor

    def resizeEvent(self, event: Any) -> None:
        """Keep the scale bar in its corner."""
        super().resizeEvent(event)
        if hasattr(self, "scale_bar"):
            self.scale_bar.fit()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Say when the pointer leaves."""
        if event.type() == QEvent.Type.Leave:
            self.hovered.emit(None)
        return False

    def _inside(self, point: Any) -> tuple[float, float]:
        at = self.box.mapSceneToView(point)
        return at.x() * self.unit_factor, at.y() * self.unit_factor

    def _on_click(self, event: Any) -> None:
        if event.button() == Qt.MouseButton.LeftButton and self.extent is not None:
            self.clicked.emit(*self._inside(event.scenePos()), event.modifiers())
        if event.button() == Qt.MouseButton.RightButton:
            self.fit()

    def _on_move(self, point: Any) -> None:
        if self.extent is not None:
            self.hovered.emit(self._inside(point))


def cross_cursor(widget: QWidget, on: bool) -> None:
    """Show that a click means a place."""
    widget.setCursor(QCursor(Qt.CursorShape.CrossCursor if on else Qt.CursorShape.ArrowCursor))
