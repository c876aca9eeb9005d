"""True plug-in processes: what breaks is stopped, told and started again; the bus and the others go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest

from probeloop.bus.event import EventReader
from probeloop.bus.node import Bus
from probeloop.bus.request import Client
from probeloop.bus.subscribe import Subscriber
from probeloop.data.control import (
    Describe,
    Description,
    Event,
    Gap,
    Remark,
    SetParameters,
    StateChange,
    decode_event,
    decode_reply,
    encode,
)
from probeloop.data.frame import BlockFlag
from probeloop.plugin.instance import PluginInstance, service_name
from probeloop.plugin.keeper import PluginKeeper

from .conftest import Camera, camera_spec

PLUGIN = '''"""A plug-in of a test."""
import numpy as np
from typing import Annotated
from probeloop.api import FrameTransform, Settings, StreamSpec, quantity

class {cls}(FrameTransform):
    """The scan index, times a factor."""
    {extra}
    class Parameters(Settings):
        """factor: of the result."""
        factor: Annotated[float, quantity("", ge=0, le=100)] = {factor}

    calls = 0

    def outputs(self, spec):
        return {{"out": StreamSpec("out", "values", "<f8")}}

    def process(self, block):
        self.calls += 1
        value = block.scan_index * np.float64(self.parameters.factor)
        {body}
        return {{"out": value}}
'''


def write(folder: Path, name: str, body: str = "pass", factor: float = 1.0, extra: str = "") -> Path:
    """Write a plug-in as an editor does: beside it, then over it."""
    cls = "".join(word.capitalize() for word in name.split("_"))
    partial = folder / f"{name}.py~"
    partial.write_text(PLUGIN.format(cls=cls, body=body, factor=factor, extra=extra))
    os.replace(partial, folder / f"{name}.py")
    return folder / f"{name}.py"


class Rig:
    """A camera, a keeper, and every event that was told."""

    def __init__(self, bus: Bus, rig_id: str, folder: Path) -> None:
        self.bus, self.folder = bus, folder
        self.camera = Camera(bus, camera_spec((16, 16), 8))
        self.events = EventReader(bus)
        self.told: list[Event] = []
        self._rig_id = rig_id
        self.keeper = PluginKeeper(bus, self.spawn, folders=[folder], auto=self.instance_of)

    def spawn(self, name: str, instances: tuple[PluginInstance, ...], take_over: bool) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                sys.executable, "-m", "tests.plugin.worker_main", self._rig_id, name,
                msgspec.json.encode(instances).decode(), str(int(take_over)),
            ],
            start_new_session=True,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip

    def instance(self, use: str) -> PluginInstance:
        return PluginInstance(name=use, use=use, folders=(str(self.folder),))

    def instance_of(self, found) -> PluginInstance:  # type: ignore[no-untyped-def]
        return self.instance(found.name)

    def start(self, *names: str) -> None:
        for name in names:
            self.keeper.start(name, (self.instance(name),))
        self.until(lambda: all(self.states(name) for name in names))

    def states(self, name: str) -> list[str]:
        return [e.state for e in self.told if isinstance(e, StateChange) and e.target == name]

    def reasons(self, name: str) -> str:
        return "; ".join(e.reason for e in self.told if isinstance(e, StateChange) and e.target == name)

    def turn(self) -> None:
        for body in self.events.read(0.05):
            event = decode_event(body)
            self.told.append(event)
            self.keeper.take(event)
        self.told += self.keeper.look()

    def until(self, true: Callable[[], bool], seconds: float = 20.0) -> float:
        began = time.monotonic()
        while not true():
            assert time.monotonic() - began < seconds, [msgspec.to_builtins(e) for e in self.told]
            self.turn()
        return time.monotonic() - began

    def ask(self, name: str, request) -> object:  # type: ignore[no-untyped-def]
        client = Client(self.bus, service_name(name))
        try:
            return decode_reply(client.call(encode(request), 2.0))
        finally:
            client.close()

    def close(self) -> None:
        self.keeper.stop()
        self.camera.close()
        self.events.close()
        self.bus.clean_stale()


@pytest.fixture
def rig(rig_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setenv("PROBELOOP_PLUGINS", str(tmp_path / "none"))
    with Bus(rig_id, "supervisor") as bus:
        made = Rig(bus, rig_id, tmp_path)
        yield made
        made.close()


JOIN = '''"""A join of a test."""
import numpy as np
from probeloop.api import JoinTransform, StreamSpec

class {cls}(JoinTransform):
    """What the second says of a pixel, times {factor}."""
    inputs = ("frames", "values")

    def outputs(self, specs):
        return {{"out": StreamSpec("out", "values", "<f8")}}

    def process(self, blocks):
        assert np.array_equal(blocks[0].scan_index, blocks[1].scan_index)
        return {{"out": np.abs(blocks[1].data).reshape(len(blocks[0].data), -1).mean(axis=1, dtype="f8") * {factor}}}
'''


def lives(pid: int) -> bool:
    """Whether a process runs; one that only waits to be collected does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


