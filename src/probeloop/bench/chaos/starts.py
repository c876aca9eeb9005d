"""Rows 16 and 17: a start with too little shared memory, memory that fills up later, files that others left."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from ...bus.node import rig_prefix, shared_memory_folder
from .leftovers import left_by
from .outcome import Outcome, Start, Verdict

_NOBODY = 65534
_RIG = """
schema = 1
[instrument]
use = "stem"
pixels = 64
pixel_angle = "3.5 mrad"
tile = 8
[plugins.com]
use = "centre_of_mass"
[plan]
use = "overview"
parameters = {{ shape = [32, 32], dwell_time = "{dwell}" }}
"""


@dataclass(frozen=True)
class _Ended:
    """How a small run ended. finished: its plan did. took [s]."""

    name: str
    code: int
    said: str
    finished: bool
    took: float

    @property
    def verdict(self) -> Verdict:
        """Contained when its plan ran to the end, else refused: it said why not."""
        return "contained" if self.finished else "refused"

    def problems(self) -> tuple[str, ...]:
        """What no end may be: a signal nobody sent, a traceback, silence."""
        found: tuple[str, ...] = ()
        if self.code < 0 or self.code > 128 or "SIGBUS" in self.said:
            found += (f"it died (code {self.code}): {self.said[-200:]}",)
        if "Traceback" in self.said:
            found += ("it showed a traceback",)
        if self.code and not self.said.strip():
            found += (f"code {self.code} and not a word",)
        return found


def _run(folder: Path, name: str, mount: str = "", dwell: str = "0.2 ms", beside: str = "") -> _Ended:
    """Run the small rig to its end; mount: done in a mount namespace of its own, "" = no such; beside: there too."""
    folder.mkdir(parents=True)
    rig = folder / "small.toml"
    rig.write_text(_RIG.format(dwell=dwell), encoding="utf-8")
    line = [sys.executable, "-m", "probeloop.cli", "run", str(rig), "--headless", "--json", "--set", f"name={name}",
            "--record", str(folder / "sessions")]  # fmt: skip
    if mount:
        line = ["unshare", "-m", "sh", "-c", f'{mount} && {{ {beside} exec "$@"; }}', "sh", *line]
    environment = {**os.environ, "PROBELOOP_PLUGINS": str(folder / "none")}
    begun = time.monotonic()
    popen = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        out, err = popen.communicate(timeout=90)
    except subprocess.TimeoutExpired:
        popen.send_signal(signal.SIGTERM)
        out, err = popen.communicate(timeout=30)
        err += "\nit did not end"
    summary = json.loads(out) if out.strip().startswith("{") else {"problems": [], "plans": []}
    said = "\n".join([err.strip(), *summary["problems"]])
    finished = any(plan["state"] == "finished" for plan in summary["plans"])
    return _Ended(name, popen.returncode, said, finished, time.monotonic() - begun)


def _mounts() -> str:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return "needs root and unshare"
    done = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    return "" if done.returncode == 0 else "no mounts of its own for one process here (a chroot or a container)"


def small_memory(folder: Path, rng: random.Random) -> Outcome:
    """Start with 1 to 40 MiB of shared memory: one line with the size, or a run that needs no more."""
    size = rng.choice([1, 2, 4, 8, 12, 16, 24, 32, 40])
    ended = _run(folder, _name(), f"mount -t tmpfs -o size={size}m tmpfs {shared_memory_folder()}")
    problems = ended.problems()
    if ended.code and "shared memory" not in ended.said:
        problems += (f"it did not say what is missing: {ended.said[-200:]}",)
    notes = {"mib": float(size)}
    return Outcome(ended.verdict, ended.took, notes=notes, problems=problems, left=tuple(left_by(ended.name)))


def memory_filled_later(folder: Path, rng: random.Random) -> Outcome:
    """Somebody fills all but 400 KiB while the rig runs: what is reserved stays usable, nothing dies of SIGBUS."""
    place = shared_memory_folder()
    runs = (
        f"until ls -d {folder}/sessions/*/camera > /dev/null; do sleep 0.1; done; sleep {rng.uniform(0.0, 2.0):.2f}"
    )
    later = f"{runs}; free=$(df --output=avail -k {place} | tail -1)"
    fill = f"({later}; head -c $((free - 400))K /dev/zero > {place}/full) 2> /dev/null &"
    ended = _run(folder, _name(), f"mount -t tmpfs -o size=160m tmpfs {place}", "4 ms", fill)
    return Outcome(ended.verdict, None, problems=ended.problems(), left=tuple(left_by(ended.name)))


def stale_files(folder: Path, rng: random.Random) -> Outcome:
    """Files of another user and another version lie where the rig's own will: it starts, or says which."""
    name = _name()
    prefix = rig_prefix(name)
    nodes = Path(tempfile.gettempdir()) / "iceoryx2" / "nodes"
    planted = [
        shared_memory_folder() / f"{prefix}{rng.getrandbits(120)}.data",
        shared_memory_folder() / f"{prefix}ledger",
    ]
    if nodes.is_dir():
        planted.append(nodes / f"{prefix}{rng.getrandbits(120)}.details")
    for path in planted:
        path.write_bytes(rng.randbytes(rng.choice([0, 100, 5000])))
        path.chmod(0o600)
        os.chown(path, _NOBODY, _NOBODY)
    ended = _run(folder, name)
    problems = ended.problems()
    if ended.code and not any(path.name in ended.said for path in planted):
        problems += (f"it did not say which file is in its way: {ended.said[-200:]}",)
    left = tuple(left_by(name))
    for path in planted:
        path.unlink(missing_ok=True)
    return Outcome(ended.verdict, ended.took, problems=problems, left=left)


def _root() -> str:
    return "" if os.geteuid() == 0 else "needs root, to make files of another user"


def _name() -> str:
    return f"chaos-{uuid.uuid4().hex[:12]}"


STARTS = (
    Start("memory-small", 16, "1 to 40 MiB of shared memory at the start", small_memory, _mounts),
    Start("memory-full", 16, "shared memory is filled up to 400 KiB later", memory_filled_later, _mounts),
    Start("stale-files", 17, "files of another user and version at the start", stale_files, _root),
)
