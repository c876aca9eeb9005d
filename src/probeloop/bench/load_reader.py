"""Reads a running rig as a window does, without a screen: `python -m probeloop.bench.load_reader RIG PARAMETERS`.

The newest camera frame at most 60 times a second, every value, and each frame is held against the camera's own
account of it. PARAMETERS: of the camera, as JSON. Ends when stdin does, and prints what it saw as one JSON line.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

import numpy as np

from ..bus.node import Bus
from ..bus.subscribe import Subscriber
from ..bus.wait import Poller
from ..data.frame import FrameBlock
from ..discover import load_simulator

CAMERA, VALUES = "camera", ("adf.intensity", "com.deflection", "com.intensity", "fft.power")
_PAUSE_S, _FRAME_S, _IDLE_S = 0.008, 1 / 60, 0.1
_KEPT = 1 << 16


class Latencies:
    """Times [us], thinned evenly when there are many; their memory is there from the start."""

    def __init__(self) -> None:
        self._kept = np.full(_KEPT, np.nan)
        self._every, self._count, self._filled = 1, 0, 0

    def add(self, ns: int) -> None:
        """Take one."""
        self._count += 1
        if self._count % self._every:
            return
        if self._filled == _KEPT:
            self._filled, self._every = _KEPT // 2, 2 * self._every
            self._kept[: self._filled] = self._kept[::2]
        self._kept[self._filled] = ns / 1e3
        self._filled += 1

    def summary(self) -> dict[str, float | None]:
        """Return p50 and p99 [us], None without any."""
        if not self._filled:
            return {"p50": None, "p99": None}
        p50, p99 = np.percentile(self._kept[: self._filled], (50, 99)).round(1).tolist()
        return {"p50": p50, "p99": p99}


class HeadlessWindow:
    """What it reads, and what it has seen."""

    def __init__(self, bus: Bus, expected: Any) -> None:
        self._expected = expected
        self._camera = Subscriber(bus, CAMERA, "newest")
        self._values = {topic: Subscriber(bus, topic, "lossless") for topic in VALUES}
        self._poller = Poller(bus, self._camera, *self._values.values())
        self._next = 0.0
        self.latency = {name: Latencies() for name in ("published", "dark_field", "seen")}
        self.seen = 0
        self.corrupt: list[int] = []

    def turn(self) -> None:
        """Wait for something, read it."""
        self._poller.wait(_IDLE_S)
        now = time.monotonic()
        if now >= self._next and (block := self._camera.receive()) is not None:
            self._next = now + _FRAME_S
            if block.count:
                self._look(block)
        for topic, reader in self._values.items():
            for block in reader.drain():
                if topic == VALUES[0] and block.count and block.exposed_ns:
                    self.latency["dark_field"].add(block.published_ns - block.exposed_ns)

    def _look(self, block: FrameBlock) -> None:
        self.latency["published"].add(block.published_ns - block.exposed_ns)
        self.latency["seen"].add(time.monotonic_ns() - block.exposed_ns)
        numbers = np.ascontiguousarray(block.data[:, 0, :4]).view("<i8").ravel()
        wrong = (block.data != self._expected(numbers)).any(axis=(1, 2))
        self.seen += block.count
        self.corrupt += numbers[wrong].tolist()

    def report(self) -> dict[str, Any]:
        """Return what was seen, lost and corrupt, and the latencies [us]."""
        return {
            "seen": self.seen,
            "corrupt": len(self.corrupt),
            "lost": {topic: reader.stats.lost for topic, reader in self._values.items()},
            "latency_us": {name: times.summary() for name, times in self.latency.items()},
        }

    def close(self) -> None:
        """Leave."""
        self._poller.close()
        for reader in (self._camera, *self._values.values()):
            reader.close()


def main(rig: str, parameters: str) -> int:
    """Read until stdin ends; return the exit code."""
    camera = load_simulator("steady_camera", json.loads(parameters))
    ending = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        ending.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    with Bus(rig, "gui") as bus:
        window = HeadlessWindow(bus, camera.expected)
        while not ending.wait(_PAUSE_S):
            window.turn()
        report = window.report()
        window.close()
    sys.stdout.write(json.dumps(report) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
