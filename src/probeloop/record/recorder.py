"""The recorder's process: every frame and every event of a rig into its session folder.

The reading thread copies blocks out of shared memory (the only copy of a frame in a rig) and hands them to the
writing thread; it gives credit, so a source that can wait stays behind it.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from ..bus.event import EventReader, EventWriter
from ..bus.heartbeat import Heartbeat
from ..bus.ledger import TOPIC
from ..bus.node import Bus
from ..bus.request import Client, Server
from ..bus.stats import newest_gaps
from ..bus.subscribe import Subscriber
from ..bus.wait import Poller
from ..data import control
from ..data.axes import StreamSpec
from ..data.calibration import Calibration
from ..data.errors import BusError, WireError
from ..data.frame import FrameBlock
from .chunks import Disk
from .desk import DiskWatch, EventLog, wall
from .provenance import write_provenance
from .session import SessionWriter
from .writing import Sync, WritingThread

SERVICE = "recorder"
_TURN_S = 0.05
_LOOK_S = 0.5
_FOLLOW_S = 0.005  # a plug-in's first block waits until its topic is read; to look costs 0.1 ms
_BATCH = 64
_PATIENCE_S = 60.0
SWITCH = 5e-5  # [s] after which a thread that waits for the interpreter gets it: of 5 ms each block costs one


class Recorder:
    """Records the topics of a rig. All methods from one thread.

    wanted: says of a topic's name whether it is recorded, None = all.
    """

    def __init__(
        self, bus: Bus, folder: Path, wanted: Callable[[str], bool] | None = None, *,
        disk: Disk | None = None, sync: Sync = "second",
    ) -> None:  # fmt: skip
        self.bus, self.folder = bus, folder
        self._rig_wants = self._wants = wanted or (lambda topic: True)
        self._sync: Sync = sync
        self._disk = disk or Disk()
        self._from_start = not (folder / "events.jsonl").exists()
        self.log = EventLog(folder / "events.jsonl")
        self.watch = DiskWatch(lambda: self._writer.free_bytes())
        self._readers: dict[str, Subscriber] = {}
        self._specs: dict[str, tuple[StreamSpec, StreamSpec]] = {}
        self._gaps: dict[str, int] = {}
        self._frames: dict[str, int] = {}
        self._kept: dict[str, int] = {}
        self._told: list[control.Event] = []
        self._lock = threading.Lock()
        self._events = EventReader(bus, history=True)
        self._out = EventWriter(bus)
        self._server = Server(bus, SERVICE)
        self._poller = Poller(bus, self._events, self._server)
        self._pulse = Heartbeat(bus)
        self._looked = self._followed = 0.0
        self.ending = False
        self.recording = False
        self._begin()

    def _begin(self) -> None:
        self._writer = SessionWriter(self.folder, self._disk, self.log.about)
        self._thread = WritingThread(self._writer, self._sync, self._after_flush)
        self.recording = True
        self._tell(control.StateChange(target="recorder", state="recording", data={"session": str(self.folder)}))

    def _end(self) -> None:
        self._thread.close()
        self.recording = False
        self._tell(control.StateChange(target="recorder", state="closed", data={"session": str(self.folder)}))

    def follow(self, topics: Iterable[str] = ()) -> None:
        """Read these topics from now on, and every one that the rig has by now."""
        known = {row.name for row in self.bus.ledger.rows(TOPIC)}
        for name in sorted({*topics, *known} - set(self._readers)):
            if not self._rig_wants(name):
                continue
            try:
                reader = Subscriber(self.bus, name, "lossless", credit=True)
            except BusError as error:
                self._tell(control.Remark(text=f"{name} is not recorded: {error}", level="error"))
                self._rig_wants = _without(self._rig_wants, name)
                continue
            self._readers[name] = reader
            self._poller.add(reader)

    def turn(self, timeout_s: float = _TURN_S, answer: bool = True) -> None:
        """Wait for something to do, and do it; requests only if they are to be answered yet."""
        self._poller.wait(timeout_s)
        self._pulse.beat()
        if answer:
            self._answer()
        self.log.take(self._events.read())
        if time.monotonic() - self._followed > _FOLLOW_S:
            self._followed = time.monotonic()
            self.follow()
        for reader in self._readers.values():
            self._read(reader, _BATCH)
        if time.monotonic() - self._looked > _LOOK_S:
            self._looked = time.monotonic()
            self._name_gaps()
        with self._lock:
            told, self._told = self._told, []
        for event in told:
            self._out.write(
                control.encode(
                    msgspec.structs.replace(event, process=SERVICE, time_ns=time.monotonic_ns(), wall=wall())
                )
            )

    def _read(self, reader: Subscriber, most: int) -> int:
        taken = 0
        while taken < most:
            block = reader.receive()
            if block is None:
                break
            taken += 1
            if self._from_start and reader.topic not in self._frames and block.index > 0:
                reason = "published before the recorder could read it"
                self._tell(control.Gap(topic=reader.topic, first=0, count=block.index, reason=reason))
            self._frames[reader.topic] = self._frames.get(reader.topic, 0) + block.count
            if self.recording and self._wants(reader.topic):
                self._hand_over(self._named(block.copy(), reader.topic))
        return taken

    def _named(self, block: FrameBlock, topic: str) -> FrameBlock:
        """Return the block with a spec that has the topic's name: files are named by it."""
        if block.spec.name == topic:
            return block
        found = self._specs.get(topic)
        if found is None or found[0] is not block.spec:
            found = self._specs[topic] = (block.spec, msgspec.structs.replace(block.spec, name=topic))
        return msgspec.structs.replace(block, spec=found[1])

    def _hand_over(self, block: FrameBlock) -> None:
        while not self._thread.put(block, _TURN_S):  # a slow disk: the source waits, requests and events do not
            self._pulse.beat()
            self._answer()
            self.log.take(self._events.read())
            if not self.recording:
                return

    def _name_gaps(self) -> None:
        for name, reader in self._readers.items():
            stats = reader.stats
            new = stats.lost - self._gaps.get(name, 0)
            if new > 0:
                self._gaps[name] = stats.lost
                reason = "overwritten before the recorder read it"
                for first, count in newest_gaps(stats.gaps, new):
                    self._tell(control.Gap(topic=name, first=first, count=count, reason=reason))

    def _after_flush(self) -> None:
        """Say what the disk did; in the writing thread."""
        writer = self._writer
        faults, writer.faults = writer.faults, []
        log_fault = self.log.write()
        said = self.watch.failed([*faults, *([log_fault] if log_fault else [])])
        if said:
            self._tell(control.Remark(text=said, level="error" if faults or log_fault else "info"))
        try:
            warning = self.watch.look(writer.disk.written)
        except OSError:
            warning = ""
        if warning:
            self._tell(control.Remark(text=warning, level="warning"))
        lost, writer.lost = writer.lost, {}
        for topic, count in lost.items():
            self._tell(control.Gap(topic=topic, first=-1, count=count, reason="the disk did not take them"))
        self._kept = writer.kept

    def _tell(self, event: control.Event) -> None:
        with self._lock:
            self._told.append(event)

    def _answer(self) -> None:
        for body, respond in self._server.receive():
            try:
                request = control.decode_request(body)
            except WireError as error:
                respond(control.encode(control.Refused(str(error))))
                continue
            respond(control.encode(self._reply(request)))

    def _reply(self, request: control.Request) -> control.Reply:
        match request:
            case control.Describe():
                return control.Description(process=SERVICE, role="recorder", state=self.state())
            case control.StartRecording(topics=topics):
                self._wants = (lambda name: name in topics) if topics else self._rig_wants
                self.follow(topics)
                if not self.recording:
                    self._begin()
            case control.StopRecording():
                if self.recording:
                    self._end()
            case control.Note(text=text):
                self._tell(control.Remark(text=text))
            case control.Shutdown():
                self.ending = True
            case _:
                return control.Refused(f"the recorder knows no {type(request).__name__}", allowed="StartRecording, "
                                       "StopRecording, Note, Describe, Shutdown")  # fmt: skip
        return control.Accepted()

    def state(self) -> dict[str, Any]:
        """Return the state as plain data; frames read and on disk by topic, space [bytes], time left [s]."""
        topics = {
            name: {"frames": self._frames.get(name, 0), "kept": self._kept.get(name, 0), "lost": reader.stats.lost}
            for name, reader in self._readers.items()
        }
        left = self.watch.seconds_left
        return {
            "recording": self.recording,
            "session": str(self.folder),
            "topics": topics,
            "events": self.log.count,
            "events_lost": self._events.lost,
            "free_bytes": self.watch.free_bytes,
            "bytes_per_second": round(self.watch.rate),
            "seconds_left": None if left is None else round(left),
        }

    def close(self) -> None:
        """Read and write all that is there, close the record, leave the bus."""
        while sum(self._read(reader, _BATCH) for reader in self._readers.values()):
            self._pulse.beat()
        self._name_gaps()
        if self.recording:
            self._end()
        self.turn(0.0)
        self.turn(0.0)  # our own last events too
        self._poller.close()
        for reader in self._readers.values():
            reader.close()
        for port in (self._events, self._out, self._server):
            port.close()


