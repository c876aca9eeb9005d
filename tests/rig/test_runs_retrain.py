"""Retraining beside the experiment in running rigs: maps keep coming, networks change between two of them, no orphan.

In most of them the process beside is a stand-in that ends when the test says so; in those marked `bench` it is real.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from probeloop.plugins.segment import Segment
from probeloop.plugins.segment.ensemble import Ensemble
from probeloop.plugins.segment.weights import SHIPPED, load, read_card, save

from probeloop.data.control import Accepted, SetParameters
from probeloop.record.reader import open_session
from probeloop.rig.client import Connection

pytest.importorskip("torch", reason="no torch: pip install 'probeloop[ml]'")
pytest.importorskip("safetensors", reason="no safetensors: pip install 'probeloop[ml]'")
pytest.importorskip("skimage", reason="no scikit-image: pip install 'probeloop[ml]'")
pytestmark = pytest.mark.timeout(600)  # a busy machine

RIG = """
schema = 1
[instrument]
use = "spm"
seed = 5
cells = 128
pace = {pace}
[plugins.pfm]
use = "piezoresponse"
input = ["scan"]
[plugins.segment]
use = "{use}"
input = ["pfm.amplitude"]
parameters = {{ retrain = "{retrain}", retrained = "{kept}" }}
[[plan]]
use = "overview"
times = 1000
parameters = {{ shape = [{pixels}, {pixels}], dwell_time = "0.5 ms" }}
"""
STAND_IN = '''
"""The walls, with a process beside that works until it is told that it has ended."""

import sys

from probeloop.api import ScanTransform
from probeloop.plugins.segment import Segment

WORK = """
import json, pathlib, shutil, sys, threading
out = pathlib.Path(sys.argv[-1])
go = out.with_suffix(".go")
while not go.exists():
    threading.Event().wait(0.05)
go.unlink()
shutil.copy({other!r}, out)
print(json.dumps({{"kept": True, "text": "they were replaced", "out": str(out)}}))
"""


class StandIn(Segment, ScanTransform):
    """As `segment`."""

    def __init__(self, parameters=None, context=None):
        super().__init__(parameters, context)
        self.beside.command = (sys.executable, "-c", WORK)
'''
BRIEF = '''
"""The walls, with a retraining of a few batches."""

from probeloop.api import ScanTransform
from probeloop.plugins.segment import Segment


class Brief(Segment, ScanTransform):
    """As `segment`."""

    def __init__(self, parameters=None, context=None):
        super().__init__(parameters, context)
        start = self.beside.start
        less = {"cycles": 12, "frames": 24, "checked": 12}
        self.beside.start = lambda maps, weights, kept, settings: start(maps, weights, kept, settings | less)
'''


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the rigs of this test a folder for plug-ins, and one for what is temporary."""
    for name, variable in (("plugins", "PROBELOOP_PLUGINS"), ("passing", "TMPDIR")):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / name))
    monkeypatch.setattr(tempfile, "tempdir", None)


def rig(folder: Path, use: str = "stand_in", retrain: str = "once", pixels: int = 64, pace: float = 5.0) -> str:
    """Write a rig, and the plug-in with the stand-in; return its path."""
    if use == "stand_in":
        other = folder / "other.safetensors"
        save(other, [each.state_dict() for each in load(SHIPPED)[0][:2]], read_card(SHIPPED))
        (folder / "plugins" / "stand_in.py").write_text(STAND_IN.format(other=str(other)), encoding="utf-8")
    if use == "brief":
        (folder / "plugins" / "brief.py").write_text(BRIEF, encoding="utf-8")
    path = folder / "rig.toml"
    kept = folder / "kept.safetensors"
    path.write_text(RIG.format(use=use, retrain=retrain, kept=kept, pixels=pixels, pace=pace), encoding="utf-8")
    return str(path)


def retraining(run: Any) -> psutil.Process | None:
    """Return the process beside the plug-in that runs now."""
    for pid in run.processes.values():
        try:
            for child in psutil.Process(pid).children():
                if "train" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                    return child
        except psutil.Error:
            continue
    return None


def told(run: Any, words: str) -> list[dict[str, Any]]:
    """Return what the operator was told with these words in it."""
    return [event for event in run.events() if event["type"] == "Remark" and words in event["text"]]


