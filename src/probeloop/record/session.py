"""A session folder being written: every topic's files, in one thread, over one disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ..data.axes import StreamSpec
from ..data.errors import RecordError
from ..data.frame import BlockFlag, FrameBlock
from .chunks import Disk
from .schema import check_name
from .stored import read_json
from .writer import PointFile, ScanFile

About = Callable[[int], Mapping[str, Any]]


def is_scan(spec: StreamSpec) -> bool:
    """True when the stream is a map of known shape; else its frames are point measurements, one after another."""
    return bool(spec.nav) and spec.sync != "none" and spec.kind != "image"


class SessionWriter:
    """Writes blocks of any topic below `folder`; never raises because of the disk: see `faults`.

    about: what is known of a generation (command, cause, calibrations ...), asked when its file is begun and closed.
    """

    def __init__(self, folder: Path, disk: Disk | None = None, about: About | None = None) -> None:
        self.folder = folder
        self.disk = disk or Disk()
        self._about = about or (lambda generation: {})
        self._scans: dict[tuple[str, int], ScanFile] = {}
        self._points: dict[str, PointFile] = {}
        self._tables: dict[str, list[bytes]] = {}
        self._fresh: set[tuple[str, int]] = set()
        self._ended: set[tuple[str, int]] = set()
        self.frames: dict[str, int] = {}
        self.lost: dict[str, int] = {}
        self.faults: list[str] = []
        self.refused: set[str] = set()

    def add(self, block: FrameBlock) -> None:
        """Take a block, which may be a view: what is kept is copied."""
        name = block.spec.name
        if name in self.refused:
            return
        try:
            check_name(name)
            if block.spec.kind == "table":
                self._table(block)
            elif is_scan(block.spec):
                self._scan(block)
            else:
                self._point(block)
        except RecordError as error:
            self.refused.add(name)
            self.faults.append(f"{name} is not recorded: {error}")
            return
        self.frames[name] = self.frames.get(name, 0) + block.count

    def _scan(self, block: FrameBlock) -> None:
        key = (block.spec.name, block.generation)
        if key not in self._scans:
            for old in [k for k in self._scans if k[0] == key[0]]:
                self._close(old)
            path = self.folder / key[0] / f"{block.generation}.zspy"
            self._scans[key] = ScanFile(self.disk, path, block.spec, self._told(block))
        self._scans[key].add(block)
        self._fresh.add(key)
        if block.flags & BlockFlag.SCAN_END:
            self._ended.add(key)

    def _point(self, block: FrameBlock) -> None:
        name = block.spec.name
        known = self._points.get(name)
        if known is not None and not _same_layout(known.spec, block.spec):
            known.close()
            known = None
        if known is None:
            self._points[name] = PointFile(self.disk, self._point_path(block), block.spec, self._told(block))
        if block.count:
            self._points[name].add(block)

    def _point_path(self, block: FrameBlock) -> Path:
        """Return SESSION/<topic>.zspy, or one with the generation where that holds other spectra."""
        path = self.folder / f"{block.spec.name}.zspy"
        if path.is_dir():
            found = next(path.glob("Experiments/*/original_metadata/probeloop/.zattrs"), None)
            spec = msgspec.json.decode(str(read_json(found)["spec"]), type=StreamSpec) if found else block.spec
            if not _same_layout(spec, block.spec):
                return self.folder / f"{block.spec.name}-{block.generation}.zspy"
        return path

    def _table(self, block: FrameBlock) -> None:
        rows = self._tables.setdefault(block.spec.name, [])
        for i in range(block.count):
            values = {field: _plain(block.data[i][field]) for field in block.data.dtype.names or ()}
            place = {"index": block.index + i, "generation": block.generation, "time_ns": int(block.time_ns[i])}
            rows.append(msgspec.json.encode({**place, "scan_index": int(block.scan_index[i]), **values}))

    def _told(self, block: FrameBlock) -> dict[str, Any]:
        first = {"session": self.folder.name, "first_generation": block.generation, "first_revision": block.revision}
        return {**first, **self._about(block.generation)}

    def _close(self, key: tuple[str, int]) -> None:
        file = self._scans.pop(key)
        self._ended.discard(key)
        self._fresh.discard(key)
        file.close(self._about(key[1]))
        self._take_fault(key[0], file)
        if file.kept < int(file.measured.sum()):
            self.lost[key[0]] = self.lost.get(key[0], 0) + int(file.measured.sum()) - file.kept

    def _take_fault(self, name: str, file: ScanFile | PointFile) -> None:
        self.faults += [f"{name}: {_words(trouble)}" for trouble in file.trouble]
        file.trouble.clear()
        if file.lost:
            self.lost[name] = self.lost.get(name, 0) + file.lost
            file.lost = 0

    def flush(self) -> None:
        """Write all that is not on disk yet; close the scans that ended and are quiet."""
        for key, file in list(self._scans.items()):
            file.flush()
            self._take_fault(key[0], file)
            if key in self._ended and key not in self._fresh and file.fault is None:
                self._close(key)
        self._fresh.clear()
        for name, points in self._points.items():
            points.flush()
            self._take_fault(name, points)
        for name, rows in self._tables.items():
            self._write_table(name, rows)

    def _write_table(self, name: str, rows: list[bytes]) -> None:
        if rows:
            try:
                with (self.folder / f"{name}.jsonl").open("ab") as file:
                    file.write(b"\n".join(rows) + b"\n")
                rows.clear()
            except OSError as error:
                self.faults.append(f"{name}: {_words(error)}")

    def close(self) -> None:
        """Flush and close every file."""
        self.flush()
        for key in list(self._scans):
            self._close(key)
        for name, points in self._points.items():
            points.close()
            self._take_fault(name, points)
        self._points.clear()

    @property
    def kept(self) -> dict[str, int]:
        """Frames that are on disk and said to be, by topic, in the files that are open."""
        made = {name: file.kept for name, file in self._points.items()}
        for (name, _), file in self._scans.items():
            made[name] = made.get(name, 0) + file.kept
        return made

    @property
    def held_bytes(self) -> int:
        """Memory of all chunks that are open [bytes]."""
        files: list[ScanFile | PointFile] = [*self._scans.values(), *self._points.values()]
        return sum(array.held_bytes for file in files for array in file.zspy.arrays)

    def free_bytes(self) -> int:
        """Return the space left on the session's disk [bytes]."""
        return shutil.disk_usage(self.folder).free


def _same_layout(a: StreamSpec, b: StreamSpec) -> bool:
    return (a.kind, a.dtype, a.sig, a.channels, a.aux, a.units) == (
        b.kind,
        b.dtype,
        b.sig,
        b.channels,
        b.aux,
        b.units,
    )


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.rstrip(b"\0").decode("utf-8", "replace")
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _words(fault: Exception) -> str:
    if isinstance(fault, OSError):
        return f"{fault.strerror or fault}" + (f" ({fault.filename})" if fault.filename else "")
    return str(fault)
