"""Finished frames of a running session, for a plug-in to compute again with new parameters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..data.errors import RecordError
from ..data.frame import FrameBlock
from .reader import RecordedTopic, Session


class SessionHistory:
    """What is on disk of the scans of a session: `plugin.past.History`. Nothing where nothing was recorded."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def blocks(self, topic: str, generation: int, wanted: NDArray[np.bool_]) -> Iterator[FrameBlock]:
        """Yield the wanted pixels (cells,) of a scan in its order, a block for each chunk."""
        scan = self._scan(topic, generation, wanted.size)
        if scan is not None:
            yield from scan.blocks(wanted=wanted)

    def kept(self, topic: str, generation: int, cells: int) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """Return index in its topic (-1 = not there) and exposure [ns] of every pixel's frame, (cells,) each."""
        scan = self._scan(topic, generation, cells)
        return None if scan is None else (scan.column("index").ravel(), scan.column("time_ns").ravel())

    def recorded(self, topic: str, generation: int) -> Iterator[FrameBlock]:
        """Yield what is on disk of a generation of a topic, scan or points; nothing where it can't be read."""
        try:
            session = Session(self._folder)
            scans = [t for t in session.topics() if t.topic == topic and t.is_scan]
            if not scans or any(t.generation == generation for t in scans):
                yield from session.blocks(topic, generation)
        except RecordError:
            return

    def _scan(self, topic: str, generation: int, cells: int) -> RecordedTopic | None:
        try:
            found = Session(self._folder).topic(topic, generation)
        except RecordError:
            return None
        return found if len(found) == cells else None
