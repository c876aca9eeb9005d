"""The recorder's process on a bus: nothing lost, everything said, killed at any moment."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from record_blocks import frames_spec, map_spec, spectrum_spec

from probeloop.bus.event import EventReader, EventWriter
from probeloop.bus.node import Bus
from probeloop.bus.publish import Publisher
from probeloop.bus.request import Client
from probeloop.data import commands, control
from probeloop.data.axes import StreamSpec
from probeloop.data.errors import BusError
from probeloop.data.frame import BlockFlag, block_bytes
from probeloop.record.chunks import Disk
from probeloop.record.desk import DiskWatch
from probeloop.record.reader import Session
from probeloop.record.recorder import run_recorder

NONE = BlockFlag(0)


def send(publisher: Publisher, spec: StreamSpec, data: np.ndarray, scan_index: np.ndarray, generation: int = 1,
         flags: BlockFlag = NONE) -> None:  # fmt: skip
    """Publish one block."""
    buffer = publisher.loan(max(1, len(data)))
    buffer.data[: len(data)] = data
    buffer.scan_index[: len(data)] = scan_index
    buffer.time_ns[: len(data)] = np.asarray(scan_index) * 1000
    buffer.position[: len(data)] = np.asarray(scan_index)[:, None] * 1e-9
    buffer.dose[: len(data)] = 0
    buffer.flags[: len(data)] = 0
    publisher.send(buffer, len(data), generation=generation, flags=flags)


def ask(bus: Bus, request: control.Request) -> control.Reply:
    """Ask the recorder; wait until it is there."""
    client = Client(bus, "recorder")
    try:
        for _ in range(100):
            try:
                return control.decode_reply(client.call(control.encode(request), 1.0))
            except BusError:
                threading.Event().wait(0.05)
    finally:
        client.close()
    raise AssertionError("no recorder")


@contextmanager
def recording(rig_id: str, folder: Path, **more: object) -> Iterator[Bus]:
    """Run a recorder in a thread of this process."""
    stop, ready = threading.Event(), threading.Event()
    with Bus(rig_id, "test", local=True) as bus:

        def run() -> None:
            with Bus(rig_id, "recorder", local=True) as own:
                run_recorder(own, folder, stop=stop, ready=ready.set, **more)  # type: ignore[arg-type]

        thread = threading.Thread(target=run)
        thread.start()
        assert ready.wait(10)
        try:
            yield bus
        finally:
            stop.set()
            thread.join(20)
            assert not thread.is_alive()


def test_frames_points_and_events_of_a_run(rig_id: str, tmp_path: Path) -> None:
    camera, spectrum = frames_spec(), spectrum_spec()
    data = np.random.default_rng(1).integers(0, 900, (20, 6, 7)).astype(np.uint16)
    loops = np.random.default_rng(2).normal(size=(6, 8))
    rig = tmp_path / "some.toml"
    rig.write_text("schema = 1\n")
    with recording(rig_id, tmp_path / "s", topics=("camera", "spectrum"), rig=rig, seeds={"plan": 1}) as bus:
        events = EventWriter(bus)
        scan = commands.Scan(commands.Region(0.0, 0.0, 1e-9, 1e-9), (4, 5), 1e-3)
        verdict = control.Verdict(id=7, command=scan, holder="plan", epoch=1, accepted=True, cause=(("image", 3),))
        events.write(control.encode(verdict))
        begun = control.Generation(id=1, command_id=7, topic="camera", scan=scan, calibration_ids=("scale-1",))
        events.write(control.encode(begun))
        frames = Publisher(bus, "camera", block_bytes(camera, 5), source_waits=True)
        points = Publisher(bus, "spectrum", block_bytes(spectrum, 1), source_waits=True)
        frames.announce(camera, 1)
        for row in range(4):
            assert frames.wait_for_credit(5.0)
            flags = BlockFlag.SCAN_END if row == 3 else BlockFlag(0)
            send(frames, camera, data[row * 5 : row * 5 + 5], np.arange(5) + row * 5, flags=flags)
        for i in range(6):
            points.announce(spectrum, i + 2)
            send(points, spectrum, loops[i : i + 1], np.array([0]), i + 2)
        late = Publisher(bus, "late", block_bytes(map_spec(2, 2), 4), source_waits=True)  # nobody said it would come
        late.announce(map_spec(2, 2), 9)
        for _ in range(100):
            if "late" in ask(bus, control.Describe()).state["topics"]:  # type: ignore[union-attr]
                break
            threading.Event().wait(0.05)
        send(late, map_spec(2, 2), np.arange(4, dtype=np.float32), np.arange(4), 9)
        assert isinstance(ask(bus, control.Note(text="a remark")), control.Accepted)
        assert isinstance(ask(bus, control.Abort()), control.Refused)
        for _ in range(100):  # written within half a second, on a machine that has time
            state = ask(bus, control.Describe()).state  # type: ignore[union-attr]
            if state["topics"]["spectrum"]["kept"] == 6:
                break
            threading.Event().wait(0.1)
        assert state["recording"]
        assert state["topics"]["camera"]["frames"] == 20
        assert state["topics"]["spectrum"]["kept"] == 6
        for port in (frames, points, late, events):
            port.close()
    session = Session(tmp_path / "s")
    assert [(t.topic, t.generation, t.complete) for t in session.topics()] == [
        ("camera", 1, True), ("late", 9, True), ("spectrum", -1, True),
    ]  # fmt: skip
    topic = session.topic("camera", 1)
    np.testing.assert_array_equal(topic.data().reshape(20, 6, 7), data)
    assert topic.present.all()
    assert topic.about["command_id"] == 7
    assert json.loads(topic.about["cause"]) == [["image", 3]]
    assert json.loads(topic.about["calibration_ids"]) == ["scale-1"]
    again = np.concatenate([b.data for b in session.blocks("camera", 1)])
    np.testing.assert_array_equal(again, data)
    (one,) = session.blocks("spectrum", 4)
    assert one.data.tobytes() == loops[2].tobytes()
    said = list(session.events())
    assert any(isinstance(e, control.Remark) and e.text == "a remark" for e in said)
    states = [e.state for e in said if isinstance(e, control.StateChange) and e.target == "recorder"]
    assert states == ["recording", "closed"]
    assert (tmp_path / "s" / "rig.toml").read_text() == "schema = 1\n"
    told = json.loads((tmp_path / "s" / "environment.json").read_text())
    assert told["seeds"] == {"plan": 1}
    assert len(told["source_sha256"]["probeloop"]) == 64


def test_stop_and_start_recording_and_topics_that_are_not_wanted(rig_id: str, tmp_path: Path) -> None:
    spec = map_spec(3, 4)
    values = np.arange(12, dtype=np.float32)
    with recording(rig_id, tmp_path, topics=("scan", "other"), wanted=lambda name: name != "other") as bus:
        publisher = Publisher(bus, "scan", block_bytes(spec, 4), source_waits=True)
        publisher.announce(spec, 1)
        for row, request in enumerate((control.StopRecording(), control.StartRecording(), control.Describe())):
            send(publisher, spec, values[row * 4 : row * 4 + 4], np.arange(4) + row * 4)
            threading.Event().wait(0.2)
            ask(bus, request)
        publisher.close()
    topic = Session(tmp_path).topic("scan", 1)
    np.testing.assert_array_equal(topic.present, [[True] * 4, [False] * 4, [True] * 4])
    np.testing.assert_array_equal(topic.data()[[0, 2]], values.reshape(3, 4)[[0, 2]])
    assert np.isnan(topic.data()[1]).all()


_PROCESS = """
import sys, threading
from pathlib import Path
from probeloop.bus.node import Bus
from probeloop.record.recorder import run_recorder
with Bus(sys.argv[1], "recorder") as bus:
    run_recorder(bus, Path(sys.argv[2]), ["camera", "spectrum"], stop=threading.Event())
