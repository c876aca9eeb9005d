"""The script that brings system libraries: it asks for nothing that is there, and names what it can't install."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "system-libraries"
WINDOW = "libglib2.0-0 libgl1 libegl1 libxkbcommon0 libfontconfig1 libdbus-1-3"
NAMES = """
libglib-2.0.so.0 libGL.so.1 libEGL.so.1 libxkbcommon.so.0 libfontconfig.so.1 libdbus-1.so.3 libxcb-cursor.so.0
libxcb-icccm.so.4 libxcb-keysyms.so.1 libxcb-shape.so.0 libxkbcommon-x11.so.0
"""
ALL_THERE = "\n".join(f"\t{name} (libc6,x86-64) => /lib/{name}" for name in NAMES.split())


def run(
    tmp_path: Path, what: str, libraries: str, *, user: int = 1000, display: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run the script with stand-ins for ldconfig, id, apt-get, Xvfb and xauth."""
    programs = {
        "ldconfig": f"cat <<'END'\n{libraries}\nEND",
        "id": f"echo {user}",
        "uname": "echo Linux",
        "apt-get": f'echo "$@" >> {tmp_path}/apt',
        "Xvfb": "true",
        "xauth": "true",
    }
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "DISPLAY": display}
    return subprocess.run(
        ["bash", str(SCRIPT), what], capture_output=True, text=True, env=environment, timeout=30, check=False
    )


@pytest.mark.parametrize("what", ["window", "tests"])
def test_it_is_silent_where_everything_is_there(tmp_path: Path, what: str) -> None:
    result = run(tmp_path, what, ALL_THERE, user=0, display=":0")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert not (tmp_path / "apt").exists()


def test_who_is_not_root_is_told_what_to_install(tmp_path: Path) -> None:
    result = run(tmp_path, "window", "")
    assert result.returncode == 1
    assert f"sudo apt-get install {WINDOW}\n" in result.stderr
    assert not (tmp_path / "apt").exists()


def test_root_gets_it_installed(tmp_path: Path) -> None:
    result = run(tmp_path, "window", ALL_THERE.replace("libEGL.so.1 ", "libEGL.so.0 "), user=0)
    assert result.returncode == 0
    assert (tmp_path / "apt").read_text().splitlines()[-1].split()[-1] == "libegl1"


def test_a_screen_needs_more(tmp_path: Path) -> None:
    assert "libxcb-cursor0" not in run(tmp_path, "window", "").stderr
    assert "libxcb-cursor0" in run(tmp_path, "window", "", display=":0").stderr
    assert "libxcb-cursor0" in run(tmp_path, "tests", "").stderr


def test_a_wrong_word_is_refused(tmp_path: Path) -> None:
    assert run(tmp_path, "everything", "").returncode == 2
