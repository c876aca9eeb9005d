"""What a simulator alone knows, beside the record: SESSION/truth/, written by the instrument's process.

start, end: all that `truth()` said then; of `end` only what differs from `start`. GENERATION: what was true of each
of its frames. Each is NAME.json for plain values and NAME.npz for arrays, written to a side and moved into place.
"""

from __future__ import annotations

import math
import os
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import msgspec
import numpy as np

from ..data.errors import RecordError

FOLDER = "truth"
START, END = "start", "end"
LEFT_OUT = "left_out"
Values = dict[str, Any]


def write_values(folder: Path, name: str, values: Mapping[str, Any]) -> None:
    """Write `values`; a callable and what is no plain data is named under `left_out`. Raises OSError."""
    arrays: dict[str, np.ndarray] = {}
    plain: dict[str, Any] = {}
    left: list[str] = []
    for key, value in values.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
            arrays[key] = value
        else:
            try:
                plain[key] = _plain(value)
            except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):
                left.append(key)
    if left:
        plain[LEFT_OUT] = sorted(left)
    folder.mkdir(parents=True, exist_ok=True)
    if arrays:
        partial = folder / f"{name}.npz.partial"
        with partial.open("wb") as file:
            save: Any = np.savez  # its typed keywords are its own options
            save(file, **{_key(key): array for key, array in arrays.items()})
        os.replace(partial, folder / f"{name}.npz")
    partial = folder / f"{name}.json.partial"
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(plain)))
    os.replace(partial, folder / f"{name}.json")


def _key(name: str) -> str:
    """Return a name that numpy's own argument can't meet."""
    return f"{name}." if name in ("file", "allow_pickle") else name


def _plain(value: Any) -> Any:
    """Return plain data; raises TypeError for a callable or anything else that JSON has no word for."""
    if callable(value):
        raise TypeError("a function")
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    made = msgspec.to_builtins(value)
    return _plain(made) if isinstance(made, Mapping | list | tuple) else made


class TruthWriter:
    """Writes truth in a thread of its own, so that nobody waits for the disk. faults: what could not be written."""

    def __init__(self, session: Path) -> None:
        self.folder = session / FOLDER
        self.faults: list[str] = []
        self._start: Values | None = None
        self._queue: SimpleQueue[tuple[str, Values] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="truth", daemon=True)
        self._thread.start()

    def keep(self, name: str, values: Mapping[str, Any]) -> None:
        """Take what is true now; arrays must not change afterwards."""
        kept = dict(values)
        if name == START:
            self._start = kept
        elif name == END and self._start is not None:
            kept = {key: value for key, value in kept.items() if not _same(value, self._start.get(key))}
        self._queue.put((name, kept))

    def close(self) -> None:
        """Write what is left, and end."""
        self._queue.put(None)
        self._thread.join()

    def _write(self) -> None:
        while (found := self._queue.get()) is not None:
            name, values = found
            try:
                write_values(self.folder, name, values)
            except (OSError, ValueError) as error:
                self.faults.append(f"truth/{name} can't be written: {error}")


def _same(value: Any, other: Any) -> bool:
    if isinstance(value, np.ndarray) and isinstance(other, np.ndarray):
        return value is other or (value.dtype == other.dtype and np.array_equal(value, other))
    return type(value) is type(other) and not isinstance(value, np.ndarray) and bool(value == other)


class SessionTruth:
    """The truth beside a record; raises RecordError where there is none."""

    def __init__(self, session: Path | str) -> None:
        self.folder = Path(session) / FOLDER
        if not Path(session).is_dir():
            raise RecordError(f"no session {session}", "give the folder of a session")
        if not any(self.folder.glob("*.json")):
            raise RecordError(
                f"{session} was not made by a simulator: it has no {FOLDER}/",
                "score a session of one, such as probeloop demo stem",
            )

    @property
    def generations(self) -> list[int]:
        """Return the generations whose frames' truth was kept, in order."""
        return sorted(int(path.stem) for path in self.folder.glob("*.json") if path.stem.isdigit())

    def values(self, name: str | int) -> Values:
        """Return what was kept under a name or generation, {} for nothing; raises RecordError for a torn file."""
        plain, arrays = self.folder / f"{name}.json", self.folder / f"{name}.npz"
        made: Values = {}
        try:
            if plain.exists():
                made |= msgspec.json.decode(plain.read_bytes(), type=dict[str, Any])
            if arrays.exists():
                with arrays.open("rb") as file, np.load(file, allow_pickle=False) as kept:
                    made |= {key.removesuffix("."): kept[key] for key in kept.files}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, msgspec.MsgspecError) as error:
            raise RecordError(
                f"{plain.with_suffix('')} can't be read: {error}", "its disk was full or failed"
            ) from None
        return made

    @property
    def start(self) -> Values:
        """All that was true when the session began."""
        return self.values(START)

    @property
    def end(self) -> Values:
        """All that was true when it ended; where its process was killed, what was true at the start."""
        return self.start | self.values(END)
