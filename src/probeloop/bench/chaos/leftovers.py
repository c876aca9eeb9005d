"""What a rig has left behind: processes, shared memory, and the marks of its nodes and services."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from pathlib import Path

from ...bus.node import rig_prefix, shared_memory_folder


def processes_of(rig_id: str) -> dict[int, str]:
    """Return the living processes whose command line names the rig, forks of plug-ins included: number -> name."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            line = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            lives = (folder / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except (OSError, IndexError):
            continue
        if lives and any(rig_id in word for word in line):
            config = next((Path(word).stem for word in line if word.endswith(".json")), "")
            found[int(folder.name)] = config or Path(line[0]).name
    return found


def files_of(rig_id: str) -> list[Path]:
    """Return every file of the rig in shared memory, and those that mark its nodes and services."""
    home = Path(tempfile.gettempdir()) / "iceoryx2"
    folders = (shared_memory_folder(), home / "nodes", home / "services")
    return [path for folder in folders for path in sorted(folder.glob(f"{rig_prefix(rig_id)}*"))]


def left_by(rig_id: str, grace_s: float = 10.0) -> list[str]:
    """Return in words what is still there `grace_s` [s] after the rig's end: a recorder writes what it holds."""
    deadline, pause = time.monotonic() + grace_s, threading.Event()
    while True:
        left = [f"process {pid} ({name})" for pid, name in processes_of(rig_id).items()]
        left += [str(path) for path in files_of(rig_id)]
        if not left or time.monotonic() > deadline:
            return left
        pause.wait(0.05)
