"""Programs that other people wrote, and that drivers are measured and tested against: found, started, ended.

`make peers` puts each into an environment of its own below `$PROBELOOP_PEERS` (default: `.peers` of the checkout);
nothing of theirs is ever imported here. A program runs in a process group of its own, and the whole group ends with
it.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..data.clock import MonotonicClock
from ..data.errors import ProbeloopError

CHECKOUT = Path(__file__).parents[3]
STARTS_WITHIN = 90.0  # [s]: a first start may compile for half a minute
_ENDS_WITHIN = 5.0
_LOOK_S = 0.05
_LISTENS = "0A"  # the state in /proc/net/tcp


def peers_folder() -> Path:
    """Return where the environments are, or would be."""
    return Path(os.environ.get("PROBELOOP_PEERS") or CHECKOUT / ".peers").absolute()


def missing(environment: str) -> str:
    """Return in a line that an environment is not there and what to do, "" when it is."""
    if (peers_folder() / environment / "READY").exists():
        return ""
    return f"{environment} is not there ({peers_folder() / environment}): make peers"


def program(environment: str, name: str) -> str:
    """Return the path of a program of an environment; raises ProbeloopError when it is not there."""
    lacking = missing(environment)
    path = peers_folder() / environment / "bin" / name
    if lacking or not path.exists():
        raise ProbeloopError(lacking or f"{environment} has no program {name}", "make peers")
    return str(path)


def free_ports(count: int) -> list[int]:
    """Return TCP ports of the loopback that nobody listens on now, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Program:
    """A program that runs. said: the file that its output goes to."""

    def __init__(self, process: subprocess.Popen[bytes], said: Path) -> None:
        self.process, self.said = process, said

    @property
    def output(self) -> str:
        """All that it has said so far."""
        return self.said.read_text(errors="replace") if self.said.exists() else ""

    def wait_for(self, pattern: str, within: float = STARTS_WITHIN) -> re.Match[str]:
        """Wait until it has said something that `pattern` finds, and return that.

        Raises ProbeloopError when it ends before, or says nothing of the kind within [s].
        """
        self._wait(lambda: re.search(pattern, self.output) is not None, f"does not say {pattern!r}", within)
        found = re.search(pattern, self.output)
        assert found is not None
        return found

    def wait_for_ports(self, ports: Sequence[int], within: float = STARTS_WITHIN) -> None:
        """Wait until somebody listens on all these TCP ports, without connecting: it may take one client only."""
        self._wait(lambda: set(ports) <= listening(), f"does not listen on {list(ports)}", within)

    def _wait(self, there: Callable[[], bool], what: str, within: float) -> None:
        clock = MonotonicClock()
        until = clock.now_ns() + round(within * 1e9)
        while not there():
            last = (self.output.strip().splitlines() or ["it said nothing"])[-1]
            if self.process.poll() is not None:
                raise ProbeloopError(f"{self._name} ended with {self.process.returncode}: {last}", f"see {self.said}")
            if clock.now_ns() > until:
                raise ProbeloopError(f"{self._name} {what} after {within:g} s: {last}", f"see {self.said}")
            clock.wait_until(clock.now_ns() + round(_LOOK_S * 1e9))

    @property
    def _name(self) -> str:
        return Path(str(self.process.args[0] if isinstance(self.process.args, list) else self.process.args)).name

    def end(self) -> None:
        """End it and all that it started."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):  # all of the group are gone
                os.killpg(self.process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_ENDS_WITHIN)
        self.process.wait()


@contextmanager
def started(command: Sequence[str], said: Path, env: dict[str, str] | None = None) -> Iterator[Program]:
    """Run a program in a process group of its own, and end all of it afterwards. said: the file for its output."""
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    said.parent.mkdir(parents=True, exist_ok=True)
    with said.open("wb") as out:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            env={**os.environ, **one_thread, "PYTHONUNBUFFERED": "1", **(env or {})},
        )
    running = Program(process, said)
    try:
        yield running
    finally:
        running.end()


def listening() -> set[int]:
    """Return every TCP port of this host that somebody listens on; Linux only, else what answers can't be told."""
    if sys.platform != "linux":
        raise ProbeloopError("who listens is only known on Linux", "run the peers there")
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError), open(table) as lines:
            next(lines)
            for line in lines:
                local, _, state = line.split()[1:4]
                if state == _LISTENS:
                    found.add(int(local.rpartition(":")[2], 16))
    return found