def change(run: Any, **values: Any) -> None:
    """Set parameters of the plug-in, as the window does."""
    with Connection(run.name, "test") as connection:
        reply = connection.request("plugin.segment", SetParameters("segment", values), 5.0)
        assert isinstance(reply, Accepted), reply


def left(folder: Path) -> list[str]:
    """Return the files of a retraining that are still there, but for what it was to make."""
    passing = [str(path.relative_to(folder)) for path in (folder / "passing").glob("probeloop-retrain-*")]
    return passing + [path.name for path in folder.iterdir() if path.suffix in (".partial", ".new")]


@pytest.mark.chaos
def test_networks_change_between_two_maps_and_old_ones_stay_when_it_is_killed(
    launch: Callable[..., Any], tmp_path: Path
) -> None:
    run = launch("run", rig(tmp_path))
    killed = run.until(lambda: retraining(run), "a retraining")
    run.until_frames("segment.mean", run.until_frames("segment.mean", 1) + 2)
    assert killed.is_running()
    killed.kill()
    run.until(lambda: told(run, "signal 9"), "a word on the one that was killed")
    assert "networks stay as they were" in told(run, "signal 9")[0]["text"]

    change(run, retrain="off")
    change(run, retrain="once")
    run.until(lambda: retraining(run), "another retraining")
    before = run.until_frames("segment.mean", 1)
    (tmp_path / "kept.go").touch()
    run.until(lambda: told(run, "they were replaced"), "new networks")
    run.until_frames("segment.mean", before + 3)
    run.popen.terminate()
    made = run.summary()
    assert made["problems"] == []
    assert made["frames_lost"] == 0
    run.nothing_left()
    swapped(run, made, tmp_path / "other.safetensors", first=2)
    Segment(Segment.Parameters())  # the next rig's plug-in clears up behind one that was ended
    assert left(tmp_path) == []


def swapped(run: Any, made: dict[str, Any], other: Path, first: int) -> None:
    """Check every map of a session: none is missing; up to revision `first` the shipped networks made them.

    made: the summary of the run. other: the networks from then on.
    """
    session = open_session(run.folder)
    amplitude = {each.generation: each for each in session.topics() if each.topic == "pfm.amplitude"}
    (walls,) = (each for each in session.topics() if each.topic == "segment.mean")
    index, revision, generation = (walls.column(name) for name in ("index", "revision", "generation"))
    assert (np.diff(index) > 0).all()  # a map that was made again has taken the place of the older one
    assert index[-1] + 1 == made["frames_by_topic"]["segment.mean"]
    assert (np.diff(revision) >= 0).all()
    assert revision[0] <= first < revision[-1]
    noted = [event["revision"] for event in run.events() if event["type"] == "Revision"
             and event["topic"] == "segment.mean"]  # fmt: skip
    assert noted == sorted(set(noted))
    assert first + 1 in noted
    ensembles = {False: Ensemble.from_file(SHIPPED), True: Ensemble.from_file(other)}
    seen = set()
    for row in range(len(index)):
        image = walls.data(row, row + 1)[0]
        source = amplitude.get(int(generation[row]))
        if source is None or not np.isfinite(image).all() or not source.present.all():
            continue
        newer = bool(revision[row] > first)
        seen.add(newer)
        for which, ensemble in ensembles.items():
            same = np.abs(ensemble.predict(source.data()).mean - image).max() < 0.02
            assert same == (which == newer), f"map {row}, revision {revision[row]}"
    assert seen == {False, True}


@pytest.mark.chaos
def test_a_plugin_that_is_killed_leaves_no_orphan_and_learns_again(
    launch: Callable[..., Any], tmp_path: Path
) -> None:
    run = launch("run", rig(tmp_path))
    child = run.until(lambda: retraining(run), "a retraining")
    plugin = child.ppid()
    folder = left(tmp_path)
    assert len(folder) == 1
    os.kill(plugin, signal.SIGKILL)
    run.until(lambda: not child.is_running(), "the end of the process beside", 5.0)
    again = run.until(lambda: retraining(run), "another retraining by the plug-in that was started again")
    assert again.pid != child.pid
    assert again.ppid() != plugin
    assert not set(left(tmp_path)) & set(folder)
    (tmp_path / "kept.go").touch()
    run.until(lambda: told(run, "they were replaced"), "new networks")
    run.until_frames("segment.mean", run.until_frames("segment.mean", 1) + 3)
    run.popen.terminate()
    run.summary()
    run.nothing_left()


