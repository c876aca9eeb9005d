"""`probeloop doctor --live`: what it says of a rig that runs, and one line where none does."""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from probeloop.bus.node import Bus
from probeloop.bus.request import Client
from probeloop.cli import main
from probeloop.data import commands as c
from probeloop.data import control
from probeloop.data.clock import MonotonicClock
from probeloop.data.control import Accepted, decode_reply, encode
from probeloop.data.errors import BusError, ProbeloopError
from probeloop.instrument.service import run_instrument
from probeloop.rig.client import Connection
from probeloop.rig.doctor import doctor
from probeloop.rig.live import watch, words
from probeloop.testing.fake_driver import SMALL_SCAN, FakeDriver


def test_without_a_rig_it_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--live", "--connect", "surely-not-running"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = told.err.splitlines()
    assert line.startswith("probeloop: no rig")


@pytest.mark.parametrize("wrong", [["--live", "--seconds", "0"], ["--live", "--seconds", "nan"], ["--seconds", "3"],
                                   ["--connect", "stem"]])  # fmt: skip
def test_what_makes_no_sense_is_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *wrong]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.fixture
def instrument(rig_id: str) -> Any:
    """An instrument on a local bus that scans again and again, each scan caused by a frame."""
    ready, stop = threading.Event(), threading.Event()
    with Bus(rig_id, "instrument", local=True) as bus, Bus(rig_id, "test", local=True) as mine:
        options = {"stop": stop, "ready": ready.set}
        service = threading.Thread(target=run_instrument, args=(bus, FakeDriver(modality="stem")), kwargs=options)
        service.start()
        assert ready.wait(10.0)
        client = Client(mine, "instrument")

        def ask(request: control.Request) -> Any:
            return decode_reply(client.call(encode(request), 5.0))

        def scan_on() -> None:
            epoch = ask(control.TakeControl("experiment")).epoch
            assert isinstance(ask(control.Submit(c.Unblank(), "experiment", epoch)), Accepted)
            while not stop.wait(0.05):
                now = MonotonicClock().now_ns()
                trace = control.Trace(exposed=now - 9_000_000, published=now - 8_000_000, received=now, decided=now,
                                      submitted=now)  # fmt: skip
                ask(control.Submit(SMALL_SCAN, "experiment", epoch, (("camera", 0),), trace))

        scans = threading.Thread(target=scan_on)
        scans.start()
        try:
            yield rig_id
        finally:
            stop.set()
            scans.join(10.0)
            service.join(10.0)
            client.close()


def test_a_rig_is_watched_while_its_loop_runs(instrument: str) -> None:
    with Connection(instrument, "doctor", local=True) as connection:
        found = watch(connection, 1.5)
    json.dumps(found, allow_nan=False)
    (camera,) = found["topics"]
    assert (camera["topic"], camera["kind"], camera["lost"]) == ("camera", "frames", 0)
    assert camera["frames"] > 0
    assert camera["rate_per_s"] > 0
    assert 0 < camera["transport_us"]["p50"] <= camera["transport_us"]["p99"]
    watched, whole = found["loop"]["watched"], found["loop"]["since_start"]
    assert {"camera", "to_policy", "gate", "instrument", "software", "physical"} <= set(whole)
    assert "plugin" not in whole
    assert 0 < watched["software"]["n"] <= whole["software"]["n"]
    assert whole["camera"]["p50"] == pytest.approx(1000, rel=0.06)
    assert whole["to_policy"]["p50"] == pytest.approx(8000, rel=0.06)
    assert 9000 * 0.94 < whole["software"]["p50"] < whole["physical"]["p99"]
    for stage in whole.values():
        assert sum(count for _, _, count in stage["bins"]) == stage["n"]
        assert all(low < high for low, high, _ in stage["bins"])
    lines = words(found)
    assert any(line.split()[:1] == ["camera"] and line.endswith("s") for line in lines)
    (policy,) = (line for line in lines if line.startswith("to the policy"))
    assert "█" in policy  # every one of them took 8 ms
    assert policy.count("█") == 1
    assert any(line.startswith("software, in all") for line in lines)


def test_a_rig_whose_instrument_is_gone_is_named(rig_id: str) -> None:
    with Connection(rig_id, "doctor", local=True) as connection, pytest.raises(BusError, match="does not answer"):
        watch(connection, 0.1)


def test_a_running_rig_from_the_command_line(
    launch: Callable[..., Any], quick: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = launch("run", quick, "--set", 'plugins.fft={use="fourier", input=["scan"]}')
    run.until_frames("scan")
    run.until(lambda: {"scan", "fft.power"} <= set(topics_of(run.name)), "the plug-in's topic")
    assert main(["doctor", "--live", "--connect", run.name, "--seconds", "1.5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    by_name = {each["topic"]: each for each in found["topics"]}
    assert by_name["scan"]["rate_per_s"] > 10
    assert by_name["scan"]["transport_us"]["n"] > 0
    (reader,) = found["readers"]
    assert (reader["reader"], reader["topic"], reader["lost"]) == ("fft", "scan", 0)
    assert reader["transport_us"]["n"] > 0
    assert found["loop"] == {"watched": {}, "since_start": {}}
    options = argparse.Namespace(live=True, connect=run.name, seconds=0.2, json=False)
    assert doctor(options) == 0
    told = capsys.readouterr().out
    assert "scan → fft" in told
    assert "no closed loop yet" in told


def topics_of(name: str) -> list[str]:
    with Connection(name, "look") as connection:
        return connection.topics()


def test_a_watch_of_no_time_is_refused() -> None:
    with pytest.raises(ProbeloopError, match="can't watch"):
        doctor(argparse.Namespace(live=True, connect=None, seconds=-1.0, json=False))
