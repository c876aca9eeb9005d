"""The guard on hardware that outlives the instrument's process: two real connections, and faults at each end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from probeloop import discover
from probeloop.data.errors import BusError, DriverError
from probeloop.testing.check_driver import check_driver
from probeloop.testing.hardware import HardwareLink

FOLDER = Path(__file__).parent / "drop_ins"
RIG = """
schema = 1
plugin_folders = [{folder}]
[instrument]
use = "bench_column"
port = {port}
[[plan]]
use = "expose"
"""


class Machine:
    """The hardware's program, and what it noted."""

    def __init__(self, log: Path, connections: int = 2) -> None:
        self.log = log
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "probeloop.testing.hardware", str(log), "--connections", str(connections)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.popen.stdout is not None
        self.port = int(self.popen.stdout.readline())

    def order(self, words: str) -> None:
        """Make it faulty, or well again."""
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self.popen.stdin.write(words + "\n")
        self.popen.stdin.flush()
        assert self.popen.stdout.readline() == "done\n"

    def requests(self, do: str = "", by: str = "") -> list[dict[str, Any]]:
        """What was asked of it, in order."""
        every = map(json.loads, self.log.read_text(encoding="utf-8").splitlines())
        return [each for each in every if do in ("", each["do"]) and by in ("", each["by"])]

    def safe_after(self, since_ns: int) -> tuple[float, str]:
        """Return when it became safe after a moment [s after it], and over whose connection; (-1, "") if not yet."""
        first = next((each for each in self.requests() if each["t"] >= since_ns and each["do"] == "safe"), None)
        return (-1.0, "") if first is None else ((first["t"] - since_ns) / 1e9, first["by"])

    def end(self) -> None:
        """Switch it off."""
        self.popen.communicate(timeout=10)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path / "hardware.jsonl")
    yield made
    made.end()


def rig_of(machine: Machine, tmp_path: Path) -> str:
    path = tmp_path / "bench.toml"
    path.write_text(RIG.format(folder=json.dumps(str(FOLDER)), port=machine.port), encoding="utf-8")
    return str(path)


def exposed(launch: Callable[..., Any], machine: Machine, tmp_path: Path) -> Any:
    """Start a run, and return it in mid-scan: beam on, tip engaged, bias up."""
    run = launch("run", rig_of(machine, tmp_path))
    run.until_frames("camera", 40)
    assert not machine.requests()[-1]["safe"]
    return run


def shot(run: Any, victim: str, number: signal.Signals) -> int:
    """Send a signal to a process of the run; return when [ns]."""
    pid = run.processes[victim]
    now = time.monotonic_ns()
    os.kill(pid, number)
    return now


def states(run: Any, target: str = "guard") -> list[str]:
    return [event["state"] for event in run.events() if event.get("target") == target]


def test_the_driver_keeps_its_contract(machine: Machine) -> None:
    column = discover.load_class("bench_column", "Instrument", [FOLDER])
    assert check_driver(lambda: column(column.Parameters(port=machine.port))) == []


def test_the_hardware_lets_two_in_and_hangs_and_refuses(machine: Machine) -> None:
    one, two = HardwareLink(machine.port, "one"), HardwareLink(machine.port, "two")
    with pytest.raises(DriverError, match="all connections are taken"):
        HardwareLink(machine.port, "three")
    machine.order("hang one")
    with pytest.raises(DriverError, match="does not answer"):
        one.ask("set", 0.05, values={"blanked": False})
    assert two.ask("get")["state"]["blanked"] is True
    machine.order("free one")
    assert one.ask("get")["state"]["blanked"] is False  # what waited was done
    machine.order("refuse two")
    with pytest.raises(DriverError):
        two.ask("get")
    two.close()
    with pytest.raises(DriverError, match="no connection for two"):
        HardwareLink(machine.port, "two")
    one.close()
    assert [each["safe"] for each in machine.requests("set")] == [False]


def test_a_killed_instrument_leaves_safe_hardware(
    launch: Callable[..., Any], machine: Machine, tmp_path: Path
) -> None:
    run = exposed(launch, machine, tmp_path)
    killed = shot(run, "instrument", signal.SIGKILL)
    made = run.summary()
    took, by = machine.safe_after(killed)
    assert by == "guard"
    assert 0 < took < 5
    assert machine.requests()[-1]["safe"]
    assert run.popen.returncode == 1
    assert any("'instrument' was killed by SIGKILL" in problem for problem in made["problems"])
    assert [act.partition(":")[0] for act in made["guard"]] == ["made safe"]
    assert not any(each["by"] == "instrument" and each["t"] > killed + 1e9 for each in machine.requests())
    run.nothing_left()


def test_a_stopped_instrument_is_made_safe_and_does_not_go_on(
    launch: Callable[..., Any], machine: Machine, tmp_path: Path
) -> None:
    run = exposed(launch, machine, tmp_path)
    stopped = shot(run, "instrument", signal.SIGSTOP)
    run.until(lambda: machine.safe_after(stopped)[1], "safe hardware")
    assert machine.safe_after(stopped)[1] == "guard"
    run.until(lambda: "made safe" in states(run), "the guard's word")
    run.until(
        lambda: any("it hangs, or was stopped" in event.get("text", "") for event in run.events()), "the supervisor's"
    )
    went_on = shot(run, "instrument", signal.SIGCONT)
    made = run.summary()
    assert made["plans"][0]["state"] == "stopped"
    assert "the guard made the hardware safe" in made["plans"][0]["reason"]
    assert states(run, "gate")[-2:] == ["tripped", "tripped"]  # by the guard's act, and at the end
    later = machine.requests("set")
    assert not [each for each in later if each["t"] > went_on]  # nothing of before is carried out
    assert any("it hangs, or was stopped" in problem for problem in made["problems"])
    run.nothing_left()


