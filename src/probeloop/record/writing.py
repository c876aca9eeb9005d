"""The threads that write: a bounded queue of blocks in, files out, a flush every half second, fsync beside it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from ..data.frame import FrameBlock
from .chunks import Disk
from .session import SessionWriter

FLUSH_S = 0.5
QUEUE_BYTES = 64 << 20
LAST_FILES_S = 0.2
Sync = Literal["never", "second", "chunk"]


class Settler:
    """The thread that brings files to the disk itself: it waits for the disk, so that the writing thread need not.

    A file that was written again before its turn is brought there once. fault: what went wrong last, or "".
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._names: dict[str, None] = {}
        self._changed = threading.Condition()
        self._until: float | None = None
        self.fault = ""
        self._thread = threading.Thread(target=self._loop, name="settler")
        self._thread.start()

    def take(self, names: list[str]) -> None:
        """Bring these there too."""
        with self._changed:
            self._names.update(dict.fromkeys(names))
            self._changed.notify()

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._names or self._until is not None)
                if not self._names or (self._until is not None and time.monotonic() > self._until):
                    return
                name = next(iter(self._names))
                del self._names[name]
            try:
                self._disk.settle(name)
            except OSError as error:
                self.fault = f"fsync: {error.strerror}"

    def close(self) -> None:
        """End, after as much of the rest as takes 0.2 s."""
        with self._changed:
            self._until = time.monotonic() + LAST_FILES_S
            self._changed.notify()
        self._thread.join()


class WritingThread:
    """Owns a SessionWriter. `put` may be called from one other thread.

    told: called in the writing thread after each flush.
    """

    def __init__(self, writer: SessionWriter, sync: Sync, told: Callable[[], None], flush_s: float = FLUSH_S) -> None:
        self.writer, self._sync, self._told, self._flush_s = writer, sync, told, flush_s
        writer.disk.sync = sync == "chunk"
        self._queue: deque[FrameBlock] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._ending = False
        self._flushed = time.monotonic()
        self._settled = self._flushed
        self._settler = Settler(writer.disk)
        self._thread = threading.Thread(target=self._loop, name="writer")
        self._thread.start()

    def put(self, block: FrameBlock, timeout_s: float) -> bool:
        """Queue a block with memory of its own; False when the queue stays full."""
        with self._changed:
            if self._bytes > QUEUE_BYTES and not self._changed.wait_for(
                lambda: self._bytes <= QUEUE_BYTES, timeout_s
            ):
                return False
            self._queue.append(block)
            self._bytes += block.data.nbytes
            if len(self._queue) == 1:
                self._changed.notify_all()
        return True

    def _loop(self) -> None:
        while True:
            with self._changed:
                due = self._flushed + self._flush_s - time.monotonic()
                if not self._queue and not self._ending and due > 0:
                    self._changed.wait(due)
                block = self._queue.popleft() if self._queue else None
                if block is None and self._ending:
                    return
            if block is not None:
                self.writer.add(block)
                with self._changed:
                    self._bytes -= block.data.nbytes
                    self._changed.notify_all()
            if time.monotonic() - self._flushed >= self._flush_s:
                self._flush()

    def _flush(self) -> None:
        self._flushed = time.monotonic()  # from the start of a flush, so that a slow disk is not asked less often
        self.writer.flush()
        if self._settler.fault:
            self.writer.faults.append(self._settler.fault)
            self._settler.fault = ""
        self._told()
        if self._sync != "second":
            self.writer.disk.unsynced.clear()
        elif self._flushed - self._settled >= 1.0:
            self._settled = self._flushed
            self._settle()

    def _settle(self) -> None:
        names, self.writer.disk.unsynced = self.writer.disk.unsynced, []
        self._settler.take(names)

    def close(self) -> None:
        """Write what is queued, close every file, end the thread."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self._thread.join()
        self.writer.close()
        if self._sync == "second":
            self._settle()
        self._settler.close()
        self._told()
