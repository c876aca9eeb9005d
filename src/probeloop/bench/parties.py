"""The processes of a transport under test: one sender and its readers, which wait for runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.errors import ProbeloopError

RIVALS = Path(__file__).parents[3] / "tests" / "bench" / "rivals"  # of a checkout; a wheel has none
_LONGEST_S = 60.0


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
        self._processes = [_start([*command, role]) for role in roles]
        for process in self._processes:
            _read(process, name)

    def run(
        self, n: int, seconds: float, *, rate: float = 0.0, readers: int = 1, corrupt_at: int = -1, kind: str = ""
    ) -> Outcome:
        """Send blocks of `n` frames for `seconds` to `readers`; raises ProbeloopError when one fails.

        rate: blocks a second, 0 = as fast as they go. corrupt_at: a frame to send with a wrong bit, for the self-test.
        """
        self._runs += 1
        name = f"bench-{os.getpid()}-{self.name}-{self._runs}{kind}"
        told = {"name": name, "n": n, "seconds": seconds, "rate": rate, "readers": readers, "corrupt_at": corrupt_at}
        taking_part = self._processes[1 : 1 + readers]
        for process in [*taking_part, self._processes[0]]:
            _tell(process, told)
            _read(process, self.name)
        sent = _read(self._processes[0], self.name)
        read = tuple(_read(process, self.name) for process in taking_part)
        _tell(self._processes[0], {})
        for process in [*taking_part, self._processes[0]]:
            _read(process, self.name)
        return Outcome(int(sent["frames"]), read, sent)

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.close()
        for process in self._processes:
            try:
                process.wait(5.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def __enter__(self) -> Party:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _start(command: list[str]) -> subprocess.Popen[str]:
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **one_thread}
    )


def _tell(process: subprocess.Popen[str], message: dict[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(message) + "\n")
    process.stdin.flush()


def _read(process: subprocess.Popen[str], name: str) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    answer: dict[str, Any] = json.loads(line) if line else {"error": "its process ended"}
    if "error" in answer:
        raise ProbeloopError(f"the transport {name} failed: {answer['error']}", "run it again; see what it printed")
    return answer
