"""What a topic leaves on disk: a map filled by `scan_index`, or point measurements appended one after another.

Nothing is acknowledged (`kept`) before data, columns and at last `present` are in place, so a record never claims
what it has not. A failure of the disk is kept in `fault`, never raised at the source, and tried again at the next
flush; what no longer fits in memory meanwhile is given up and counted in `lost`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..data.assemble import is_pixel
from ..data.axes import StreamSpec
from ..data.errors import RecordError
from ..data.frame import FrameBlock
from .chunks import Disk
from .schema import COLUMNS, POINT_COLUMNS, Column, data_layout
from .stored import StoredArray
from .zspy import Zspy

OPEN_BYTES = 256 << 20
Waiting: TypeAlias = tuple[NDArray[Any], ...]  # cells (M,), then a value of every column for each
_NONE = np.empty(0, np.int64)


def column_values(column: Column, block: FrameBlock) -> NDArray[Any]:
    """Return what a column holds for the frames of a block, (N, *shape)."""
    if column.name == "index":
        return block.index + np.arange(block.count)
    if column.name in ("revision", "generation"):
        return np.full(block.count, getattr(block, column.name))
    values: NDArray[Any] = getattr(block, column.name)
    return values


class _Faults:
    """What went wrong with the disk: `fault` until it is made good, `trouble` until it is told."""

    def __init__(self) -> None:
        self.fault: OSError | RecordError | None = None
        self.trouble: list[OSError | RecordError] = []
        self.lost = self.skipped = 0

    def _fail(self, error: OSError | RecordError) -> None:
        self.fault = error
        self.trouble = [*self.trouble[-9:], error]


class ScanFile(_Faults):
    """A scan of known shape: full size from the start, cells written by `scan_index`, the newest revision wins."""

    def __init__(
        self, disk: Disk, path: Path, spec: StreamSpec, about: Mapping[str, Any], open_bytes: int = OPEN_BYTES
    ) -> None:
        super().__init__()
        self.spec, self.open_bytes = spec, open_bytes
        layout = data_layout(spec)
        self.cells = math.prod(layout.nav)
        self.measured = np.zeros(self.cells, bool)
        self._sure = np.zeros(self.cells, bool)
        self._waiting: list[Waiting] = []  # columns go in at a flush: block by block they would cost more than data
        self.zspy = Zspy(disk, path, spec, layout, COLUMNS, about, points=False)
        if self.zspy.exists:
            self.zspy.reopen_for_writing()
            self._sure[:] = StoredArray.open(self.zspy.columns["present"].path).read().ravel()
            self.measured[:] = self._sure

    @property
    def kept(self) -> int:
        """Frames that are on disk, and said to be."""
        return int(self._sure.sum())

    def add(self, block: FrameBlock) -> None:
        """Take the frames of a block; chunks that are now full are written at once."""
        wanted = is_pixel(block)
        cells = block.scan_index[wanted].astype(np.int64)
        self.skipped += block.count - len(cells)
        if not len(cells):
            return
        try:
            touched = self.zspy.data.put(cells, block.data[wanted] if len(cells) < block.count else block.data)
        except (OSError, RecordError) as error:  # a chunk that was closed can't be read back
            self._fail(error)
            self.lost += len(cells)
            return
        self.measured[cells] = True
        self._waiting.append((cells, *(column_values(column, block)[wanted] for column in COLUMNS)))
        try:
            for chunk in touched:
                first, last = self.zspy.data.cells_of(chunk)
                if self.measured[first:last].all():
                    self._create()
                    self.zspy.data.write(chunk, close=True)
        except OSError as error:
            self._fail(error)
        if self.zspy.data.held_bytes > self.open_bytes:
            self._shed()

    def _create(self) -> None:
        if not self.zspy.exists:
            self.zspy.begin()
            for array in self.zspy.arrays:
                array.announce()
            self.zspy.move_in()

    def flush(self) -> None:
        """Write all that is not yet on disk; what fails stays for the next time."""
        if not self._waiting and not any(array.dirty for array in self.zspy.arrays):
            return
        try:
            self._create()
            list(self.zspy.data.write_dirty())
            cells, *columns = map(np.concatenate, zip(*self._waiting, strict=True)) if self._waiting else (_NONE,)
            for column, values in zip(COLUMNS, columns, strict=False):
                self.zspy.columns[column.name].put(cells, values)
            for column in COLUMNS:
                self._write_column(column.name)
            present = self.zspy.columns["present"]
            present.put(cells, np.ones(len(cells), bool))
            self._waiting.clear()
            for chunk in sorted(present.dirty):
                present.write(chunk)
                first, last = present.cells_of(chunk)
                self._sure[first:last] = present.open[chunk][: last - first]
            self.fault = None
        except OSError as error:
            self._fail(error)
        except RecordError as error:  # a column that was closed can't be read back: what waits has no place
            self._fail(error)
            self._give_up(0, self.cells)

    def _write_column(self, name: str) -> None:
        column = self.zspy.columns[name]
        for chunk in sorted(column.dirty):
            first, last = column.cells_of(chunk)
            column.write(chunk, close=bool(self.measured[first:last].all()))

    def _shed(self) -> None:
        """Let go of open chunks: written if the disk takes them, given up if not."""
        data = self.zspy.data
        for chunk in list(data.open)[:-1]:
            try:
                if chunk in data.dirty:
                    self._create()
                    data.write(chunk, close=True)
                else:
                    del data.open[chunk]
            except OSError as error:
                self._fail(error)
                self._give_up(*data.cells_of(chunk))
                del data.open[chunk]
                data.dirty.discard(chunk)

    def _give_up(self, first: int, last: int) -> None:
        """Forget what of [first, last) is not on disk, and count it."""
        self.lost += int((self.measured[first:last] & ~self._sure[first:last]).sum())
        self.measured[first:last] &= self._sure[first:last]
        outside = [((each[0] < first) | (each[0] >= last), each) for each in self._waiting]
        self._waiting = [tuple(values[keep] for values in each) for keep, each in outside if keep.any()]

    def close(self, about: Mapping[str, Any] | None = None) -> bool:
        """Flush and say that the record is complete; True when the disk took it all."""
        self.zspy.about.update(about or {})
        self.flush()
        if self.fault is None and self.zspy.exists:
            try:
                self.zspy.finish()
            except OSError as error:
                self._fail(error)
        return self.fault is None


class PointFile(_Faults):
    """Point measurements: one more row each, beside position, time, generation; `.zarray` grows last."""

    def __init__(self, disk: Disk, path: Path, spec: StreamSpec, about: Mapping[str, Any]) -> None:
        super().__init__()
        self.spec = spec
        self.rows = self.kept = 0
        self._announced = 0
        self._rows_of: dict[tuple[int, int], tuple[int, int]] = {}
        self.zspy = Zspy(disk, path, spec, data_layout(spec, 0), POINT_COLUMNS, about, points=True)
        if self.zspy.exists:
            self.zspy.reopen_for_writing()
            self.rows = self.kept = self._announced = StoredArray.open(self.zspy.data.path).shape[0]

    def add(self, block: FrameBlock) -> None:
        """Append the frames of a block; a revised one takes the place of its forerunner."""
        rows = np.empty(block.count, np.int64)
        for i, scan_index in enumerate(block.scan_index.tolist()):
            key = (block.generation, scan_index)
            old = self._rows_of.get(key)
            if old is not None and block.revision > old[1]:
                rows[i] = old[0]
            else:
                rows[i], self.rows = self.rows, self.rows + 1
            self._rows_of[key] = (int(rows[i]), block.revision)
        try:
            self.zspy.data.put(rows, block.data)
            for column in POINT_COLUMNS:
                self.zspy.columns[column.name].put(rows, column_values(column, block))
            self.zspy.columns["present"].put(rows, np.ones(len(rows), bool))
        except (OSError, RecordError) as error:
            self._fail(error)
            self.lost += block.count

    def flush(self) -> None:
        """Write what is new: columns and their length first, data and its length last."""
        if self._announced == self.rows and not any(array.dirty for array in self.zspy.arrays):
            return
        try:
            whole = self.zspy.exists  # until then every row stays in memory
            if not whole:
                self.zspy.begin()
            for array in self.zspy.arrays:
                for chunk in sorted(array.dirty):
                    array.write(chunk)
                if whole:
                    array.let_go(self.rows // array.layout.chunk_cells - 1)
                array.announce((self.rows, *array.layout.trail))
            if not self.zspy.exists:
                self.zspy.move_in()
            self.kept = self._announced = self.rows
            self.fault = None
        except OSError as error:
            self._fail(error)
            if not self.zspy.exists:  # start again from the skeleton: all rows are still in memory
                for array in self.zspy.arrays:
                    array.dirty = set(array.open)

    def close(self, about: Mapping[str, Any] | None = None) -> bool:
        """Flush and say that the record is complete; True when the disk took it all."""
        self.zspy.about.update(about or {})
        self.flush()
        if self.fault is None and self.zspy.exists:
            try:
                self.zspy.finish(self.kept)
            except OSError as error:
                self._fail(error)
        return self.fault is None
