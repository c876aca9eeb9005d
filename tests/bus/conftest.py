"""A rig of its own for each test: inside this process, or through shared memory, or both in turn."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from probeloop.bus.node import Bus
from probeloop.bus.relay import link, remote

sys.path.append(str(Path(__file__).parent))  # bus_words.py, for these tests and their children
from bus_words import CHILD, Spawn
from relay_words import ALL, Hosts, hosts


@pytest.fixture(params=["local", "ipc"])
def bus(request: pytest.FixtureRequest, rig_id: str) -> Iterator[Bus]:
    """The same test inside one process and through shared memory."""
    with Bus(rig_id, "test", local=request.param == "local") as one:
        yield one


@pytest.fixture
def local(rig_id: str) -> Iterator[Bus]:
    with Bus(rig_id, "test", local=True) as one:
        yield one


@pytest.fixture
def ipc(rig_id: str) -> Iterator[Bus]:
    with Bus(rig_id, "test") as one:
        yield one


@pytest.fixture
def spawn(rig_id: str) -> Iterator[Spawn]:
    """Start `child.py ROLE RIG ...` and wait for its first line."""
    children: list[subprocess.Popen[str]] = []

    def start(role: str, *arguments: object) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, str(CHILD), role, rig_id, *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        children.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        return child

    yield start
    for child in children:
        child.kill()
        child.wait()
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.close()
        child.stdout.close()


@pytest.fixture
def two(tmp_path: Path, rig_id: str) -> Iterator[Hosts]:
    with hosts(tmp_path, rig_id, topics=ALL) as made:
        made.key("anna", "operator")
        yield made


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence counts after 0.4 s instead of 3."""
    for module in (link, remote):
        monkeypatch.setattr(module, "SILENT_NS", 400_000_000)
    monkeypatch.setattr(link, "_REDIAL_NS", 400_000_000)
