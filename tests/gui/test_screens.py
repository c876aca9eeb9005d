"""The programs themselves: no screen, and a real X server where there is one to be had."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests_gui_fake import FakeRig

MODULES = ("probeloop.gui.app", "probeloop.gui.stop_window")


def run(module: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")}
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("display", ["", ":4711"])
def test_without_a_screen_it_is_one_line_and_no_traceback(module: str, display: str) -> None:
    done = run(module, "no-rig", **({"DISPLAY": display} if display else {}))
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "screen" in line
    assert "--headless" in line


@pytest.mark.parametrize("module", MODULES)
def test_without_a_rig_s_name_it_says_how(module: str) -> None:
    done = run(module)
    assert done.returncode == 2
    assert f"python -m {module} RIG" in done.stderr


def eventually(what: Callable[[], Any], seconds: float = 20.0) -> Any:
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not (found := what()):
        assert time.monotonic() < deadline, "it never happened"
        pause.wait(0.05)
    return found


@pytest.mark.xvfb
@pytest.mark.skipif(shutil.which("xvfb-run") is None, reason="needs xvfb-run: apt-get install xvfb xauth")
@pytest.mark.parametrize("module", MODULES)
def test_under_a_real_x_server_it_opens_joins_and_ends_in_order(module: str, rig_id: str, tmp_path: Path) -> None:
    fake = FakeRig(rig_id, local=False)
    environment = {k: v for k, v in os.environ.items() if k not in ("QT_QPA_PLATFORM", "WAYLAND_DISPLAY")}
    environment |= {"QT_QPA_PLATFORM": "xcb", "PROBELOOP_CONFIG": str(tmp_path)}
    command = ["xvfb-run", "-a", "-s", "-screen 0 1600x1000x24", sys.executable, "-m", module, rig_id]
    out = tmp_path / "out"
    with out.open("wb") as file:
        program = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
        try:
            if module.endswith("app"):
                eventually(lambda: any(type(r).__name__ == "Describe" for r in fake.requests))
                fake.scan()
            inside = eventually(lambda: _python(program.pid))
            eventually(lambda: len(inside.threads()) > 3)
            eventually(lambda: _drawn(inside, module))
            inside.terminate()
            assert program.wait(20) == 0, out.read_text()
        finally:
            for child in psutil.Process(program.pid).children(recursive=True) if program.poll() is None else ():
                child.kill()
            if program.poll() is None:
                program.kill()
            program.wait()
            fake.close()
    assert "Traceback" not in out.read_text()
    assert (tmp_path / "window.json").exists() == module.endswith("app")


def _python(pid: int) -> psutil.Process | None:
    try:
        children = psutil.Process(pid).children(recursive=True)
        return next((child for child in children if child.name().startswith("python")), None)
    except psutil.Error:
        return None


def _drawn(process: psutil.Process, module: str) -> bool:
    """Whether it talks to its X server, and handles SIGTERM by now."""
    caught = next(line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "SigCgt" in line)
    maps = Path(f"/proc/{process.pid}/maps").read_text()
    return bool(int(caught.split()[1], 16) >> 14 & 1) and "libqxcb" in maps
