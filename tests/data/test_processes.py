"""Who lives and who is gone, on systems of several kinds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from probeloop.data import processes
from probeloop.data.processes import is_alive


def test_a_process_that_died_is_seen_dead_even_unreaped() -> None:
    assert is_alive(os.getpid())
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    try:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie now
        assert not is_alive(child.pid)
    finally:
        child.wait()


def test_where_signal_0_is_no_question_a_process_counts_as_living(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def kill(pid: int, number: int) -> None:
        pytest.fail("Windows would send it Ctrl-C")

    monkeypatch.setattr(processes, "Path", lambda path: tmp_path / "no" / "proc" / "here")
    monkeypatch.setattr(processes, "os", SimpleNamespace(name="nt", kill=kill))
    assert is_alive(os.getpid())