"""


def test_a_killed_recorder_loses_at_most_a_second(rig_id: str, tmp_path: Path) -> None:
    """SIGKILL in mid-scan: HyperSpy opens it, `present` is what was measured, a new recorder goes on."""
    hs = pytest.importorskip("hyperspy.api")
    camera = frames_spec(60, 10)
    data = np.random.default_rng(3).integers(1, 900, (600, 6, 7)).astype(np.uint16)
    sent: list[float] = []
    folder = tmp_path / "session"

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", _PROCESS, rig_id, str(folder)])

    process = start()
    try:
        with Bus(rig_id, "test") as bus:
            ask(bus, control.Describe())
            publisher = Publisher(bus, "camera", block_bytes(camera, 10), source_waits=True)
            publisher.announce(camera, 1)
            killed = 0.0
            for row in range(60):
                publisher.wait_for_credit(5.0)
                send(publisher, camera, data[row * 10 : row * 10 + 10], np.arange(10) + row * 10)
                sent.append(time.monotonic())
                threading.Event().wait(0.05)
                if row == 37:
                    os.kill(process.pid, signal.SIGKILL)
                    killed = time.monotonic()
                    process.wait()
                    break
            signal_ = hs.load(str(folder / "camera" / "1.zspy"))
            present = np.asarray(signal_.original_metadata.probeloop.present)
            measured = present.ravel()
            written = np.asarray(signal_.data).reshape(600, 6, 7)
            np.testing.assert_array_equal(written[measured], data[measured])
            assert not written[380:].any()
            assert not measured[380:].any()
            busy = os.getloadavg()[0] / (os.cpu_count() or 1)  # half a second and the writing, if it gets a processor
            due = sum(10 for stamp in sent if stamp < killed - max(1.0, 0.5 * busy))
            assert measured[:due].all(), f"{measured.sum()} of {due}"
            assert [str(a.units) for a in signal_.axes_manager._axes] == ["nm", "nm", "mrad", "mrad"]
            process = start()
            ask(bus, control.Describe())
            for row in range(38, 60):
                publisher.refresh()
                publisher.wait_for_credit(5.0)
                send(publisher, camera, data[row * 10 : row * 10 + 10], np.arange(10) + row * 10)
            ask(bus, control.Shutdown())
            process.wait(15)
            publisher.close()
            bus.clean_stale()
    finally:
        process.kill()
        process.wait()
    topic = Session(folder).topic("camera", 1)
    assert topic.complete
    measured[380:] = True
    np.testing.assert_array_equal(topic.present.ravel(), measured)
    np.testing.assert_array_equal(topic.data().reshape(600, 6, 7)[measured], data[measured])


class Full:
    """`os` of a disk that is full while `full` is set."""

    def __init__(self) -> None:
        self.full = threading.Event()

    def __getattr__(self, name: str) -> object:
        real = getattr(os, name)

        def call(*args: object, **kwargs: object) -> object:
            if self.full.is_set():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **kwargs)

        return call


def test_a_full_disk_is_said_once_and_acquisition_goes_on(rig_id: str, tmp_path: Path) -> None:
    system, spec = Full(), map_spec(20, 4)
    values = np.arange(80, dtype=np.float32)
    with recording(rig_id, tmp_path, topics=("scan",), disk=Disk(system)) as bus:
        reader = EventReader(bus)
        publisher = Publisher(bus, "scan", block_bytes(spec, 4), source_waits=True)
        publisher.announce(spec, 1)
        for row in range(20):
            assert publisher.wait_for_credit(2.0)
            send(publisher, spec, values[row * 4 : row * 4 + 4], np.arange(4) + row * 4)
            threading.Event().wait(0.1)
            if row == 4:
                system.full.set()
            elif row == 14:
                system.full.clear()
        threading.Event().wait(0.8)
        said = [e for body in reader.read() if isinstance(e := control.decode_event(body), control.Remark)]
        publisher.close()
        reader.close()
    assert [remark.level for remark in said] == ["error", "info"]
    assert "No space left on device" in said[0].text
    assert said[1].text == "recording again"
    topic = Session(tmp_path).topic("scan", 1)
    np.testing.assert_array_equal(topic.data().ravel(), values)
    assert topic.present.all()


def test_a_disk_that_fills_is_said_before_it_is_full() -> None:
    now, free = [0.0], [10_000_000_000]
    watch = DiskWatch(lambda: free[0], clock=lambda: now[0])
    said = []
    for second in range(100):
        now[0], free[0] = float(second), 10_000_000_000 - second * 100_000_000
        said.append(watch.look(second * 100_000_000))
    first = next(i for i, text in enumerate(said) if text)
    assert said[first].startswith("the disk of the session will be full in 5")
    assert 30 < 100 - first <= 61  # in time
    assert sum(map(bool, said)) == 1
    for second in range(100, 2000):  # nothing is written any more
        now[0] = float(second)
        watch.look(99 * 100_000_000)
    assert watch.rate >= 0
    assert watch.seconds_left is None  # not a number that no message can hold


def test_the_recorder_loads_only_what_it_needs() -> None:
    code = "import sys, probeloop.record.recorder; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    foreign = {"zarr", "h5py", "hyperspy", "rsciio", "PySide6", "torch", "numba", "scipy"}
    assert not foreign & set(loaded)


def test_what_was_said_while_no_recorder_ran_is_recorded_once(rig_id: str, tmp_path: Path) -> None:
    def written() -> list[str]:
        path = tmp_path / "events.jsonl"
        whole = path.read_text(encoding="utf-8").rpartition("\n")[0] if path.exists() else ""
        lines = whole.splitlines()  # the last one may be on its way
        return [event["text"] for event in map(json.loads, lines) if event["type"] == "Remark"]

    with Bus(rig_id, "other", local=True) as other:
        writer = EventWriter(other)

        def say(number: int) -> None:
            remark = control.Remark(text=f"{number}", process="other", time_ns=time.monotonic_ns())
            writer.write(control.encode(remark))

        def until(numbers: range) -> None:
            wanted, pause = [f"{number}" for number in numbers], threading.Event()
            deadline = time.monotonic() + 10.0
            while written() != wanted:
                assert time.monotonic() < deadline, written()
                pause.wait(0.02)

        say(0)  # before the first recorder
        with recording(rig_id, tmp_path):
            say(1)
            until(range(2))
        for number in range(2, 50):
            say(number)
        with recording(rig_id, tmp_path):
            say(50)
            until(range(51))
        assert written() == [f"{number}" for number in range(51)]
        writer.close()
