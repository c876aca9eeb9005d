"""Real processes: crossing them, killing them, cleaning up after them, running out of shared memory."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from bus_words import CHILD, Spawn, frames, send

from probeloop.bus import topic
from probeloop.bus.node import Bus, rig_prefix, shared_memory_folder
from probeloop.bus.publish import Publisher
from probeloop.bus.subscribe import Subscriber
from probeloop.data.errors import SharedMemoryError


def files(rig_id: str) -> list[str]:
    return sorted(path.name for path in shared_memory_folder().glob(f"{rig_prefix(rig_id)}*"))


def tell(child: subprocess.Popen[str], number: int) -> None:
    print(number, file=child.stdin, flush=True)


def test_frames_cross_processes(ipc: Bus, spawn: Spawn) -> None:
    child = spawn("read", "lossless", "free")
    publisher = Publisher(ipc, "camera", 1 << 16)
    publisher.announce(frames(), 1)
    tell(child, 100)
    for value in range(100):
        send(publisher, value, 2)
    assert [child.stdout.readline() for _ in range(100)] == [f"({2 * k}, 2, {k})\n" for k in range(100)]
    assert child.stdout.readline() == "0\n"
    child.stdin.close()
    assert child.wait() == 0
    publisher.close()


def test_an_index_is_never_used_again(ipc: Bus, spawn: Spawn) -> None:
    reader = Subscriber(ipc, "camera", "lossless")
    last = -1
    for _ in range(3):
        child = spawn("publish")
        tell(child, 20)
        assert int(child.stdout.readline()) == last + 21
        seen = [block.index for block in reader.drain()]
        assert seen == list(range(last + 1, last + 21))
        last = seen[-1]
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        assert ipc.clean_stale() == ["publish"]
    assert reader.stats.lost == 0
    reader.close()


def test_killed_at_any_moment_no_block_is_corrupt(ipc: Bus, spawn: Spawn) -> None:
    reader = Subscriber(ipc, "camera", "lossless")
    indices: list[int] = []
    for _ in range(4):
        child = spawn("publish")
        tell(child, 1_000_000)
        while len(indices) < 500 * (1 + len(indices) // 500):
            block = reader.receive(2.0)
            if block is None:
                break
            assert (block.data == block.index % 1000).all()
            indices.append(block.index)
            if len(indices) % 500 == 0:
                break
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        for block in reader.drain():
            assert (block.data == block.index % 1000).all()
            indices.append(block.index)
        ipc.clean_stale()
    assert len(indices) >= 2000
    assert all(a < b for a, b in itertools.pairwise(indices))
    assert reader.stats.wire_errors == 0
    assert reader.stats.lost == indices[-1] + 1 - len(indices)
    reader.close()


def test_the_next_start_removes_what_killed_processes_left(rig_id: str, spawn: Spawn) -> None:
    child = spawn("publish")
    tell(child, 5)
    child.stdout.readline()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert any(name.endswith(".data") for name in files(rig_id))
    with Bus(rig_id, "test") as bus:
        assert "publish" in bus.clean_stale()
        left = files(rig_id)
        assert not any(name.endswith(".data") for name in left)
        publisher = Publisher(bus, "camera", 1 << 14)
        assert publisher.next_index == 0  # a new start of the whole rig counts from 0
        publisher.close()
    assert files(rig_id) == []


def test_a_start_removes_the_files_of_dead_rigs_and_no_others(rig_id: str, spawn: Spawn) -> None:
    child = spawn("publish")
    with Bus(rig_id + "other", "test") as other:
        assert rig_prefix(rig_id) not in Bus.clean_other_rigs()  # it lives
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        assert files(rig_id)
        found = Bus.clean_other_rigs()
        assert rig_prefix(rig_id) in found
        assert other.prefix not in found
        assert files(rig_id) == []
        publisher = Publisher(other, "camera", 1 << 12)
        publisher.close()


def test_a_node_s_details_go_too_where_its_mark_is_gone(rig_id: str) -> None:
    folder = Path(tempfile.gettempdir(), "iceoryx2", "nodes", "1" + str(os.getpid()))
    with Bus(rig_id, "test"):
        folder.mkdir(parents=True)
        (
            folder / f"{rig_prefix(rig_id)}node.details"
        ).touch()  # as a process leaves it that is killed while it begins
    assert not folder.exists()


def test_the_last_to_leave_removes_every_file(rig_id: str) -> None:
    with Bus(rig_id, "one") as one, Bus(rig_id, "two") as two:
        assert one.alive_nodes() == {one.node_id, two.node_id}
        reader, publisher = Subscriber(one, "camera"), Publisher(two, "camera", 1 << 14)
        publisher.announce(frames(), 1)
        send(publisher, 3)
        block = reader.receive()
        assert block is not None
        assert block.index == 0
        reader.close()
        publisher.close()
    assert files(rig_id) == []


def test_two_rigs_do_not_meet(rig_id: str) -> None:
    with Bus(rig_id, "test") as one, Bus(rig_id + "b", "test") as two:
        reader, publisher = Subscriber(one, "camera"), Publisher(two, "camera", 1 << 14)
        publisher.announce(frames(), 1)
        send(publisher, 1)
        assert reader.receive(0.05) is None
        assert publisher.readers == 0
        reader.close()
        publisher.close()


@pytest.mark.parametrize("size", [1 << 12, 1 << 18, 1 << 20, 3 << 20])
def test_the_reserved_bytes_are_what_a_publisher_takes(ipc: Bus, size: int) -> None:
    publisher = Publisher(ipc, "camera", size)
    data, spec = topic.segments(ipc, publisher._port), topic.segments(ipc, publisher._specs.port)
    taken = sum(path.stat().st_blocks * 512 for path in (*data, *spec))
    length = sum(path.stat().st_size for path in (*data, *spec))
    assert taken >= length  # every page is backed
    assert length <= topic.reserved_bytes(size) <= 1.02 * length + 16384
    publisher.close()


def test_the_budget_is_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    topics = {"camera": 1 << 20, "annular": 1 << 14, "com": 1 << 14}
    needed = topic.check_budget(topics, topic.RIG_BUDGET_BYTES)
    assert needed == sum(map(topic.reserved_bytes, topics.values()))
    with pytest.raises(SharedMemoryError, match=r"3 topics need \d+\.\d MiB .* 10\.0 MiB the rig's budget allows"):
        topic.check_budget(topics, 10 << 20)
    monkeypatch.setattr(topic, "free_bytes", lambda: 1 << 20)
    with pytest.raises(SharedMemoryError, match=r"1\.0 MiB are free.*larger /dev/shm"):
        topic.check_budget(topics)


@pytest.mark.parametrize(("megabytes", "answer"), [(16, "SharedMemoryError"), (128, "fine 7")])
def test_a_small_dev_shm_is_one_line_and_never_sigbus(rig_id: str, megabytes: int, answer: str) -> None:
    child = f"{sys.executable} {CHILD} fill {rig_id} {1 << 20}"
    script = f"mount -t tmpfs -o size={megabytes}m tmpfs /dev/shm && exec {child}"
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("a /dev/shm of its own needs Linux, root and unshare")
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mounts of its own for one process here (in a chroot, or a container that forbids them)")
    done = subprocess.run(["unshare", "-m", "bash", "-c", script], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "ready"
    assert len(lines) == 2
    assert lines[1].startswith(answer)
    if megabytes == 16:
        assert "MiB of shared memory" in lines[1]
        assert "MiB are free" in lines[1]
        assert "larger /dev/shm" in lines[1]
    for folder in ("nodes", "services"):  # /tmp is shared with the namespace
        for path in Path(tempfile.gettempdir(), "iceoryx2", folder).glob(f"{rig_prefix(rig_id)}*"):
            pytest.fail(f"left {path}")