BAD = {
    "crash": ("if self.calls == 4: raise RuntimeError('broken')", "RuntimeError: broken"),
    "exits": ("if self.calls == 4: import os; os._exit(9)", "code 9"),
    "segfault": ("if self.calls == 4: import ctypes; ctypes.string_at(0)", "SIGSEGV"),
    "hang": ("while self.calls == 4: pass", "hangs: one call takes"),
    "wrong_shape": ("value = value[:-1]", "shape"),
    "wrong_dtype": ("value = value.astype('f4')", "dtype"),
    "not_a_number": ("value[0] = np.nan", "NaN"),
    "flood": ("value = np.repeat(value, 1000)", "shape"),
    "hog": ("if self.calls == 4: self.kept = np.ones(400 << 20, np.uint8)", "out of memory"),
}


def test_what_breaks_costs_only_itself(rig: Rig) -> None:
    for name, (body, _) in BAD.items():
        write(rig.folder, name, body, extra="memory_mb = 64" if name == "hog" else "")
    write(rig.folder, "bystander")
    rig.start("bystander", *BAD)
    reader = Subscriber(rig.bus, "bystander.out", "lossless")
    got: list[int] = []

    def collect() -> None:
        got.extend(int(i) for block in reader.drain() for i in block.scan_index)

    rig.camera.announce(1)
    for part in np.array_split(np.arange(256), 32):
        rig.camera.block(part, 1)
        rig.turn()
        collect()
    rig.until(lambda: all({"stopped", "failed"} & set(rig.states(name)) for name in BAD))
    rig.until(lambda: (collect(), len(got) >= 256)[1], 5.0)  # type: ignore[func-returns-value]
    assert got == list(range(256)), "the bystander saw every frame once, in order"
    assert reader.stats.lost == 0
    assert not {"stopped", "failed", "restarted"} & set(rig.states("bystander"))
    for name, (_, words) in BAD.items():
        assert words in rig.reasons(name), (name, rig.reasons(name))
    rig.until(lambda: "restarted" in rig.states("crash"))
    reader.close()


def test_what_a_plug_in_started_dies_with_it(rig: Rig) -> None:
    body = (
        "if self.calls == 2:\n"
        "            import subprocess\n"
        "            child = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
        "            open(__file__ + '.pid', 'w').write(str(child.pid))\n"
        "        if self.calls == 4: raise RuntimeError('broken')"
    )
    path = write(rig.folder, "parent", body)
    rig.start("parent")
    rig.camera.announce(1)
    for part in np.array_split(np.arange(256), 2):
        rig.camera.block(part, 1)
    pid_file = Path(f"{path}.pid")
    rig.until(lambda: pid_file.exists() and bool(pid_file.read_text()))
    pid = int(pid_file.read_text())
    rig.turn()
    for part in np.array_split(np.arange(256), 2):
        rig.camera.block(part, 1)
    rig.until(lambda: "stopped" in rig.states("parent"))
    rig.until(lambda: not lives(pid), 2.0)


