"""The reading end of a topic: blocks read in place, gaps counted from their index."""

from __future__ import annotations

import bisect
import operator
import os
import threading
import time
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from ..data.axes import StreamSpec
from ..data.errors import BusError, WireError
from ..data.frame import LAYOUT, FrameBlock
from .credit import ReaderCredit
from .header import FLAGS, HEADER, HeaderMemory, Layout, lay_out
from .ledger import TOPIC
from .node import Bus, timed_wait
from .publish import ANNOUNCED, JOINS, NEXT_INDEX
from .stats import Missed, ReaderStats
from .topic import NO_SPEC, STANDARD_DEPTHS, Announcement, data_service, read_bytes, size_class, spec_service
from .wait import LOOKS, Poller, let_others_run

__all__ = ["Poller", "Subscriber"]

_CACHED_VIEWS = 4096
_KEPT_SPECS = 256
_SLICE_S = 0.5  # longest single wait, so that Ctrl-C is seen
_BRISK_NS = 50_000  # of blocks so close together a few are let gather
_GATHER_S = 1e-5 if os.name == "posix" else 0.0  # Linux makes 60 us of it, Windows too much

_decode = msgspec.msgpack.Decoder(Announcement).decode
_NO_SPEC = bytes(NO_SPEC)
_LENGTH = "__slice_len"  # the public way to it makes two objects, 0.4 us
_unpack = HEADER.unpack
_first = operator.itemgetter(0)
_pause = threading.Event().wait  # never set


