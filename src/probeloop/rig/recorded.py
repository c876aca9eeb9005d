"""Spectra of a running session, read back from its record when the experiment's memory let go of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..data.control import Result
from ..experiment.interest import Recorded
from ..experiment.streams import Frame
from ..record.reader import RecordedTopic, Session


def recorded_frames(folder: Path) -> Recorded:
    """Return what reads the frames of (topic, result) from the session in `folder`; none where none was recorded."""

    def frames(topic: str, result: Result) -> list[Frame]:
        made = []
        for record in Session(folder).topics():
            if record.topic.partition("-")[0] == topic and not record.is_scan:
                made += _rows(record, result, own=topic == result.topic)
        return made

    return frames


def _rows(record: RecordedTopic, result: Result, own: bool) -> list[Frame]:
    index = np.asarray(record.column("index"), np.int64)
    wanted = np.asarray(record.column("generation")) == result.generation
    if own:
        wanted &= (index >= result.first_index) & (index < result.first_index + result.count)
    made = []
    for row in map(int, np.flatnonzero(wanted)):
        x, y = record.column("position", row, row + 1)[0]
        made.append(
            Frame(
                record.spec,
                record.data(row, row + 1)[0],
                int(index[row]),
                result.generation,
                (float(x), float(y)),
                int(record.column("time_ns", row, row + 1)[0]),
                int(record.column("frame_flags", row, row + 1)[0]),
            )
        )
    return made
