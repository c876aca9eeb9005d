"""The session after its rig's end, held against what the witness saw."""

from __future__ import annotations

import random
import zlib
from collections.abc import Mapping
from pathlib import Path

from ...data.errors import ProbeloopError
from ...record.reader import Session

_MOST_SCANS = 40


def wrong_cells(
    folder: Path, sums: Mapping[tuple[int, int], int], rng: random.Random, camera: str = "camera"
) -> tuple[int, int, list[str]]:
    """Return (cells compared, cells that differ, in words what can't be opened) of up to 40 recorded scans.

    sums: zlib.crc32 of each camera frame by (generation, scan index); a cell that the witness missed is passed over.
    """
    try:
        topics = Session(folder).topics()
    except ProbeloopError as error:
        return 0, 0, [str(error)]
    scans = [topic for topic in topics if topic.topic == camera and topic.is_scan]
    rng.shuffle(scans)
    compared = wrong = 0
    unreadable = []
    for scan in scans[:_MOST_SCANS]:
        try:
            for block in scan.blocks():
                for row, cell in enumerate(block.scan_index.tolist()):
                    known = sums.get((scan.generation, cell))
                    if known is not None:
                        compared += 1
                        wrong += zlib.crc32(block.data[row]) != known
        except (ProbeloopError, OSError) as error:
            unreadable.append(f"{scan.path.name}: {error}")
    return compared, wrong, unreadable
