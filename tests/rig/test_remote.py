"""A rig on another host as a person meets it: keys, the [relay] of a rig file, connect, the window, stop."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probeloop.bus.node import Bus, rig_prefix, shared_memory_folder
from probeloop.bus.relay.keys import KeyRing
from probeloop.bus.relay.sockets import new_pair
from probeloop.cli import main
from probeloop.data import control
from probeloop.data.errors import BusError, SettingsError
from probeloop.record.reader import Session
from probeloop.record.recorder import run_recorder
from probeloop.rig.client import Connection
from probeloop.rig.load import load
from probeloop.rig.remote import check_relay, local_name, rules_of
from probeloop.rig.supervisor import running_rigs

RELAY = '\n[relay]\nbind = "tcp://127.0.0.1:{port}"\nkey = "host"\n'


@pytest.fixture
def ring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeyRing:
    """The keys of two hosts in one folder: `host` serves, `anna` commands."""
    monkeypatch.setenv("PROBELOOP_CONFIG", str(tmp_path / "config"))
    made = KeyRing()
    made.trust(made.new("host", new_pair), "server")
    made.trust(made.new("anna", new_pair), "operator")
    return made


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) != 0
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert all(line.startswith("probeloop: ") for line in told.splitlines())
    return told


def test_keys_are_made_handed_over_trusted_and_revoked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PROBELOOP_CONFIG", str(tmp_path))
    assert main(["keys", "list"]) == 0
    assert "no key yet: probeloop keys new NAME" in capsys.readouterr().out
    assert main(["keys", "new", "anna"]) == 0
    handed = tmp_path / "keys" / "anna.public"
    assert f"{handed}: hand this file over" in capsys.readouterr().out
    assert main(["keys", "trust", str(handed), "--as", "operator"]) == 0
    assert "'anna' may read the topics of this host's rigs, and command them" in capsys.readouterr().out
    assert main(["keys", "list"]) == 0
    told = capsys.readouterr().out
    assert f"{'own':9}anna" in told
    assert "operator: may read" in told
    assert KeyRing(tmp_path / "keys").secret("anna").secret not in told
    if os.name == "posix":
        (tmp_path / "keys" / "anna.secret").chmod(0o644)
        assert main(["keys", "list"]) == 1
        assert "others can read" in capsys.readouterr().out
    assert main(["keys", "revoke", "anna"]) == 0
    assert "no key 'anna' is trusted here" in fails(capsys, "keys", "revoke", "anna")
    assert "is no name of a key" in fails(capsys, "keys", "new", "../x")
    assert "can't read" in fails(capsys, "keys", "trust", str(tmp_path / "absent"), "--as", "viewer")


def test_off_this_machine_a_rig_needs_a_key(
    quick: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], ring: KeyRing
) -> None:
    run = ("run", quick, "--headless", "--record", str(tmp_path / "s"), "--set")
    told = fails(capsys, *run, 'relay={bind="tcp://0.0.0.0:5590"}')
    assert told.count("\n") <= 2
    assert "relay: tcp://0.0.0.0:5590 is not this machine alone, and no key is named. probeloop keys new NAME" in told
    assert "no key 'absent' here (there are: anna, host)" in fails(
        capsys, *run, 'relay={bind="tcp://0.0.0.0:5590", key="absent"}'
    )
    (ring.folder / "host.secret").chmod(0o640)
    assert "others can read" in fails(capsys, *run, 'relay={bind="tcp://0.0.0.0:5590", key="host"}')
    assert not (tmp_path / "s").exists()
    assert "no key is named. add --key NAME" in fails(capsys, "connect", "tcp://192.0.2.1:5590")
    assert "is no address" in fails(capsys, "connect", "192.0.2.1")


def test_every_fault_of_a_relay_is_told_with_its_key_path(quick: str) -> None:
    wrong = 'relay={bind="x", topics={camera="all"}, compression="zip", buffer_mb=0, extra=1, allow=["../x"]}'
    with pytest.raises(SettingsError) as caught:
        load(quick, [wrong])
    paths = {problem.path for problem in caught.value.problems}
    assert paths == {"relay.topics", "relay.compression", "relay.buffer_mb", "relay.extra", "relay.allow"}


def test_a_rig_says_what_travels_and_to_whom(quick: str, ring: KeyRing) -> None:
    travels = 'topics={camera="newest", "haadf.*"="lossless"}, buffer_mb=8, compression="none"'
    entry = load(quick, [f'relay={{bind="tcp://0.0.0.0:1", key="host", allow=["anna"], {travels}}}']).relay
    assert entry is not None
    check_relay(entry)
    rules = rules_of(entry)
    assert (rules.most_bytes, rules.compress, rules.allow) == (8 << 20, False, ("anna",))
    assert [rules.mode(name) for name in ("camera", "haadf.intensity", "other")] == ["newest", "lossless", None]
    plain = load(quick, ['relay={bind="tcp://127.0.0.1:1"}']).relay
    assert plain is not None
    assert (rules_of(plain).mode("any.topic"), rules_of(plain).without_keys) == ("by_kind", "viewer")
    stranger = load(quick, ['relay={bind="tcp://0.0.0.0:1", key="host", allow=["eve"]}']).relay
    assert stranger is not None
    with pytest.raises(BusError, match="allows eve, not trusted here"):
        check_relay(stranger)


def test_a_mirrored_rig_never_takes_the_name_of_one_that_may_run_here() -> None:
    assert local_name("stem", None) == "stem-remote"
    assert len(local_name("x" * 41, None)) <= 41
    with pytest.raises(BusError, match="is no name of a rig"):
        local_name("stem", "../x")


class Connected:
    """`probeloop connect` or `gui`, as a process."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "probeloop.cli", *arguments], stdin=subprocess.DEVNULL, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **environment},
        )  # fmt: skip

    def line(self) -> str:
        assert self.popen.stdout is not None
        return self.popen.stdout.readline()

    def end(self, seconds: float = 20.0) -> tuple[int, str]:
        """Ask it to end; return its exit code and what it complained of."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
        try:
            _, told = self.popen.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            _, told = self.popen.communicate()
        return self.popen.returncode, told


@pytest.fixture
def remote(launch: Callable[..., Any], quick: str, ring: KeyRing) -> tuple[Any, str]:
    """A running rig that can be reached, and where."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    Path(quick).write_text(Path(quick).read_text() + RELAY.format(port=port))
    run = launch("run", quick)

    run.until_processes("relay")
    with Connection(run.name, "test") as connection:
        state = run.until(lambda: _described(connection, "relay"), "a relay that listens")
    return run, state["endpoint"]


