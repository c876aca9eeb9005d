"""One run of the load: the rig as `probeloop run` starts it, a headless window beside it, and a watch on both."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.clock import Clock, MonotonicClock
from ..data.errors import ProbeloopError
from .load_watch import Watch

RIG = "rated-load"
WIDTH = 256  # pixels of a line
MOST_LINES = 256
LOOK_S = 1.0  # between two looks at the processes
_LONGEST_S = 60.0  # for the start, the end and what comes between
_ENDING_S = 20.0
_SOON_S = 0.05


@dataclass(frozen=True)
class Load:
    """What is asked of a rig. rate [frames/s]; seconds: of frames; camera: parameters on top of its own."""

    rate: float
    seconds: float
    camera: dict[str, Any] = field(default_factory=dict)

    @property
    def scans(self) -> tuple[int, int]:
        """How many scans, and of how many lines each."""
        lines = max(1, math.ceil(self.rate * self.seconds / WIDTH))
        scans = math.ceil(lines / MOST_LINES)
        return scans, math.ceil(lines / scans)

    @property
    def frames(self) -> int:
        """Frames in all: whole lines."""
        scans, lines = self.scans
        return scans * lines * WIDTH

    def arguments(self, name: str, folder: Path) -> list[str]:
        """Return the command line of its run."""
        scans, lines = self.scans
        settings = {
            "name": name,
            "plan.times": scans,
            "plan.parameters.shape": [lines, WIDTH],
            "plan.parameters.dwell_time": f"{1e6 / self.rate:.3f} us",
            **{f"instrument.{key}": value for key, value in self.camera.items()},
        }
        made = [sys.executable, "-m", "probeloop.cli", "run", RIG, "--headless", "--json", "--record", str(folder)]
        for key, value in settings.items():
            made += ["--set", f"{key}={json.dumps(value)}"]
        return made


@dataclass(frozen=True)
class Ran:
    """What a run left. window: the reader's report; summary: the run's own."""

    session: Path
    watch: Watch
    window: dict[str, Any]
    summary: dict[str, Any]


def run_load(load: Load, folder: Path, tell: Callable[[int, int], None], clock: Clock | None = None) -> Ran:
    """Run the rig to its end, below `folder`; tell: (seconds done, of).

    Raises ProbeloopError when it fails, in its own words, or does not end.
    """
    clock = clock or MonotonicClock()
    name = f"load-{uuid.uuid4().hex[:12]}"
    total = math.ceil(load.frames / load.rate)
    folder.mkdir(parents=True, exist_ok=True)
    out, err = folder / f"{name}.json", folder / f"{name}.err"
    with process(load.arguments(name, folder), out, err) as run:
        session = session_of(run, folder, name, err, clock)
        reader = [sys.executable, "-m", "probeloop.bench.load_reader", name, json.dumps(load.camera)]
        seen, trouble = folder / f"{name}-window.json", folder / f"{name}-window.err"
        with process(reader, seen, trouble) as window:
            watch = Watch(session, {"supervisor": run.pid, "window": window.pid})
            began = clock.now_ns()
            while run.poll() is None:
                watch.look()
                seconds = (clock.now_ns() - began) / 1e9
                tell(min(total - 1, int(seconds)), total)
                if seconds > 2 * total + _LONGEST_S:
                    raise ProbeloopError(f"the rig does not end after {seconds:.0f} s", f"see {session}/log")
                clock.wait_until(clock.now_ns() + round(LOOK_S * 1e9))
            if window.stdin is not None:
                window.stdin.close()
            window.wait(_LONGEST_S)
    tell(total, total)
    report, summary = seen.read_text(), out.read_text()
    if not summary or not report:
        said = (err if not summary else trouble).read_text().strip().rpartition("\n")[2]
        raise ProbeloopError(f"the rig failed: {said or 'it said nothing'}", f"see {session}/log")
    return Ran(session, watch, json.loads(report), json.loads(summary))


def session_of(run: subprocess.Popen[bytes], folder: Path, name: str, err: Path, clock: Clock) -> Path:
    """Wait for the session's folder and return it; raises ProbeloopError when the run ends before."""
    until = clock.now_ns() + round(_LONGEST_S * 1e9)
    while clock.now_ns() < until and run.poll() is None:
        found = next(folder.glob(f"*_{name}"), None)
        if found is not None:
            return found
        clock.wait_until(clock.now_ns() + round(_SOON_S * 1e9))
    raise ProbeloopError(
        f"the rig did not start: {err.read_text().strip().rpartition(chr(10))[2]}", "probeloop doctor"
    )


@contextmanager
def process(command: list[str], out: Path, err: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that is ended in order, whatever happens."""
    with out.open("wb") as to, err.open("wb") as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=to, stderr=errors)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_ENDING_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdin is not None:
            process.stdin.close()