def test_a_stop_over_a_mute_connection_is_the_guards(
    launch: Callable[..., Any], machine: Machine, tmp_path: Path
) -> None:
    from probeloop.rig.client import stop_now

    run = exposed(launch, machine, tmp_path)
    machine.order("hang instrument")
    asked = time.monotonic_ns()
    with pytest.raises(BusError, match="NOT confirmed"):
        stop_now(run.name, "test")
    run.until(lambda: machine.safe_after(asked)[1], "safe hardware", 10.0)
    took, by = machine.safe_after(asked)
    assert by == "guard"
    assert took < 5
    machine.order("free instrument")  # what waits there is done now, and must be nothing unsafe
    run.summary()
    assert machine.requests()[-1]["safe"]
    run.nothing_left()


@pytest.mark.chaos
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_another_guard_takes_the_place_of_one_that_is_lost(
    launch: Callable[..., Any], machine: Machine, tmp_path: Path, number: signal.Signals
) -> None:
    run = exposed(launch, machine, tmp_path)
    first = run.processes["guard"]
    shot(run, "guard", number)
    run.until(lambda: states(run)[-2:] == ["restarted", "watching"], "another guard")
    assert run.processes["guard"] != first
    killed = shot(run, "instrument", signal.SIGKILL)
    made = run.summary()
    assert machine.safe_after(killed)[1] == "guard"
    assert any("'guard'" in problem for problem in made["problems"])
    run.nothing_left()


@pytest.mark.chaos
def test_guard_and_instrument_killed_together(launch: Callable[..., Any], machine: Machine, tmp_path: Path) -> None:
    run = exposed(launch, machine, tmp_path)
    shot(run, "guard", signal.SIGKILL)
    killed = shot(run, "instrument", signal.SIGKILL)
    made = run.summary()
    assert machine.safe_after(killed)[1] == "guard"
    assert machine.requests()[-1]["safe"]
    assert [act.partition(":")[0] for act in made["guard"]] == ["made safe"]
    run.nothing_left()


@pytest.mark.chaos
def test_the_supervisor_killed_with_a_mute_first_connection(
    launch: Callable[..., Any], machine: Machine, tmp_path: Path
) -> None:
    run = exposed(launch, machine, tmp_path)
    machine.order("hang instrument")
    killed = time.monotonic_ns()
    run.popen.kill()
    run.popen.wait()
    run.until(lambda: not run.processes, "the end of the orphans", 20.0)
    assert machine.safe_after(killed)[1] == "guard"


def test_unattended_plans_do_not_begin_without_the_guards_connection(
    launch: Callable[..., Any], tmp_path: Path
) -> None:
    machine = Machine(tmp_path / "hardware.jsonl", connections=1)
    run = launch("run", rig_of(machine, tmp_path))
    (line,) = run.told()
    assert "unattended plans need the guard, and it does not reach the hardware: all connections are taken" in line
    assert "run with a window" in line
    assert not machine.requests("set")
    run.nothing_left()
    machine.end()


@pytest.mark.chaos
def test_an_unattended_plan_stops_when_the_guard_stays_blind(
    launch: Callable[..., Any], machine: Machine, tmp_path: Path
) -> None:
    run = exposed(launch, machine, tmp_path)
    machine.order("refuse guard")
    refused = time.monotonic_ns()
    made = run.summary()
    assert run.popen.returncode == 1
    took, by = machine.safe_after(refused)
    assert by == "instrument"
    assert took > 4  # it had the time to come back
    assert made["plans"][0]["state"] == "stopped"
    assert any("nobody guards the hardware: no connection for guard" in problem for problem in made["problems"])
    assert machine.requests()[-1]["safe"]
    run.nothing_left()


def test_a_guard_that_comes_back_in_time_stops_nothing(
    launch: Callable[..., Any], machine: Machine, tmp_path: Path
) -> None:
    run = exposed(launch, machine, tmp_path)
    machine.order("refuse guard")
    run.until(lambda: "blind" in states(run), "a blind guard")
    machine.order("accept guard")
    run.until(lambda: states(run)[-1] == "watching", "the guard's return")
    assert run.popen.poll() is None
    assert not machine.requests()[-1]["safe"]
    run.popen.send_signal(signal.SIGINT)
    made = run.summary()
    assert made["ended"] == "interrupted"
    assert made["guard"] == []
    assert machine.requests("safe")[-1]["by"] == "instrument"


@pytest.mark.bench
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["kill", "stop"])
def test_the_time_from_the_loss_to_safe_hardware(
    launch: Callable[..., Any], tmp_path: Path, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    times = []
    for i in range(20):
        machine = Machine(tmp_path / f"hardware{i}.jsonl")
        run = exposed(launch, machine, tmp_path)
        lost = shot(run, "instrument", number)
        run.until(lambda machine=machine, lost=lost: machine.safe_after(lost)[1], "safe hardware")
        took, by = machine.safe_after(lost)
        assert by == "guard"
        times.append(took * 1e3)
        run.end()
        machine.end()
    times.sort()
    with capsys.disabled():
        print(f"\n{number.name} to safe: n {len(times)}, p50 {times[len(times) // 2]:.1f} ms, max {times[-1]:.1f} ms")
