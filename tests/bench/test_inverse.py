"""The inverse experiment as a rig runs it: its process is killed twice, and nothing is measured twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="no torch: pip install 'probeloop[ml]'")
pytestmark = [pytest.mark.bench, pytest.mark.timeout(400)]


def events(folder: Path) -> list[dict[str, Any]]:
    """What is recorded so far; a torn last line is left out."""
    path = folder / "events.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def process_of(folder: Path, name: str) -> int | None:
    """The number of a process of the rig that records into `folder`."""
    wanted = os.fsencode(folder / "log" / f"{name}.json")
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if wanted in each.read_bytes():
                return int(each.parent.name)
        except OSError:
            continue
    return None


@pytest.mark.parametrize("what", ["spm", "stem"])
def test_killed_twice_it_finishes_and_repeats_no_measurement(what: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "probeloop.cli", "demo", what, "--plan", "inverse", "--headless", "--seed", "2"]
    options = ["--record", str(tmp_path), "--json", "--set", f"name={what}-inverse-killed"]
    rig = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
    try:
        for number in (15, 35):
            folder = measured(rig, tmp_path, number)
            pid = process_of(folder, "experiment")
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
        told, _ = rig.communicate(timeout=300)
    finally:
        rig.terminate()
        rig.wait()
    plan = json.loads(told)["plans"][-1]
    assert (plan["state"], plan["spectra_measured"]) == ("finished", 60), plan["reason"]
    places = [
        tuple(event["command"]["position"])
        for event in events(folder)
        if event["type"] == "Verdict" and event["accepted"] and event["command"]["type"] == "AcquireSpectrum"
    ]
    assert len(places) == len(set(places)) == 60
    page = (folder / "report.html").read_text(encoding="utf-8")
    for title in ("the way over", "learned map", "truth", "its uncertainty", "regret", "structure and property"):
        assert f"<figcaption>{title}" in page


def measured(rig: Any, where: Path, number: int) -> Path:
    """Wait until so many spectra were looked at; return the session's folder."""
    until = time.monotonic() + 150
    while time.monotonic() < until and rig.poll() is None:
        for folder in where.iterdir():
            if sum(event["type"] == "Observed" and event["kind"] == "observe" for event in events(folder)) >= number:
                return folder
        time.sleep(0.1)
    raise AssertionError(f"{number} spectra were never measured")
