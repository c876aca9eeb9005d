"""The memory of a process: how much it may have, and how much it has (Linux; elsewhere nothing is known)."""

from __future__ import annotations

import contextlib
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment,unused-ignore]


def limit_memory(megabytes: int | None) -> None:
    """Let this process allocate `megabytes` [MiB] more than it has now; None = no limit.

    RLIMIT_DATA: RLIMIT_AS would count the shared-memory maps of the bus and break them.
    """
    used = data_bytes("self")
    if resource is None or used is None:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = hard if megabytes is None else used + megabytes * 2**20
    if hard != resource.RLIM_INFINITY:
        soft = min(soft, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def data_bytes(pid: int | str) -> int | None:
    """Return what counts for RLIMIT_DATA of a process [bytes], or None where it can't be read."""
    return _status(pid, "VmData:")


def resident_bytes(pid: int | str) -> int | None:
    """Return the private memory of a process that is in RAM [bytes], or None where it can't be read."""
    return _status(pid, "RssAnon:")


def _status(pid: int | str, key: str) -> int | None:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None
