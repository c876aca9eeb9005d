"""The scan that a ScanTransform sees: its map so far, and when the next result is due."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..data.assemble import assemble, empty_map
from ..data.axes import StreamSpec
from ..data.frame import BlockFlag, FrameBlock
from .contract import ScanTransform

_NOTHING = BlockFlag(0)
_PAUSES = 9  # times as long as a picture took, until the next one "every seconds": others work in this process too


class Stage(Protocol):
    """What the host does for it."""

    def scan_call(self, call: Callable[[], Any]) -> Any:
        """Call into the plug-in under the watchdog's eye."""
        ...

    def publish_scan(self, block: FrameBlock, arrays: Any, flags: BlockFlag) -> None:
        """Check and publish a result."""
        ...


class ScanSoFar:
    """A ScanTransform's scan: its map so far and when the next result is due."""

    def __init__(self, plugin: ScanTransform, spec: StreamSpec) -> None:
        self.plugin, self.spec = plugin, spec
        self.dirty = False
        self._due_ns = 0
        self._rows = spec.nav_shape[-1] if spec.nav else 1
        self._since = 0
        self._last: FrameBlock | None = None
        self._map: NDArray[Any] | None = None
        self._mask: NDArray[np.bool_] | None = None
        if plugin.takes == "map" and spec.kind != "image":
            self._map = empty_map(spec)
            self._mask = np.zeros(spec.nav_shape, bool)

    def begin(self, host: Stage) -> None:
        """Tell the plug-in that a scan begins."""
        host.scan_call(lambda: self.plugin.begin(self.spec))

    def take(self, host: Stage, block: FrameBlock) -> None:
        """Put a block into the map and give a result when one is due."""
        plugin, ended = self.plugin, bool(block.flags & BlockFlag.SCAN_END)
        if block.flags & BlockFlag.SCAN_BEGIN and self._last is not None:
            self.begin(host)
        if plugin.takes == "blocks":
            if block.count:
                arrays = host.scan_call(lambda: plugin.update(block))
                host.publish_scan(block, arrays, block.flags & BlockFlag.SCAN_BEGIN)
        elif block.count:
            self._put(block)
            self.dirty = True
            self._since += block.count
        if block.count:
            # the columns of the newest frame are all that is needed later
            self._last = _last_frame(block)
        if ended:
            if self._last is None:
                return
            if self.dirty and plugin.takes == "map":
                self._emit(host)
            aborted = bool(block.flags & BlockFlag.ABORTED)
            arrays = host.scan_call(lambda: plugin.end(aborted))
            host.publish_scan(self._last, arrays, block.flags & (BlockFlag.SCAN_END | BlockFlag.ABORTED))
        elif self.dirty and self._is_due():
            self._emit(host)

    def _put(self, block: FrameBlock) -> None:
        if self._map is None or self._mask is None or self.spec.kind == "image":
            self._map = block.data[-1].copy()  # each is the whole picture so far
            self._mask = np.isfinite(self._map)
            return
        pixels = assemble(self.spec, block, self._map)
        self._mask.reshape(-1)[pixels] = True

    def _is_due(self) -> bool:
        every = self.plugin.every
        if every == "rows":
            return self._since >= self._rows
        return every == "block" or (every == "seconds" and time.monotonic_ns() >= self._due_ns)

    def catch_up(self, host: Stage) -> bool:
        """Give the result that a pause in the frames left due."""
        if not self.dirty or self._last is None or self.plugin.takes != "map" or not self._is_due():
            return False
        self._emit(host)
        return True

    def _emit(self, host: Stage) -> None:
        assert self._last is not None
        self.dirty, self._since = False, 0
        assert self._map is not None
        seen, mask = self._map.view(), None if self._mask is None else self._mask.view()
        seen.flags.writeable = False
        if mask is not None:
            mask.flags.writeable = False
        began = time.monotonic_ns()
        arrays = host.scan_call(lambda: self.plugin.update(seen, mask))
        host.publish_scan(self._last, arrays, _NOTHING)
        now = time.monotonic_ns()
        self._due_ns = now + max(int(self.plugin.interval * 1e9), _PAUSES * (now - began))


def _last_frame(block: FrameBlock) -> FrameBlock:

    last = slice(block.count - 1, block.count)
    return msgspec.structs.replace(
        block, count=1, data=block.data[:0], time_ns=block.time_ns[last].copy(),
        scan_index=block.scan_index[last].copy(), position=block.position[last].copy(),
        dose=block.dose[last].copy(), frame_flags=block.frame_flags[last].copy(),
    )  # fmt: skip
