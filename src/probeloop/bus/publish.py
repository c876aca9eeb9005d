"""The writing end of a topic: memory loaned in shared memory, filled in place, sent without a copy."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import iceoryx2 as iox2
import msgspec
import numpy as np

from ..data.axes import StreamSpec
from ..data.errors import BusError, WireError
from ..data.frame import LAYOUT, BlockFlag, FrameBuffer, block_bytes
from .checksum import sum_of_buffer, wanted
from .credit import CreditBook
from .header import HEADER
from .ledger import TOPIC
from .node import Bus
from .stats import PublisherStats
from .topic import (
    LINE,
    NO_SPEC,
    SPEC_BYTES,
    SPEC_DEPTH,
    Announcement,
    BytesPublisher,
    data_publisher,
    data_service,
    let_readers_meet,
    lines,
    size_class,
    spec_service,
)

_CACHED_VIEWS = 4096
_LINGER_S = 1.0
NO_FLAGS = BlockFlag(0)
# the public wrappers of these two inspect the payload type at every call, 0.5 us each
_LOAN, _INITIALISED = "__loan_slice_uninit", "__assume_init"
NEXT_INDEX, JOINS, ANNOUNCED = 0, 1, 2
View: TypeAlias = tuple[int, FrameBuffer, memoryview]  # capacity, the arrays, the header
Slot: TypeAlias = tuple[int, Any, FrameBuffer, memoryview]  # the same of memory on loan, and that memory


class Publisher:
    """Sends blocks on one topic; one thread at a time.

    Two publishers of a topic may exist for a hand-over, but only one may send at a time: the index continues from
    the rig's ledger, so it is never reused, not even after a SIGKILL.
    """

    def __init__(self, bus: Bus, topic: str, max_block_bytes: int, source_waits: bool = False) -> None:
        """Reserve the memory of a publisher whose blocks have at most `max_block_bytes`.

        source_waits: the source obeys the readers' credits (`wait_for_credit`).
        Raises SharedMemoryError when there is too little, BusError for a third publisher.
        """
        self.bus, self.topic = bus, topic
        self._words = bus.ledger.claim(TOPIC, topic, shared=True).words
        self._specs = BytesPublisher(
            bus, spec_service(bus, topic), f"topic {topic!r}", size=SPEC_BYTES, depth=SPEC_DEPTH
        )
        self._wake_service = bus.event_service(f"{topic}/wake")
        self._notifier = bus.retry(self._wake_service.notifier_builder().create, f"notify on {topic!r}")
        self.credits = CreditBook(bus, topic) if source_waits else None
        self._spec: StreamSpec | None = None
        self._encoded = NO_SPEC
        self._generation: int | None = None
        self._since = 0  # first index of what the spec describes
        self._told = False  # whether the newest announcement says all that holds now
        self._frame_bytes = 0
        self._created_s = time.monotonic()
        self._sealed = wanted()
        self._joins = -1
        self._port: Any = None
        self._ready: Slot | None = None  # of the next block, loaned in advance
        self.sizes = size_class(max_block_bytes)
        self._retired: list[tuple[float, int, Any]] = []
        self._blocks = self._frames = self._bytes = 0
        self._open(max_block_bytes)

    def _open(self, max_block_bytes: int) -> None:
        """Make the port for blocks up to this size and name its service to the readers."""
        old = self._port
        sizes = size_class(max_block_bytes)
        self._drop_retired(sizes.slot)
        self._drop_ready()
        service = data_service(self.bus, self.topic, sizes)
        port = data_publisher(self.bus, service, self.topic, sizes, max_block_bytes)
        if old is not None:
            self._retired.append((time.monotonic() + _LINGER_S, self.sizes.slot, old))
        self.sizes, self.max_block_bytes = sizes, max_block_bytes
        self._service, self._port = service, port
        self._loaned: dict[int, Slot] = {}
        self._views: dict[int, View] = {}
        self._lines: dict[int, int] = {}
        self._raw_loan = getattr(port, _LOAN)
        if self.credits is not None:
            self.credits.fit(sizes.depth)
        self._tell(Announcement(sizes.slot, self.next_index, -1, NO_SPEC))
        self._told = False

    def _drop_retired(self, slot: int = 0) -> None:
        """Delete the replaced ports of a size class, and those that every reader had a second to connect to."""
        now = time.monotonic()
        for item in tuple(self._retired):
            if item[0] < now or item[1] == slot:
                self._retired.remove(item)
                item[2].delete()

    @property
    def next_index(self) -> int:
        """Index of the next frame of this topic."""
        return self._words[NEXT_INDEX]

    def skip_to(self, index: int) -> None:
        """Go on at `index`: the frames before it never come, and readers count them as lost.

        Raises BusError for an index that was used already.
        """
        if index < self._words[NEXT_INDEX]:
            raise BusError(f"{self.topic!r} is at index {self._words[NEXT_INDEX]}, not before {index}")
        self._words[NEXT_INDEX] = index

    @property
    def readers(self) -> int:
        """How many readers the topic has (a killed one counts until it is cleaned up)."""
        return int(self._service.dynamic_config.number_of_subscribers)

    @property
    def stats(self) -> PublisherStats:
        """What was sent so far."""
        reserved = self.sizes.reserved(self.max_block_bytes)
        return PublisherStats(self._blocks, self._frames, self._bytes, reserved)

    def _tell(self, announcement: Announcement) -> None:
        self._specs.send(msgspec.msgpack.encode(announcement))
        self._words[ANNOUNCED] += 1  # no wake-up: the first block brings it, and a reader woken twice is late for it

    def announce(self, spec: StreamSpec, generation: int) -> None:
        """Say what the blocks of `generation` from here on are; must precede them.

        Where they are what the ones before were, the block's header says all: nothing is sent but to those who join
        later. A frame that is larger than the blocks so far moves the topic to a larger size class.
        Raises BusError while a buffer is loaned.
        """
        if self._loaned:
            raise BusError(f"topic {self.topic!r} is announced while a block is being filled", "send or discard it")
        self._generation = generation
        if spec is self._spec or spec == self._spec:
            self._told = False
        else:
            smallest = block_bytes(spec, 1)
            if smallest > self.max_block_bytes:
                self._open(smallest)
            self._drop_ready()
            self._views.clear()
            self._lines.clear()
            self._spec, self._frame_bytes = spec, spec.frame_bytes
            self._encoded, self._since = msgspec.Raw(spec.encode()), self.next_index
            self._describe()

    def _describe(self) -> None:
        generation = -1 if self._generation is None else self._generation
        self._tell(Announcement(self.sizes.slot, self._since, generation, self._encoded))
        self._told = True

    def grow(self, max_block_bytes: int) -> None:
        """Reserve for blocks up to this size from here on; readers follow. Raises SharedMemoryError or BusError."""
        if self._loaned:
            raise BusError(f"topic {self.topic!r} grows while a block is being filled", "send or discard it")
        if max_block_bytes > self.max_block_bytes:
            self._open(max_block_bytes)

    def loan(self, capacity: int) -> FrameBuffer:
        """Return memory for up to `capacity` frames, to be filled in place and given to `send` or `discard`.

        Its contents are those of an older block. For a ragged topic `capacity` counts items and `data` is the whole
        rest of the slot. Raises BusError before `announce`, when it doesn't fit, or when 4 buffers are out.
        """
        slot = self._ready
        if slot is not None and slot[0] == capacity:
            self._ready = None
        else:
            self._drop_ready()
            try:
                slot = self._take(capacity)
            except iox2.LoanError as error:
                raise BusError(
                    f"no free block on {self.topic!r}: {error}", "send or discard what was loaned"
                ) from error
        buffer = slot[2]
        self._loaned[id(buffer)] = slot
        return buffer

    def _take(self, capacity: int) -> Slot:
        """Loan memory for `capacity` frames and lay the views over it; raises iox2.LoanError and BusError."""
        count = self._lines.get(capacity) or self._lines_of(capacity)
        sample = self._raw_loan(count)
        address = sample.payload_ptr
        view = self._views.get(address)
        if view is None or view[0] != capacity:
            view = self._lay_out(address, count, capacity)
        return capacity, sample, view[1], view[2]

    def _lines_of(self, capacity: int) -> int:
        """Return how many cache lines a block of this capacity takes, and remember it."""
        if self._spec is None:
            raise BusError(f"topic {self.topic!r} was never announced", "announce its spec first")
        size = self.max_block_bytes if self._spec.kind == "ragged" else block_bytes(self._spec, capacity)
        if size > self.max_block_bytes:
            raise BusError(
                f"{capacity} frames of {self.topic!r} are {size} bytes, a block holds {self.max_block_bytes}",
                "fewer frames a block",
            )
        self._lines[capacity] = lines(size)
        return self._lines[capacity]

    def _lay_out(self, address: int, count: int, capacity: int) -> View:
        assert self._spec is not None
        memory = (ctypes.c_uint8 * (count * LINE)).from_address(address)
        buffer = FrameBuffer.over(np.frombuffer(memoryview(memory), np.uint8), self._spec, capacity)
        if len(self._views) >= _CACHED_VIEWS:
            self._views.clear()
        view = (capacity, buffer, memoryview(memory).cast("B")[: HEADER.size])
        self._views[address] = view
        return view

    def send(
        self,
        buffer: FrameBuffer,
        count: int,
        generation: int,
        flags: BlockFlag = NO_FLAGS,
        revision: int = 0,
        source_index: int = -1,
        exposed_ns: int = 0,
        payload_bytes: int | None = None,
        checksum: int = 0,
        published_ns: int = 0,
        source_published_ns: int = 0,
        taken_ns: int = 0,
    ) -> int:
        """Publish rows [0, count) of a loaned buffer and wake the readers; return the index of its first frame.

        payload_bytes: needed for a ragged block alone. published_ns: of a block that was published elsewhere before,
        on this host's clock (0 = now). Raises WireError for a count beyond the capacity, BusError
        for a buffer that isn't loaned, or another generation than the one announced last.
        """
        if not 0 <= count <= buffer.capacity:
            raise WireError(f"{count} frames in a block of {buffer.capacity}")
        if generation != self._generation:
            raise BusError(f"generation {generation} of {self.topic!r} was not announced", "announce it first")
        try:
            capacity, sample, _, header = self._loaned.pop(id(buffer))
        except KeyError:
            raise BusError(f"this buffer is not on loan from {self.topic!r}", "loan, fill, send once") from None
        size = count * self._frame_bytes if payload_bytes is None else payload_bytes
        if self._sealed:
            checksum = sum_of_buffer(buffer, count, size)
        words = self._words
        index = words[NEXT_INDEX]
        words[NEXT_INDEX] = index + count  # before the block is out: a kill in between loses, never repeats
        if words[JOINS] != self._joins:
            self.refresh()
        # the reader learns of announcements from the block: to look at our word for each would bounce its cache line
        HEADER.pack_into(
            header, 0, LAYOUT, flags, index, count, capacity, generation, revision, source_index,
            published_ns or time.monotonic_ns(), exposed_ns, size, checksum, words[ANNOUNCED],
            source_published_ns, taken_ns,
        )  # fmt: skip
        getattr(sample, _INITIALISED)().send()
        self._notifier.notify()
        if self.credits is not None:
            self.credits.sent(index + count, size)
        self._blocks += 1
        self._frames += count
        self._bytes += size
        if self._ready is None:  # after the readers are awake, so that the next frame finds its memory waiting
            try:
                self._ready = self._take(capacity)
            except iox2.LoanError:  # all that may be out are out
                self._ready = None
        return index

    def discard(self, buffer: FrameBuffer) -> None:
        """Give a loaned buffer back unsent."""
        slot = self._loaned.pop(id(buffer), None)
        if slot is not None:
            slot[1].delete()

    def _drop_ready(self) -> None:
        if self._ready is not None:
            self._ready[1].delete()
            self._ready = None

    def refresh(self) -> None:
        """Connect late joiners and give them the newest spec; an idle owner calls it every 100 ms."""
        joins = self._words[JOINS]
        self._drop_retired()
        self._specs.port.update_connections()
        self._port.update_connections()
        if joins != self._joins:
            self._joins = joins
            if self._spec is not None and not self._told:
                self._describe()
            else:
                self._words[ANNOUNCED] += 1  # they look, and find what was announced last
            self._notifier.notify()

    @property
    def blocked_on(self) -> str | None:
        """The process whose reader holds the source back, or None."""
        return self.credits.blocked_on if self.credits is not None else None

    def notices(self) -> list[str]:
        """Return what happened to readers' credits since the last call, in words."""
        return self.credits.notices() if self.credits is not None else []

    def wait_for_credit(self, timeout_s: float, cancelled: Callable[[], bool] | None = None) -> bool:
        """Wait until the slowest living credit reader has room for another block; False = timeout or cancelled."""
        credits = self.credits
        return credits is None or credits.free > 0 or credits.wait(timeout_s, cancelled, self._meet)

    def _meet(self) -> None:
        if self._words[JOINS] != self._joins:
            self.refresh()

    def close(self) -> None:
        """Leave the topic; readers that have met this publisher still get all it sent. Harmless when closed already.

        A reader meets a publisher when it looks the first time; a publisher that ends within 0.2 s of its creation
        waits so long for that.
        """
        if self._port is None:
            return
        for slot in self._loaned.values():
            slot[1].delete()
        self._loaned.clear()
        self._views.clear()
        self._drop_ready()
        if self._blocks:
            let_readers_meet(self.bus, self._service, self._created_s)
        if self.credits is not None:
            self.credits.close()
        for port in (*(port for _, _, port in self._retired), self._port, self._specs.port):
            port.delete()
        self._retired.clear()
        self._notifier.delete()
        self._port = None
        self._service = self._wake_service = None
        self._words = memoryview(b"")
