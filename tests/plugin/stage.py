"""Hosts on one bus inside this process, and a record of their topics that is written when told."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from probeloop.bus.node import Bus
from probeloop.bus.subscribe import Subscriber
from probeloop.data.assemble import assemble, empty_map
from probeloop.data.axes import StreamSpec
from probeloop.data.control import Gap
from probeloop.data.frame import BlockFlag, FrameBlock
from probeloop.data.settings import Settings
from probeloop.data.units import quantity
from probeloop.plugin.contract import FrameTransform, JoinTransform
from probeloop.plugin.host import Host
from probeloop.plugin.instance import PluginInstance
from probeloop.record.history import SessionHistory
from probeloop.record.session import SessionWriter

END = BlockFlag.SCAN_END


class Times(FrameTransform):
    """The first pixel, times a factor."""

    class Parameters(Settings):
        factor: Annotated[float, quantity("", ge=0.0, le=100.0)] = 2.0

    def outputs(self, spec: StreamSpec) -> dict[str, StreamSpec]:
        return {"out": StreamSpec("out", "values", "<f8", units="counts")}

    def process(self, block: FrameBlock) -> dict[str, Any]:
        return {"out": block.data[:, 0, 0] * np.float64(self.parameters.factor)}


class Both(JoinTransform):
    """The first times a weight, and the second."""

    inputs = ("first", "second")

    class Parameters(Settings):
        weight: Annotated[float, quantity("", ge=0.0, le=100.0)] = 100.0

    def outputs(self, specs: tuple[StreamSpec, ...]) -> dict[str, StreamSpec]:
        return {"out": StreamSpec("out", "values", "<f8")}

    def process(self, blocks: tuple[FrameBlock, ...]) -> dict[str, Any]:
        first, second = (block.data.reshape(block.count, -1)[:, 0].astype(np.float64) for block in blocks)
        assert np.array_equal(blocks[0].scan_index, blocks[1].scan_index)
        return {"out": self.parameters.weight * first + second}


class Recorder:
    """A session that is written when told."""

    def __init__(self, bus: Bus, folder: Path, *names: str) -> None:
        self.writer = SessionWriter(folder)
        self.readers = [Subscriber(bus, name, "lossless") for name in names]
        self.history = SessionHistory(folder)

    def write(self) -> None:
        for reader in self.readers:
            for block in reader.drain():
                spec = msgspec.structs.replace(block.spec, name=reader.topic)
                self.writer.add(msgspec.structs.replace(block.copy(), spec=spec))
        self.writer.flush()

    def close(self) -> None:
        for reader in self.readers:
            reader.close()
        self.writer.close()


class Stage:
    """Hosts on one bus, and what they told."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.hosts: dict[str, Host] = {}
        self.told: list[Any] = []
        self.open: list[Any] = []

    def host(self, name: str, plugin: Any, *inputs: str, **options: Any) -> Host:
        instance = PluginInstance(name=name, use="test", input=inputs or ("camera",))
        self.hosts[name] = made = Host(self.bus, instance, plugin, self.told.append, **options)
        return made

    def record(self, folder: Path, *names: str) -> Recorder:
        self.open.append(Recorder(self.bus, folder, *names))
        return self.open[-1]

    def reader(self, topic: str) -> Subscriber:
        self.open.append(Subscriber(self.bus, topic, "lossless"))
        return self.open[-1]

    def settle(self) -> None:
        """Until nobody has anything to do but to look at the record again."""
        while sum(host.step() for host in self.hosts.values()):
            pass

    def until(self, true: Callable[[], bool], seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, self.told
            self.settle()

    def gaps(self) -> list[Gap]:
        for host in self.hosts.values():
            host.intake.report_gaps(at_once=True)
        return [event for event in self.told if isinstance(event, Gap)]

    def close(self) -> None:
        for each in [*self.open, *self.hosts.values()]:
            each.close()


def map_of(reader: Subscriber) -> np.ndarray:
    out = None
    for block in reader.drain():
        out = empty_map(block.spec) if out is None else out
        assemble(block.spec, block, out)
    assert out is not None
    return out


EVERY = np.arange(64).reshape(8, 8)
