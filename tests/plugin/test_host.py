"""One plug-in between its topics: columns, revisions, scans, and what it may not return."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from probeloop.bus.node import Bus
from probeloop.bus.subscribe import Subscriber
from probeloop.data.assemble import assemble, empty_map
from probeloop.data.axes import Axis, StreamSpec
from probeloop.data.calibration import CalibrationSet
from probeloop.data.control import Accepted, Gap, Refused, Remark, Revision, StateChange
from probeloop.data.errors import CalibrationError, ContractError, DropInError
from probeloop.data.frame import BlockFlag, FrameBlock
from probeloop.data.latency import read_histograms
from probeloop.plugin.contract import FrameTransform, Scalarizer, ScanTransform
from probeloop.plugin.host import Host
from probeloop.plugin.instance import PluginInstance
from probeloop.plugin.worker import PluginProcess

from .conftest import Camera, camera_spec
from .stage import Times


class MapMean(ScanTransform):
    """Mean of the map so far, and how many cells it has."""

    every = "block"

    def outputs(self, spec: StreamSpec) -> dict[str, StreamSpec]:
        return {"mean": StreamSpec("mean", "image", "<f8", sig=(Axis("n", 2),))}

    def update(self, data: Any, mask: Any = None) -> dict[str, Any]:
        return {"mean": np.array([[np.nanmean(data), mask.sum()]])}

    def end(self, aborted: bool) -> dict[str, Any]:
        return {"mean": np.array([[-1.0, float(aborted)]])}


@pytest.fixture
def hosted(bus: Bus) -> Iterator[Callable[..., Host]]:
    made: list[Host] = []

    def make(plugin: Any, **options: Any) -> Host:
        events: list[Any] = []
        instance = PluginInstance(**{"name": "p", "use": "test", **options.pop("instance", {})})
        host = Host(bus, instance, plugin, events.append, **options)
        host.events = events  # type: ignore[attr-defined]
        made.append(host)
        return host

    yield make
    for host in made:
        host.close()


def read(reader: Subscriber) -> list[FrameBlock]:
    return [block.copy() for block in reader.drain()]


def test_columns_flags_and_values_follow_the_input(bus: Bus, camera: Camera, hosted: Any) -> None:
    host, reader = hosted(Times()), Subscriber(bus, "p.out", "lossless")
    camera.scan(3)
    while host.step():
        pass
    blocks = read(reader)
    assert np.array_equal(np.concatenate([b.data for b in blocks]), 2.0 * np.arange(64))
    assert np.array_equal(np.concatenate([b.scan_index for b in blocks]), np.arange(64))
    assert np.array_equal(np.concatenate([b.time_ns for b in blocks]), 1000 * np.arange(64))
    assert np.array_equal(blocks[1].position, np.stack([np.arange(16, 32), -np.arange(16, 32)], -1) * 1e-9)
    assert {float(d) for b in blocks for d in b.dose} == {5.0}
    assert [b.source_index for b in blocks] == [0, 16, 32, 48]
    assert [int(b.flags) for b in blocks] == [1, 0, 0, 2]
    assert {b.generation for b in blocks} == {3}
    assert blocks[0].exposed_ns == 77
    spec = blocks[0].spec
    assert (spec.name, spec.nav, spec.units, spec.exposure_ns) == ("p.out", camera.spec.nav, "counts", 1000)
    reader.close()


def test_through_a_chain_the_camera_s_and_the_first_plug_in_s_stamps_stay(
    bus: Bus, camera: Camera, hosted: Any
) -> None:
    class Pass(FrameTransform):
        """Values as they are."""

        def outputs(self, spec: StreamSpec) -> dict[str, StreamSpec]:
            return {"out": spec}

        def process(self, block: FrameBlock) -> dict[str, Any]:
            return {"out": block.data.copy()}

    first = hosted(Times())
    second = hosted(Pass(), instance={"input": ("p.out",), "name": "q"})
    readers = [Subscriber(bus, name, "lossless") for name in ("camera", "p.out", "q.out")]
    camera.scan(1)
    for host in (first, second):
        while host.step():
            pass
    source, derived, twice = (read(reader) for reader in readers)
    assert len(source) == len(derived) == len(twice) == 4
    for a, b, c in zip(source, derived, twice, strict=True):
        assert (a.source_published_ns, a.taken_ns) == (0, 0)
        assert b.source_published_ns == c.source_published_ns == a.published_ns
        assert b.taken_ns == c.taken_ns
        assert a.published_ns <= b.taken_ns <= b.published_ns <= c.published_ns
    transport = read_histograms(second.describe()["transport"])
    assert {topic: histogram.n for topic, histogram in transport.items()} == {"p.out": 4}
    for reader in readers:
        reader.close()


def test_what_is_computed_again_from_the_record_has_no_stamps(bus: Bus, camera: Camera, hosted: Any) -> None:
    host, reader = hosted(Times(), history=camera.history), Subscriber(bus, "p.out", "lossless")
    camera.scan(1)
    while host.step():
        pass
    read(reader)
    assert isinstance(host.set_parameters({"factor": 3.0}), Accepted)
    while host.step():
        pass
    again = read(reader)
    assert again
    assert {(block.source_published_ns, block.taken_ns) for block in again} == {(0, 0)}
    reader.close()


def test_an_empty_last_block_carries_the_end_and_the_plug_in_never_sees_it(
    bus: Bus, camera: Camera, hosted: Any
) -> None:
    host, reader = hosted(Times()), Subscriber(bus, "p.out", "lossless")
    camera.scan(1, aborted=True)
    while host.step():
        pass
    last = read(reader)[-1]
    assert (last.count, last.flags) == (0, BlockFlag.SCAN_END | BlockFlag.ABORTED)
    reader.close()


def test_a_long_block_goes_out_in_pieces_with_the_flags_at_its_ends(bus: Bus, hosted: Any) -> None:
    camera = Camera(bus, camera_spec((40, 40), 4))
    host, reader = hosted(Times()), Subscriber(bus, "p.out", "lossless")
    camera.scan(1, blocks=1)
    while host.step():
        pass
    blocks = read(reader)
    assert len(blocks) > 3
    assert [int(b.flags) for b in blocks] == [1, *[0] * (len(blocks) - 2), 2]
    assert np.array_equal(np.concatenate([b.scan_index for b in blocks]), np.arange(1600))
    camera.close()
    reader.close()


def test_new_parameters_come_between_blocks_and_the_finished_cells_follow(
    bus: Bus, camera: Camera, hosted: Any
) -> None:
    host, reader = hosted(Times(), history=camera.history), Subscriber(bus, "p.out", "lossless")
    camera.announce(1)
    for part in np.array_split(np.arange(64), 4)[:3]:
        camera.block(part, 1)
    while host.step():
        pass
    out = empty_map(blocks_spec(host))
    for block in reader.drain():
        assemble(block.spec, block, out)
    assert np.nanmax(out) == 2 * 47
    assert host.set_parameters({"factor": 5.0}, 0) == Accepted(id=1)
    camera.block(np.arange(48, 64), 1, BlockFlag.SCAN_END)
    host.step(1)
    first = next(reader.drain())
    assert (first.revision, first.scan_index[0]) == (1, 48), "new frames come first"
    assemble(first.spec, first, out)
    while host.step() or host.past.busy:
        pass
    for block in reader.drain():
        assert block.revision == 1
        assert block.scan_index.max() < 48, "what is new already is not done again"
        assemble(block.spec, block, out)
    assert np.array_equal(out, 5.0 * np.arange(64).reshape(8, 8))
    revision = [e for e in host.events if isinstance(e, Revision)]
    assert [(r.revision, r.values["factor"], r.topic) for r in revision] == [(0, 2.0, "p.out"), (1, 5.0, "p.out")]
    reader.close()


def blocks_spec(host: Host) -> StreamSpec:
    return host.outputs["out"].spec


def test_bad_and_stale_parameters_are_refused_in_words(camera: Camera, hosted: Any) -> None:
    host = hosted(Times())
    refused = host.set_parameters({"factor": 101.0, "colour": 1})
    assert isinstance(refused, Refused)
    assert "p.factor" in refused.reason
    assert "p.colour" in refused.reason
    assert isinstance(host.set_parameters({"factor": float("nan")}), Refused)
    assert host.set_parameters({"factor": 3.0}, expect_revision=0) == Accepted(id=1)
    assert isinstance(host.set_parameters({"factor": 4.0}, expect_revision=0), Refused)
    assert host.plugin.parameters.factor == 3.0


def test_generations_of_another_shape_and_type_are_declared_anew(bus: Bus, camera: Camera, hosted: Any) -> None:
    host, reader = hosted(Times()), Subscriber(bus, "p.out", "lossless")
    camera.scan(1)
    camera.announce(2, camera_spec((4, 6), 8, "<f4"))
    camera.scan(2, announce=False)
    while host.step():
        pass
    shapes = {b.generation: b.spec.nav_shape for b in read(reader)}
    assert shapes == {1: (8, 8), 2: (4, 6)}
    reader.close()


def test_a_scan_transform_behind_another_sees_each_of_its_pictures(bus: Bus, camera: Camera, hosted: Any) -> None:
    class Count(ScanTransform):
        """Pixels so far, as a picture."""

        every = "block"

        def outputs(self, spec: StreamSpec) -> dict[str, StreamSpec]:
            return {"map": StreamSpec("map", "image", "<f8", sig=(Axis("y", 1), Axis("x", 1)))}

        def update(self, data: Any, mask: Any = None) -> dict[str, Any]:
            return {"map": np.full((1, 1, 1), float(mask.sum()) if data.ndim > 2 else data.item() + 0.5)}

    first = hosted(Count())
    second = hosted(Count(), instance={"input": ("p.map",), "name": "q"})
    reader = Subscriber(bus, "q.map", "lossless")
    camera.scan(1)
    for host in (first, second):
        while host.step():
            pass
    assert [block.data.item() for block in read(reader) if block.count] == [16.5, 32.5, 48.5, 64.5]
    reader.close()


def test_what_a_scan_transform_cannot_use_is_told_once_a_scan(camera: Camera, hosted: Any) -> None:
    class Fussy(MapMean):
        def update(self, data: Any, mask: Any = None) -> Any:
            self.notice = "too dark: open the shutter"

    host = hosted(Fussy())
    for generation in (1, 2):
        camera.scan(generation)
        while host.step():
            pass
    told = [event.text for event in host.events if isinstance(event, Remark)]
    assert told == ["p: too dark: open the shutter"] * 2


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda n: {"out": np.zeros(n + 1)}, "shape"),
        (lambda n: {"out": np.zeros((n, 1))}, "shape"),
        (lambda n: {"out": np.zeros(n, np.float32)}, "dtype"),
        (lambda n: {"out": np.full(n, np.nan)}, "NaN"),
        (lambda n: {}, "declared"),
        (lambda n: {"out": np.zeros(n), "more": np.zeros(n)}, "more"),
        (lambda n: {"out": [0.0] * n}, "list"),
        (lambda n: np.zeros(n), "ndarray"),
        (lambda n: None, "NoneType"),
    ],
)
def test_what_was_not_declared_is_a_breach(camera: Camera, hosted: Any, returned: Any, words: str) -> None:
    class Bad(Times):
        def process(self, block: FrameBlock) -> Any:
            return returned(block.count)

    host = hosted(Bad())
    camera.scan(1)
    with pytest.raises(ContractError, match=words):
        host.step()


@pytest.mark.parametrize(
    "error",
    [
        CalibrationError("needs the calibration 'detector_scale'", "measure it"),
        DropInError("no GPU: the driver sees none"),
    ],
    ids=["calibration", "GPU"],
)
def test_a_plug_in_without_what_it_needs_refuses_and_goes_on_with_the_next_generation(
    error: Exception, camera: Camera, hosted: Any
) -> None:
    class Needs(Times):
        def outputs(self, spec: StreamSpec) -> dict[str, StreamSpec]:
            if spec.nav_shape == (8, 8):
                raise error
            return super().outputs(spec)

    host = hosted(Needs())
    camera.scan(1)
    while host.step():
        pass
    assert host.state == "refused"
    assert [(e.state, e.reason) for e in host.events if isinstance(e, StateChange)] == [("refused", str(error))]
    camera.announce(2, camera_spec((4, 4)))
    camera.scan(2, announce=False)
    while host.step():
        pass
    assert host.state == "running"


def test_warnings_of_outputs_become_remarks(camera: Camera, hosted: Any) -> None:
    import warnings

    class Warns(Times):
        def outputs(self, spec: StreamSpec) -> dict[str, StreamSpec]:
            warnings.warn("collects 4 % beyond the calibrated range", stacklevel=2)
            return super().outputs(spec)

    host = hosted(Warns())
    camera.scan(1)
    host.step()
    assert [e.text for e in host.events if isinstance(e, Remark)] == ["p: collects 4 % beyond the calibrated range"]


def test_a_scan_transform_sees_the_map_so_far_and_the_end(bus: Bus, camera: Camera, hosted: Any) -> None:
    camera.spec = StreamSpec("camera", "values", "<f4", camera.spec.nav)
    host, reader = hosted(MapMean()), Subscriber(bus, "p.mean", "lossless")
    camera.scan(5)
    while host.step():
        pass
    blocks = read(reader)
    assert [b.data[0].tolist() for b in blocks] == [[7.5, 16], [15.5, 32], [23.5, 48], [31.5, 64], [-1.0, 0.0]]
    assert blocks[-1].flags & BlockFlag.SCAN_END
    assert {b.generation for b in blocks} == {5}
    camera.scan(6, aborted=True)
    while host.step():
        pass
    assert read(reader)[-1].data[0].tolist() == [-1.0, 1.0]
    reader.close()


def test_disable_stops_reading_and_enable_goes_on(bus: Bus, camera: Camera, hosted: Any) -> None:
    host, reader = hosted(Times()), Subscriber(bus, "p.out", "lossless")
    camera.announce(1)
    camera.block(np.arange(4), 1)
    host.step()
    assert host.set_enabled(False) == Accepted(id=4)
    camera.block(np.arange(4, 8), 1)
    assert not host.step()
    host.set_enabled(True)
    camera.block(np.arange(8, 12), 1)
    host.step()
    assert np.concatenate([b.scan_index for b in reader.drain()]).tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    reader.close()


def test_a_host_refuses_what_it_can_not_run(bus: Bus) -> None:
    class Number(Scalarizer):
        def scalarize(self, spectrum: Any, spec: StreamSpec) -> tuple[float, float, bool]:
            return 0.0, 0.0, True

    with pytest.raises(ContractError, match="inside the experiment"):
        Host(bus, PluginInstance(name="p", use="number"), Number(), print)
    for plugin, kind in ((Times(), "FrameTransform"), (MapMean(), "ScanTransform")):
        with pytest.raises(ContractError, match=rf"p names 2 topics, a {kind} reads one\. join them first"):
            Host(bus, PluginInstance(name="p", use="t", input=("a", "b")), plugin, print)


def test_a_slow_plug_in_names_what_it_lost(camera: Camera, hosted: Any) -> None:
    host = hosted(Times())
    camera.announce(1)
    for i in range(300):
        camera.block(np.array([i % 64]), 1)
    while host.step():
        pass
    host.refresh()
    lost = [e for e in host.events if isinstance(e, Gap)]
    assert sum(e.count for e in lost) + host.frames == 300
    assert lost[0].topic == "camera"


def test_a_plug_in_is_told_where_it_may_compute() -> None:
    process = PluginProcess.__new__(PluginProcess)
    process.calibrations = CalibrationSet()
    for device in ("cpu", "cuda"):
        made = process._make(Times, PluginInstance(name="p", use="times", device=device))
        assert made.context.device == device
