"""One Zarr 2 array that grows by whole chunks: encode, write beside, move into place."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .codec import decode, encode
from .schema import Layout, dump, filled, zarray

_serial = itertools.count()


class Disk:
    """Atomic files. `system` is `os`, or a stand-in that fails when it is told to.

    sync: fsync each file before it is moved into place. written: bytes moved into place so far. unsynced: what was
    moved into place without.
    """

    def __init__(self, system: Any = os, sync: bool = False) -> None:
        self.system = system
        self.sync = sync
        self.written = 0
        self.unsynced: list[str] = []

    def put(self, path: Path, data: bytes) -> None:
        """Write `data` beside `path` and move it there; raises OSError and leaves `path` as it was."""
        name, partial = str(path), f"{path}.{os.getpid()}-{next(_serial)}.partial"
        try:
            handle = self.system.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            try:
                rest = memoryview(data).cast("B")
                while rest.nbytes:
                    rest = rest[self.system.write(handle, rest) :]
                if self.sync:
                    self.system.fsync(handle)
            finally:
                os.close(handle)
            self.system.replace(partial, name)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(partial)
            raise
        self.written += len(data)
        self.unsynced.append(name)

    def make(self, folder: Path) -> None:
        """Make a folder and those above it."""
        self.system.makedirs(str(folder), exist_ok=True)

    def settle(self, name: str) -> None:
        """Bring a file that was moved into place to the disk itself; raises OSError. Any thread."""
        with contextlib.suppress(FileNotFoundError):
            handle = os.open(name, os.O_RDONLY)
            try:
                self.system.fsync(handle)
            finally:
                os.close(handle)


class ChunkedArray:
    """An array on disk, written cell by cell (a cell = one frame) and kept in memory only while a chunk is open."""

    def __init__(self, disk: Disk, path: Path, layout: Layout) -> None:
        self.disk, self.path, self.layout = disk, path, layout
        self.open: dict[int, NDArray[Any]] = {}
        self.dirty: set[int] = set()
        self._folders: set[Path] = set()
        self._spare: NDArray[Any] | None = None  # of the chunk closed last: new memory would cost as much as encoding
        self._chunk_cells = layout.chunk_cells
        self._inner = math.prod(layout.nav[1:])
        self._whole_rows = layout.chunk_nav[1:] == layout.nav[1:]
        self._across = 1 if self._whole_rows else -(-layout.nav[-1] // layout.chunk_nav[-1])

    def place(self, cells: Any) -> tuple[Any, Any]:
        """Return the chunk of each cell and its place there; cells: (M,) int64, or one number."""
        if self._whole_rows:
            chunk, within = divmod(cells, self._chunk_cells)
            return chunk, within
        row, column = divmod(cells, self.layout.nav[-1])
        across, within = divmod(column, self._chunk_cells)
        return row * self._across + across, within

    def cells_of(self, chunk: int) -> tuple[int, int]:
        """Return the first cell of a chunk and the one after its last, clipped to the array."""
        if self._whole_rows:
            first = chunk * self.layout.chunk_cells
            return first, min(first + self.layout.chunk_cells, self.layout.nav[0] * self._inner)
        row, across = divmod(chunk, self._across)
        start = across * self.layout.chunk_nav[-1]
        width = min(self.layout.chunk_nav[-1], self.layout.nav[-1] - start)
        first = row * self.layout.nav[-1] + start
        return first, first + width

    def key(self, chunk: int) -> Path:
        """Return the file of a chunk."""
        if self._whole_rows:
            nav = (chunk,) + (0,) * (len(self.layout.nav) - 1)
        else:
            row, across = divmod(chunk, self._across)
            nav = (*map(int, np.unravel_index(row, self.layout.nav[:-1])), across)
        whole = (0,) * len(self.layout.lead) + nav + (0,) * len(self.layout.trail)
        return self.path.joinpath(*map(str, whole))

    def put(self, cells: NDArray[np.int64], values: NDArray[Any]) -> list[int]:
        """Write frames (M, *frame_shape) at `cells` (M,) and return the chunks touched; memory only.

        Raises OSError or RecordError when a closed chunk can't be read back.
        """
        if not len(cells):
            return []
        low, high = int(cells[0]), int(cells[-1])
        is_run = high - low + 1 == len(cells) and (len(cells) == 1 or bool((cells[1:] - cells[:-1] == 1).all()))
        if (
            is_run
            and self._whole_rows
            and (only := low // self.layout.chunk_cells) == high // self.layout.chunk_cells
        ):
            start = low - only * self.layout.chunk_cells
            self._buffer(only)[start : start + len(cells)] = values
            self.dirty.add(only)
            return [only]
        chunk, within = self.place(cells)
        touched = (
            [int(chunk[0])] if chunk[0] == chunk[-1] and np.all(chunk == chunk[0]) else np.unique(chunk).tolist()
        )
        for each in touched:
            buffer = self._buffer(each)
            if len(touched) == 1:
                place, part = within, values
            else:
                mask = chunk == each
                place, part = within[mask], values[mask]
            buffer[place] = part
            self.dirty.add(each)
        return touched

    def _buffer(self, chunk: int) -> NDArray[Any]:
        if chunk not in self.open:
            path = self.key(chunk)
            self.open[chunk] = self.from_disk(path.read_bytes()) if path.exists() else self._empty()
        return self.open[chunk]

    def _empty(self) -> NDArray[Any]:
        spare, self._spare = self._spare, None
        if spare is None:
            return filled(self.layout)
        spare[...] = self.layout.fill
        return spare

    def from_disk(self, raw: bytes) -> NDArray[Any]:
        """Return a chunk as frames (cells, *frame_shape); raises RecordError when it is damaged."""
        stored = decode(raw, self.layout.chunks, self.layout.dtype)
        if self.layout.lead:  # (channels, *nav) on disk, (cells, channels) as frames
            return np.ascontiguousarray(stored.reshape((-1, self.layout.chunk_cells)).T)
        return stored.reshape((self.layout.chunk_cells, *self.layout.frame_shape)).copy()

    def write(self, chunk: int, close: bool = False) -> None:
        """Encode a chunk and move it into place; `close` lets go of its memory. Raises OSError."""
        frames = self.open[chunk]
        if self.layout.lead:  # frames hold (cells, channels): the disk has (channels, *nav)
            frames = np.ascontiguousarray(frames.T)
        path = self.key(chunk)
        if path.parent not in self._folders:
            self.disk.make(path.parent)
            self._folders.add(path.parent)
        self.disk.put(path, encode(frames))
        self.dirty.discard(chunk)
        if close:
            self._spare = self.open.pop(chunk)
            self._folders.discard(path.parent)  # often the chunk's own: kept, they would be a megabyte a minute

    def write_dirty(self) -> Iterator[int]:
        """Write every changed chunk, oldest first, and name each when it is in place."""
        for chunk in sorted(self.dirty):
            self.write(chunk)
            yield chunk

    def let_go(self, before: int) -> None:
        """Keep no chunk in memory that is on disk and has a number below `before`."""
        for chunk in [chunk for chunk in self.open if chunk < before and chunk not in self.dirty]:
            del self.open[chunk]
            self._folders.discard(self.key(chunk).parent)

    def forget_folders(self) -> None:
        """The tree is made anew: no folder is known to exist."""
        self._folders.clear()

    @property
    def held_bytes(self) -> int:
        """Memory of the open chunks [bytes]."""
        return sum(buffer.nbytes for buffer in self.open.values())

    def announce(self, shape: tuple[int, ...] | None = None) -> None:
        """Write the array's `.zarray`: from now on it has this shape."""
        self.disk.put(self.path / ".zarray", dump(zarray(self.layout, shape)))
