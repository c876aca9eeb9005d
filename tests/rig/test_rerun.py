"""A simulated session runs again: the same commands, the same frames bit by bit; and it is scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from probeloop.simulators.stem import StemSettings, StemSimulator

from probeloop.cli import main
from probeloop.data import commands as c
from probeloop.data.control import SetParameters
from probeloop.data.errors import RecordError
from probeloop.data.scan import Region
from probeloop.record.reader import Session
from probeloop.record.session import SessionWriter
from probeloop.record.truth import TruthWriter
from probeloop.rig.rerun import acts, run_again
from probeloop.testing.local_instrument import LocalInstrument, LocalOutlet

SMALL: dict[str, Any] = {
    "pixels": 32, "pixel_angle": 8.0, "tile": 8, "carbon": 0.2, "crystal": 0.4, "pace": None, "drift": 1e-9,
    "misalignment": 0.1,
}  # fmt: skip
REGION = Region(0.0, 0.0, 1e-9, 1e-9)


class Outlet(LocalOutlet):
    """Calls `full` when it has had `most` frames."""

    most = -1
    full: Any = None

    def send(self, buffer: Any, count: int, **more: Any) -> int:
        index = super().send(buffer, count, **more)
        if 0 <= self.most <= self.next_index:
            self.full()
        return index


class Watched(LocalInstrument):
    """Its clock ticks with every event, so that their order is that of their time; a scan can be cut off."""

    def tell(self, event: Any) -> None:
        self.clock.advance(1e-6)
        super().tell(msgspec.structs.replace(event, time_ns=self.clock.now_ns()))

    def _outlet(self, acquisition: Any, single: bool) -> LocalOutlet:
        return self.topics.setdefault(acquisition.topic, Outlet())

    def cut_scan(self, command: c.Scan, frames: int) -> None:
        outlet = self.topics["camera"]
        assert isinstance(outlet, Outlet)
        outlet.most, outlet.full = outlet.next_index + frames, self.desk.scan.abort
        self.do(command)
        outlet.most = -1


def recorded(folder: Path, **parameters: Any) -> Path:
    """Make a session in this process: lens, scans, one that is cut off, a reference of the drift, STOP, a place."""
    rig = Watched(StemSimulator(StemSettings(**(SMALL | parameters))))
    rig.take()
    rig.do(c.Unblank())
    rig.do(c.Scan(REGION, (6, 8), 1e-3))
    rig.do(c.SetAberrations({"C10": 5e-9, "C12a": -2e-9}))
    rig.do(c.Scan(REGION, (5, 7), 2e-3, "serpentine"))
    rig.cut_scan(c.Scan(REGION, (12, 12), 1e-3), 50)
    rig.handle(SetParameters("drift", {"x": 2e-10, "y": 0.0, "sigma": 1e-11}))
    rig.handle(c.Stop("a test"))
    rig.rearm()
    rig.take()
    rig.do(c.Unblank())
    rig.do(c.Settle("C10", 1e-12, 1.0))
    rig.do(c.Scan(REGION, (4, 4), 1e-3, frame="specimen"))
    rig.do(c.AcquireReference("vacuum_probe", 3))
    writer, truth = SessionWriter(folder), TruthWriter(folder)
    for block in rig.topics["camera"].blocks:
        writer.add(block)
    writer.close()
    truth.keep("start", rig.driver.truth())  # type: ignore[attr-defined]
    truth.close()
    (folder / "events.jsonl").write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in rig.events))
    rig.driver.close()
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded(tmp_path_factory.mktemp("session"))


def test_every_frame_comes_again_cut_off_stopped_settled_and_in_the_specimen(folder: Path) -> None:
    made = run_again(Session(folder), StemSimulator(StemSettings(**SMALL)))
    assert [each["equal"] for each in made] == [True] * 5
    frames = [each["recorded"] for each in made]
    assert frames[:2] == [48, 35]
    assert 50 <= frames[2] < 144
    assert frames[3:] == [16, 3]
    assert all(each["compared"] == each["recorded"] and each["missing"] == 0 for each in made)


@pytest.mark.parametrize("change", [{"seed": 2}, {"drift": 2e-9}, {"beam_current": 51.0}, {"misalignment": 0.11}])
def test_another_simulator_gives_other_frames(folder: Path, change: dict[str, Any]) -> None:
    made = run_again(Session(folder), StemSimulator(StemSettings(**(SMALL | change))))
    assert made[0]["equal"] is False
    assert made[0]["different"] > 0


def test_another_time_gives_no_frame_to_compare(folder: Path) -> None:
    (first, *_, last) = run_again(Session(folder), StemSimulator(StemSettings(**(SMALL | {"settling": 0.06}))))
    assert first["equal"] is True
    assert last["equal"] is False
    assert last["missing"] == 3


def test_what_was_done_comes_in_the_order_in_which_it_was_done(folder: Path) -> None:
    names = [type(act.command).__name__ for act in acts(Session(folder).events())]
    assert names == [
        "Unblank", "Scan", "SetAberrations", "Scan", "Scan", "SetParameters", "Stop", "Unblank", "Settle", "Scan",
        "AcquireReference",
    ]  # fmt: skip


def test_a_session_without_frames_or_rig_is_said_in_one_line(tmp_path: Path, capsys: Any) -> None:
    empty = tmp_path / "empty"
    SessionWriter(empty).close()
    empty.mkdir(exist_ok=True)
    (empty / "events.jsonl").write_bytes(b"")
    with pytest.raises(RecordError, match="measured nothing"):
        run_again(Session(empty), StemSimulator(StemSettings(**SMALL)))
    for command in ("rerun", "score"):
        assert main([command, str(empty)]) == 2
        assert main([command, str(tmp_path / "none")]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 4
    assert "no rig.toml" in told[0]
    assert "not made by a simulator" in told[2]


RIG = """
schema = 1
name = "seen-again"
[instrument]
use = "stem"
seed = 3
pixels = 32
pixel_angle = "8 mrad"
tile = 8
carbon = "0.2 nm"
crystal = "0.4 nm"
drift = "1e-9 m/s"
pace = 100
[[plan]]
use = "overview"
times = 2
[plan.parameters]
region = { centre_x = 0.0, centre_y = 0.0, width = 1e-9, height = 1e-9 }
shape = [12, 16]
dwell_time = "1 ms"
"""


def test_a_run_keeps_the_truth_is_scored_and_runs_again(launch: Any, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "seen-again.toml"
    path.write_text(RIG, encoding="utf-8")
    run = launch("run", str(path))
    assert run.summary()["problems"] == []
    assert {"start.npz", "end.npz", "2.npz", "4.npz"} <= {each.name for each in (run.folder / "truth").iterdir()}
    assert main(["score", str(run.folder), "--json"]) == 0
    score = json.loads(capsys.readouterr().out)
    assert score["generations"] == 2
    assert score["position"]["max_m"] == pytest.approx(0.384e-9, rel=0.02)  # the drift of 2 x 192 frames of 1 ms
    assert 0.9 < score["counts"]["share_detected"] <= 1.0
    assert "potential" in score["not_scored"]
    assert main(["score", str(run.folder)]) == 0
    assert "of the electrons sent were detected" in capsys.readouterr().out
    assert main(["rerun", str(run.folder), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["equal"], again["different"], again["ok"]) == (2, 0, True)
    assert main(["rerun", str(run.folder)]) == 0
    assert "2 of 2 generations are equal bit by bit" in capsys.readouterr().out
    assert np.load(run.folder / "truth" / "end.npz")["dose_map"].sum() > 0
    run.nothing_left()
