"""Finished frames of a running session, for a plug-in to compute again with new parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from ..data.errors import RecordError
from ..data.frame import FrameBlock
from .reader import Session


def history_of(folder: Path) -> Callable[[str, int], Iterator[FrameBlock]]:
    """Return a function (topic, generation) -> blocks that are on disk; nothing where nothing was recorded."""

    def blocks(topic: str, generation: int) -> Iterator[FrameBlock]:
        try:
            yield from Session(folder).blocks(topic, generation)
        except RecordError:
            return

    return blocks
