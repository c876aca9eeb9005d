"""Starts the processes of a rig, watches them, starts what died again, and ends them all.

Kept light: no arrays are looked at here. The supervisor can die at any moment: its children then go safe and end.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import msgspec

from ..bus.heartbeat import Pulse
from ..bus.node import Bus
from ..data.control import Event, Remark, StateChange, encode
from ..data.errors import BusError
from ..plugin.instance import PluginInstance
from ..plugin.watchdog import children_of, collect
from .process import ProcessConfig, Role
from .schema import Rig

_BACK_OFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)
_TOO_OFTEN = (5, 600.0)
# [s] without a beat until a process that lives counts as hung, and whether another then takes its place
_HUNG_S: dict[Role, tuple[float, bool]] = {
    "instrument": (1.5, False),
    "guard": (3.0, True),
    "recorder": (30.0, True),
    "experiment": (30.0, True),
}
_OF_A_RIG = "PROBELOOP_RIG_FOLDER"  # in the environment of all that a supervisor starts
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def rig_folder() -> Path:
    """Return where running rigs of this user lock their names."""
    folder = Path(tempfile.gettempdir()) / f"probeloop-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[Path]:
    """Yield `rig_folder`; who takes a name, lets it go or looks who runs never meets another half-way."""
    folder = rig_folder()
    with (folder / "names").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield folder


class RigLock:
    """Holds the name of a rig on this host while it runs; raises BusError when it runs already."""

    def __init__(self, rig_id: str) -> None:
        with _one_at_a_time() as folder:
            self.path = folder / f"{rig_id}.lock"
            self._file: IO[str] = self.path.open("a+")
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self._file.seek(0)
                who = self._file.read().strip() or "?"
                self._file.close()
                raise BusError(
                    f"the rig {rig_id!r} runs already (process {who})",
                    f"look at it: probeloop gui --connect {rig_id}; or end it there, or with: kill {who}",
                ) from None
            self._file.truncate(0)
            self._file.write(str(os.getpid()))
            self._file.flush()

    def release(self) -> None:
        """Let the name go."""
        with _one_at_a_time():
            self.path.unlink(missing_ok=True)
            self._file.close()


def running_rigs() -> list[str]:
    """Return the names of the rigs that run on this host now."""
    names = []
    with _one_at_a_time() as folder:
        for path in sorted(folder.glob("*.lock")):
            with path.open("a+") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink(missing_ok=True)  # nobody holds it: left by a killed run
                except OSError:
                    names.append(path.stem)
    return names


@dataclass
class Child:
    """One process of the rig. needed: the run ends when it dies."""

    config: ProcessConfig
    needed: bool = False
    restart: bool = True
    popen: subprocess.Popen[bytes] | None = None
    deaths: list[float] = field(default_factory=list)
    due: float = 0.0
    off: bool = False
    hung: bool = False
    why: str = ""

    @property
    def alive(self) -> bool:
        """True while the process runs."""
        return self.popen is not None and self.popen.poll() is None


class Supervisor:
    """The processes of one run. Not thread-safe: one thread owns it."""

    def __init__(self, rig: Rig, bus: Bus, session: Path) -> None:
        self.rig, self.bus, self.session = rig, bus, session
        self.children: dict[str, Child] = {}
        self.ended: str = ""
        self._pulse = Pulse(bus)
        self._stopping = False
        (session / "log").mkdir(parents=True, exist_ok=True)
        _become_subreaper()

    def start(self, role: Role, name: str, *, needed: bool = False, restart: bool = True) -> Child:
        """Start a process and watch it from now on."""
        child = Child(ProcessConfig(role=role, name=name, rig=self.rig, session=str(self.session)), needed, restart)
        self.children[name] = child
        child.popen = self.spawn(child.config)
        return child

    def start_plugins(
        self, name: str, instances: tuple[PluginInstance, ...], take_over: bool
    ) -> subprocess.Popen[bytes]:
        """Start a plug-in process, for the keeper to watch."""
        return self.spawn(
            ProcessConfig(
                role="plugins",
                name=name,
                rig=self.rig,
                session=str(self.session),
                instances=instances,
                take_over=take_over,
            )
        )

    def spawn(self, config: ProcessConfig) -> subprocess.Popen[bytes]:
        """Start a process in a session of its own, with its log in the session's folder."""
        log = self.session / "log"
        path = log / f"{config.name}.json"
        path.write_bytes(msgspec.json.encode(config))
        (log / f"{config.name}.error").unlink(missing_ok=True)
        environment = {**os.environ, **dict.fromkeys(_ONE_THREAD, "1"), _OF_A_RIG: self.rig.folder}
        with (log / f"{config.name}.log").open("ab") as out:
            return subprocess.Popen(
                [sys.executable, "-m", "probeloop.rig.process", str(path)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                env=environment,
            )

    def error_of(self, child: Child) -> str:
        """Return the one line that a process left when it failed, or how it ended."""
        if child.popen is None:
            return child.why
        path = self.session / "log" / f"{child.config.name}.error"
        if path.exists():
            return path.read_text(encoding="utf-8").strip()
        code = child.popen.poll()
        how = f"was killed by {signal.Signals(-code).name}" if code and code < 0 else f"ended with code {code}"
        if code == -signal.SIGBUS:
            how += ": the shared memory became full. Make room, or give a larger /dev/shm"
        return f"the process {child.config.name!r} {how}"

    def look(self) -> list[Event]:
        """Notice what died, start it again when its time has come; return what to tell. Call it 4 times a second."""
        told: list[Event] = []
        now = time.monotonic()
        for name, child in self.children.items():
            if child.alive and not self._stopping:
                told += self._hangs(name, child)
            if child.alive or child.off or self._stopping:
                continue
            if child.popen is not None:
                told += self._buried(name, child, now)
            elif now >= child.due:
                child.popen = self.spawn(msgspec.structs.replace(child.config, again=True))
                told.append(StateChange(target=name, state="restarted", reason="", process="supervisor"))
        return told

    def sweep(self, known: Iterable[int]) -> list[Event]:
        """End what a dead process left: its descendants were handed to this one, however often they forked.

        known: further processes that this one started.
        """
        ours = {*known, *(child.popen.pid for child in self.children.values() if child.popen is not None)}
        orphans = [pid for pid in children_of(os.getpid()) if pid not in ours and _is_of_a_rig(pid)]
        for pid in orphans:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        collect(orphans)
        if not orphans:
            return []
        words = f"ended {len(orphans)} processes that a dead one had started and left"
        return [Remark(text=words, level="warning", process="supervisor")]

    def _hangs(self, name: str, child: Child) -> list[Event]:
        """Notice a process that lives and does not turn; say so once, and end it if another can take its place."""
        most, replaced = _HUNG_S.get(child.config.role, (math.inf, False))
        beat = self._pulse.read(name) if most < math.inf else None
        if beat is None or child.popen is None or beat[1] != child.popen.pid or beat[0] <= most:
            child.hung = False
            return []
        if child.hung:
            return []
        child.hung = True
        why = f"the process {name!r} is silent since {beat[0]:.1f} s: it hangs, or was stopped"
        if replaced:
            child.popen.kill()
        return [Remark(text=why, level="error", process="supervisor")]

    def _buried(self, name: str, child: Child, now: float) -> list[Event]:
        code = child.popen.poll() if child.popen else 0
        why = child.why = self.error_of(child)
        kill_group(child)
        child.popen = None
        if code == 0 and child.config.role in ("window", "stop_window"):
            child.off = True
            if child.config.role == "window":
                self.ended = self.ended or "the window was closed"
            return [StateChange(target=name, state="closed", process="supervisor")]
        child.deaths = [t for t in child.deaths if now - t < _TOO_OFTEN[1]] + [now]
        if child.needed:
            child.off = True
            self.ended = self.ended or why
        elif not child.restart or len(child.deaths) >= _TOO_OFTEN[0]:
            child.off = True
            why += "; it is off now"
        else:
            child.due = now + _BACK_OFF_S[min(len(child.deaths), len(_BACK_OFF_S)) - 1]
        state = "off" if child.off else "died"
        return [
            StateChange(target=name, state=state, reason=why, process="supervisor"),
            Remark(text=why, level="error", process="supervisor"),
        ]

    def stop(self, *names: str, seconds: float = 2.0) -> list[str]:
        """End these processes, all at once; return those that had to be killed."""
        self._stopping = True
        ending = {name: child for name, child in self.children.items() if name in names and child.popen is not None}
        for child in ending.values():
            if child.alive and child.popen is not None:
                child.popen.terminate()
        killed, deadline = [], time.monotonic() + seconds
        for name, child in ending.items():
            assert child.popen is not None
            try:
                child.popen.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                killed.append(name)
            kill_group(child)
        return killed


def kill_group(child: Child) -> None:
    """Kill whatever is left of a process and its descendants, and reap it."""
    if child.popen is None:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.popen.pid, signal.SIGKILL)
    child.popen.wait()


def _is_of_a_rig(pid: int) -> bool:
    """Whether a child descends from a process of a rig; whoever runs a Session may have children of its own."""
    try:
        return f"{_OF_A_RIG}=".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def _become_subreaper() -> None:
    """Adopt grandchildren whose parent died, so that none outlives the run (Linux)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


def told(event: Event) -> bytes:
    """Stamp and encode an event of the supervisor's."""
    stamped = msgspec.structs.replace(event, process="supervisor", time_ns=time.monotonic_ns(), wall=wall())
    return encode(stamped)


def wall() -> str:
    """Return the wall clock as ISO 8601 with its zone."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