class Subscriber:
    """Reads blocks of one topic; one thread at a time. The topic need not exist yet.

    mode "newest": buffer of one block, older ones are overwritten. "lossless": the whole depth; what is overwritten
    even so is counted and named. credit: a source that can wait stays behind this reader.
    A reader sees the blocks sent after it was made. A block's arrays point into shared memory and are valid until
    the next `receive`, `drain` step or `close`: keep `block.copy()`, never a view.
    poll: `receive` looks again and again instead of sleeping: 15 us less latency, for a core of its own.
    """

    def __init__(
        self,
        bus: Bus,
        topic: str,
        mode: Literal["newest", "lossless"] = "newest",
        credit: bool = False,
        *,
        poll: bool = False,
    ) -> None:
        """Join a topic as a reader; raises BusError (at most 16 readers) or SharedMemoryError."""
        if credit and mode != "lossless":
            raise BusError(f"a {mode} reader of {topic!r} can't give credit", "read it lossless")
        self.bus, self.topic, self.mode, self._poll = bus, topic, mode, poll
        self._words = bus.ledger.claim(TOPIC, topic, shared=True).words
        self._services: list[Any] = [bus.event_service(f"{topic}/wake")]
        self.listener: Any = bus.retry(self._services[0].listener_builder().create, f"wait on {topic!r}")
        service = spec_service(bus, topic)
        self._services.append(service)
        self._specs: Any = bus.retry(service.subscriber_builder().create, f"read the spec of {topic!r}")
        self._ports: dict[int, Any] = {}
        self._live: list[Any] = []
        for slot in STANDARD_DEPTHS:
            self._attach(slot)
        with bus.ledger.locked():
            self._start = self._expected = self._words[NEXT_INDEX]
            self._words[JOINS] += 1
        self._credit = ReaderCredit(bus, topic, self._start) if credit else None
        self._seen = -1
        self.spec: StreamSpec | None = None
        self._encoded = b""
        self.generation = -1
        self._known: list[tuple[int, StreamSpec]] = []  # from which index on, by index
        self._since = -1  # where the newest of them begins
        self._held: Any = None
        self._waiting: list[tuple[int, Any, Any]] = []
        self._views: dict[int, Layout] = {}
        self._view_spec: StreamSpec | None = None
        self._published = self._apart = 0
        # up to 30 attributes Python finds by their place, and a block needs most of them
        self._blocks = self._frames = self._bytes = 0
        self._missed = Missed()

    def _attach(self, slot: int) -> Any:
        """Return the port of a size class, made when it is new."""
        port = self._ports.get(slot)
        if port is None:
            sizes = size_class(slot)
            service = data_service(self.bus, self.topic, sizes)
            depth = 1 if self.mode == "newest" else sizes.depth
            builder = service.subscriber_builder().buffer_size(depth)
            if not sizes.standard:
                builder = builder.history_request(depth)
            port = self.bus.retry(builder.create, f"read {self.topic!r} (at most 16 readers)")
            self._services.append(service)
            self._ports[slot] = port
            if not sizes.standard:
                with self.bus.ledger.locked():
                    self._words[JOINS] += 1  # so that the publisher sends the history
        return port

    def _read_announcements(self) -> None:
        self._seen = self._words[ANNOUNCED]
        while (body := read_bytes(self._specs)) is not None:
            try:
                news = _decode(body)
            except msgspec.MsgspecError:
                self._missed.wire_errors += 1
                continue
            port = self._attach(news.slot)
            if port not in self._live:
                self._live.append(port)
            encoded = bytes(news.spec)
            if encoded == _NO_SPEC:
                continue
            if encoded != self._encoded:
                try:
                    self.spec, self._encoded = StreamSpec.decode(encoded), encoded
                except WireError:
                    self._missed.wire_errors += 1
                    continue
            spec = self.spec  # the same object keeps the same views
            assert spec is not None
            self.generation = news.generation
            if not self._known or self._known[-1][1] is not spec or news.index < self._since:
                bisect.insort_right(self._known, (news.index, spec), key=_first)
                del self._known[:-_KEPT_SPECS]
                self._since = self._known[-1][0]

    def _spec_of(self, index: int) -> StreamSpec | None:
        """Return the newest spec that was announced at or before `index`."""
        at = bisect.bisect_right(self._known, index, key=_first)
        return self._known[at - 1][1] if at else None

    def _take(self) -> Any:
        """Take the next sample, the one with the smallest index when several size classes are in use."""
        for port in self._live:
            if all(port is not held for _, _, held in self._waiting) and (sample := port.receive()) is not None:
                head = HeaderMemory.from_address(sample.payload_ptr)
                self._waiting.append((_unpack(head)[2], sample, port))
        if not self._waiting:
            return None
        first = min(self._waiting, key=lambda item: item[0])
        self._waiting.remove(first)
        return first[1]

    def receive(self, timeout_s: float = 0.0) -> FrameBlock | None:
        """Return the next block, or None after `timeout_s`.

        The block before it is finished with this call: its views must not be used any more.
        """
        block = self._next()
        if block is not None or timeout_s <= 0:
            return block
        deadline = time.monotonic() + timeout_s
        if self._poll:
            block = self._look_again(deadline)
        elif self._apart < _BRISK_NS and _GATHER_S:
            # one look a block would take its cache lines from the publisher as it fills them, and a wake-up its time
            _pause(_GATHER_S)
            block = self._next()
        while block is None and (left := deadline - time.monotonic()) > 0:
            timed_wait(self.listener, min(left, _SLICE_S))
            block = self._next()
        return block

    def _look_again(self, until: float) -> FrameBlock | None:
        """Look until `until` without sleeping."""
        block = None
        while block is None and time.monotonic() < until:
            for _ in range(LOOKS):
                block = self._next()
                if block is not None:
                    break
            else:
                let_others_run()
        return block

    def drain(self) -> Iterator[FrameBlock]:
        """Yield every block that has arrived; each is valid until the next step."""
        while (block := self._next()) is not None:
            yield block

    @property
    def start(self) -> int:
        """Index of the first frame that this reader can get."""
        return self._start

    def give_credit(self, on: bool) -> None:
        """Keep a source that can wait behind this lossless reader, or let it go on without; then it may lose."""
        if on and self._credit is None:
            self._credit = ReaderCredit(self.bus, self.topic, self._expected)
        elif not on and self._credit is not None:
            self._credit.close()
            self._credit = None

    def hear(self) -> None:
        """Empty the wake-up event."""
        self.listener.try_wait()

    def pending(self) -> bool:
        """Whether something has arrived that `receive` would look at."""
        if self._words[ANNOUNCED] != self._seen:
            self._read_announcements()
        return bool(self._waiting) or any(port.has_samples() for port in self._live)

    def _release(self) -> None:
        held = self._held
        if held is not None:
            self._held = None
            held.delete()
            if self._credit is not None:
                self._credit.finish(self._expected)

    def _next(self) -> FrameBlock | None:
        if self._held is not None:
            self._release()
        while True:
            live = self._live
            sample = live[0].receive() if len(live) == 1 else self._take()
            if sample is None:
                if self._words[ANNOUNCED] == self._seen:
                    return None
                self._read_announcements()
                continue
            try:
                block = self._parse(sample)
            except WireError:
                self._missed.wire_errors += 1
                block = None
            if block is not None:
                self._held = sample
                return block
            sample.delete()

    def _parse(self, sample: Any) -> FrameBlock | None:
        """Make a block of a sample; None when it is older than this reader or nobody said what it is."""
        address = sample.payload_ptr
        room = getattr(sample, _LENGTH)
        found = self._views.get(address)
        if found is not None and found[1] == room:
            header = found[2]
        elif room < HEADER.size:
            raise WireError(f"{room} bytes are no block", "a header has 128")
        else:
            found, header = None, HeaderMemory.from_address(address)
        (
            layout, flags, index, count, capacity, generation, revision, source_index, published_ns, exposed_ns,
            size, checksum, announced, source_published_ns, taken_ns,
        ) = _unpack(header)  # fmt: skip
        if layout != LAYOUT:
            raise WireError(f"block layout {layout}, this is version {LAYOUT}", "restart every process")
        if announced > self._seen:  # what describes a block precedes it
            self._read_announcements()
        if index < self._start:
            return None
        spec = self._known[-1][1] if index >= self._since >= 0 else self._spec_of(index)
        if spec is None:
            self._missed.unspecified += 1
            return None
        if spec is not self._view_spec:
            self._views.clear()
            self._view_spec, found = spec, None
        if found is None or found[0] != capacity:
            if len(self._views) >= _CACHED_VIEWS:
                self._views.clear()
            found = self._views[address] = lay_out(address, capacity, room, spec)
        _, _, _, payload_room, frame_bytes, data, time_ns, scan_index, position, dose, frame_flags = found
        if count > capacity or not 0 <= size <= payload_room or flags >= len(FLAGS):
            raise WireError(f"header claims {count} of {capacity} frames, {size} bytes in {room}")
        if frame_bytes is None:  # ragged
            data = data[:size]
        elif size != count * frame_bytes:
            raise WireError(f"{size} payload bytes, {spec.name!r} says {count * frame_bytes}")
        if count != capacity:
            time_ns, scan_index, position = time_ns[:count], scan_index[:count], position[:count]
            dose, frame_flags = dose[:count], frame_flags[:count]
            if frame_bytes is not None:
                data = data[:count]
        self.generation = generation
        self._apart, self._published = published_ns - self._published, published_ns
        if index != self._expected:
            self._missed.gap(self._expected, index - self._expected)
        if index + count > self._expected:
            self._expected = index + count
        self._blocks += 1
        self._frames += count
        self._bytes += size
        return FrameBlock(
            spec, index, count, FLAGS[flags], generation, revision, source_index, published_ns, exposed_ns,
            checksum, data, time_ns, scan_index, position, dose, frame_flags, source_published_ns, taken_ns,
        )  # fmt: skip

    @property
    def stats(self) -> ReaderStats:
        """What was read so far."""
        missed = self._missed
        return ReaderStats(
            self._blocks, self._frames, self._bytes,
            missed.lost, tuple(missed.gaps), missed.wire_errors, missed.unspecified,
        )  # fmt: skip

    def close(self) -> None:
        """Leave the topic; every view of its blocks is invalid. Harmless when closed already."""
        if self.listener is None:
            return
        self._release()
        for _, sample, _ in self._waiting:
            sample.delete()
        self._waiting.clear()
        self._views.clear()
        self._live.clear()
        if self._credit is not None:
            self._credit.close()
        for port in (*self._ports.values(), self._specs, self.listener):
            port.delete()
        self._ports.clear()
        self._services.clear()
        self.listener = self._specs = None
        self._words = memoryview(b"")