@pytest.mark.chaos
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["a stop", "a killed supervisor"])
@pytest.mark.parametrize("use", ["stand_in", "segment"])
def test_the_end_of_a_rig_ends_its_retraining(
    launch: Callable[..., Any], tmp_path: Path, use: str, number: signal.Signals
) -> None:
    run = launch("run", rig(tmp_path, use))
    child = run.until(lambda: retraining(run), "a retraining")
    if use == "segment":  # past its imports, at work
        run.until(lambda: child.cpu_times().user > 8, "8 s of its time", 200)
    run.popen.send_signal(number)
    run.popen.wait(20)
    run.until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "the end of the process", 8)
    run.until(lambda: not run.processes, "the end of the rig", 8)
    Segment(Segment.Parameters())
    assert left(tmp_path) == []
    assert not (tmp_path / "kept.safetensors").exists()


@pytest.mark.bench
@pytest.mark.timeout(4000)
@pytest.mark.parametrize("use", ["brief", "segment"])
def test_networks_learn_from_the_maps_of_a_rig(launch: Callable[..., Any], tmp_path: Path, use: str) -> None:
    """A real one, by default settings: it works with the lowest priority, and is heard of whatever it comes to."""
    run = launch("run", rig(tmp_path, use, pixels=128, pace=5.0))
    child = run.until(lambda: retraining(run), "a retraining")
    run.until(lambda: child.nice() == 19, "the lowest priority")
    maps = run.until_frames("segment.mean", 1)
    ended = run.until(lambda: told(run, "replaced") or told(run, "stay as they were"), "its end", 3600)
    checked = ("replaced", "it forgot", "the members agree no more")
    assert any(word in ended[0]["text"] for word in checked), ended[0]["text"]
    now = run.until_frames("segment.mean", maps + 20)  # maps kept coming
    run.until_frames("segment.mean", now + 5)
    run.popen.terminate()
    made = run.summary()
    assert made["problems"] == []
    assert made["frames_lost"] == 0
    if use == "segment":
        assert all(told(run, f"the retraining: {tens}") for tens in (2, 5, 7))  # 25, 50, 75 % or a little more
    run.nothing_left()
    if "replaced" in ended[0]["text"]:
        swapped(run, made, tmp_path / "kept.safetensors", first=0)
    else:
        assert not (tmp_path / "kept.safetensors").exists()
        assert {event["revision"] for event in run.events() if event["type"] == "Revision"} == {0}


@pytest.mark.bench
@pytest.mark.timeout(2400)
def test_networks_learn_from_a_session_that_a_rig_recorded(launch: Callable[..., Any], tmp_path: Path) -> None:
    """From a rig to weights that the plug-in takes: the maps are found by themselves, the outcome is said."""
    path = rig(tmp_path, "segment", retrain="off", pixels=96, pace=20.0)
    run = launch("run", path, "--set", "plan.times=5")
    assert run.summary(300)["frames_by_topic"]["pfm.amplitude"] == 5 * 96 * 96
    out, config = tmp_path / "walls-here.safetensors", tmp_path / "mine.toml"
    config.write_text("cycles = 30\nframes = 24\nchecked = 12\n", encoding="utf-8")
    command = [sys.executable, "-m", "probeloop.cli", "train", "segment", str(config)]
    words = ["--on", str(run.folder), "--out", str(out)]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=False, timeout=2000)
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert lines[0] == "learns from 4 map(s) of pfm.amplitude: 96 x 96, 96 x 96, 96 x 96, 96 x 96 pixels"
    assert done.returncode == (0 if out.exists() else 2)
    assert sorted(path.name for path in tmp_path.glob("*.safetensors*")) == [out.name] * out.exists()
    if out.exists():
        assert json.loads(done.stdout)["kept"]
        assert read_card(out).trained["retrained"][-1]["maps"] == [[96, 96]] * 4
        again = launch("run", path, "--set", "plan.times=1", "--set", f'plugins.segment.parameters.weights="{out}"')
        assert again.summary(300)["problems"] == []
        (walls,) = (each for each in open_session(again.folder).topics() if each.topic == "segment.mean")
        (source,) = (each for each in open_session(again.folder).topics() if each.topic == "pfm.amplitude")
        made = Ensemble.from_file(out).predict(source.data()).mean
        assert np.abs(made - walls.data()[-1]).max() < 0.02
    else:
        assert f"{out} was not written" in lines[-1]
