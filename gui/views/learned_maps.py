"""What the plan has learned so far, beside the map: its prediction, and how sure it is of it."""

from __future__ import annotations

from PySide6.QtWidgets import QVBoxLayout, QWidget

from ..models.station import Station
from .map_view import MapView

KINDS = (("prediction", "viridis"), ("uncertainty", "inferno"))


class LearnedMaps(QWidget):
    """Two maps, each of the newest topic of its kind; another topic can be chosen in either."""

    def __init__(self, station: Station) -> None:
        super().__init__()
        self._station = station
        self.views = {kind: MapView(station, kind.capitalize(), colours, small=True) for kind, colours in KINDS}
        self._shown: dict[str, str] = {}
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        for view in self.views.values():
            column.addWidget(view, 1)

    def refresh(self) -> bool:
        """Draw what is new; return whether there was anything."""
        drawn = [view.refresh() for view in self.views.values()] if self.isVisible() else []
        return any(drawn)

    def refresh_slowly(self) -> bool:
        """Look for topics of these kinds; return whether there are any."""
        for kind, view in self.views.items():
            named = [name for name in self._station.feed.maps if name.partition(".")[2] == kind]
            newest = max(named, key=lambda name: self._station.feed.maps[name].generation, default="")
            if newest and self._shown.get(kind) != newest:
                self._shown[kind] = newest
                view.choose(newest)
            if self._shown:
                view.setVisible(kind in self._shown)
                view.refresh_slowly()
        return bool(self._shown)

    def fit(self) -> None:
        """Show all of both."""
        for view in self.views.values():
            view.picture.fit()
