"""Opens a session, also while the recorder writes it: topics, arrays read when asked for, blocks, events."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..data.axes import StreamSpec
from ..data.control import Event
from ..data.errors import RecordError
from ..data.frame import BlockFlag, FrameBlock
from .schema import data_layout
from .stored import StoredArray, read_json


@dataclass(frozen=True)
class RecordedTopic:
    """One recorded `.zspy`: a scan (generation >= 0), or the point measurements of a topic (generation -1)."""

    path: Path
    topic: str
    generation: int

    @cached_property
    def _group(self) -> Path:
        found = [path for path in (self.path / "Experiments").glob("*") if path.is_dir()]
        if len(found) != 1:
            raise RecordError(f"{self.path} holds {len(found)} signals, not one")
        return found[0]

    @cached_property
    def about(self) -> dict[str, Any]:
        """What the file says of itself: spec, generation, command_id, cause, complete ..."""
        return read_json(self._group / "original_metadata" / "probeloop" / ".zattrs")

    @cached_property
    def spec(self) -> StreamSpec:
        """What the stream was."""
        try:
            return msgspec.json.decode(str(self.about.get("spec", "")), type=StreamSpec)
        except msgspec.MsgspecError as error:
            raise RecordError(f"{self.path} does not say what it holds: {error}", "open it in HyperSpy") from error

    @property
    def complete(self) -> bool:
        """True when the recorder closed it."""
        return bool(read_json(self._group / "original_metadata" / "probeloop" / ".zattrs").get("complete"))

    @property
    def is_scan(self) -> bool:
        """True for a map of known shape."""
        return self.generation >= 0

    def array(self) -> StoredArray:
        """Return the data as it lies on disk now; raises RecordError."""
        return StoredArray.open(self._group / "data")

    def __len__(self) -> int:
        """Frames the file has room for (a scan) or holds (points)."""
        return math.prod(self.spec.nav_shape) if self.is_scan else self.array().shape[0]

    def data(self, first: int = 0, last: int | None = None) -> NDArray[Any]:
        """Return rows [first, last) of the first scan axis (or points), (rows, *nav[1:], *frame_shape)."""
        stored = self.array()
        if self.is_scan and data_layout(self.spec).lead:  # channels come first on disk
            return np.moveaxis(stored.read(first, last, axis=1), 0, -1)
        return stored.read(first, last)

    def column(self, name: str, first: int = 0, last: int | None = None) -> NDArray[Any]:
        """Return rows of a column: index, time_ns, position, dose, frame_flags, revision, present ..."""
        made = StoredArray.open(self._group / "original_metadata" / "probeloop" / name).read(first, last)
        return made if self.is_scan else made[: max(0, len(self) - first)]

    @property
    def present(self) -> NDArray[np.bool_]:
        """What was measured, (*nav,) or (points,)."""
        return self.column("present")

    def blocks(self, generation: int | None = None, wanted: NDArray[np.bool_] | None = None) -> Iterator[FrameBlock]:
        """Yield what was measured, in the order of the scan, a block for each chunk; of points, one block each.

        wanted: pixels of a scan to read, (cells,); chunks without any are left out.
        """
        if self.is_scan:
            yield from self._scan_blocks(wanted)
            return
        generations = self.column("generation")
        for row in range(len(self)):
            if generation is None or generations[row] == generation:
                flags = BlockFlag.SCAN_BEGIN | BlockFlag.SCAN_END
                yield self._block(np.array([row]), row, row + 1, int(generations[row]), flags)

    def _scan_blocks(self, wanted: NDArray[np.bool_] | None) -> Iterator[FrameBlock]:
        nav = self.spec.nav_shape
        per_row = math.prod(nav[1:])
        rows = max(1, self.array().chunks[1 if data_layout(self.spec).lead else 0])  # each chunk is decoded once
        for first in range(0, nav[0], rows):
            last = min(nav[0], first + rows)
            cells = slice(first * per_row, last * per_row)
            if wanted is not None and not wanted[cells].any():
                continue
            present = self.column("present", first, last).ravel()
            there = np.flatnonzero(present if wanted is None else present & wanted[cells])
            if len(there):
                yield self._block(there + first * per_row, first, last, self.generation, BlockFlag(0), there)

    def _block(
        self, index: NDArray[np.int64], first: int, last: int, generation: int, flags: BlockFlag,
        pick: NDArray[np.int64] | None = None,
    ) -> FrameBlock:  # fmt: skip
        pick = np.arange(len(index)) if pick is None else pick

        def column(name: str, width: tuple[int, ...] = ()) -> NDArray[Any]:
            return self.column(name, first, last).reshape((-1, *width))[pick]

        data = self.data(first, last).reshape((-1, *self.spec.frame_shape))[pick]
        number, revision = column("index"), column("revision")
        return FrameBlock(
            spec=self.spec, index=int(number[0]), count=len(index), flags=flags, generation=generation,
            revision=int(revision.max()), source_index=-1, published_ns=0, exposed_ns=0, checksum=0, data=data,
            time_ns=column("time_ns"), scan_index=index if self.is_scan else column("scan_index"),
            position=column("position", (2,)), dose=column("dose"), frame_flags=column("frame_flags"),
        )  # fmt: skip


class Session:
    """A recorded session, closed or still being written."""

    def __init__(self, folder: Path | str) -> None:
        """Open it; raises RecordError when it is none."""
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise RecordError(f"no session {self.folder}", "give the folder of a session")
        if not (self.folder / "events.jsonl").exists() and not self.topics():
            raise RecordError(f"{self.folder} is no session", "it has no events.jsonl and no .zspy in it")

    def topics(self) -> list[RecordedTopic]:
        """Return all that was recorded, by topic and generation; read anew at every call."""
        found = [RecordedTopic(path, path.stem, -1) for path in self.folder.glob("*.zspy")]
        scans = [path for path in self.folder.glob("*/*.zspy") if path.stem.isdigit()]
        found += [RecordedTopic(path, path.parent.name, int(path.stem)) for path in scans]
        return sorted(found, key=lambda t: (t.topic, t.generation))

    def topic(self, name: str, generation: int | None = None) -> RecordedTopic:
        """Return a topic's record of a generation (None = the newest); raises RecordError."""
        found = [t for t in self.topics() if t.topic == name and generation in (None, t.generation)]
        if not found:
            there = ", ".join(sorted({t.topic for t in self.topics()})) or "nothing"
            what = name if generation is None else f"{name} of generation {generation}"
            raise RecordError(f"{what} was not recorded", f"there is: {there}")
        return found[-1]

    def blocks(self, name: str, generation: int | None = None) -> Iterator[FrameBlock]:
        """Yield what was measured of a topic in a generation (points: None = all)."""
        points = [t for t in self.topics() if t.topic == name and not t.is_scan]
        if points:
            for each in points:
                yield from each.blocks(generation)
            return
        yield from self.topic(name, generation).blocks()

    def events(self) -> Iterator[Event]:
        """Yield the events in the order they were written; a torn last line is left out."""
        path = self.folder / "events.jsonl"
        if not path.exists():
            return
        decoder = msgspec.json.Decoder(Event)
        with path.open("rb") as file:
            for line in file:
                try:
                    yield decoder.decode(line)
                except (msgspec.MsgspecError, RecursionError):
                    continue


def open_session(folder: Path | str) -> Session:
    """Open a session folder; raises RecordError when it is none."""
    return Session(folder)
