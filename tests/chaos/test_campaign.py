"""Faults in real rigs: a short campaign in every run of the tests, 200 kills and stops with -m chaos."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest

from probeloop.bench.chaos.campaign import FAULTS, STARTS, Campaign
from probeloop.bench.chaos.leftovers import left_by
from probeloop.bench.chaos.outcome import Fault, Outcome
from probeloop.bench.chaos.rig import ChaosRig
from probeloop.bench.chaos.witness import Tally
from probeloop.bus.node import rig_prefix, shared_memory_folder
from probeloop.data.errors import ProbeloopError

SIGNALS = [fault.name for fault in FAULTS if fault.name.startswith(("kill-", "stop-")) and fault.victim != "window"]


def test_a_rig_survives_two_kills_and_a_caller_without_keys() -> None:
    campaign = Campaign(1, ["kill-plugin", "key-none", "kill-instrument"], per_rig=2)
    campaign.run(lambda: True)
    made = campaign.figures()
    assert not made["problems"], "\n".join(made["problems"])
    assert (made["corrupt"], made["leftovers"], made["failed"]) == (0, 0, 0)
    assert (made["kills"], made["injections"]) == (2, 3)
    assert made["faults"]["kill-instrument"]["stopped"] == 1
    assert made["faults"]["kill-plugin"]["contained"] == made["faults"]["key-none"]["refused"] == 1
    assert made["frames"] > 100
    assert made["record_cells_compared"] > 100
    assert made["frames_lost"] == 0


def _flip(rig: ChaosRig, rng: random.Random) -> Outcome:
    """Flip bytes of the camera's memory while blocks wait to be read."""
    names = shared_memory_folder().glob(f"{rig_prefix(rig.name)}*.data")
    # the memory of a topic's blocks is one file; that of messages, which grows, has numbered ones
    largest = max((path for path in names if "__" not in path.name), key=lambda path: path.stat().st_size)
    size, until, look = largest.stat().st_size, time.monotonic() + 20.0, rig.witness.look

    def look_late() -> None:
        time.sleep(0.2)
        with largest.open("r+b", buffering=0) as memory:
            for at in (rng.randrange(size) for _ in range(5000)):
                byte = os.pread(memory.fileno(), 1, at)
                os.pwrite(memory.fileno(), bytes([byte[0] ^ 0xFF]), at)
        look()

    rig.witness.look = look_late  # type: ignore[method-assign]
    while not rig.witness.corrupt and time.monotonic() < until:
        time.sleep(0.05)
    rig.witness.look = look  # type: ignore[method-assign]
    return Outcome("contained")


@pytest.mark.parametrize(
    ("victim", "kills", "topic", "frames", "problem"),
    [
        ("com", 1, "com.deflection", 8, ""),
        ("com", 1, "com.deflection", 9, "9 of com.deflection"),
        ("com", 1, "camera", 8, "8 of camera"),
        ("com", 0, "com.deflection", 8, "8 of com.deflection"),  # it ended, or raised, and nobody killed it
        ("recorder", 1, "com.deflection", 8, "8 of com.deflection"),
        ("", 1, "com.deflection", 8, "8 of com.deflection"),
    ],
)
def test_of_a_killed_plug_in_only_the_block_that_it_was_sending_may_be_missing(
    victim: str, kills: int, topic: str, frames: int, problem: str
) -> None:
    tallies = {name: Tally(largest=8, lost=3) for name in ("camera", "com.deflection")}
    rig: Any = SimpleNamespace(waits=True, problems=[], witness=SimpleNamespace(corrupt=0, tallies=tallies))

    def lose(rig: ChaosRig, rng: random.Random) -> Outcome:
        tallies[topic].lost += frames
        return Outcome("contained", 0.1, kills)

    campaign = Campaign(1, ["kill"], faults=(Fault("kill", 1, "", lose, victim),))
    campaign._inject(rig, campaign._faults[0], campaign._seen(rig))
    made = campaign.figures()
    assert made["problems"] == ([f"kill: frames lost beside it: {problem}"] if problem else [])
    assert made["frames_half_sent"] == (0 if problem else 8)


def _leave(rig: ChaosRig, rng: random.Random) -> Outcome:
    """Leave a file that the rig does not know, once it is gone."""
    rig.leave()
    rig.popen.terminate()
    rig.popen.wait(30)
    (shared_memory_folder() / f"{rig_prefix(rig.name)}planted.data").touch()
    return Outcome("contained")


def test_corrupt_blocks_and_files_left_behind_are_counted_and_fail_the_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probeloop.bench.chaos.rig.left_by", lambda rig_id: left_by(rig_id, 1.0))
    planted = Fault("leave", 0, "leaves a file", _leave, ends=True)
    campaign = Campaign(2, ["flip", "leave"], faults=(Fault("flip", 0, "flips bytes", _flip), planted), per_rig=1)
    try:
        campaign.run(lambda: True)
    finally:
        for path in shared_memory_folder().glob("iox2_chaos-*planted.data"):
            path.unlink()
    made = campaign.figures()
    assert made["faults"]["flip"]["corrupt"] >= 1
    assert made["faults"]["leave"]["leftovers"] == 1
    assert not made["ok"]
    assert any("planted.data" in problem for problem in made["problems"])


def test_an_unknown_fault_is_one_line_with_the_known_ones() -> None:
    with pytest.raises(ProbeloopError, match=r"no fault is called kill-all.*kill-plugin.*key-none.*stale-files"):
        Campaign(1, ["kill-all"])
    done = subprocess.run(
        [sys.executable, "-m", "probeloop.cli", "bench", "chaos", "--faults", "kill-all"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("probeloop: no fault is called kill-all")


def test_every_row_that_is_asked_for_has_a_fault() -> None:
    rows = {each.row for each in (*FAULTS, *STARTS)}
    assert rows >= {*range(1, 6), *range(9, 18), 20, 22, 23, 24}


def test_what_can_not_be_injected_is_reported_by_name_and_never_as_passed() -> None:
    lacking = Fault("lacking", 9, "", lambda rig, rng: Outcome("contained"), lacks=lambda: "no tool")
    campaign = Campaign(1, ["lacking"], faults=(lacking,))
    campaign.run(lambda: True)
    made = json.loads(json.dumps(campaign.figures()))
    assert made["not_run"] == {"lacking": "no tool"}
    assert made["faults"] == {}
    assert made["rigs"] == 0


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_faults_of_the_network_and_of_keys() -> None:
    names = [fault.name for fault in FAULTS if fault.row in (23, 24) or fault.name.endswith("-relay")]
    campaign = Campaign(23, names, per_rig=6)
    campaign.run(lambda: all(row.outcomes for row in campaign.rows.values()))
    made = campaign.figures()
    assert not made["problems"], "\n".join(made["problems"])
    assert (made["corrupt"], made["leftovers"], made["failed"]) == (0, 0, 0)
    assert made["faults"]["network-deaf"]["stopped"] == made["faults"]["network-deaf"]["n"]
    assert all(row["refused"] == row["n"] for row in made["faults"].values() if row["row"] == 24)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_two_hundred_kills_and_stops() -> None:
    campaign = Campaign(2026, SIGNALS)
    campaign.run(lambda: campaign.kills >= 200)
    made = campaign.figures()
    assert not made["problems"], "\n".join(made["problems"])
    assert (made["corrupt"], made["leftovers"], made["failed"]) == (0, 0, 0)
