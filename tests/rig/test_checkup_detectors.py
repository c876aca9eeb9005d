"""`probeloop checkup` on detectors alone, whole rigs against our servers: what can't be checked is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMED = {
    "dark reference and hot pixels", "pattern centre, camera length, beam current", "scan scale, rotation, flip",
    "drift", "flyback", "settling of the lens",
}  # fmt: skip


@contextmanager
def merlin() -> Iterator[list[str]]:
    from probeloop.simulators.servers.merlin import MerlinServer, PoolSource

    with MerlinServer(PoolSource((64, 64)), rate=2000.0) as server:
        yield [f"instrument.control_port={server.control_port}", f"instrument.data_port={server.data_port}"]


@contextmanager
def dectris() -> Iterator[list[str]]:
    pytest.importorskip("zmq")
    from probeloop.simulators.servers.dectris import DectrisServer
    from probeloop.simulators.servers.dectris_source import poisson_frames

    with DectrisServer(poisson_frames(8, (64, 64), 2.0, 1), rate=2000.0) as server:
        yield [f"instrument.api_port={server.api_port}", f"instrument.stream_port={server.stream_ports[1]}",
               "instrument.trigger=internal"]  # fmt: skip


@pytest.mark.parametrize("served", [merlin, dectris], ids=lambda each: each.__name__)
def test_it_ends_well_and_names_what_it_cannot_check(served: Any, launch: Callable[..., Any]) -> None:
    with served() as settings:
        run = launch("checkup", served.__name__, *(word for each in settings for word in ("--set", each)))
        made = run.summary()
    assert run.popen.returncode == 0, f"{made['problems']}, {made['checks']}: {run.err}"
    assert made["problems"] == []
    assert set(made["cannot"]) == NAMED
    verdicts = {each["check"]: each["verdict"] for each in made["checks"]}
    assert (verdicts["STOP drill"], verdicts["read back"], verdicts["frames"]) == ("passed", "passed", "passed")
    assert "in the middle of a scan, verified by read-back" in made["checks"][0]["words"]
    assert made["calibrations"] == []
    run.nothing_left()
