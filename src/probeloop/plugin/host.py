"""Runs one plug-in: input topic -> plug-in -> output topics.

The host owns buffers, columns, revisions and checks; the plug-in sees a block and returns arrays. Parameters change
between two blocks. After a change new frames come first; finished cells of the scan follow, from `history`.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..bus.node import Bus
from ..bus.subscribe import Subscriber
from ..data.assemble import is_pixel
from ..data.axes import StreamSpec
from ..data.control import Accepted, Event, Gap, Refused, Remark, Reply, Revision, StateChange
from ..data.errors import CalibrationError, ContractError, DropInError, ProbeloopError, SettingsError
from ..data.frame import BlockFlag, FrameBlock
from ..data.settings import convert, to_mapping
from .contract import DropIn, FrameTransform, ScanTransform, kind_of
from .instance import PluginInstance, form_schema
from .intake import Intake
from .output import Columns, Output, check_arrays, completed
from .pulse import Work
from .scan_map import ScanSoFar

History = Callable[[str, int], Iterator[FrameBlock]]
Report = Callable[[Event], None]
_NOTHING = BlockFlag(0)
_OLD_BLOCK = 0.3  # [s] until the recorder has written what it had in memory
_ATTEMPTS = 10


class Host:
    """One plug-in on the bus. All calls from one thread.

    history: finished frames of (topic, generation), in any order, read at low priority after a change.
    """

    def __init__(
        self,
        bus: Bus,
        instance: PluginInstance,
        plugin: DropIn,
        report: Report,
        *,
        history: History | None = None,
        source_hash: str = "",
    ) -> None:
        """Join the input topic; raises ContractError for a kind or a number of inputs that a host can't run."""
        if not isinstance(plugin, FrameTransform | ScanTransform):
            raise ContractError(f"{instance.use!r} is a {kind_of(type(plugin))}; it runs inside the experiment")
        if len(instance.input) != 1:
            raise ContractError(
                f"{instance.name} has {len(instance.input)} inputs; a plug-in is joined to one topic in this version",
                "give it one input",
            )
        self.bus, self.instance, self.plugin, self.report = bus, instance, plugin, report
        self.topic = instance.input[0]
        self.history, self.source_hash = history, source_hash
        self.revision = instance.revision
        self.enabled = instance.enabled
        self.state, self.reason = "waiting" if self.enabled else "disabled", ""
        self.work = Work(bus, instance.name)
        self.reader = self._join() if self.enabled else None
        self.outputs: dict[str, Output] = {}
        self.next_index = 0
        self.frames = 0
        self.intake = Intake()
        self.warnings: tuple[str, ...] = ()
        self._specs: dict[str, StreamSpec] = {}
        self._seen: tuple[int, StreamSpec] | None = None
        self._refused: tuple[int, StreamSpec] | None = None
        self._lost = 0
        self._finished: NDArray[np.bool_] | None = None
        self._old: NDArray[np.bool_] | None = None
        self._past: Iterator[FrameBlock] | None = None
        self._past_again_ns, self._past_attempts = 0, 0
        self._map: ScanSoFar | None = None

    def _join(self) -> Subscriber:
        if self.instance.lossless:
            return Subscriber(self.bus, self.topic, "lossless", credit=True)
        return Subscriber(self.bus, self.topic, "newest")

    # --- the loop's calls ---

    def step(self, most: int = 8) -> bool:
        """Process up to `most` blocks that wait, else a piece of what is left over; False = nothing was to do.

        Raises ContractError for output that is not what was declared, and whatever the plug-in raises.
        """
        self.work.beat()
        if self.reader is None:
            return False
        for done in range(most):
            block = self.reader.receive()
            if block is None:
                return bool(done) or self._catch_up()
            if block.index + block.count > self.next_index or not block.count:
                self.take(block)
                self.next_index = max(self.next_index, block.index + block.count)
        self._report_gaps()
        return True

    @property
    def busy(self) -> bool:
        """Whether something is left over to be done while no new block waits."""
        return self._past is not None or (self._map is not None and self._map.dirty)

    def refresh(self) -> None:
        """Connect late joiners; every 100 ms."""
        self._report_gaps()
        for output in self.outputs.values():
            output.publisher.refresh()

    def take(self, block: FrameBlock) -> None:
        """Process one block."""
        self.intake.take(block)
        if self._is_new(block):
            self._begin_generation(block.generation, block.spec)
        if self._refused is not None:
            return
        self.frames += block.count
        if self._map is not None:
            self._map.take(self, block)
            return
        arrays = self._call_process(block) if block.count else None
        self._publish(block, arrays, block.flags, block.index)
        if self._finished is not None:
            pixels = block.scan_index[is_pixel(block)]
            self._finished[pixels] = True
            if self._old is not None:
                self._old[pixels] = False

    # --- parameters ---

    def set_parameters(self, values: Mapping[str, Any], expect_revision: int | None = None) -> Reply:
        """Put new parameters in force from the next block on; values not named keep what they are."""
        if expect_revision is not None and expect_revision != self.revision:
            return Refused(f"the parameters of {self.instance.name} are at revision {self.revision} by now",
                           "revision", str(self.revision))  # fmt: skip
        try:
            made = convert(type(self.plugin).Parameters, {**to_mapping(self.plugin.parameters), **values},
                           self.instance.name)  # fmt: skip
        except SettingsError as error:
            return Refused("; ".join(f"{p.path}: {p.message}" for p in error.problems), "parameters",
                           "; ".join(p.allowed for p in error.problems if p.allowed))  # fmt: skip
        self.plugin.parameters = made
        self.renew()
        return Accepted(id=self.revision)

    def renew(self) -> None:
        """Begin a new revision: declare the outputs again, then do the finished cells of the scan again."""
        self.revision += 1
        if self._seen is not None:
            generation, spec = self._seen
            if not self._declare(spec, generation):
                return
            if self._map is not None:
                self._map.dirty = True
            elif self._finished is not None and self.history is not None and self._finished.any():
                self._old = self._finished.copy()
                self._past_attempts = 0
                self._past = self.history(self.topic, generation)
        self._report_revision()

    def _report_revision(self) -> None:
        for output in self.outputs.values():
            self.report(Revision(
                target=self.instance.name, topic=output.spec.name, revision=self.revision,
                first_index=output.publisher.next_index, values=to_mapping(self.plugin.parameters),
                source_hash=self.source_hash,
            ))  # fmt: skip

    def set_enabled(self, enabled: bool) -> Reply:
        """Begin or stop reading; the topics stay. The answer's id is the index of the next input frame."""
        if enabled != self.enabled:
            self.enabled = enabled
            if enabled:
                self.reader = self._join()
            elif self.reader is not None:
                self.reader.close()
                self.reader = None
            self._past = None
            self._say("waiting" if enabled else "disabled")
        return Accepted(id=self.next_index)

    def describe(self) -> dict[str, Any]:
        """Return the instance's state as plain data, and the JSON Schema of its parameters."""
        stats = self.reader.stats if self.reader is not None else None
        return {
            "use": self.instance.use, "kind": kind_of(type(self.plugin)), "enabled": self.enabled,
            "state": self.state, "reason": self.reason, "warnings": list(self.warnings),
            "parameters": to_mapping(self.plugin.parameters), "chosen": self.chosen(), "revision": self.revision,
            "input": list(self.instance.input), "source_hash": self.source_hash,
            "outputs": {name: output.spec.name for name, output in self.outputs.items()},
            "topics": [output.spec.name for output in self.outputs.values()],
            "frames": self.frames, "blocks": self.work.blocks, "lost": stats.lost if stats else self._lost,
            "block_ms": self.work.median_ns / 1e6, "transport": self.intake.told(),
            "summary": (type(self.plugin).__doc__ or "").partition("\n")[0],
            "schema": form_schema(type(self.plugin).Parameters),
        }  # fmt: skip

    def chosen(self) -> dict[str, Any]:
        """Return the parameters that are not the default: these outlive a new source."""
        fresh: Any = type(self.plugin).Parameters()
        default = to_mapping(fresh)
        now = to_mapping(self.plugin.parameters)
        return {name: value for name, value in now.items() if value != default.get(name)}

    def close(self) -> None:
        """Leave the bus."""
        if self.reader is not None:
            self.reader.close()
            self.reader = None
        for output in self.outputs.values():
            output.close()
        self.outputs.clear()
        self.plugin.close()

    # --- inside ---

    def _say(self, state: str, reason: str = "") -> None:
        if (state, reason) != (self.state, self.reason):
            self.state, self.reason = state, reason
            self.report(StateChange(target=self.instance.name, state=state, reason=reason))

    def _report_gaps(self) -> None:
        stats = self.reader.stats if self.reader is not None else None
        if stats is not None and stats.lost > self._lost:
            first = stats.gaps[-1][0] if stats.gaps else self.next_index
            self.report(Gap(topic=self.topic, first=first, count=stats.lost - self._lost,
                            reason=f"{self.instance.name} was too slow"))  # fmt: skip
            self._lost = stats.lost

    def _is_new(self, block: FrameBlock) -> bool:
        if self._seen is None or self._seen[0] != block.generation:
            return True
        return self._seen[1] is not block.spec and self._seen[1] != block.spec

    def adopt_scan(self) -> None:
        """Begin with the scan that is on already: after a reload its finished cells are done again."""
        if self.reader is None:
            return
        self.reader.pending()  # reads what was announced
        spec = self.reader.spec
        if spec is None:
            return
        self._begin_generation(self.reader.generation, spec)
        if self._finished is not None and self.history is not None and self._refused is None and self._map is None:
            self._old = np.ones_like(self._finished)
            self._past_attempts = _ATTEMPTS - 2
            self._past = self.history(self.topic, self.reader.generation)

    def _begin_generation(self, generation: int, spec: StreamSpec) -> None:
        fresh = self._seen is None
        self._seen, self._refused = (generation, spec), None
        self._past = self._old = None
        cells = int(np.prod(spec.nav_shape, dtype=np.int64)) if spec.nav and spec.sync != "none" else 0
        self._finished = np.zeros(cells, bool) if cells else None
        self._map = None
        self.work.expect_slow()
        if not self._declare(spec, generation):
            return
        if isinstance(self.plugin, ScanTransform):
            self._map = ScanSoFar(self.plugin, spec)
            self._map.begin(self)
        self.work.expect_slow()  # a new type of data may be compiled
        if fresh:
            self._report_revision()

    def _declare(self, spec: StreamSpec, generation: int) -> bool:
        """Ask for the outputs and announce them; False when the plug-in can't work on this input."""
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                self._specs = self._called(lambda: completed(self.plugin, self.instance.name, spec))
        except (CalibrationError, DropInError, SettingsError) as error:
            self._refused = (generation, spec)
            self._say("refused", str(error))
            return False
        said = tuple(str(each.message) for each in caught)
        if said != self.warnings:
            self.warnings = said
            for text in said:
                self.report(Remark(text=f"{self.instance.name}: {text}", level="warning"))
        self._refused = None
        for name in [name for name in self.outputs if name not in self._specs]:
            self.outputs.pop(name).close()
        for name, made in self._specs.items():
            if name not in self.outputs:
                self.outputs[name] = Output(self.bus, made, self.instance.recorded)
            self.outputs[name].announce(made, generation)
        self._say("running")
        return True

    def _called(self, call: Callable[[], Any]) -> Any:
        self.work.begin()
        try:
            return call()
        finally:
            self.work.end()

    def _call_process(self, block: FrameBlock) -> dict[str, NDArray[Any]]:
        plugin = self.plugin
        assert isinstance(plugin, FrameTransform)
        self.work.begin()
        try:
            arrays = plugin.process(block)
        finally:
            self.work.end()
        return check_arrays(self.instance.name, self._specs, arrays, block.count)

    def _publish(
        self, block: FrameBlock, arrays: Mapping[str, NDArray[Any]] | None, flags: BlockFlag, source_index: int,
        *, whole_scan: bool = False, patience_s: float | None = None,
    ) -> None:  # fmt: skip
        columns = Columns.of_last(block) if whole_scan and block.count else Columns.of(block)
        if patience_s is None:
            patience_s = 0.5 if block.spec.can_wait else 0.0
        for name, output in self.outputs.items():
            output.publish(None if arrays is None else arrays[name], columns, block, self.revision,
                           flags=flags, source_index=source_index, patience_s=patience_s,
                           taken_ns=self.intake.taken_ns)  # fmt: skip

    def publish_scan(self, block: FrameBlock, arrays: Any, flags: BlockFlag) -> None:
        """Check and publish what a ScanTransform returned (None = nothing but the flags, where there are any)."""
        if arrays is not None:
            arrays = check_arrays(self.instance.name, self._specs, arrays, 1, rows_are_free=True)
        if arrays is not None or flags:
            self._publish(block, arrays, flags, block.index, whole_scan=True)

    def scan_call(self, call: Callable[[], Any]) -> Any:
        """Call into the plug-in under the watchdog's eye."""
        return self._called(call)

    def _catch_up(self) -> bool:
        """Do one piece of what is left over."""
        if self._map is not None:
            return self._map.catch_up(self)
        if self._past is None or self._seen is None or self._refused is not None:
            return False
        if time.monotonic_ns() < self._past_again_ns:
            return False
        try:
            block = next(self._past, None)
        except ProbeloopError as error:
            self.report(Remark(text=f"{self.instance.name} can't redo the map: {error}", level="warning"))
            self._past = None
            return False
        if block is None:
            self._end_of_past()
            return True
        self._redo(block)
        return True

    def _redo(self, block: FrameBlock) -> None:
        old = self._old
        assert old is not None
        assert self._seen is not None
        wanted = is_pixel(block)
        wanted[wanted] = old[block.scan_index[wanted]]
        if not wanted.any():
            return
        block = _of_generation(block, self._seen[0])
        arrays = self._call_process(block)
        self._publish(block, arrays, _NOTHING, block.index, patience_s=0.5)
        old[block.scan_index[is_pixel(block)]] = False

    def _end_of_past(self) -> None:
        """Look again a little later when the record did not hold every finished cell yet."""
        assert self._seen is not None
        self._past = None
        self._past_attempts += 1
        if self._old is not None and self._old.any() and self.history is not None and self._past_attempts < _ATTEMPTS:
            self._past = self.history(self.topic, self._seen[0])
            self._past_again_ns = time.monotonic_ns() + int(_OLD_BLOCK * 1e9)
        else:
            self._old = None


def _of_generation(block: FrameBlock, generation: int) -> FrameBlock:
    """Return a block of the record as one of the generation it was read for."""
    return block if block.generation == generation else msgspec.structs.replace(block, generation=generation)


__all__ = ["History", "Host", "Report"]
