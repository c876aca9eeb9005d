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

from ..data.axes import StreamSpec
from ..data.calibration import CalibrationSet
from ..data.errors import CalibrationError, DropInError, SettingsError
from ..data.frame import BlockFlag, FrameBlock
from ..data.settings import convert
from ..discover import load_class
from ..plugin.contract import Context, FrameTransform, ScanTransform
from ..plugin.instance import topic_name
from ..plugin.output import check_arrays, completed
from ..plugin.scan_map import ScanSoFar
from .schema import PluginEntry, Rig

_COLUMNS = ("time_ns", "scan_index", "position", "dose", "frame_flags")
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
        self._scan: ScanSoFar | None = None
        self._deliver: Deliver = lambda block: None

    def take(self, block: FrameBlock, deliver: Deliver) -> None:
        """Process a block of the input."""
        self._deliver = deliver
        if block.generation != self._generation:
            self._begin(block)
        if self.refused:
            return
        if self._scan is not None:
            self._scan.take(self, block)
        else:
            self._send(block, self._plugin.process(block) if block.count else None, block.flags)

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
            self._scan = ScanSoFar(self._plugin, block.spec)
            self._scan.begin(self)

    def scan_call(self, call: Callable[[], Any]) -> Any:
        """Call into the plug-in."""
        return call()

    def publish_scan(self, block: FrameBlock, arrays: Any, flags: BlockFlag) -> None:
        """Send what a ScanTransform returned (None = nothing but the flags, where there are any)."""
        if arrays is not None or flags:
            self._send(block, arrays, flags)

    def _send(self, block: FrameBlock, arrays: Any, flags: BlockFlag) -> None:
        if arrays is not None:
            arrays = check_arrays(self.name, self._specs, arrays, block.count, rows_are_free=True)
        for name, spec in self._specs.items():
            data = arrays[name] if arrays is not None else np.empty((0, *spec.frame_shape), spec.numpy_dtype)
            rows = np.arange(len(data)) if len(data) == block.count else np.full(len(data), block.count - 1)
            columns = {column: getattr(block, column)[rows] for column in _COLUMNS}
            topic = topic_name(self.name, name)
            first = self._next.get(topic, 0)
            self._next[topic] = first + len(data)
            self._deliver(
                replace(block, spec=spec, index=first, source_index=block.index, count=len(data), flags=flags,
                        data=data, **columns)
            )  # fmt: skip

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
