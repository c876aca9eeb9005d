"""One output topic of a plug-in: its spec completed from the input, its arrays checked, its blocks published."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..bus.heartbeat import Pulse
from ..bus.ledger import CREDIT
from ..bus.node import Bus
from ..bus.publish import Publisher
from ..data.axes import StreamSpec
from ..data.copying import copy_into
from ..data.errors import ContractError
from ..data.frame import BlockFlag, FrameBlock, block_bytes
from .contract import DropIn, JoinTransform, ScanTransform
from .instance import topic_name

T = TypeVar("T")
_SMALL_BLOCK = 16 << 10
_LARGE_BLOCK = 256 << 10
_ROWS_OF_A_TABLE = 65_536
_RECORDER_S = 2.0
_NEVER = threading.Event()
_AT_FIRST = BlockFlag.SCAN_BEGIN
_AT_LAST = BlockFlag.SCAN_END | BlockFlag.ABORTED | BlockFlag.LAST_ROWS


def completed(plugin: DropIn, instance: str, sources: tuple[StreamSpec, ...]) -> dict[str, StreamSpec]:
    """Return the specs of a plug-in's outputs for its inputs, with what only the host knows filled in.

    Raises ContractError when `outputs` returns something else, and whatever `outputs` raises.
    """
    source = sources[0]
    declared = plugin.outputs(given(plugin, sources))  # type: ignore[attr-defined]
    if not isinstance(declared, Mapping) or not declared:
        raise ContractError(f"{instance}: outputs() returned {declared!r}", "return {name: StreamSpec}")
    made = {}
    for name, spec in declared.items():
        if not isinstance(name, str) or not isinstance(spec, StreamSpec):
            raise ContractError(f"{instance}: outputs() returned {name!r}: {spec!r}", "return {name: StreamSpec}")
        made[name] = msgspec.structs.replace(
            spec,
            name=topic_name(instance, name),
            nav=spec.nav if isinstance(plugin, ScanTransform) else source.nav,
            origin=source.origin,
            sync=source.sync,
            stamp=source.stamp,
            exposure_ns=source.exposure_ns,
            can_wait=source.can_wait,
            position_kind=source.position_kind,
            may_be_nan=bool(getattr(plugin, "may_be_nan", False)),
        )
    return made


def given(plugin: DropIn, inputs: tuple[T, ...]) -> T | tuple[T, ...]:
    """Return what a plug-in is handed of its inputs: a JoinTransform all of them, the others their only one."""
    return inputs if isinstance(plugin, JoinTransform) else inputs[0]


def check_arrays(
    who: str, specs: Mapping[str, StreamSpec], arrays: Any, count: int, *, rows_are_free: bool = False
) -> dict[str, NDArray[Any]]:
    """Return the arrays when they are what the specs declare for `count` frames; raises ContractError.

    rows_are_free: a table may have any number of rows (a ScanTransform's).
    """
    if not isinstance(arrays, Mapping):
        raise ContractError(f"{who} returned {type(arrays).__name__}, not a dict of arrays")
    if set(arrays) != set(specs):
        odd = sorted(set(map(str, arrays)) ^ set(specs))
        raise ContractError(f"{who} returned {sorted(map(str, arrays))}, declared {sorted(specs)} ({', '.join(odd)})")
    for name, spec in specs.items():
        array = arrays[name]
        if not isinstance(array, np.ndarray):
            raise ContractError(f"{who}: {name!r} is a {type(array).__name__}, not an array")
        free = rows_are_free and spec.kind == "table"
        rows = len(array) if free and array.ndim else count
        if free and rows > _ROWS_OF_A_TABLE:
            raise ContractError(f"{who}: {name!r} has {rows} rows, at most {_ROWS_OF_A_TABLE} at once")
        if spec.kind != "ragged" and array.shape != (rows, *spec.frame_shape):
            raise ContractError(f"{who}: {name!r} has shape {array.shape}, declared {(rows, *spec.frame_shape)}")
        if array.dtype != spec.numpy_dtype:
            raise ContractError(f"{who}: {name!r} has dtype {array.dtype}, declared {spec.numpy_dtype}")
        if not spec.may_be_nan and array.dtype.kind in "fc" and np.isnan(array).any():
            raise ContractError(f"{who}: {name!r} holds NaN", "declare may_be_nan, or leave none")
    return dict(arrays)


@dataclass(frozen=True)
class Columns:
    """What an output block copies from its input: see FrameBlock."""

    time_ns: Any
    scan_index: Any
    position: Any
    dose: Any
    frame_flags: Any

    @classmethod
    def of(cls, block: FrameBlock) -> Columns:
        """Return a block's columns."""
        return cls(block.time_ns, block.scan_index, block.position, block.dose, block.frame_flags)

    @classmethod
    def of_last(cls, block: FrameBlock) -> Columns:
        """Return columns that fit any number of results of a whole scan: the last frame's time, no pixel."""
        last = slice(block.count - 1, block.count)
        return cls(block.time_ns[last], np.int64(-1), block.position[last], 0.0, np.uint16(0))


def meet_recorder(bus: Bus, publisher: Publisher) -> None:
    """Let the recorder join a topic that is new to it before its first block; it looks every 50 ms.

    It is known by the credit that it gives: a window may be there first.
    """
    beat = Pulse(bus).read("recorder")
    until = time.monotonic() + _RECORDER_S

    def joined() -> bool:
        return any(row.owner == "recorder" for row in bus.ledger.rows(CREDIT, publisher.topic))

    if beat is not None and beat[0] < 3.0 and publisher.next_index == 0:
        while not joined() and time.monotonic() < until:
            _NEVER.wait(0.005)


class Output:
    """Publishes one output of one plug-in instance; one thread."""

    def __init__(self, bus: Bus, spec: StreamSpec, recorded: bool = True) -> None:
        """Reserve its memory, and meet the recorder where it is to be recorded; raises SharedMemoryError."""
        one = block_bytes(spec, 1)
        wanted = _SMALL_BLOCK if spec.frame_bytes <= 64 else min(_LARGE_BLOCK, 16 * one)
        self.spec = spec
        self.publisher = Publisher(bus, spec.name, max(one, wanted), source_waits=True)
        if recorded:
            meet_recorder(bus, self.publisher)

    def announce(self, spec: StreamSpec, generation: int) -> None:
        """Say what follows is."""
        self.spec = spec
        self.publisher.announce(spec, generation)

    def publish(
        self,
        values: NDArray[Any] | None,
        columns: Columns | None,
        source: FrameBlock,
        revision: int,
        *,
        flags: BlockFlag,
        source_index: int,
        patience_s: float,
        taken_ns: int = 0,
    ) -> None:
        """Send (N, ...) values with the columns of `source`, in as many blocks as they need; None = only flags.

        patience_s: how long to wait for a lossless reader that is behind [s]. taken_ns: when the host took `source`
        in; in a chain of plug-ins the first one's stays, and a block of the record has none.
        """
        count = 0 if values is None else len(values)
        room = self._room()
        first_published = source.source_published_ns or source.published_ns
        first_taken = (source.taken_ns or taken_ns) if first_published else 0
        starts = range(0, count, room) if count else range(1)
        for start in starts:
            part = slice(start, min(count, start + room))
            n = part.stop - part.start
            mine = BlockFlag(0)
            if start == 0:
                mine |= flags & _AT_FIRST
            if part.stop >= count:
                mine |= flags & _AT_LAST
            self.publisher.wait_for_credit(patience_s)
            buffer = self.publisher.loan(max(n, 1))
            if n and values is not None and columns is not None:
                one_for_all = np.ndim(columns.scan_index) == 0
                rows = slice(None) if one_for_all else part
                copy_into(buffer.data[:n], values[part])
                buffer.time_ns[:n] = columns.time_ns[rows]
                buffer.scan_index[:n] = columns.scan_index if one_for_all else columns.scan_index[rows]
                buffer.position[:n] = columns.position[rows]
                buffer.dose[:n] = columns.dose if one_for_all else columns.dose[rows]
                buffer.flags[:n] = columns.frame_flags if one_for_all else columns.frame_flags[rows]
            self.publisher.send(
                buffer,
                n,
                flags=mine,
                generation=source.generation,
                revision=revision,
                source_index=source_index,
                exposed_ns=source.exposed_ns,
                source_published_ns=first_published,
                taken_ns=first_taken,
            )

    def _room(self) -> int:
        """Return how many frames fit into one block."""
        most = self.publisher.max_block_bytes
        low = max(1, (most - 256) // (self.spec.frame_bytes + 42 or 1))
        while low > 1 and block_bytes(self.spec, low) > most:
            low -= 1
        return low

    def close(self) -> None:
        """Leave the topic; what was sent stays."""
        self.publisher.close()
