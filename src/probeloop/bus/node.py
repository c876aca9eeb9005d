"""One process on the bus of one rig."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import iceoryx2 as iox2

from ..data.errors import BusError, SharedMemoryError
from .ledger import CREDIT, Ledger

T = TypeVar("T")
iox2.set_log_level(iox2.LogLevel.Fatal)

_local: dict[str, tuple[Ledger, int]] = {}
_local_lock = threading.Lock()
_ATTEMPTS = 50
_BEATS_S = 10.0  # the slowest pulse beats every few seconds
_SPARE = 1 << 20  # [bytes] of shared memory that stay free for the small files that come with every port


def shared_memory_folder() -> Path:
    """Return where shared memory lives as files (elsewhere than Linux: the temporary folder)."""
    folder = Path("/dev/shm")
    return folder if folder.is_dir() else Path(tempfile.gettempdir())


def require_room(needed: int, what: str) -> None:
    """Raise SharedMemoryError, one line, unless `needed` bytes are free, and some to spare.

    iceoryx2 touches new segments without asking: where there is no room, that is SIGBUS and the end of the process.
    """
    free = shutil.disk_usage(shared_memory_folder()).free
    if needed + _SPARE > free:
        mib = 2.0**20
        raise SharedMemoryError(
            f"{what} needs {(needed + _SPARE) / mib:.1f} MiB of shared memory, {free / mib:.1f} MiB are free",
            "fewer topics or processes, or a larger /dev/shm (docker: --shm-size=1g)",
        )


def rig_prefix(rig_id: str) -> str:
    """Return the prefix of every file of a rig: readable, and unique through a hash."""
    word = re.sub(r"[^A-Za-z0-9-]", "-", rig_id)[:24]
    return f"iox2_{word}_{hashlib.sha256(rig_id.encode()).hexdigest()[:8]}_"


def _files(prefix: str) -> list[Path]:
    """Return every file of a rig: its shared memory, its services, and the marks of nodes killed while they began."""
    home = Path(tempfile.gettempdir()) / "iceoryx2"
    found = [path for folder in (shared_memory_folder(), home / "services", home / "nodes")
             for path in folder.glob(f"{prefix}*")]  # fmt: skip
    return found + list((home / "nodes").glob(f"*/{prefix}*"))  # of a node whose mark is gone already


def _remove(path: Path) -> None:
    """Remove a file of a rig that has no living process; of a node its folder too, which is named by its number."""
    path.unlink(missing_ok=True)
    if path.parent.parent.name == "nodes":
        shutil.rmtree(path.parent, ignore_errors=True)
    elif path.parent.name == "nodes":
        number = path.name.rpartition("_")[2] if path.suffix == "" else path.stem.rpartition("_")[2]
        if number.isdigit():
            shutil.rmtree(path.parent / number, ignore_errors=True)


class Bus:
    """The node of this process on the bus of one rig; one per process, a context manager.

    local=True keeps everything inside this process (ServiceType.Local), the fast test mode: every Bus of the same
    rig id in this process meets the others. Two rigs on a host never meet, their files carry different prefixes.
    Threads: a Bus may be used by any thread. A port (Publisher, Subscriber, Server, Client, ...) may be made in one
    thread and used in another, but only by one thread at a time.
    """

    def __init__(self, rig_id: str, process: str, *, local: bool = False) -> None:
        """Join the rig; raises BusError or SharedMemoryError."""
        self.rig_id, self.process, self.local = rig_id, process, local
        self.prefix = rig_prefix(rig_id)
        self.service_type = iox2.ServiceType.Local if local else iox2.ServiceType.Ipc
        self.config = iox2.config.default()
        self.config.global_cfg.prefix = iox2.FileName.new(self.prefix)
        self._closed = False
        self._stale: list[str] = []
        if not local:
            require_room(0, f"process {process!r}")
        with self._joined_ledger() as ledger:
            self.ledger = ledger
            if not local:
                self._sweep()
            self.node: Any = self.retry(self._make_node, f"join the rig {rig_id!r}")
        self.node_id = int(self.node.id.value)

    def _make_node(self) -> Any:
        return (
            iox2.NodeBuilder.new()
            .name(iox2.NodeName.new(self.process[:100]))
            .config(self.config)
            .signal_handling_mode(iox2.SignalHandlingMode.Disabled)
            .create(self.service_type)
        )

    @contextlib.contextmanager
    def _joined_ledger(self) -> Iterator[Ledger]:
        """Yield the rig's ledger, locked."""
        if self.local:
            with _local_lock:
                ledger, users = _local.get(self.rig_id, (None, 0))
                ledger = ledger or Ledger(None)
                _local[self.rig_id] = (ledger, users + 1)
            with ledger.locked():
                yield ledger
            return
        path = shared_memory_folder() / f"{self.prefix}ledger"
        while True:
            ledger = Ledger(path)
            with ledger.locked():
                if ledger.current:  # else the last process of the rig removed it while this one waited
                    yield ledger
                    return
            ledger.close()

    def _sweep(self) -> None:
        """Under the lock: remove what killed processes left, everything when none of the rig lives."""
        for state in self._states():
            if isinstance(state, iox2.NodeState.Dead):
                self._stale.append(self._name_of(state))
                with contextlib.suppress(iox2.NodeCleanupFailure):
                    state[0].try_remove_stale_resources()
        if self.alive_nodes():
            return
        self.ledger.clear()
        for path in _files(self.prefix):
            if path != self.ledger.path:
                _remove(path)
                self._stale.append(path.name)

    def _states(self) -> list[Any]:
        try:
            return list(iox2.Node.list(self.service_type, self.config))
        except iox2.NodeListFailure as error:
            raise BusError(f"can't list the processes of rig {self.rig_id!r}: {error}") from error

    @staticmethod
    def _name_of(state: Any) -> str:
        details = state[0].details
        return str(details.name.as_str()) if details is not None else str(state[0].id.value)

    def alive_nodes(self) -> set[int]:
        """Return the ids of the rig's living processes (a stopped one counts as alive) [0.3 ms]."""
        return {
            int(state[0].id.value)
            for state in self._states()
            if isinstance(state, iox2.NodeState.Alive | iox2.NodeState.Inaccessible)
        }

    def clean_stale(self) -> list[str]:
        """Remove nodes, files and credits of killed processes; return their names, those found at the start too."""
        found, self._stale = self._stale, []
        with self.ledger.locked():
            for state in self._states():
                if isinstance(state, iox2.NodeState.Dead):
                    found.append(self._name_of(state))
            self.node.try_cleanup_dead_nodes()
            alive = self.alive_nodes()
            for row in self.ledger.rows(CREDIT):
                if node_of(row.words) not in alive:
                    self.ledger.release(row)
        return found

    @staticmethod
    def clean_other_rigs() -> list[str]:
        """Remove the files of rigs of which no process lives; return their prefixes. For the start of a rig.

        A rig that is just starting holds its ledger's lock, one that lives has a node, one in a container that shares
        this memory and not the folder of the nodes has a pulse: all are left alone, and so are files of other users.
        """
        found = []
        for path in shared_memory_folder().glob("iox2_*_ledger"):
            prefix = path.name.removesuffix("ledger")
            config = iox2.config.default()
            config.global_cfg.prefix = iox2.FileName.new(prefix)
            with contextlib.suppress(OSError, BusError, iox2.NodeListFailure):
                ledger = Ledger(path, create=False)
                if ledger.try_lock():
                    states = iox2.Node.list(iox2.ServiceType.Ipc, config)
                    dead = all(isinstance(state, iox2.NodeState.Dead) for state in states)
                    if dead and (states or not ledger.beats(_BEATS_S)):
                        for state in states:
                            state[0].try_remove_stale_resources()
                        for file in _files(prefix):
                            _remove(file)
                        found.append(prefix)
                ledger.close()
        return found

    def retry(self, make: Callable[[], T], what: str) -> T:
        """Return make(), tried again while another process is half-way through the same; raises BusError."""
        pause = threading.Event()
        for attempt in range(_ATTEMPTS):
            try:
                return make()
            except Exception as error:
                # the binding derives its errors from Exception one by one; anything else is our own mistake
                if not type(error).__module__.startswith("iceoryx2"):
                    raise
                if attempt == _ATTEMPTS - 1:
                    move = "stop one of them" if "Exceeds" in str(error) else "does an older version still run?"
                    raise BusError(f"can't {what}: {error}", move) from error
                node = getattr(self, "node", None)
                if node is not None and attempt % 5 == 0:
                    node.try_cleanup_dead_nodes()
                pause.wait(0.002 * (1 + attempt // 5))
        raise AssertionError

    @contextlib.contextmanager
    def room(self, needed: int, what: str) -> Iterator[None]:
        """Take `needed` bytes of shared memory within, one process of the rig at a time.

        Raises SharedMemoryError when they are not free.
        """
        if self.local:
            yield
            return
        with self.ledger.locked():
            require_room(needed, what)
            yield

    def event_service(self, name: str) -> Any:
        """Return the event service `name`, the wake-up of a topic or a server; every port begins with one."""
        if not self.local:
            require_room(0, f"{name!r}")

        def make() -> Any:
            builder = self.node.service_builder(iox2.ServiceName.new(name)).event()
            return builder.max_listeners(64).max_notifiers(64).max_nodes(64).open_or_create()

        return self.retry(make, f"open the event {name!r}")

    def close(self) -> None:
        """Leave the rig; the last process to leave removes the rig's files. Close ports first."""
        if self._closed:
            return
        self._closed = True
        if self.local:
            del self.node
            with _local_lock:
                ledger, users = _local[self.rig_id]
                if users > 1:
                    _local[self.rig_id] = (ledger, users - 1)
                else:
                    del _local[self.rig_id]
            return
        with self.ledger.locked():
            del self.node
            last = not self.alive_nodes()
            if last:
                for path in _files(self.prefix):
                    _remove(path)
        self.ledger.close()

    def __enter__(self) -> Bus:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_WORD = (1 << 64) - 1


def node_of(words: memoryview) -> int:
    """Read the node id that `store_node` wrote."""
    return ((words[2] & _WORD) << 64) | (words[1] & _WORD)


def store_node(words: memoryview, node_id: int) -> None:
    """Write a node id (128 bits) into words 1 and 2 of a ledger row, which are signed."""
    for place, word in ((1, node_id & _WORD), (2, node_id >> 64)):
        words[place] = word - (1 << 64) if word >> 63 else word


def timed_wait(listener: Any, seconds: float) -> bool:
    """Wait for an event; True when there was one. A signal (Ctrl-C, SIGTERM) ends the wait early and is no error."""
    try:
        return bool(listener.timed_wait(iox2.Duration.from_secs_f64(seconds)))
    except iox2.ListenerWaitError as error:
        if "InterruptSignal" in str(error):
            return False
        raise BusError(f"waiting on the bus failed: {error}", "restart the rig") from error
