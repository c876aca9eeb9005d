"""Sticky state of one rig: named rows of 64-bit words that every process of the rig sees.

iceoryx2 events coalesce and its messages end with their sender, so what must outlive both lives here: the next index
of every topic (never reused, not even after a SIGKILL), the credits of lossless readers, the heartbeats. Every word
is written by one owner at a time, 8 bytes, aligned; rows are claimed under a file lock. In local mode the rows are
plain memory of this process.

    row, 128 bytes:  name S48 | owner S24 | kind u4 | pid u4 | 6 words i8
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.errors import BusError, SharedMemoryError

try:
    import fcntl
except ImportError:  # Windows: one process at a time creates rows, untested
    fcntl = None  # type: ignore[assignment,unused-ignore]

_ROW = struct.Struct("<48s24sII6q")
ROWS = 1024
SIZE = _ROW.size * ROWS
TOPIC, CREDIT, PULSE, RUN = 1, 2, 3, 4
BEAT_NS = 1  # word of a PULSE row: when it beat last, CLOCK_MONOTONIC
_KIND_AT, _WORDS_AT = 72, 80


@dataclass(frozen=True, slots=True)
class Row:
    """One claimed row; `words` is live shared memory, one 64-bit integer an element."""

    number: int
    kind: int
    name: str
    owner: str
    pid: int
    words: memoryview


class Ledger:
    """The rows of one rig.

    Any thread may read and write words; claiming and releasing rows is serialised between threads and processes.
    """

    def __init__(self, path: Path | None, create: bool = True) -> None:
        """Open (or create) the ledger at `path`; None = memory of this process.

        Raises SharedMemoryError when there is no room for its 128 KiB.
        """
        self.path = path
        self._thread_lock = threading.RLock()
        self._depth = 0
        if path is None:
            self._fd = -1
            self._memory: Any = bytearray(SIZE)
        else:
            self._fd = self._open(path, os.O_CREAT if create else 0)
            self._memory = mmap.mmap(self._fd, SIZE)
        self._view = memoryview(self._memory)
        self._kinds = self._view.cast("I")[_KIND_AT // 4 :: _ROW.size // 4]

    @staticmethod
    def _open(path: Path, create: int) -> int:
        fd = os.open(path, os.O_RDWR | create | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            if os.fstat(fd).st_size < SIZE:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(fd, 0, SIZE)
                else:
                    os.ftruncate(fd, SIZE)
        except OSError as error:
            os.close(fd)
            raise SharedMemoryError(f"no room for the {SIZE} bytes of {path}", "free some shared memory") from error
        return fd

    @property
    def current(self) -> bool:
        """Whether the path still names this ledger (another process may have removed it with the rig)."""
        if self.path is None:
            return True
        try:
            return os.stat(self.path).st_ino == os.fstat(self._fd).st_ino
        except OSError:
            return False

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the rig's lock; re-entrant within a thread."""
        with self._thread_lock:
            self._depth += 1
            if self._depth == 1 and fcntl is not None and self._fd >= 0:
                fcntl.flock(self._fd, fcntl.LOCK_EX)
            try:
                yield
            finally:
                self._depth -= 1
                if self._depth == 0 and fcntl is not None and self._fd >= 0:
                    fcntl.flock(self._fd, fcntl.LOCK_UN)

    def try_lock(self) -> bool:
        """Take the rig's lock until `close`; False when another process holds it or there are no locks."""
        if not hasattr(fcntl, "flock"):
            return False
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return self.current

    def clear(self) -> None:
        """Zero every row; only under the lock, when no other process of the rig lives."""
        self._view[:] = bytes(SIZE)

    def claim(self, kind: int, name: str, owner: str = "", *, shared: bool = False) -> Row:
        """Return the row (kind, name, owner), a new one unless `shared` and it exists.

        Raises BusError when all rows are taken or a name is too long.
        """
        key, who = name.encode(), owner.encode()[:24]
        if len(key) > 48:
            raise BusError(f"the name {name!r} is longer than 48 bytes", "choose a shorter one")
        with self.locked():
            if shared:
                for row in self.rows(kind, name):
                    if row.owner.encode() == who:
                        return row
            try:
                number = self._kinds.tolist().index(0)
            except ValueError:
                raise BusError(
                    f"all {ROWS} rows of the rig's ledger are taken", "stop the rig and start it again"
                ) from None
            _ROW.pack_into(self._view, number * _ROW.size, key, who, 0, os.getpid(), 0, 0, 0, 0, 0, 0)
            self._kinds[number] = kind  # last: a reader without the lock sees a whole row or none
            return self._row(number)

    def release(self, row: Row) -> None:
        """Free a row; harmless when it is free already."""
        with self.locked():
            if self._row(row.number).pid == row.pid:
                self._kinds[row.number] = 0

    def rows(self, kind: int | None, name: str | None = None) -> list[Row]:
        """Return every row of a kind (None = of all kinds), or of a kind and name."""
        kinds = enumerate(self._kinds.tolist())
        found = [self._row(number) for number, each in kinds if (each if kind is None else each == kind)]
        return found if name is None else [row for row in found if row.name == name]

    def beats(self, within_s: float) -> bool:
        """Whether a process of the rig gave a sign of life in the last seconds, wherever on this machine it is."""
        since = time.monotonic_ns() - round(within_s * 1e9)
        return any(row.words[BEAT_NS] > since for row in self.rows(PULSE))

    def _row(self, number: int) -> Row:
        at = number * _ROW.size
        name, owner, kind, pid, *_ = _ROW.unpack_from(self._view, at)
        words = self._view[at + _WORDS_AT : at + _ROW.size].cast("q")
        return Row(number, kind, _text(name), _text(owner), pid, words)

    def close(self, *, remove: bool = False) -> None:
        """Let go of the file; `remove` also deletes it."""
        if self.path is not None and remove:
            self.path.unlink(missing_ok=True)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _text(field: bytes) -> str:
    return field.rstrip(b"\0").decode(errors="replace")
