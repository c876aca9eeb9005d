"""Looks at plug-in processes from outside: what hangs, what has too much memory, and how to end it whole."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from ..bus.node import Bus
from .memory import resident_bytes
from .pulse import read_work

SILENT_S = 10.0


def fault(bus: Bus, pid: int, instances: Iterable[str]) -> str | None:
    """Return why the process `pid`, which runs `instances`, must be stopped, in words, or None.

    One call longer than max(2 s, 20 x median); a loop that does not turn; private memory of the process and its
    descendants over the limit that it set itself from what the plug-in declares.
    """
    for name in instances:
        work = read_work(bus, name)
        if work is None or work.pid != pid:
            continue
        if work.late:
            return f"{name} hangs: one call takes {work.busy_s:.1f} s, the limit is {work.limit_s:.1f} s"
        if not work.busy_s and work.silent_s > SILENT_S:
            return f"{name} is silent since {work.silent_s:.0f} s (is its process stopped?)"
    limit = data_limit(pid)
    if limit is not None:
        used = sum(resident_bytes(each) or 0 for each in (pid, *descendants(pid)))
        if used > limit:
            return f"{', '.join(instances)}: out of memory: {used / 2**20:.0f} MiB, limit {limit / 2**20:.0f} MiB"
    return None


def data_limit(pid: int) -> int | None:
    """Return the RLIMIT_DATA of a process [bytes], or None where there is none."""
    try:
        for line in Path(f"/proc/{pid}/limits").read_text().splitlines():
            if line.startswith("Max data size"):
                soft = line.split()[3]
                return None if soft == "unlimited" else int(soft)
    except (OSError, ValueError, IndexError):
        pass
    return None


def children_of(pid: int) -> list[int]:
    """Return the children of a process, those it inherited too (Linux; elsewhere none are known)."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            found += [int(child) for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split()]
    return found


def descendants(pid: int) -> list[int]:
    """Return every living descendant of a process, nearest first (Linux; elsewhere none are known)."""
    found, todo = [], [pid]
    while todo:
        found += (new := children_of(todo.pop(0)))
        todo += new
    return found


class Family:
    """A process and whatever it started, remembered, so that all of it can be ended after its parent died too."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._members: dict[int, int] = {}

    def look(self) -> None:
        """Remember who is there now."""
        for pid in descendants(self.pid):
            began = _began(pid)
            if began is not None:
                self._members[pid] = began

    def kill(self) -> list[int]:
        """Kill them all, the process group and those that left it; return the descendants that were alive."""
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGSTOP)  # so that it starts nothing more
        self.look()
        killed = []
        for pid, began in self._members.items():
            if _began(pid) == began:  # else the number belongs to somebody else by now
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
        with contextlib.suppress(OSError):
            if os.getpgid(self.pid) == self.pid:
                os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)
        self._members.clear()
        return killed


def collect(pids: Iterable[int], seconds: float = 0.5) -> None:
    """Reap killed descendants that this process has inherited as their subreaper; the others' parents do it."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    for pid in pids:
        while _began(pid) is not None and time.monotonic() < deadline:
            try:
                if os.waitpid(pid, os.WNOHANG)[0] == pid:
                    break
            except ChildProcessError:
                if not _inherits():
                    break  # somebody else's to collect
            pause.wait(0.002)


def _inherits() -> bool:
    """Whether orphans come to this process (Linux: PR_GET_CHILD_SUBREAPER)."""
    if sys.platform != "linux":
        return False
    answer = ctypes.c_int(0)
    ctypes.CDLL(None).prctl(37, ctypes.byref(answer), 0, 0, 0)
    return bool(answer.value)


def _began(pid: int) -> int | None:
    """Return when a process began [clock ticks since boot], which with its number names it for ever."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
