"""An array on disk takes no memory for what it has written and closed."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from probeloop.record.chunks import ChunkedArray, Disk
from probeloop.record.schema import Layout

ROWS = 200


@pytest.mark.parametrize("by_the_way", [True, False], ids=["closed when full", "let go later"])
def test_a_long_scan_does_not_grow(tmp_path: Path, by_the_way: bool) -> None:
    layout = Layout((), (ROWS, 2), (2, 2), (1, 2), np.dtype("<u2"), 0)
    disk = Disk()
    array = ChunkedArray(disk, tmp_path / "data", layout)
    frames = np.ones((2, 2, 2), "<u2")
    disk.make(array.path)
    array.announce()
    taken = []
    tracemalloc.start()
    try:
        for row in range(ROWS):
            array.put(np.arange(2 * row, 2 * row + 2), frames)
            array.write(row, close=by_the_way)
            array.let_go(row)
            disk.unsynced.clear()
            if row in (50, ROWS - 1):
                gc.collect()
                taken.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert taken[1] - taken[0] < 10 * (ROWS - 50)  # [bytes]: the names of folders would take ten times as many
    assert len(list(array.path.glob("*/0/0/0"))) == ROWS