def test_a_new_source_takes_over_between_two_frames_and_a_broken_one_does_not(rig: Rig) -> None:
    write(rig.folder, "live", factor=1.0)
    rig.start("live")
    reader = Subscriber(rig.bus, "live.out", "lossless")
    values: list[float] = []
    indices: list[int] = []
    at = 0
    rig.camera.announce(1)

    def frame() -> None:
        nonlocal at
        rig.camera.block(np.arange(at % 256, at % 256 + 1), 1)
        at += 1
        rig.turn()
        for block in reader.drain():
            indices.extend(range(block.index, block.index + block.count))
            values.extend(float(v / max(i, 1)) for v, i in zip(block.data, block.scan_index, strict=True) if i)

    def play(true: Callable[[], bool], seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, [msgspec.to_builtins(e) for e in rig.told]
            frame()

    play(lambda: len(values) > 5)
    old_pid = rig.keeper.pids()
    write(rig.folder, "live", factor=3.0)
    play(lambda: bool(values) and values[-1] == 3.0)
    frame()
    play(lambda: len(indices) == at)
    assert indices == list(range(at)), "no frame was lost or done twice"
    assert values == sorted(values), "the old one never came back"
    assert rig.keeper.pids() != old_pid
    described = rig.ask("live", Describe())
    assert isinstance(described, Description)
    assert described.state["plugins"]["live"]["revision"] >= 1

    for broken, words in (("value = value[:-1]", "shape"), ("value = (", "line")):
        count = len([s for s in rig.states("live") if s == "reload failed"])
        write(rig.folder, "live", broken)
        play(lambda count=count: len([s for s in rig.states("live") if s == "reload failed"]) > count)  # type: ignore[misc]
        assert words in rig.reasons("live")
        play(lambda: len(indices) == at)
        assert values[-1] == 3.0, "the last good one keeps running"
    rig.until(lambda: len(rig.keeper.pids()) == 1)
    assert reader.stats.lost == 0
    reader.close()


def test_a_new_source_of_a_join_takes_over_both_topics_and_what_lay_between_is_named(rig: Rig) -> None:
    write(rig.folder, "half", factor=0.5)
    path = rig.folder / "both.py"
    path.write_text(JOIN.format(cls="Both", factor=1.0))
    rig.start("half")
    joined = msgspec.structs.replace(rig.instance("both"), input=("camera", "half.out"))
    rig.keeper.start("both", (joined,))
    rig.until(lambda: bool(rig.states("both")))
    reader = Subscriber(rig.bus, "both.out", "lossless")
    factors: dict[int, float] = {}
    at = 0
    rig.camera.announce(1, camera_spec((128, 128), 4))

    def play(true: Callable[[], bool], seconds: float = 30.0) -> None:
        nonlocal at
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, [msgspec.to_builtins(e) for e in rig.told]
            rig.camera.block(np.arange(at, at + 1), 1)
            at += 1
            rig.turn()
            for block in reader.drain():
                found = 2 * block.data / np.maximum(block.scan_index, 1)
                factors.update(zip(block.scan_index.tolist(), found.tolist(), strict=True))

    play(lambda: len(factors) > 10)
    partial = path.with_suffix(".py~")
    partial.write_text(JOIN.format(cls="Both", factor=3.0))
    os.replace(partial, path)
    play(lambda: 3.0 in factors.values())
    last = at
    play(lambda: max(factors) >= last)
    named = [p for e in rig.told if isinstance(e, Gap) for p in e.pixels]
    assert sorted([*factors, *named]) == list(range(max(factors) + 1)), "each is joined once, or named"
    assert list(factors.values()) == sorted(factors.values()), "the old one never came back"
    assert reader.stats.lost == 0
    reader.close()


def test_a_join_dropped_in_says_that_a_rig_must_name_its_topics(rig: Rig) -> None:
    (rig.folder / "meet.py").write_text(JOIN.format(cls="Meet", factor=1.0))
    rig.until(lambda: any(isinstance(e, Remark) and "meet.py joins several topics" in e.text for e in rig.told))
    assert "[plugins.meet] input" in next(e.text for e in rig.told if isinstance(e, Remark))
    assert rig.keeper.names() == {}


def test_a_file_dropped_in_is_a_topic_within_two_seconds(rig: Rig) -> None:
    rig.camera.announce(1)
    rig.turn()
    reader = Subscriber(rig.bus, "fresh.out", "lossless")
    got: list[object] = []
    began = time.monotonic()
    write(rig.folder, "fresh", factor=2.0)
    while not got:
        rig.camera.block(np.arange(4), 1)
        rig.turn()
        got += [block.count for block in reader.drain()]
        assert time.monotonic() - began < 10.0
    took = time.monotonic() - began
    assert took < (2.0 if os.getloadavg()[0] < 2 * (os.cpu_count() or 1) else 8.0)
    reader.close()


def test_parameters_are_set_live_and_kept_over_a_restart(rig: Rig) -> None:
    write(rig.folder, "live", "if self.calls > 1 and block.scan_index[0] == 9: raise RuntimeError('nine')")
    rig.start("live")
    reader = Subscriber(rig.bus, "live.out", "lossless")
    rig.camera.announce(1)
    rig.camera.block(np.arange(1, 4), 1)
    rig.until(lambda: bool(rig.ask("live", Describe()).state["plugins"]["live"]["frames"]))  # type: ignore[attr-defined]
    rig.ask("live", SetParameters("live", {"factor": 7.0}))
    rig.until(lambda: any(getattr(e, "revision", 0) == 1 for e in rig.told))
    rig.camera.block(np.array([9]), 1, BlockFlag(0))
    rig.until(lambda: "restarted" in rig.states("live"))
    rig.until(lambda: rig.states("live")[-1] in ("waiting", "running"))
    list(reader.drain())
    rig.camera.block(np.array([2]), 1)
    found: list[float] = []
    rig.until(lambda: (found.extend(float(v) for b in reader.drain() for v in b.data), bool(found))[1])  # type: ignore[func-returns-value]
    assert found == [14.0]
    reader.close()


def test_a_stopped_process_and_the_end_of_all_leave_nothing(rig: Rig) -> None:
    write(rig.folder, "one")
    write(rig.folder, "two")
    rig.start("one", "two")
    pids = rig.keeper.pids()
    assert len(pids) == 2
    os.kill(pids[0], signal.SIGSTOP)
    rig.keeper.stop()
    assert not any(lives(pid) for pid in pids)
    assert rig.keeper.pids() == []
