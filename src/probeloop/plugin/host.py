"""Runs one plug-in: input topics -> plug-in -> output topics.

The host owns buffers, columns, revisions and checks; the plug-in sees a block (a JoinTransform one of every topic)
and returns arrays. Parameters change between two blocks. After a change, of its own or of what a joined topic comes
from, new frames come first; finished cells of the scan follow, from `history`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bus.node import Bus
from ..bus.subscribe import Subscriber
from ..data.assemble import is_pixel
from ..data.axes import StreamSpec
from ..data.control import Accepted, Refused, Remark, Reply, Revision, StateChange
from ..data.errors import CalibrationError, ContractError, DropInError, ProbeloopError, SettingsError
from ..data.frame import BlockFlag, FrameBlock
from ..data.settings import convert, to_mapping
from .arrivals import Arrivals
from .contract import DropIn, FrameTransform, JoinTransform, ScanTransform, input_fault, kind_of
from .instance import PluginInstance, form_schema
from .intake import Intake, Report
from .join import Blocks
from .output import Columns, Output, check_arrays, completed, given
from .past import EVERY, History, Past
from .pulse import Work
from .scan_map import ScanSoFar

_NOTHING = BlockFlag(0)
_ADOPTED = 4  # looks at the record for a scan that was on: most of its cells may not be measured yet


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
        """Join the input topics; raises ContractError for a kind or a number of inputs that a host can't run."""
        if not isinstance(plugin, FrameTransform | JoinTransform | ScanTransform):
            raise ContractError(f"{instance.use!r} is a {kind_of(type(plugin))}; it runs inside the experiment")
        fault = input_fault(type(plugin), instance.input)
        if fault is not None:
            raise ContractError(f"the input of {instance.name} {fault[0]}", fault[1])
        self.bus, self.instance, self.plugin, self.report = bus, instance, plugin, report
        self.source_hash = source_hash
        self.revision = instance.revision
        self.enabled = instance.enabled
        self.state, self.reason = "waiting" if self.enabled else "disabled", ""
        self.work = Work(bus, instance.name)
        self.intake = Intake(bus, instance, report, getattr(plugin, "waiting_mb", 0) << 20)
        if self.enabled:
            self.intake.open()
        self.past = Past(history, instance.input)
        self.outputs: dict[str, Output] = {}
        self.frames = 0
        self.arrivals = Arrivals()
        self.warnings: tuple[str, ...] = ()
        self._specs: dict[str, StreamSpec] = {}
        self._seen: tuple[int, tuple[StreamSpec, ...]] | None = None
        self._refused = False
        self._finished = np.zeros(0, bool)
        self._map: ScanSoFar | None = None
        self._noticed: set[str] = set()

    @property
    def readers(self) -> tuple[Subscriber, ...]:
        """What a loop waits on: none while it is disabled."""
        return tuple(self.intake.readers)

    # --- the loop's calls ---

    def step(self, most: int = 8) -> bool:
        """Process up to `most` blocks that wait, else a piece of what is left over; False = nothing was to do.

        Raises ContractError for output that is not what was declared, and whatever the plug-in raises.
        """
        self.work.beat()
        if not self.intake.readers:
            return False
        for done in range(most):
            found = self.intake.read()
            if found is None:
                return bool(done) or self._catch_up()
            for blocks in found:
                self.take(blocks)
            self._hear_join()
        self.intake.report_gaps()
        return True

    @property
    def busy(self) -> bool:
        """Whether something is left over to be done while no new block waits."""
        return self.past.due or (self._map is not None and self._map.dirty)

    def refresh(self) -> None:
        """Connect late joiners; every 100 ms."""
        self.intake.report_gaps()
        for output in self.outputs.values():
            output.publisher.refresh()
            for text in output.publisher.notices():
                self.report(Remark(text=text, level="warning"))

    def take(self, blocks: Blocks) -> None:
        """Process the same rows of every input."""
        first = blocks[0]
        for each in blocks:
            self.arrivals.take(each)
        if self._is_new(blocks):
            self._begin_generation(first.generation, tuple(each.spec for each in blocks))
        if self._refused:
            return
        self.frames += first.count
        if self._map is not None:
            self._map.take(self, first)
            return
        arrays = self._call_process(blocks) if first.count else None
        self._publish(first, arrays, first.flags, first.index)
        if self._finished.size:
            pixels = first.scan_index[is_pixel(first)]
            self._finished[pixels] = True
            self.past.done(pixels)

    def _hear_join(self) -> None:
        """Owe the cells of which an input gave another result; say why a scan can't be joined."""
        if self._seen is not None:
            if (late := self.intake.late(self._seen[0])) is not None:
                self.past.ask(late)
            if (promised := self.intake.promised(self._seen[0])) is not None:
                self.past.ask(promised)
                self._finished[promised] = True
        for _, why in self.intake.refused():
            self._say("refused", f"{self.instance.name}: {why}")

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
            generation, specs = self._seen
            if not self._declare(specs, generation):
                return
            if self._map is not None:
                self._map.dirty = True
            else:
                self.past.ask(self._finished)
        self._report_revision()

    def _report_revision(self) -> None:
        for output in self.outputs.values():
            self.report(Revision(
                target=self.instance.name, topic=output.spec.name, revision=self.revision,
                first_index=output.publisher.next_index, values=to_mapping(self.plugin.parameters),
                source_hash=self.source_hash,
            ))  # fmt: skip

    def set_enabled(self, enabled: bool) -> Reply:
        """Begin or stop reading; the topics stay. Where it goes on is `next` in its description."""
        if enabled != self.enabled:
            self.enabled = enabled
            if enabled:
                self.intake.open()
            else:
                self.intake.close()
            self.past.forget()
            self._say("waiting" if enabled else "disabled")
        return Accepted(id=self.intake.next[self.instance.input[0]])

    def describe(self) -> dict[str, Any]:
        """Return the instance's state as plain data, and the JSON Schema of its parameters."""
        return {
            "use": self.instance.use, "kind": kind_of(type(self.plugin)), "enabled": self.enabled,
            "state": self.state, "reason": self.reason, "warnings": list(self.warnings),
            "parameters": to_mapping(self.plugin.parameters), "chosen": self.chosen(), "revision": self.revision,
            "input": list(self.instance.input), "next": dict(self.intake.next), "source_hash": self.source_hash,
            "inputs": {topic: dict(self.intake.counts(topic)) for topic in self.instance.input},
            "outputs": {name: output.spec.name for name, output in self.outputs.items()},
            "topics": [output.spec.name for output in self.outputs.values()],
            "frames": self.frames, "blocks": self.work.blocks, "lost": self.intake.lost,
            "block_ms": self.work.median_ns / 1e6, "transport": self.arrivals.told(),
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
        self.intake.close()
        for output in self.outputs.values():
            output.close()
        self.outputs.clear()
        self.plugin.close()

    # --- inside ---

    def _say(self, state: str, reason: str = "") -> None:
        if (state, reason) != (self.state, self.reason):
            self.state, self.reason = state, reason
            self.report(StateChange(target=self.instance.name, state=state, reason=reason))

    def _is_new(self, blocks: Blocks) -> bool:
        if self._seen is None or self._seen[0] != blocks[0].generation:
            return True
        return any(a is not b.spec and a != b.spec for a, b in zip(self._seen[1], blocks, strict=True))

    def adopt_scan(self) -> None:
        """Begin with the scan that is on already: after a reload its finished cells are done again."""
        found = self.intake.now_on() if self.intake.readers else None
        if found is None:
            return
        self._begin_generation(*found)
        if not self._refused and self._map is None:
            self.past.ask(EVERY, _ADOPTED)
            self.intake.filled_in = self.past.busy

    def _begin_generation(self, generation: int, specs: tuple[StreamSpec, ...]) -> None:
        fresh = self._seen is None
        self._noticed.clear()
        self._seen, self._refused = (generation, specs), False
        mapped = specs[0].nav and specs[0].sync != "none"
        self._finished = np.zeros(int(np.prod(specs[0].nav_shape, dtype=np.int64)) if mapped else 0, bool)
        self.past.begin(generation, specs, self._finished.size)
        self._map = None
        self.work.expect_slow()
        if not self._declare(specs, generation):
            return
        if isinstance(self.plugin, ScanTransform):
            self._map = ScanSoFar(self.plugin, specs[0])
            self._map.begin(self)
        self.work.expect_slow()  # a new type of data may be compiled
        if fresh:
            self._report_revision()

    def _declare(self, specs: tuple[StreamSpec, ...], generation: int) -> bool:
        """Ask for the outputs and announce them; False when the plug-in can't work on this input."""
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                self._specs = self._called(lambda: completed(self.plugin, self.instance.name, specs))
        except (CalibrationError, DropInError, SettingsError) as error:
            self._refused = True
            self.past.forget()
            self._say("refused", str(error))
            return False
        said = tuple(str(each.message) for each in caught)
        if said != self.warnings:
            self.warnings = said
            for text in said:
                self.report(Remark(text=f"{self.instance.name}: {text}", level="warning"))
        self._refused = False
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

    def _call_process(self, blocks: Blocks) -> dict[str, NDArray[Any]]:
        plugin: Any = self.plugin
        self.work.begin()
        try:
            arrays = plugin.process(given(plugin, blocks))
        finally:
            self.work.end()
        self._hear_renewal()
        return check_arrays(self.instance.name, self._specs, arrays, blocks[0].count)

    def _hear_renewal(self) -> None:
        """Begin a new revision when the plug-in says that what it computes with has changed."""
        if self.plugin.renewed:
            self.plugin.renewed = False
            self.renew()

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
                           taken_ns=self.arrivals.taken_ns)  # fmt: skip

    def publish_scan(self, block: FrameBlock, arrays: Any, flags: BlockFlag) -> None:
        """Check and publish what a ScanTransform returned (None = nothing but the flags, where there are any)."""
        if arrays is not None:
            arrays = check_arrays(self.instance.name, self._specs, arrays, 1, rows_are_free=True)
        if arrays is not None or flags:
            self._publish(block, arrays, flags, block.index, whole_scan=True)

    def scan_call(self, call: Callable[[], Any]) -> Any:
        """Call into the plug-in under the watchdog's eye; what it can't use is told, once a scan."""
        made = self._called(call)
        self._hear_renewal()
        if self.plugin.notice and self.plugin.notice not in self._noticed:
            self._noticed.add(self.plugin.notice)
            self.report(Remark(text=f"{self.instance.name}: {self.plugin.notice}", level="warning"))
        return made

    def _catch_up(self) -> bool:
        """Do one piece of what is left over."""
        if self._map is not None:
            return self._map.catch_up(self)
        if not self.past.due or self._seen is None or self._refused:
            return False
        try:
            blocks = self.past.next(self.intake.newest(self._seen[0]))
        except ProbeloopError as error:
            self.report(Remark(text=f"{self.instance.name} can't redo the map: {error}", level="warning"))
            return False
        if blocks is None:
            if not self.past.busy:
                self._give_up()
            return False
        self._publish(blocks[0], self._call_process(blocks), _NOTHING, blocks[0].index, patience_s=0.5)
        return True

    def _give_up(self) -> None:
        """Let go of the cells that the record does not give, and say so of those that are finished."""
        stale = int((self.past.owed & self._finished).sum())
        if stale:
            topics = " and ".join(self.instance.input)
            text = f"{self.instance.name}: {stale} finished cells have an old result or none: no record of {topics}"
            self.report(Remark(text=text, level="warning"))
        self.past.forget()


__all__ = ["History", "Host", "Report"]
