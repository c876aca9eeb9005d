"""The processes of a transport under test: one sender and its readers, which wait for runs."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.errors import ProbeloopError

RIVALS = Path(__file__).parents[3] / "tests" / "bench" / "rivals"  # of a checkout; a wheel has none
_LONGEST_S = 60.0
_ENDING_S = 5.0


def rival(name: str) -> list[str] | None:
    """Return how to start a rival's process, or None where its file or its library is missing."""
    path = RIVALS / f"{name}.py"
    if not path.exists():
        return None
    tried = subprocess.run([sys.executable, str(path), "try"], capture_output=True, check=False)
    return [sys.executable, str(path)] if tried.returncode == 0 else None


@dataclass(frozen=True)
class Outcome:
    """What came of a run. readers: what each read; sent: frames; lost and corrupt of all readers together."""

    sent: int
    readers: tuple[dict[str, Any], ...]
    sender: dict[str, Any]

    @property
    def lost(self) -> int:
        """Frames that were sent and not read, by all readers."""
        return sum(int(reader["lost"]) for reader in self.readers)

    @property
    def corrupt(self) -> int:
        """Frames whose sum or number is wrong."""
        return sum(int(reader["corrupt"]) for reader in self.readers)

    @property
    def fps(self) -> float:
        """Frames a second of the slowest reader."""
        return min(float(reader["fps"]) for reader in self.readers)

    @property
    def p50_us(self) -> float:
        """Median of the one-way latency, of the slowest reader [us]."""
        return max(float(reader["p50_us"]) for reader in self.readers)


class Party:
    """One transport: start it once, run it often; a context manager."""

    def __init__(self, name: str, command: list[str], readers: int) -> None:
        """Start the processes; raises ProbeloopError when one does not begin."""
        self.name = name
        self._runs = 0
        roles = ["sender", *["reader"] * readers]
        self._processes = [start([*command, role]) for role in roles]
        try:
            for process in self._processes:
                read(process, name)
        except ProbeloopError:
            self.close()
            raise

    def run(
        self, n: int, seconds: float, *, rate: float = 0.0, readers: int = 1, corrupt_at: int = -1, kind: str = ""
    ) -> Outcome:
        """Send blocks of `n` frames for `seconds` to `readers`; raises ProbeloopError when one fails.

        rate: blocks a second, 0 = as fast as they go. corrupt_at: a frame to be sent with a wrong bit (self-test).
        """
        self._runs += 1
        name = f"bench-{os.getpid()}-{self.name}-{self._runs}{kind}"
        told = {"name": name, "n": n, "seconds": seconds, "rate": rate, "readers": readers, "corrupt_at": corrupt_at}
        taking_part = self._processes[1 : 1 + readers]
        for process in [*taking_part, self._processes[0]]:
            tell(process, told)
            read(process, self.name)
        sent = read(self._processes[0], self.name)
        found = tuple(read(process, self.name) for process in taking_part)
        tell(self._processes[0], {})
        for process in [*taking_part, self._processes[0]]:
            read(process, self.name)
        return Outcome(int(sent["frames"]), found, sent)

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            end(process)

    def __enter__(self) -> Party:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def start(command: list[str]) -> subprocess.Popen[bytes]:
    """Start a process that speaks lines of JSON, with one thread for each of its libraries."""
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    return subprocess.Popen(
        command,
        bufsize=0,  # so that select sees every line
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **one_thread},
    )


def tell(process: subprocess.Popen[bytes], message: dict[str, Any]) -> None:
    """Write a line."""
    assert process.stdin is not None
    process.stdin.write(json.dumps(message).encode() + b"\n")


def read(process: subprocess.Popen[bytes], name: str) -> dict[str, Any]:
    """Read a line; raises ProbeloopError when the process ended, says nothing for long, or tells of an error."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], _LONGEST_S)
    if not ready:
        raise ProbeloopError(f"the transport {name} says nothing since {_LONGEST_S:g} s", "run it again")
    line = process.stdout.readline()
    answer: dict[str, Any] = json.loads(line) if line else {"error": "its process ended"}
    if "error" in answer:
        raise ProbeloopError(f"the transport {name} failed: {answer['error']}", "run it again; see what it printed")
    return answer


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process by ending its stdin; kill it when that does not help."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(_ENDING_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
