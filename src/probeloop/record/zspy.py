"""One `.zspy` folder being written: made whole or not at all, then filled so that it can be opened at any moment."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from ..data.axes import StreamSpec
from .chunks import ChunkedArray, Disk
from .schema import Column, Layout, axes_of, column_layout, dump, experiment, metadata_of, skeleton, spec_text

PRESENT = Column("present", "|b1", False)


class Zspy:
    """The tree of one recorded signal: `data`, and its columns below `original_metadata/probeloop`.

    about: plain data for the file to carry (generation, command, cause, revision, calibrations ...).
    """

    def __init__(
        self, disk: Disk, path: Path, spec: StreamSpec, layout: Layout, columns: tuple[Column, ...],
        about: Mapping[str, Any], points: bool,
    ) -> None:  # fmt: skip
        self.disk, self.path, self.spec, self.about = disk, path, spec, dict(about)
        self.points = points
        self.exists = path.is_dir()
        self._group = f"Experiments/{experiment(spec.name)}"
        self._partial = path.with_name(path.name + ".partial")
        self.data = ChunkedArray(disk, self._at(f"{self._group}/data"), layout)
        nav = layout.nav
        self.columns = {
            c.name: ChunkedArray(disk, self._at(f"{self._columns}/{c.name}"), column_layout(c, nav, points))
            for c in (*columns, PRESENT)
        }

    @property
    def _columns(self) -> str:
        return f"{self._group}/original_metadata/probeloop"

    def _at(self, name: str) -> Path:
        return (self.path if self.exists else self._partial) / name

    def attributes(self, complete: bool) -> dict[str, Any]:
        """Return what the file says about itself."""
        plain = {
            key: value if isinstance(value, str | int | float | bool) else json.dumps(value)
            for key, value in self.about.items()
        }
        return {**plain, "spec": spec_text(self.spec), "complete": complete}

    def begin(self) -> None:
        """Write the tree, arrays left out, beside its place; raises OSError."""
        shutil.rmtree(self._partial, ignore_errors=True)
        now = datetime.now().astimezone()
        extra: dict[str, Any] = {
            key: self.about[key] for key in ("session", "first_generation", "command_id") if key in self.about
        }
        metadata = metadata_of(self.spec, extra, f"{now:%Y-%m-%d}", f"{now:%H:%M:%S}")
        axes = axes_of(self.spec, self.data.layout.nav[0] if self.points else None)
        files = skeleton(self.spec.name, axes, metadata, {"probeloop": self.attributes(False)})
        for name, value in files.items():
            path = self._partial / name
            self.disk.make(path.parent)
            self.disk.put(path, dump(value))
        for array in self.arrays:
            array.forget_folders()
            self.disk.make(array.path)

    def move_in(self) -> None:
        """Move the finished tree into place: from now on it is there, whole; raises OSError."""
        self.disk.system.replace(str(self._partial), str(self.path))
        self.exists = True
        self.disk.unsynced = [name.replace(str(self._partial), str(self.path), 1) for name in self.disk.unsynced]
        for array in self.arrays:
            array.path = self.path / array.path.relative_to(self._partial)

    @property
    def arrays(self) -> list[ChunkedArray]:
        """Every array: columns, `present`, data."""
        return [*self.columns.values(), self.data]

    def finish(self, rows: int | None = None) -> None:
        """Say that the record is complete: sizes, sweep, `.zmetadata`, and last `complete`; raises OSError."""
        if rows is not None:
            axis = self._at(f"{self._group}/axis-0/.zattrs")
            self.disk.put(axis, dump({**json.loads(axis.read_bytes()), "size": rows}))
        for left in self.path.rglob("*.partial"):
            with contextlib.suppress(OSError):
                left.unlink()
        attributes = self._at(f"{self._columns}/.zattrs")
        told = self.attributes(True)
        everything = {
            str(file.relative_to(self.path).as_posix()): json.loads(file.read_bytes())
            for file in sorted(_json_files(self.path))
        }
        everything[str(attributes.relative_to(self.path).as_posix())] = told
        self.disk.put(self.path / ".zmetadata", dump({"zarr_consolidated_format": 1, "metadata": everything}))
        self.disk.put(attributes, dump(told))

    def reopen_for_writing(self) -> None:
        """Take the consolidated copy away: it would be stale. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path / ".zmetadata")
        attributes = self._at(f"{self._columns}/.zattrs")
        told = json.loads(attributes.read_bytes())
        if told.get("complete"):
            self.disk.put(attributes, dump({**told, "complete": False}))


def _json_files(folder: Path) -> list[Path]:
    """Return the JSON files of a tree without looking into the folders of chunks."""
    found: list[Path] = []
    for here, folders, files in os.walk(folder):
        found += [Path(here, name) for name in files if name in (".zgroup", ".zattrs", ".zarray")]
        folders[:] = [name for name in folders if not (".zarray" in files and name.isdigit())]
    return found
