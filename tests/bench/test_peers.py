"""Programs of others: started, waited for, and ended with all that they started."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from probeloop.bench.peers import free_ports, listening, missing, program, started
from probeloop.data.errors import ProbeloopError

LISTENS = """
import socket, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
held = [socket.create_server(("127.0.0.1", int(port))) for port in sys.argv[1:]]
print("listening on tcp://127.0.0.1:%s" % sys.argv[1], flush=True)
time.sleep(60)
"""


def test_it_is_waited_for_and_ends_with_its_children(tmp_path: Path) -> None:
    ports = free_ports(2)
    with started([sys.executable, "-c", LISTENS, *map(str, ports)], tmp_path / "said.log") as running:
        running.wait_for_ports(ports)
        assert set(ports) <= listening()
        assert int(running.wait_for(r"listening on tcp://[^:]+:(\d+)")[1]) == ports[0]
    assert running.process.returncode is not None
    assert not set(ports) & listening()  # and the leak check finds no child


def test_one_that_ignores_sigterm_ends_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probeloop.bench.peers._ENDS_WITHIN", 0.2)
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    with started([sys.executable, "-c", stubborn], tmp_path / "said.log") as running:
        running.wait_for("up")
    assert running.process.returncode == -9


def test_one_that_ends_or_says_nothing_is_one_line(tmp_path: Path) -> None:
    said = tmp_path / "said.log"
    ends, sleeps = "raise SystemExit('no licence')", "import time; time.sleep(60)"
    words = r"ended with 1: no licence\. see .*said\.log"
    with started([sys.executable, "-c", ends], said) as running, pytest.raises(ProbeloopError, match=words):
        running.wait_for("never")
    words = r"does not listen on \[1\] after 0.1 s: it said nothing"
    with started([sys.executable, "-c", sleeps], said) as running, pytest.raises(ProbeloopError, match=words):
        running.wait_for_ports([1], within=0.1)


def test_what_is_not_there_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROBELOOP_PEERS", str(tmp_path))
    assert missing("tickit") == f"tickit is not there ({tmp_path / 'tickit'}): make peers"
    with pytest.raises(ProbeloopError, match="make peers"):
        program("tickit", "tickit")
    (tmp_path / "tickit").mkdir()
    (tmp_path / "tickit" / "READY").touch()
    assert missing("tickit") == ""
    with pytest.raises(ProbeloopError, match="tickit has no program tickit"):
        program("tickit", "tickit")
