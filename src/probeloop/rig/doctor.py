"""`probeloop doctor`: what this machine has, what it lacks, and the next move."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

from ..bus.topic import free_bytes
from ..data.errors import ProbeloopError
from ..discover import installed
from .output import emit_json
from .run import has_screen
from .supervisor import running_rigs

_EXTRAS = {"gui": ("PySide6", "pyqtgraph"), "formats": ("rsciio", "h5py", "igor2"), "remote": ("zmq",)}
_QT_LIBRARIES = ("libGL.so.1", "libEGL.so.1", "libxkbcommon.so.0", "libfontconfig.so.1", "libdbus-1.so.3",
                 "libglib-2.0.so.0")  # fmt: skip


def examine() -> dict[str, Any]:
    """Return facts about the machine, and `advice`: lines that each end with a next move."""
    extras = {name: all(map(installed, modules)) for name, modules in _EXTRAS.items()}
    data = Path(os.environ.get("PROBELOOP_DATA", "../shared/data"))
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "shared_memory_free_mb": round(free_bytes() / 2**20),
        "disk_free_gb": round(shutil.disk_usage(".").free / 2**30, 1),
        "screen": has_screen(),
        "extras": extras,
        "measured_data": str(data) if data.is_dir() else None,
        "running_rigs": running_rigs(),
    }
    advice = [f'no extra {name!r}: pip install "probeloop[{name}]"' for name, there in extras.items() if not there]
    if facts["shared_memory_free_mb"] < 256:
        advice.append("shared memory has less than 256 MiB free: mount /dev/shm larger (docker: --shm-size=512m)")
    if facts["disk_free_gb"] < 5:
        advice.append("less than 5 GB of disk is free here: record elsewhere with --record DIR")
    if sys.platform == "linux":
        missing = [name for name in _QT_LIBRARIES if not _loadable(name)]
        if missing:
            advice.append(f"Qt can't open windows without {', '.join(missing)}: make setup installs them on Debian")
    if facts["measured_data"] is None:
        advice.append("no measured data: set PROBELOOP_DATA, or name a file with --set instrument.file=PATH")
    if not facts["screen"]:
        advice.append("no screen: use --headless; the report.html shows what was seen")
    if sys.platform != "linux":
        advice.append(f"{sys.platform} is untested: everything but killing of descendants should work; tell us")
    facts["advice"] = advice
    return facts


def doctor(options: argparse.Namespace) -> int:
    """Print what `examine` found, or with --live what a running rig does."""
    if options.live:
        from .live import live

        return live(options)
    if options.connect is not None or options.seconds is not None:
        raise ProbeloopError("--connect and --seconds are for a running rig", "probeloop doctor --live")
    facts = examine()
    if options.json:
        emit_json(facts)
        return 0
    for name, value in facts.items():
        if name != "advice":
            sys.stdout.write(f"{name.replace('_', ' '):24}{value}\n")
    sys.stdout.write("\n".join(["", *(facts["advice"] or ["nothing is missing"])]) + "\n")
    return 0


def _loadable(library: str) -> bool:
    import ctypes

    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
