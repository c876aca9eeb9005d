"""Which processes of a rig carry the library of the networks: that of who segments, and no other."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="no torch: pip install 'probeloop[ml]'")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def carries(pid: int) -> bool:
    """True for a process that has loaded torch."""
    try:
        return "libtorch" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


def test_only_who_segments_loads_torch(launch: Callable[..., Any], quick: str) -> None:
    plugins = {"segment": "segment", "fft": "fourier", "ridges": "ridges"}
    words = [f'plugins.{name}={{use="{use}", input=["scan"], own_process=true}}' for name, use in plugins.items()]
    run = launch("run", quick, *(word for each in words for word in ("--set", each)))
    run.until_frames("scan", 128)
    processes = run.until(
        lambda: found if any(map(carries, (found := run.processes).values())) else None, "a process with torch"
    )
    assert len(processes) >= 5
    loaded = {name for name, pid in processes.items() if carries(pid)}
    assert len(loaded) == 1
    assert "segment" in next(iter(loaded))
    assert not carries(run.popen.pid)
