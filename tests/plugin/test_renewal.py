"""A plug-in that changes by itself, such as one whose networks learned: a revision of its own, and no gap."""

from __future__ import annotations

from typing import Any

import numpy as np

from probeloop.bus.node import Bus
from probeloop.bus.subscribe import Subscriber
from probeloop.data.axes import Axis, StreamSpec
from probeloop.data.control import Event, Revision
from probeloop.plugin.contract import ScanTransform
from probeloop.plugin.host import Host
from probeloop.plugin.instance import PluginInstance

from .conftest import Camera


class Learns(ScanTransform):
    """How often it was asked; at the fourth time it is another one."""

    every = "block"
    calls = 0

    def outputs(self, spec: StreamSpec) -> dict[str, StreamSpec]:
        return {"calls": StreamSpec("calls", "image", "<f8", sig=(Axis("n", 1),))}

    def update(self, data: Any, mask: Any = None) -> dict[str, Any]:
        self.calls += 1
        self.renewed = self.calls == 4
        return {"calls": np.array([[float(self.calls)]])}


def test_a_plug_in_that_changed_by_itself_gets_a_revision_of_its_own_and_misses_nothing(
    bus: Bus, camera: Camera
) -> None:
    plugin, events = Learns(), list[Event]()
    host = Host(bus, PluginInstance(name="p", use="test"), plugin, events.append)
    reader = Subscriber(bus, "p.calls", "lossless")
    camera.scan(1)
    while host.step():
        pass
    got = [(int(block.data[0, 0]), block.revision) for block in (b.copy() for b in reader.drain()) if block.count]
    assert [call for call, _ in got] == list(range(1, plugin.calls + 1))
    assert plugin.calls == 5  # four blocks, and the whole map once more at the new revision
    assert not plugin.renewed
    first = got[0][1]
    assert [revision - first for _, revision in got] == [0, 0, 0, 1, 1]
    told = [(each.revision, each.topic) for each in events if isinstance(each, Revision)]
    assert told == [(first, "p.calls"), (first + 1, "p.calls")]
    host.close()
