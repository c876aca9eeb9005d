"""Quality of service of every topic, in one place, and the memory that it reserves.

A topic `t` is a family of iceoryx2 services, all opened or created by whoever comes first:

    t/data/<slot>   blocks; one service a size class, so a larger frame is a new service
    t/spec          announcements (which generation, which spec, which data service), history 1
    t/wake          event: there is something new, look
    t/credit        event: a reader finished a block

A reader opens the two standard classes when it is made, so it misses nothing between its creation and the first
announcement; classes for frames above 1 MiB are opened when announced and keep their whole depth as history.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import iceoryx2 as iox2
import msgspec

from ..data.errors import SharedMemoryError
from .node import Bus, shared_memory_folder

PUBLISHERS, READERS, BORROWED = 2, 16, 8
LOANED = 4
NODES = 64
LINE = 64
DEPTH_BYTES = 64 << 20
RIG_BUDGET_BYTES = 256 << 20
# a quarter and a whole MiB of frames, with room for their header and columns: depth in blocks
STANDARD_DEPTHS = {320 << 10: 256, 1280 << 10: 64}
SPEC_BYTES, SPEC_DEPTH = 4096, 64
_MEET_S = 0.2
EVENTS = "events"
EVENT_BYTES, EVENT_DEPTH, EVENT_HISTORY, EVENT_WRITERS = 2048, 256, 128, 32


class Line(ctypes.Structure):
    """The element of a data service: one cache line, so that payloads begin on a multiple of 64."""

    _fields_ = (("words", ctypes.c_uint64 * 8),)


class Announcement(msgspec.Struct, frozen=True, array_like=True):
    """What the spec topic carries. index: first block that it is true for.

    spec: encoded, so that a reader need not read the same one again for each generation; NO_SPEC: only names the data
    service.
    """

    slot: int
    index: int
    generation: int
    spec: msgspec.Raw


_MOST_FRAMES = 4096  # of a block, as the pump makes them
_FRAME_EXTRA = 64  # [bytes] of the columns of a frame
NO_SPEC = msgspec.Raw(b"\xc0")  # nil


@dataclass(frozen=True, slots=True)
class Sizes:
    """A size class: `slot` bytes a block at most, `depth` blocks a lossless reader may lag behind."""

    slot: int
    depth: int
    standard: bool

    @property
    def slots(self) -> int:
        """Blocks that a publisher of this class keeps memory for."""
        return self.depth + (READERS + 2 * LOANED if self.standard else 2 * LOANED)

    def reserved(self, max_block_bytes: int) -> int:
        """Return what one publisher reserves [bytes]."""
        return self.slots * (lines(max_block_bytes) * LINE + 80) + 8192


def lines(size: int) -> int:
    """Return how many cache lines hold `size` bytes."""
    return -(-size // LINE)


def size_class(max_block_bytes: int) -> Sizes:
    """Return the class of blocks up to `max_block_bytes`; deeper where blocks are small."""
    for slot, depth in STANDARD_DEPTHS.items():
        if max_block_bytes <= slot:
            return Sizes(slot, depth, True)
    slot = 1 << (max_block_bytes - 1).bit_length()
    return Sizes(slot, max(4, DEPTH_BYTES // slot), False)


def reserved_bytes(max_block_bytes: int, publishers: int = 1) -> int:
    """Return the shared memory that a topic with blocks up to `max_block_bytes` reserves [bytes]."""
    spec = (SPEC_DEPTH + READERS + 4) * SPEC_BYTES
    return publishers * (size_class(max_block_bytes).reserved(max_block_bytes) + spec)


def free_bytes() -> int:
    """Return the free shared memory [bytes]."""
    return shutil.disk_usage(shared_memory_folder()).free


def largest_block(topic: str, frame_bytes: int) -> int:
    """Return the largest block that the pump sends on a topic whose frames have up to `frame_bytes` [bytes].

    That is 1 MiB, a larger frame, or the most frames that a block takes; on `spectrum` a block is one frame.
    """
    frames = 1 if topic == "spectrum" else _MOST_FRAMES
    most = 1024 + frames * (frame_bytes + _FRAME_EXTRA)
    return max(frame_bytes, min(most, 1 << 20))


def check_budget(max_block_bytes: dict[str, int], budget_bytes: int | None = None) -> int:
    """Return what these topics reserve together [bytes].

    max_block_bytes: by topic. Raises SharedMemoryError when it exceeds the budget (if given) or what is free.
    """
    needed = sum(reserved_bytes(size) for size in max_block_bytes.values())
    for limit, what in ((budget_bytes, "the rig's budget allows"), (free_bytes(), "are free")):
        if limit is not None and needed > limit:
            raise _too_little(f"{len(max_block_bytes)} topics", needed, limit, what)
    return needed


def _too_little(what: str, needed: int, free: int, where: str = "are free") -> SharedMemoryError:
    mib = 2.0**20
    return SharedMemoryError(
        f"{what} need {needed / mib:.1f} MiB of shared memory, {free / mib:.1f} MiB {where}",
        "smaller blocks or fewer topics, or a larger /dev/shm (docker: --shm-size=1g)",
    )


def reserve(bus: Bus, port: Any, what: str) -> None:
    """Back every page of a publisher's segments; a full /dev/shm would kill later, with SIGBUS.

    Raises SharedMemoryError, one line: needed, free, next move. Nothing to do in local mode.
    """
    if bus.local or not hasattr(os, "posix_fallocate"):
        return
    for path in segments(bus, port):
        size = path.stat().st_size
        fd = os.open(path, os.O_RDWR)
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as error:
            raise _too_little(what, size, free_bytes()) from error
        finally:
            os.close(fd)


def segments(bus: Bus, port: Any) -> list[Path]:
    """Return the files that hold a publisher's payloads."""
    return list(shared_memory_folder().glob(f"{bus.prefix}*_{port.id.value}*.data"))


