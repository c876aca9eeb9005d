"""Plug-ins of a rig in this process, without a bus: for a plan that is only rehearsed, and looks at their topics.

Each runs when its input comes, as its process would run it; only those that somebody reads. A plug-in that joins
topics does not run here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from ..data.assemble import assemble, empty_map
from ..data.axes import StreamSpec
from ..data.calibration import CalibrationSet
from ..data.errors import CalibrationError, DropInError, SettingsError
from ..data.frame import BlockFlag, FrameBlock
from ..data.settings import convert
from ..discover import load_class
from ..plugin.contract import Context, FrameTransform, ScanTransform
from ..plugin.instance import topic_name
from ..plugin.output import check_arrays, completed
from .schema import PluginEntry, Rig

Deliver = Callable[[FrameBlock], None]


class Inline:
    """One transform, fed block by block; what it puts out goes to `deliver`. refused: why it can't use its input."""

    def __init__(self, name: str, entry: PluginEntry, folders: tuple[str, ...], calibrations: CalibrationSet) -> None:
        """Make it; raises DropInError, or SettingsError."""
        cls = load_class(entry.use, None, folders)
        self.name, self.input = name, entry.input
        self.runs = issubclass(cls, FrameTransform | ScanTransform) and entry.enabled
        self.refused = ""
        context = Context(name, 0, calibrations, entry.device)
        self._plugin: Any = cls(convert(cls.Parameters, entry.parameters, name, spelled=True), context)
        self._specs: dict[str, StreamSpec] = {}
        self._generation = -1
        self._next: dict[str, int] = {}
        self._map: NDArray[Any] | None = None
        self._mask = np.zeros(0, bool)

    def take(self, block: FrameBlock, deliver: Deliver) -> None:
        """Process a block of the input."""
        if block.generation != self._generation:
            self._begin(block)
        if self.refused:
            return
        if isinstance(self._plugin, ScanTransform):
            self._scan(block, deliver)
        else:
            arrays = self._plugin.process(block) if block.count else None
            self._send(block, arrays, deliver)

    def _begin(self, block: FrameBlock) -> None:
        self._generation, self.refused = block.generation, ""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # told by the run itself
                self._specs = completed(self._plugin, self.name, (block.spec,))
        except (CalibrationError, DropInError, SettingsError) as error:
            self.refused = str(error)
            return
        if isinstance(self._plugin, ScanTransform):
            self._map = empty_map(block.spec) if self._plugin.takes == "map" else None
            self._mask = np.zeros(int(np.prod(block.spec.nav_shape, dtype=np.int64)), bool)
            self._plugin.begin(block.spec)

    def _scan(self, block: FrameBlock, deliver: Deliver) -> None:
        """Hand the scan over: block by block, or the map once it has ended."""
        over = bool(block.flags & BlockFlag.SCAN_END)
        made = None
        if self._map is None:
            made = self._plugin.update(block) if block.count else None
        else:
            if block.count:
                self._mask[assemble(block.spec, block, self._map)] = True
            if over:
                made = self._plugin.update(self._map, self._mask.reshape(block.spec.nav_shape))
        if made is not None:
            self._emit(block, made, deliver, BlockFlag(0))
        if over:
            last = self._plugin.end(bool(block.flags & BlockFlag.ABORTED))
            self._emit(block, last, deliver, BlockFlag.SCAN_END)

    def _emit(self, block: FrameBlock, arrays: Any, deliver: Deliver, flags: BlockFlag) -> None:
        count = 1 if arrays is not None and block.count else 0
        row = {
            name: getattr(block, name)[-1:] if count else getattr(block, name)[:0]
            for name in ("time_ns", "scan_index", "position", "dose", "frame_flags")
        }
        last = block.data[-1:] if count else block.data[:0]
        one = replace(block, count=count, flags=flags, data=last, **row)
        self._send(one, arrays if count else None, deliver)

    def _send(self, block: FrameBlock, arrays: Any, deliver: Deliver) -> None:
        if arrays is not None:
            arrays = check_arrays(self.name, self._specs, arrays, block.count, rows_are_free=True)
        for name, spec in self._specs.items():
            topic = topic_name(self.name, name)
            first = self._next.get(topic, 0)
            data = arrays[name] if arrays is not None else np.empty((0, *spec.frame_shape), spec.numpy_dtype)
            self._next[topic] = first + block.count
            deliver(replace(block, spec=spec, index=first, source_index=block.index, data=data))

    def close(self) -> None:
        """Let go of what it holds."""
        self._plugin.close()


def wanted(rig: Rig, topics: Iterable[str], calibrations: CalibrationSet) -> list[Inline]:
    """Return the transforms of a rig that the topics come from, and those that these read."""
    made: dict[str, Inline] = {}
    todo = [topic.partition(".")[0] for topic in topics if "." in topic]
    while todo:
        name = todo.pop()
        if name in made or name not in rig.plugins:
            continue
        each = Inline(name, rig.plugins[name], rig.folders, calibrations)
        if each.runs:
            made[name] = each
            todo += [topic.partition(".")[0] for topic in each.input if "." in topic]
        else:
            each.close()
    return list(made.values())