def run_recorder(
    bus: Bus, session_dir: Path, topics: Iterable[str] = (), *, stop: threading.Event,
    wanted: Callable[[str], bool] | None = None, rig: Path | None = None, calibrations: Iterable[Calibration] = (),
    seeds: Mapping[str, Any] | None = None, fsync: bool = False, disk: Disk | None = None, instrument: str = "",
    ready: Callable[[], None] | None = None,
) -> None:  # fmt: skip
    """Record a rig until `stop` is set or a Shutdown comes.

    topics: to follow from the start, before their publishers exist; others are followed when they appear, if
    `wanted`. instrument: service whose topics are followed before the first request is answered. rig: file to copy.
    fsync: each chunk (else once a second). ready: called when requests are answered.
    """
    sys.setswitchinterval(SWITCH)
    session_dir.mkdir(parents=True, exist_ok=True)
    recorder = Recorder(bus, session_dir, wanted, disk=disk, sync="chunk" if fsync else "second")
    try:
        recorder.follow(topics)
        if instrument:
            recorder.follow(_topics_of_instrument(recorder, instrument, stop))
        if ready is not None:
            ready()
        write_provenance(session_dir, rig, calibrations, seeds)
        while not stop.is_set() and not recorder.ending:
            recorder.turn()
    finally:
        recorder.close()


def _topics_of_instrument(recorder: Recorder, service: str, stop: threading.Event) -> list[str]:
    """Return the topics that the instrument may publish, so that their first frame finds a reader; waits for it."""
    client = Client(recorder.bus, service)
    until = time.monotonic() + _PATIENCE_S
    try:
        while time.monotonic() < until and not stop.is_set():
            try:
                reply = control.decode_reply(client.call(control.encode(control.Describe()), 0.5))
            except (BusError, WireError):
                recorder.turn(answer=False)
                continue
            if isinstance(reply, control.Description):
                return [str(name) for name in reply.state.get("topics", {})]
    finally:
        client.close()
    return []


def _without(wanted: Callable[[str], bool], name: str) -> Callable[[str], bool]:
    return lambda topic: topic != name and wanted(topic)
