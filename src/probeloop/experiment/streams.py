"""What a plan may look at: maps assembled per generation, and frames, of the topics that are its inputs.

One thread feeds blocks in (`FrameStore.accept`), the plan's thread waits for what it needs. A frame of another
generation, before the first valid index, or flagged as settling is never handed out.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..data.assemble import assemble, empty_map, is_pixel
from ..data.axes import StreamSpec
from ..data.clock import Clock
from ..data.control import Event, Result, StateChange, Trace
from ..data.errors import PlanError
from ..data.frame import BlockFlag, FrameBlock, FrameFlag

KEEP_GENERATIONS = 4  # of scans and images
KEEP_POINTS = 4096  # generations of measurements at a place, which have no map: many may be waited for at once
KEEP_BYTES = 64 << 20  # of frames a topic
MAP_BYTES = 256 << 20  # largest map
Waiting = Callable[[Callable[[], bool], float], bool]
_SILENT = ("refused", "failed", "off")  # states of a plug-in that gives nothing


@dataclass(frozen=True)
class Seen:
    """The newest frame something was computed from. index: of the frame; trace: its stamps so far."""

    topic: str
    index: int
    trace: Trace

    @classmethod
    def of(cls, block: FrameBlock, row: int, received_ns: int) -> Seen:
        """Return a row of a block, taken over at `received_ns`."""
        trace = Trace(
            exposed=block.exposed_ns,
            published=block.source_published_ns or block.published_ns,
            taken=block.taken_ns,
            derived=block.published_ns if block.taken_ns else 0,
            received=received_ns,
        )
        return cls(block.spec.name, block.index + row, trace)


@dataclass(frozen=True)
class Frame:
    """One frame, as a scalarizer gets it. data (*frame_shape); position (x, y) [m]."""

    spec: StreamSpec
    data: NDArray[Any]
    index: int
    generation: int
    position: tuple[float, float]
    time_ns: int
    flags: int


class Streams(Protocol):
    """Where the loop gets its data."""

    def map(self, topic: str, result: Result, wait: Waiting, timeout: float) -> tuple[NDArray[Any], Seen]:
        """Return the map of the result's generation when its scan has ended, (*nav, *frame), NaN = not measured."""
        ...

    def frames(self, topic: str, result: Result, wait: Waiting, timeout: float) -> tuple[list[Frame], Seen]:
        """Return the valid frames that the result names."""
        ...

    def held(self, topic: str, result: Result) -> list[Frame]:
        """Return those of them that are held still; none = read the record."""
        ...

    def recall(self, topic: str, result: Result) -> bool:
        """Take over from the record what a result of before has on a topic; False where it is not all there."""
        ...


class History(Protocol):
    """What was recorded of the session that goes on: `record.history.SessionHistory`."""

    def recorded(self, topic: str, generation: int) -> Iterable[FrameBlock]:
        """Yield what is on disk of a generation of a topic."""
        ...


@dataclass
class _Scan:
    """One generation of a topic."""

    spec: StreamSpec
    map: NDArray[Any] | None = None
    index: NDArray[np.int64] | None = None
    problem: str = ""
    ended: bool = False
    seen: Seen | None = None


@dataclass
class _Topic:
    scans: OrderedDict[int, _Scan] = field(default_factory=OrderedDict)
    blocks: deque[tuple[FrameBlock, int]] = field(default_factory=deque)
    held: int = 0
    newest: int = -1
    dropped_before: int = 0


class Refusals:
    """Why plug-ins give nothing at present, by their own events."""

    def __init__(self) -> None:
        self._why: dict[str, str] = {}

    def hear(self, event: Event) -> None:
        """Keep the reason of one that refuses, failed or is off, until it says that it runs."""
        if isinstance(event, StateChange) and event.state in _SILENT:
            self._why[event.target] = f"{event.target} {event.state}: {event.reason}"
        elif isinstance(event, StateChange):
            self._why.pop(event.target, None)

    def why(self, topic: str) -> str:
        """Return what the plug-in of a topic said, "" where it runs or nothing is known."""
        return self._why.get(topic.partition(".")[0], "")


