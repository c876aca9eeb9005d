"""The thread that reads the bus for the window: maps, newest frames, events, rates. It draws nothing.

It wakes when something has come, at most about 100 times a second, and never makes a source wait.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from probeloop.api import Event, ProbeloopError, StreamSpec

from .connection import BlockSource, EventSource, Link, Waiter
from .journal import Journal
from .maps import LiveMap
from .pattern import NewestFrame
from .topics import TopicMeter, TopicRow

_PAUSE_S = 0.008
_FRAME_S = 1 / 60
_IDLE_S = 0.1
_LOOK_S = 0.25
_MEASURE_S = 1.0
_NOT_TOPICS = ("events",)


class _Topic:
    """One topic being read."""

    def __init__(self, name: str, source: BlockSource) -> None:
        self.name, self.source = name, source
        self.meter = TopicMeter(name)
        self.map: LiveMap | None = None
        self.frame: NewestFrame | None = None
        self.kind_known = False
        self.swapped = False
        self.next_look = 0.0


class Feed:
    """Reads everything. `maps` and `frames` are by topic; `on_event` is called in the feed's thread."""

    def __init__(self, link: Link, journal: Journal, on_event: Callable[[Event], None]) -> None:
        self.maps: dict[str, LiveMap] = {}
        self.frames: dict[str, NewestFrame] = {}
        self.rows: list[TopicRow] = []
        self.ages: dict[str, float] = {}
        self.settling = False
        self.last_frame: float | None = None
        self.clock_error = 0.0  # between the host of the rig and this one [s]
        self._link, self._journal, self._on_event = link, journal, on_event
        self._topics: dict[str, _Topic] = {}
        self._refused: dict[str, float] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="window-feed", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def close(self) -> None:
        """End the thread and leave every topic."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(3.0)

    def _open(self) -> EventSource | None:
        while not self._closing.is_set():
            try:
                return self._link.events()
            except ProbeloopError as error:
                self._journal.say(str(error), "warning")
                self._closing.wait(1.0)
        return None

    def _run(self) -> None:
        events = self._open()
        if events is None:
            return
        poller = self._link.poller(events.source)
        next_look = next_measure = 0.0
        try:
            while not self._closing.is_set():
                poller.wait(_IDLE_S)
                now = time.monotonic()
                try:
                    self._hear(events)
                    for topic in list(self._topics.values()):
                        self._read(topic, now, poller)
                    if now >= next_look:
                        next_look = now + _LOOK_S
                        self._look(poller, now)
                    if now >= next_measure:
                        next_measure = now + _MEASURE_S
                        self._measure(now)
                except ProbeloopError as error:
                    self._journal.say(str(error), "warning")
                    self._closing.wait(_IDLE_S)
                self._closing.wait(_PAUSE_S)
        finally:
            poller.close()
            for topic in self._topics.values():
                topic.source.close()
            events.close()

    def _hear(self, events: EventSource) -> None:
        for event in events.read(0.0):
            self._journal.take(event)
            self._on_event(event)

    def _look(self, poller: Waiter, now: float) -> None:
        self.ages = self._link.processes()
        for name in self._link.topics():
            if name in self._topics or name in _NOT_TOPICS or self._refused.get(name, 0) > now:
                continue
            try:
                # lossless until its kind is known, so that no value of a scan that has just begun is missed
                source = self._link.subscribe(name, "lossless")
            except ProbeloopError as error:
                self._refused[name] = now + 5
                self._journal.say(f"{name}: {error}", "warning")
                continue
            self._topics[name] = _Topic(name, source)
            poller.add(source)

    def _read(self, topic: _Topic, now: float, poller: Waiter) -> None:
        if topic.frame is not None and now < topic.next_look:
            return
        for block in topic.source.drain():
            topic.meter.clock_error = self.clock_error
            topic.meter.saw(block, now)
            if not topic.kind_known:
                self._settle_kind(topic, block.spec)
            if topic.map is not None:
                topic.map.take(block)
            if topic.frame is not None:
                topic.frame.take(block)
                if block.count:
                    self.settling = topic.frame.settling
            if block.count:
                self.last_frame = now
            if topic.meter.newest_only:
                topic.next_look = now + _FRAME_S
                break
        if topic.meter.newest_only and not topic.swapped:
            self._swap(topic, poller)

    def _settle_kind(self, topic: _Topic, spec: StreamSpec) -> None:
        topic.kind_known = True
        if spec.kind in ("frames", "spectra"):
            topic.frame = self.frames.setdefault(topic.name, NewestFrame(topic.name))
            topic.meter.newest_only = spec.kind == "frames"
        if spec.kind in ("values", "image"):
            topic.map = self.maps.setdefault(topic.name, LiveMap(topic.name))

    def _swap(self, topic: _Topic, poller: Waiter) -> None:
        """Go on with the newest frame only: a person sees no more than 60 a second."""
        poller.remove(topic.source)
        topic.source.close()
        topic.source = self._link.subscribe(topic.name, "newest")
        poller.add(topic.source)
        topic.swapped = True

    def _measure(self, now: float) -> None:
        for topic in self._topics.values():
            topic.meter.measure(now)
        self.rows = [topic.meter.row(topic.source.stats.lost) for topic in self._topics.values()]
