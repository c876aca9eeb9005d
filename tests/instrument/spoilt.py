"""A driver that gets its scans wrong in a way of the test's own."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import Any

import numpy as np

from probeloop.data import commands as c
from probeloop.data.driver import Acquisition
from probeloop.data.frame import FrameBuffer
from probeloop.testing.fake_driver import FakeDriver


class Spoilt(FakeDriver):
    """Its frames carry the indices and flags of the test's own."""

    order: Any = None
    flags: Any = None

    def scan(self, command: c.Scan) -> Acquisition:
        made = super().scan(command)
        order, flags = np.asarray(self.order), self.flags

        def frames() -> Generator[int, FrameBuffer, None]:
            buffer = yield 0
            at = 0
            while at < len(order):
                n = min(7, buffer.capacity, len(order) - at)
                buffer.scan_index[:n] = order[at : at + n]
                buffer.time_ns[:n] = np.arange(at, at + n)
                if flags is not None:
                    buffer.flags[:n] = flags[at : at + n]
                at += n
                buffer = yield n

        return replace(made, frames=frames())