def data_service(bus: Bus, topic: str, sizes: Sizes) -> Any:
    """Return the service that carries a topic's blocks of one size class."""

    def make() -> Any:
        return (
            bus.node.service_builder(iox2.ServiceName.new(f"{topic}/data/{sizes.slot}"))
            .publish_subscribe(iox2.Slice[Line])
            .payload_alignment(iox2.Alignment.new(LINE))
            .enable_safe_overflow(True)
            .history_size(0 if sizes.standard else sizes.depth)
            .max_publishers(PUBLISHERS)
            .max_subscribers(READERS)
            .subscriber_max_buffer_size(sizes.depth)
            .subscriber_max_borrowed_samples(BORROWED)
            .max_nodes(NODES)
            .open_or_create()
        )

    return bus.retry(make, f"open the topic {topic!r}")


def bytes_service(bus: Bus, name: str, *, history: int, depth: int, publishers: int) -> Any:
    """Return a service of small messages: announcements, events."""

    def make() -> Any:
        return (
            bus.node.service_builder(iox2.ServiceName.new(name))
            .publish_subscribe(iox2.Slice[ctypes.c_uint8])
            .enable_safe_overflow(True)
            .history_size(history)
            .max_publishers(publishers)
            .max_subscribers(READERS)
            .subscriber_max_buffer_size(depth)
            .subscriber_max_borrowed_samples(2)
            .max_nodes(NODES)
            .open_or_create()
        )

    return bus.retry(make, f"open {name!r}")


def spec_service(bus: Bus, topic: str) -> Any:
    """Return the sibling topic that carries the announcements."""
    return bytes_service(bus, f"{topic}/spec", history=1, depth=SPEC_DEPTH, publishers=PUBLISHERS)


def data_publisher(bus: Bus, service: Any, topic: str, sizes: Sizes, max_block_bytes: int) -> Any:
    """Return a publisher port whose memory is reserved; raises SharedMemoryError or BusError."""
    needed = 0 if bus.local else sizes.reserved(max_block_bytes)
    if needed > free_bytes():
        raise _too_little(f"topic {topic!r}", needed, free_bytes())

    def make() -> Any:
        return (
            service.publisher_builder()
            .initial_max_slice_len(lines(max_block_bytes))
            .allocation_strategy(iox2.AllocationStrategy.Static)
            .max_loaned_samples(LOANED)
            .override_sample_preallocation(sizes.slots)
            .backpressure_strategy(iox2.BackpressureStrategy.DiscardData)
            .create()
        )

    with bus.room(0, f"topic {topic!r}"):
        port = bus.retry(make, f"publish on {topic!r} (at most {PUBLISHERS} publishers)")
        try:
            reserve(bus, port, f"topic {topic!r}")
        except SharedMemoryError:
            port.delete()
            raise
    return port


def let_readers_meet(bus: Bus, service: Any, created_s: float) -> None:
    """Before a young publisher goes: give readers until 0.2 s after its creation to connect.

    iceoryx2 keeps a gone publisher's blocks only for readers that had connected, which they do when they look.
    """
    left = created_s + _MEET_S - time.monotonic()
    if left > 0 and not bus.local and service.dynamic_config.number_of_subscribers:
        threading.Event().wait(left)


class BytesPublisher:
    """Sends small byte strings of any length; its segment grows and is reserved again when it does."""

    def __init__(self, bus: Bus, service: Any, what: str, *, size: int, depth: int) -> None:
        self._bus, self._what = bus, what
        self._largest = size

        def make() -> Any:
            return (
                service.publisher_builder()
                .initial_max_slice_len(size)
                .allocation_strategy(iox2.AllocationStrategy.PowerOfTwo)
                .max_loaned_samples(2)
                .override_sample_preallocation(depth + READERS + 4)
                .backpressure_strategy(iox2.BackpressureStrategy.DiscardData)
                .create()
            )

        most = service.static_config.max_publishers
        with bus.room(0, what):
            self.port = bus.retry(make, f"publish on {what} (at most {most} publishers)")
            try:
                reserve(bus, self.port, what)
            except SharedMemoryError:
                self.port.delete()
                raise

    def send(self, body: bytes) -> None:
        """Send one byte string; raises SharedMemoryError when a larger segment can't be had."""
        if len(body) > self._largest and not self._bus.local:
            needed = (1 << len(body).bit_length()) * 100
            if needed > free_bytes():
                raise _too_little(self._what, needed, free_bytes())
        sample = self.port.loan_slice_uninit(len(body))
        if len(body) > self._largest:
            self._largest = 1 << len(body).bit_length()
            reserve(self._bus, self.port, self._what)
        ctypes.memmove(sample.payload_ptr, body, len(body))
        sample.assume_init().send()


def read_bytes(port: Any) -> bytes | None:
    """Take the next byte string of a subscriber port, or None."""
    sample = port.receive()
    if sample is None:
        return None
    body = ctypes.string_at(sample.payload_ptr, sample.header.number_of_elements)
    sample.delete()
    return body