def test_a_whole_rig_seen_recorded_and_stopped_from_another_host(
    remote: tuple[Any, str], tmp_path: Path, quick: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run, endpoint = remote
    near = f"{run.name}-remote"
    process = Connected("connect", endpoint, "--key", "anna")
    stop = threading.Event()
    try:
        assert process.line() == f"{near}: connected to {endpoint} as operator:anna\n"
        assert near in running_rigs()
        folder = tmp_path / "there"
        with Bus(near, "recorder") as bus, Connection(near, "test") as connection:
            recorder = threading.Thread(
                target=run_recorder, args=(bus, folder), kwargs={"stop": stop, "instrument": "instrument"}
            )
            recorder.start()
            run.until(lambda: _described(connection, "instrument").get("holder") == "experiment", "the plan's start")
            link = _described(connection, "link")
            assert link["role"] == "operator"
            assert link["clock_error"] < 1.0
            _frames(run, connection, 300)
            assert connection.processes()["instrument"] < 5.0
            refused = connection.request("instrument", control.Shutdown(), 5.0)
            assert isinstance(refused, control.Refused)
            assert main(["stop", "--connect", near]) == 0
            assert "stopped, the instrument is in its safe state" in capsys.readouterr().out
            run.until(lambda: _described(connection, "instrument")["fault"], "the fault at the near end")
            stop.set()
            recorder.join(20)
        made = run.summary()
        assert made["plans"][0]["state"] == "stopped", made["plans"][0]
        assert "(operator:anna)" in made["plans"][0]["reason"]
        code, told = process.end()
        assert (code, told) == (0, "")
    finally:
        stop.set()
        process.end()
    _same(folder, run.folder, quick)
    run.nothing_left()
    assert near not in running_rigs()
    assert list(shared_memory_folder().glob(f"{rig_prefix(near)}*")) == []


def _described(connection: Connection, service: str) -> dict[str, Any]:
    try:
        reply = connection.request(service, control.Describe(), 2.0)
    except BusError:
        return {}
    return reply.state if isinstance(reply, control.Description) else {}


def _frames(run: Any, connection: Connection, count: int) -> None:
    def taken() -> bool:
        topics = _described(connection, "recorder").get("topics", {})
        return bool(topics.get("scan", {}).get("frames", 0) >= count)

    run.until(taken, f"{count} frames recorded")


def _same(here: Path, there: Path, quick: str) -> None:
    """The near record holds what the far one holds, from where it began."""
    source = np.load(Path(quick).parent / "map.npy").ravel()
    (near,) = [topic for topic in Session(here).topics() if topic.topic == "scan"]
    (far,) = [topic for topic in Session(there).topics() if topic.topic == "scan"]
    seen = near.present.ravel()
    assert seen.sum() >= 100
    assert not (seen & ~far.present.ravel()).any()
    values = near.data().reshape(seen.size, -1)
    assert np.array_equal(values[seen, 0], source[seen])


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_window_opens_on_a_rig_of_another_host(remote: tuple[Any, str]) -> None:
    run, endpoint = remote
    window = Connected("gui", "--connect", endpoint, "--key", "anna", DISPLAY=":0", QT_QPA_PLATFORM="offscreen")
    try:
        near = f"{run.name}-remote"

        def mirrored() -> bool:
            assert window.popen.poll() is None, window.end()
            return near in running_rigs()

        run.until(mirrored, "the mirrored rig")

        def open_() -> bool:
            assert window.popen.poll() is None, window.end()
            status = Path(f"/proc/{window.popen.pid}/status").read_text()
            (caught,) = re.findall(r"SigCgt:\s*(\w+)", status)
            return bool(int(caught, 16) >> signal.SIGTERM - 1 & 1)  # it looks for its end once it is shown

        run.until(open_, "the window")
        with Connection(near, "test") as connection:
            assert any(name.startswith("window") for name in _nodes(connection))
        code, told = window.end()
        assert code == 0
        assert "Traceback" not in told
        run.until(lambda: near not in running_rigs(), "its end")
    finally:
        window.end()


@pytest.mark.chaos
def test_a_relay_that_is_killed_comes_back_and_so_does_its_reader(remote: tuple[Any, str]) -> None:
    run, endpoint = remote
    process = Connected("connect", endpoint, "--key", "anna")
    try:
        assert "connected" in process.line()
        before = run.processes["relay"]
        with Connection(f"{run.name}-remote", "test") as connection:
            run.until(lambda: "scan" in connection.topics(), "the topic")
            topic = connection.subscribe("scan", "lossless")
            run.until(lambda: topic.receive(0.2), "a frame")
            os.kill(before, signal.SIGKILL)
            run.until(lambda: run.processes.get("relay", before) != before, "another relay")
            run.until(lambda: _described(connection, "link")["cuts"] > 0, "a cut")
            run.until(lambda: _described(connection, "link")["up"], "a link that is back")
            end = _described(connection, "link")["topics"]["scan"]["next"]
            block = run.until(lambda: topic.receive(0.2), "a frame")
            while block is None or block.index <= end:
                block = topic.receive(1.0)
            state = _described(connection, "link")["topics"]["scan"]
            assert topic.stats.lost == state["lost"]
            topic.close()
        assert run.popen.poll() is None
    finally:
        process.end()


def _nodes(connection: Connection) -> list[str]:
    bus = connection._bus
    return [bus._name_of(state) for state in bus._states()]


def test_who_is_not_trusted_is_told_so_in_one_line(remote: tuple[Any, str], ring: KeyRing) -> None:
    _, endpoint = remote
    ring.new("eve", new_pair)
    process = Connected("connect", endpoint, "--key", "eve")
    _, told = process.popen.communicate(timeout=40)
    assert process.popen.returncode == 2
    assert told == (
        f"probeloop: no answer from {endpoint}: this key is not trusted there. "
        "on that host: probeloop keys trust eve.public --as viewer\n"
    )
