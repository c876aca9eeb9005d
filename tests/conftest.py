"""What every test gets: nothing left behind, a rig of its own, real data or a reason, no screen.

A test fails when it leaves a thread, a process or a shared-memory file behind. Several test runs may share this
machine, so a leak is charged to a test only where it is provably its own:

threads     of this process, by `threading.enumerate`. Native threads (numba's and BLAS' workers, Qt's) are not
            listed there and are allowed; so are Python threads of libraries' pools, which `_is_foreign` names.
processes   that carry this run's mark in their environment: descendants, also when their parent is gone.
files       iceoryx2 writes the process id into the ids that its files are named by; a file counts when it belongs
            to this process or one that this run started. With CI set nobody else is here: every new file counts.
"""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")  # before Qt; an xvfb test starts a program of its own

import hypothesis
import psutil
import pytest

from probeloop.bench.peers import missing

OFF_BY_DEFAULT = ("bench", "chaos", "hardware", "netns", "soak")
MARK = "PROBELOOP_TEST_RUN"
GRACE = 2.0  # [s] for what is just ending
SHARED_MEMORY = Path("/dev/shm")
NODES = Path(tempfile.gettempdir(), "iceoryx2", "nodes")
_ID = re.compile(r"(?:^|_)(\d{20,39})(?=[._]|$)")
_passed = pytest.StashKey[bool]()
_started: set[int] = set()  # process ids that this run started
os.environ[MARK] = uuid.uuid4().hex
hypothesis.settings.register_profile("probeloop", derandomize=True, deadline=None, max_examples=60, database=None)
hypothesis.settings.load_profile("probeloop")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is off by default, unless -m chooses; skip by name what needs a peer that is not there."""
    for item in items:
        for mark in item.iter_markers("peers"):
            if not mark.args:
                raise pytest.UsageError(f"{item.nodeid}: the marker peers names its environments: peers('tickit')")
            reason = "; ".join(filter(None, map(missing, mark.args)))
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))
    if config.option.markexpr:
        return
    off = [item for item in items if any(item.get_closest_marker(name) for name in OFF_BY_DEFAULT)]
    if off:
        config.hook.pytest_deselected(items=off)
        items[:] = [item for item in items if item not in off]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Remember whether the test itself passed: a failed one keeps its objects in its traceback."""
    report = yield
    if report.when == "call":
        item.stash[_passed] = report.passed
    return report


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test when it leaves a thread, a process or a shared-memory file."""
    threads, files = set(threading.enumerate()), _files()
    processes = {process.pid for process in _processes()}
    yield
    if request.node.get_closest_marker("leaks") or not request.node.stash.get(_passed, False):
        return
    left = leaks(threads, processes, files)
    if left:
        pytest.fail("left behind: " + "; ".join(left), pytrace=False)


def leaks(threads: set[threading.Thread], processes: set[int], files: set[str], grace: float = GRACE) -> list[str]:
    """Name what is there now, was not there before, and stays for `grace` [s]."""
    deadline = time.monotonic() + grace
    wait = threading.Event()
    cleaned = False
    while True:
        new_threads = [t for t in threading.enumerate() if t not in threads and t.is_alive() and not _is_foreign(t)]
        new_files = sorted(name for name in _files() - files if _is_ours(name))
        new_processes = [p for p in _processes() if p.pid not in processes]
        if not (new_threads or new_files or new_processes):
            return []
        if time.monotonic() > deadline:
            return [
                *(f"thread {t.name}" for t in new_threads),
                *(f"process {p.pid} ({_line(p)})" for p in new_processes),
                *(f"file {name}" for name in new_files),
            ]
        if not cleaned:
            gc.collect()  # ports close when their last reference goes
            _clean_after_the_dead()
            cleaned = True
        wait.wait(0.02)


def _is_foreign(thread: threading.Thread) -> bool:
    """Threads that libraries keep for the life of the process: dask's pool, tqdm's monitor, native callers."""
    if isinstance(thread, threading._DummyThread) or type(thread).__name__ == "TMonitor":
        return True
    pool = getattr(sys.modules.get("dask.threaded"), "default_pool", None)
    return thread in getattr(pool, "_threads", ())


def _processes() -> list[psutil.Process]:
    """Every living descendant of this run, orphans included."""
    found = {p.pid: p for p in psutil.Process().children(recursive=True)}
    entry = f"{MARK}={os.environ[MARK]}".encode()
    for pid in psutil.pids() if sys.platform == "linux" else ():
        if pid == os.getpid() or pid in found:
            continue
        try:
            if entry in Path(f"/proc/{pid}/environ").read_bytes():
                found[pid] = psutil.Process(pid)
        except (OSError, psutil.Error):
            continue
    _started.update(found)
    return [p for p in found.values() if _lives(p)]


def _lives(process: psutil.Process) -> bool:
    """False for the dead, and for what Python keeps for multiprocessing until the end of this process."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE and "multiprocessing.resource_tracker" not in _line(process)
    except psutil.Error:
        return False


def _line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())[:120]
    except psutil.Error:
        return "?"


def _files() -> set[str]:
    names: set[str] = set()
    for folder in (SHARED_MEMORY, NODES):
        if folder.is_dir():
            names.update(str(folder / name) for name in os.listdir(folder))
    return names


def owners(name: str) -> set[int]:
    """Return the process ids in the name of one of iceoryx2's files: bits 64-95 of each of its 128-bit ids."""
    return {int(number) >> 64 & 0xFFFFFFFF for number in _ID.findall(Path(name).name)}


def _is_ours(name: str) -> bool:
    if "global_mgmt" in name:  # one for the host, for ever
        return False
    if not name.startswith(f"{SHARED_MEMORY}/iox2_") and not name.startswith(str(NODES)):
        return bool(os.environ.get("CI")) or _mapped(name)
    return bool(os.environ.get("CI")) or bool(owners(name) & {os.getpid(), *_started})


def _mapped(name: str) -> bool:
    maps = Path("/proc/self/maps")
    return maps.exists() and name in maps.read_text()


def _clean_after_the_dead() -> None:
    """What a killed process can't remove, the next one does; do as that one would."""
    iceoryx2 = sys.modules.get("iceoryx2")
    if iceoryx2 is None:
        return
    node = iceoryx2.NodeBuilder.new().create(iceoryx2.ServiceType.Ipc)
    node.try_cleanup_dead_nodes()


def _watch_children(launch: Any) -> Any:
    def watched(*arguments: Any, **options: Any) -> Any:
        pid = launch(*arguments, **options)
        _started.add(pid)
        return pid

    return watched


# A child that was killed and waited for can't be asked any more who it was, so its id is noted at its start.
if sys.platform == "linux":
    import multiprocessing.util as _multiprocessing_util

    subprocess._fork_exec = _watch_children(subprocess._fork_exec)  # type: ignore[attr-defined]
    _multiprocessing_util.spawnv_passfds = _watch_children(_multiprocessing_util.spawnv_passfds)  # type: ignore[attr-defined]


@pytest.fixture
def rig_id() -> str:
    """Return a rig id that no other test or program on this host uses."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder of measured files; skip where there is none."""
    named = os.environ.get("PROBELOOP_DATA")
    folder = Path(named) if named else Path(__file__).parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no measured files: set PROBELOOP_DATA to their folder")
    return folder
