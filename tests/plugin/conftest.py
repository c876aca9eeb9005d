"""A camera on a bus inside this process, and plug-ins that are there already."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from probeloop.bus.node import Bus
from probeloop.bus.publish import Publisher
from probeloop.data.axes import Axis, StreamSpec
from probeloop.data.frame import BlockFlag, FrameBlock, FrameBuffer

from .stage import Stage

NO_FLAGS = BlockFlag(0)


def camera_spec(shape: tuple[int, int] = (8, 8), sig: int = 16, dtype: str = "<u2") -> StreamSpec:
    nav = (Axis("y", shape[0], 1e-9, 0.0, "m"), Axis("x", shape[1], 1e-9, 0.0, "m"))
    return StreamSpec("camera", "frames", dtype, nav, (Axis("ky", sig), Axis("kx", sig)), exposure_ns=1000)


class Camera:
    """Publishes scans whose every pattern is its scan index."""

    def __init__(self, bus: Bus, spec: StreamSpec | None = None) -> None:
        self.spec = spec or camera_spec()
        self.publisher = Publisher(bus, "camera", 1 << 20)
        self.sent: list[FrameBlock] = []

    def announce(self, generation: int, spec: StreamSpec | None = None) -> None:
        self.spec = spec or self.spec
        self.publisher.announce(self.spec, generation)

    def block(self, index: np.ndarray, generation: int, flags: BlockFlag = NO_FLAGS) -> None:
        buffer = self.publisher.loan(max(len(index), 1))
        fill(buffer, index)
        kept = FrameBuffer.allocate(self.spec, max(len(index), 1))
        fill(kept, index)
        at = self.publisher.send(buffer, len(index), flags=flags, generation=generation, exposed_ns=77)
        self.sent.append(as_block(kept, len(index), at, generation, flags))

    def scan(self, generation: int, blocks: int = 4, aborted: bool = False, announce: bool = True) -> None:
        if announce:
            self.announce(generation)
        cells = int(np.prod(self.spec.nav_shape))
        for i, part in enumerate(np.array_split(np.arange(cells), blocks)):
            if aborted and i == blocks // 2:
                self.block(np.arange(0), generation, BlockFlag.SCAN_END | BlockFlag.ABORTED)
                return
            flags = BlockFlag.SCAN_BEGIN if i == 0 else BlockFlag(0)
            self.block(part, generation, flags | (BlockFlag.SCAN_END if i == blocks - 1 else BlockFlag(0)))

    @property
    def history(self) -> Sent:
        return Sent(self)

    def close(self) -> None:
        self.publisher.close()


class Sent:
    """A record of what a camera sent."""

    def __init__(self, camera: Camera) -> None:
        self.camera = camera

    def blocks(self, topic: str, generation: int, wanted: np.ndarray) -> Iterator[FrameBlock]:
        assert topic == "camera"
        return (
            block.rows(np.flatnonzero(wanted[block.scan_index]))
            for block in list(self.camera.sent)
            if block.generation == generation
        )

    def kept(self, topic: str, generation: int, cells: int) -> None:
        return None


def fill(buffer: FrameBuffer, index: np.ndarray) -> None:
    n = len(index)
    buffer.data[:n] = index.reshape((n,) + (1,) * (buffer.data.ndim - 1))
    buffer.time_ns[:n] = 1000 * index
    buffer.scan_index[:n] = index
    buffer.position[:n] = np.stack([index, -index], -1) * 1e-9
    buffer.dose[:n] = 5.0
    buffer.flags[:n] = 0


def as_block(b: FrameBuffer, n: int, at: int, generation: int, flags: BlockFlag) -> FrameBlock:
    return FrameBlock(
        b.spec, at, n, flags, generation, 0, -1, 0, 0, 0, b.data[:n], b.time_ns[:n], b.scan_index[:n],
        b.position[:n], b.dose[:n], b.flags[:n],
    )  # fmt: skip


@pytest.fixture
def bus(rig_id: str) -> Iterator[Bus]:
    with Bus(rig_id, "test", local=True) as made:
        yield made


@pytest.fixture
def camera(bus: Bus) -> Iterator[Camera]:
    made = Camera(bus)
    yield made
    made.close()


@pytest.fixture
def stage(bus: Bus) -> Iterator[Stage]:
    made = Stage(bus)
    yield made
    made.close()