class FrameStore:
    """Blocks of some topics, the last few generations of them. changed: notified when a block came.

    refusals: of the plug-ins that make them.
    """

    def __init__(
        self,
        topics: tuple[str, ...],
        clock: Clock,
        changed: threading.Condition,
        *,
        history: History | None = None,
        keep_bytes: int = KEEP_BYTES,
        map_bytes: int = MAP_BYTES,
        refusals: Refusals | None = None,
    ) -> None:
        self._refusals = refusals or Refusals()
        self._topics = {name: _Topic() for name in topics}
        self._clock = clock
        self._changed = changed
        self._history = history
        self._keep_bytes = keep_bytes
        self._map_bytes = map_bytes

    @property
    def topics(self) -> tuple[str, ...]:
        """Names of the topics that are held."""
        return tuple(self._topics)

    def accept(self, block: FrameBlock) -> None:
        """Take over what is needed of a block; its memory is not kept."""
        now = self._clock.now_ns()
        with self._changed:
            topic = self._topics.get(block.spec.name)
            if topic is None:
                return
            scan = self._scan(topic, block)
            last = block.index + block.count - 1
            if block.count:
                scan.seen = Seen.of(block, block.count - 1, now)
                topic.newest = max(topic.newest, last)
                if block.spec.kind == "image":
                    scan.map = np.array(block.data[-1])
                elif scan.map is not None and scan.index is not None:
                    pixels = assemble(block.spec, block, scan.map)
                    scan.index.reshape(-1)[pixels] = block.index + np.flatnonzero(is_pixel(block))
                self._hold(topic, block, now)
            scan.ended = scan.ended or bool(block.flags & BlockFlag.SCAN_END)
            self._changed.notify_all()

    def map(self, topic: str, result: Result, wait: Waiting, timeout: float) -> tuple[NDArray[Any], Seen]:
        """Return the map of the result's generation when its scan has ended, (*nav, *frame), NaN = not measured.

        Raises PlanError when the topic is no input, has no map, or its scan does not end within `timeout` [s].
        """
        held = self._held(topic)

        def ended() -> bool:
            scan = held.scans.get(result.generation)
            return scan is not None and (scan.ended or bool(scan.problem))

        if not wait(ended, timeout):
            raise PlanError(
                f"no end of scan came on {topic!r} for generation {result.generation} within {timeout:g} s",
                self._refusals.why(topic) or "is the plug-in that makes it running?",
            )
        with self._changed:
            scan = held.scans.get(result.generation)
            if scan is None or scan.map is None or scan.seen is None:
                why = scan.problem if scan is not None else ""
                raise PlanError(f"{topic!r} has no map for generation {result.generation}: {why or 'no frame came'}")
            made = scan.map.copy()
            if topic == result.topic and scan.index is not None and result.first_valid_index >= 0:
                made[scan.index < result.first_valid_index] = np.nan
            return made, scan.seen

    def frames(self, topic: str, result: Result, wait: Waiting, timeout: float) -> tuple[list[Frame], Seen]:
        """Return the valid frames that the result names, in the order they came, with memory of their own.

        Of another topic than the result's: the frames of the generation that were made from those it names.
        Raises PlanError when they don't come within `timeout` [s], are no longer held, or none is valid.
        """
        held = self._held(topic)
        own = topic == result.topic
        first, last = result.first_index, result.first_index + result.count - 1

        def there() -> bool:
            scan = held.scans.get(result.generation)
            if scan is None or scan.seen is None:
                return False
            if scan.ended:
                return True
            newest = held.newest if own else _newest_source(held, result.generation)
            return result.count > 0 and newest >= last

        if not wait(there, timeout):
            raise PlanError(
                f"frames {first}-{last} of {result.topic!r} did not come on {topic!r} within {timeout:g} s",
                "is the plug-in that makes them running?",
            )
        with self._changed:
            found, seen = self._find(held, result, own)
        if not found or seen is None:
            gone = " (they are no longer held)" if first < held.dropped_before else ""
            raise PlanError(f"{topic!r} has no valid frame in {first}-{last} of generation {result.generation}{gone}")
        return found, seen

    def recall(self, topic: str, result: Result) -> bool:
        """Take over from the record what a result of before has on a topic; False where it is not all there.

        What another topic made of single frames is not told apart in the record, so that is never there.
        """
        held = self._topics.get(topic)
        if self._history is None or held is None or result.generation in held.scans:
            return False
        for block in self._history.recorded(topic, result.generation):
            self.accept(block)
        with self._changed:
            scan = held.scans.get(result.generation)
            if scan is None:
                return False
            if scan.index is not None and scan.map is not None:
                scan.ended = bool((scan.index >= 0).all())
                whole = scan.ended
            elif scan.spec.kind == "image":
                whole = scan.map is not None
            else:
                whole = topic == result.topic and len(self._find(held, result, True)[0]) == result.count > 0
            if not whole:
                del held.scans[result.generation]
            return whole

    def held(self, topic: str, result: Result) -> list[Frame]:
        """Return the valid frames that the result names where they are held still, without waiting."""
        with self._changed:
            held = self._topics.get(topic)
            return [] if held is None else self._find(held, result, topic == result.topic)[0]

    def _find(self, held: _Topic, result: Result, own: bool) -> tuple[list[Frame], Seen | None]:
        start = max(result.first_index, result.first_valid_index)
        end = result.first_index + result.count if result.count else np.iinfo(np.int64).max
        found: list[Frame] = []
        seen: Seen | None = None
        for block, received in held.blocks:
            if block.generation != result.generation:
                continue
            rows = np.arange(block.count)
            at = (block.index if own or block.source_index < 0 else block.source_index) + rows
            wanted = (at >= start) & (at < end) & ((block.frame_flags & FrameFlag.SETTLING) == 0)
            for row in np.flatnonzero(wanted):
                x, y = block.position[row]
                found.append(
                    Frame(
                        block.spec,
                        block.data[row].copy(),
                        block.index + int(row),
                        block.generation,
                        (float(x), float(y)),
                        int(block.time_ns[row]),
                        int(block.frame_flags[row]),
                    )
                )
                seen = Seen.of(block, int(row), received)
        return found, seen

    def _held(self, topic: str) -> _Topic:
        try:
            return self._topics[topic]
        except KeyError:
            raise PlanError(
                f"the plan looks at {topic!r}, which is none of its inputs",
                f"name it in [plan] input; there are: {', '.join(self._topics) or 'none'}",
            ) from None

    def _scan(self, topic: _Topic, block: FrameBlock) -> _Scan:
        if block.generation not in topic.scans:
            topic.scans[block.generation] = self._new_scan(block.spec)
            point = block.spec.kind != "image" and not block.spec.nav
            while len(topic.scans) > (KEEP_POINTS if point else KEEP_GENERATIONS):
                topic.scans.popitem(last=False)
        return topic.scans[block.generation]

    def _new_scan(self, spec: StreamSpec) -> _Scan:
        if spec.kind == "image":
            return _Scan(spec)
        if spec.sync == "none" or not spec.nav:
            return _Scan(spec, problem="it has no scan to make a map of")
        size = int(np.prod(spec.nav_shape, dtype=np.int64)) * max(4 * spec.frame_bytes, 8)
        if size > self._map_bytes:
            return _Scan(
                spec, problem=f"a map of {size / 2**20:.0f} MiB is more than the {self._map_bytes >> 20} allowed"
            )
        return _Scan(spec, empty_map(spec), np.full(spec.nav_shape, -1, np.int64))

    def _hold(self, topic: _Topic, block: FrameBlock, now: int) -> None:
        topic.blocks.append((block.copy(), now))
        topic.held += block.data.nbytes
        while topic.held > self._keep_bytes and len(topic.blocks) > 1:
            old, _ = topic.blocks.popleft()
            topic.held -= old.data.nbytes
            topic.dropped_before = old.index + old.count


def _newest_source(held: _Topic, generation: int) -> int:
    for block, _ in reversed(held.blocks):
        if block.generation == generation and block.source_index >= 0:
            return block.source_index + block.count - 1
    return -1
