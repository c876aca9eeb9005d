"""The fixture that every test runs under finds what a test leaves, and only that."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = "import sys; sys.stdin.read()"


@pytest.fixture
def house(request: pytest.FixtureRequest) -> ModuleType:
    """The top conftest as a module."""
    path = str(Path(__file__).parents[1] / "conftest.py")
    for plugin in request.config.pluginmanager.get_plugins():
        if getattr(plugin, "__file__", None) == path:
            return plugin
    raise AssertionError("tests/conftest.py is not loaded")


def now(house: ModuleType) -> tuple[set[threading.Thread], set[int], set[str]]:
    return set(threading.enumerate()), {p.pid for p in house._processes()}, house._files()


def test_nothing_is_found_when_nothing_is_left(house: ModuleType) -> None:
    before = now(house)
    thread = threading.Thread(target=lambda: None)
    thread.start()
    assert house.leaks(*before) == []


def test_a_thread_is_found(house: ModuleType) -> None:
    before, end = now(house), threading.Event()
    thread = threading.Thread(target=end.wait, name="forgotten")
    thread.start()
    try:
        assert house.leaks(*before, grace=0.05) == ["thread forgotten"]
    finally:
        end.set()
        thread.join()


def test_a_process_is_found_also_when_its_parent_is_gone(house: ModuleType) -> None:
    before = now(house)
    child = subprocess.Popen([sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE)
    spawner = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {SCRIPT!r}]).pid)"
    with subprocess.Popen(
        [sys.executable, "-c", spawner], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        orphan = int(parent.stdout.readline())
        found = house.leaks(*before, grace=0.05)
        parent.wait(10)
        late = house.leaks(*before, grace=0.05)
        assert any(f"process {child.pid} " in line for line in found)
        assert any(f"process {orphan} " in line for line in late)
        parent.communicate()
    child.communicate()
    assert house.leaks(*before) == []


def test_a_file_of_iceoryx2_is_found_and_charged_to_its_process(house: ModuleType) -> None:
    iceoryx2: Any = pytest.importorskip("iceoryx2")
    iceoryx2.set_log_level(iceoryx2.LogLevel.Fatal)
    before = now(house)
    node = iceoryx2.NodeBuilder.new().create(iceoryx2.ServiceType.Ipc)
    mine = [name for name in house._files() - before[2] if house.owners(name) == {os.getpid()}]
    assert mine, "iceoryx2 names its files in another way than the leak check believes"
    assert any(line.startswith("file ") for line in house.leaks(*before, grace=0.05))
    del node
    assert house.leaks(*before) == []


def test_what_a_killed_child_leaves_is_cleaned_not_charged(house: ModuleType) -> None:
    pytest.importorskip("iceoryx2")
    before = now(house)
    source = (
        "import iceoryx2 as i, sys\n"
        "i.set_log_level(i.LogLevel.Fatal)\n"
        "node = i.NodeBuilder.new().create(i.ServiceType.Ipc)\n"
        "print('up', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        child.kill()
        child.wait()
    assert any(child.pid in house.owners(name) for name in house._files() - before[2])
    assert house.leaks(*before) == []


def test_files_of_strangers_are_not_charged(house: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    stranger = f"{house.SHARED_MEMORY}/iox2_{'0' * 40}_{(1 << 96) + ((2**22 + 7) << 64)}.data"
    assert house.owners(stranger) == {2**22 + 7}
    assert not house._is_ours(stranger)
    monkeypatch.setenv("CI", "true")
    assert house._is_ours(stranger)


def test_a_leaking_test_fails(pytester_like: Any) -> None:
    result = pytester_like(
        "import threading\n"
        "def test_leaks():\n"
        "    threading.Thread(target=threading.Event().wait, args=(60,), daemon=True, name='lost').start()\n"
        "def test_is_clean():\n"
        "    assert True\n"
    )
    assert "left behind: thread lost" in result.stdout
    assert "2 passed, 1 error" in result.stdout
    assert result.returncode == 1


@pytest.fixture
def pytester_like(tmp_path: Path) -> Any:
    """Run pytest in a process of its own on one test file, under a copy of our conftest."""

    def run(source: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "conftest.py").write_text((Path(__file__).parents[1] / "conftest.py").read_text())
        (tmp_path / "test_it.py").write_text(source)
        (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p no:pytest-qt -p no:cacheprovider\n")
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", str(tmp_path)],
            capture_output=True, text=True, cwd=tmp_path, timeout=60,
        )  # fmt: skip

    return run
