"""Whole runs of the program, each a rig of its own name in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

PATIENCE = 60.0  # [s] for what takes 2 s on a machine that is not busy

# A rig that starts fast: measured data made here, no plug-in, one scan of 40 s unless a test says otherwise.
QUICK = """
schema = 1
[instrument]
use = "replay"
file = "map.npy"
pixel_size = "5 nm"
[[plan]]
use = "overview"
parameters = { shape = [128, 128], dwell_time = "2.5 ms" }
"""


class Run:
    """A probeloop command that runs a rig."""

    def __init__(self, arguments: list[str], records: Path, prefix: list[str], name: str) -> None:
        self.name = name or f"t-{uuid.uuid4().hex[:12]}"
        self.records = records
        self.started = time.monotonic()
        self.popen = subprocess.Popen(
            [*prefix, sys.executable, "-m", "probeloop.cli", *arguments, "--headless", "--json",
             "--set", f"name={self.name}", "--record", str(records)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.out = self.err = ""

    def wait(self, seconds: float = PATIENCE) -> int:
        """Wait for its end; return the exit code."""
        self.out, self.err = self.popen.communicate(timeout=seconds)
        return self.popen.returncode

    def summary(self, seconds: float = PATIENCE) -> dict[str, Any]:
        """Wait for its end; return what it printed."""
        code = self.wait(seconds)
        assert "Traceback" not in self.err
        assert self.out, f"exit code {code}: {self.err}"
        made: dict[str, Any] = json.loads(self.out)
        return made

    def told(self, seconds: float = PATIENCE) -> list[str]:
        """Wait for a run that must fail; return the lines that it told the person."""
        assert self.wait(seconds) not in (0, None)
        assert "Traceback" not in self.out + self.err
        lines = self.err.splitlines()
        assert lines
        assert all(line.startswith("probeloop: ") for line in lines)
        return lines

    @property
    def folder(self) -> Path:
        """Its session."""
        return until(lambda: next(iter(self.records.glob(f"*_{self.name}")), None), "a session folder")

    @property
    def processes(self) -> dict[str, int]:
        """The ids of its living processes by name."""
        found = {}
        for process in psutil.process_iter(["cmdline", "status"]):
            line = process.info["cmdline"] or []
            if process.info["status"] != psutil.STATUS_ZOMBIE and line[1:3] == ["-m", "probeloop.rig.process"]:
                path = Path(line[3])
                if path.parents[1].name.endswith(self.name):
                    found[path.stem] = process.pid
        return found

    def until_processes(self, *names: str) -> dict[str, int]:
        """Wait until these live; return all that do."""
        until(lambda: self.popen.poll() is not None or set(names) <= self.processes.keys(), f"{', '.join(names)}")
        return self.processes

    def until_frames(self, topic: str, count: int = 1) -> int:
        """Wait until the recorder has taken that many frames of a topic; return how many."""
        from probeloop.data.control import Describe
        from probeloop.data.errors import ProbeloopError
        from probeloop.rig.client import Connection

        folder = self.folder
        until(lambda: (folder / "log" / "recorder.json").exists(), "the recorder's start")
        with Connection(self.name, "test") as connection:

            def taken() -> int:
                assert self.popen.poll() is None, "the run ended"
                try:
                    state = getattr(connection.request("recorder", Describe(), 1.0), "state", {})
                except ProbeloopError:
                    return 0
                there = int(state.get("topics", {}).get(topic, {}).get("frames", 0))
                return there if there >= count else 0

            return until(taken, f"{count} frames on {topic}")

    def events(self) -> list[dict[str, Any]]:
        """Every whole line of its events.jsonl."""
        path, found = self.folder / "events.jsonl", []
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    def nothing_left(self) -> None:
        """Check that no process, lock or shared memory of it stays."""
        from probeloop.bus.node import rig_prefix, shared_memory_folder
        from probeloop.rig.supervisor import running_rigs

        until(lambda: not self.processes, "the end of its processes", 5.0)
        assert self.name not in running_rigs()
        prefix = rig_prefix(self.name)
        assert [path.name for path in shared_memory_folder().glob(f"{prefix}*")] == []

    @staticmethod
    def until(found: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
        """Wait until `found()` is true and return it; fail after that long."""
        return until(found, what, seconds)

    def end(self) -> None:
        """End it, whatever it does."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
            try:
                self.popen.wait(20)
            except subprocess.TimeoutExpired:
                self.popen.kill()
        for pid in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.popen.wait()
        for pipe in (self.popen.stdout, self.popen.stderr):
            if pipe is not None:
                pipe.close()


def until(found: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Wait until `found()` is true and return it; fail after that long."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not (made := found()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:g} s for {what}")
        pause.wait(0.02)
    return made


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Start runs: launch("demo", "stem", ...); all are ended behind the test."""
    runs: list[Run] = []

    def start(*arguments: str, name: str = "", prefix: tuple[str, ...] = ()) -> Run:
        runs.append(Run(list(arguments), tmp_path / "sessions", list(prefix), name))
        return runs[-1]

    yield start
    for run in runs:
        run.end()


@pytest.fixture
def quick(tmp_path: Path) -> str:
    """Return the path of the quick rig; beside it map.npy, 128 x 128."""
    import numpy as np

    np.save(tmp_path / "map.npy", np.random.default_rng(1).normal(size=(128, 128)).astype("<f4"))
    path = tmp_path / "quick.toml"
    path.write_text(QUICK, encoding="utf-8")
    return str(path)
