"""Topics with rate, loss, age and latency."""

from __future__ import annotations

from ..models.station import Station
from .tables import PlainTable

_COLUMNS = (
    ("Topic", "name on the bus"),
    ("Kind", "what its blocks carry"),
    ("Frame", "shape of one frame"),
    ("Rate", "frames per second, from their sequence numbers"),
    ("MB/s", "payload per second"),
    ("Frames", "since this window opened"),
    ("Lost", "frames missing by sequence number, in this window; drawn topics with many frames show the newest only"),
    ("Newest", "since the newest block came"),
    ("Latency", "end of exposure to this window; from another host ± the error between the clocks"),
)


class TopicsTable(PlainTable):
    """Shows `feed.rows`."""

    def __init__(self, station: Station) -> None:
        super().__init__("Topics", _COLUMNS, range(3, 9), 0)
        self._station = station

    def refresh(self) -> None:
        """Look again."""
        self.show_rows(
            [
                (
                    row.name,
                    row.kind or "–",
                    row.shape or "–",
                    f"{row.rate:,.0f} /s" if row.rate >= 10 else f"{row.rate:.1f} /s",
                    f"{row.megabytes:.1f}",
                    f"{row.frames:,}",
                    "newest only" if row.newest_only else f"{row.lost:,}",
                    "–" if row.age is None else f"{row.age:.1f} s ago",
                    row.late,
                )
                for row in self._station.feed.rows
            ]
        )
