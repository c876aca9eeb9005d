"""The closed loop under test, without its transport: an instrument, a detector, a policy. Rivals run the same parts.

The instrument takes a 128 KiB pattern at a place; the detector sums an annulus of it; the policy chooses the next
place by that number; the gate holds the command against every check; the driver is called. Latency is what the gate
itself records: from the end of the exposure to the call's return.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..compute.kernels import VirtualDetectors
from ..data import commands as c
from ..data.axes import Axis, StreamSpec
from ..data.clock import MonotonicClock
from ..data.control import Submit, Trace
from ..data.driver import Acquisition
from ..data.frame import FrameBlock, FrameBuffer
from ..data.limits import Limits
from ..testing.fake_driver import FAKE_LIMITS, FakeDriver

PIXELS = 256
EXPOSURE = 1e-5
HOLDER = "experiment"
PATTERN = StreamSpec(
    "spectrum", "frames", "<u2", (), (Axis("ky", PIXELS), Axis("kx", PIXELS)), origin="simulation", sync="none"
)
VALUE = StreamSpec("value", "values", "<f8", (), origin="simulation", sync="none")
LIMITS: Limits = msgspec.structs.replace(FAKE_LIMITS, dose=1e20, area_dose=1e39, max_step=1e-7)  # type: ignore[type-var]


class LoopDriver(FakeDriver):
    """A driver that answers at once with patterns of a camera; it runs on the host's clock."""

    def __init__(self) -> None:
        super().__init__(modality="stem", clock=MonotonicClock(), limits=LIMITS)
        rng = np.random.default_rng(1)
        self._hot = rng.poisson(0.15, (16, PIXELS, PIXELS)).astype(np.uint16)
        self._number = 0
        self._info = msgspec.structs.replace(self._info, topics={"spectrum": PATTERN.frame_bytes})

    def acquire_spectrum(self, command: c.AcquireSpectrum) -> Acquisition:
        """Begin a pattern at a place."""
        x, y = command.position
        self._do("acquire_spectrum", command, position_x=x, position_y=y)
        del self.calls[:]  # a bench makes more of them than memory wants to keep
        return Acquisition("spectrum", PATTERN, self._pattern(x, y), self.clock.now_ns())

    def _pattern(self, x: float, y: float) -> Generator[int, FrameBuffer, None]:
        buffer = yield 0
        self._number += 1
        np.copyto(buffer.data[0], self._hot[self._number % len(self._hot)])
        buffer.position[0] = x, y
        buffer.time_ns[0] = self.clock.now_ns()
        buffer = yield 1


class Detector:
    """The sum of an annulus."""

    def __init__(self) -> None:
        ky, kx = np.indices((PIXELS, PIXELS)) - (PIXELS - 1) / 2
        radius = np.hypot(ky, kx)
        self._annulus = VirtualDetectors(((radius >= 40) & (radius < 100))[np.newaxis])
        self(np.zeros((1, PIXELS, PIXELS), np.uint16))

    def __call__(self, frames: NDArray[Any]) -> NDArray[np.float64]:
        """Return (N,) sums of (N, ky, kx) frames."""
        return self._annulus.sums(frames)[:, 0]


class Policy:
    """Chooses the next place by the last value: a place of a 9 x 9 grid, 5 nm apart."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch

    def first(self) -> Submit:
        """Return the command that begins the loop."""
        return Submit(c.AcquireSpectrum((0.0, 0.0), c.Diffraction(EXPOSURE)), HOLDER, self._epoch)

    def decide(self, block: FrameBlock) -> Submit:
        """Return the next command, caused by the newest frame of `block`."""
        received = time.monotonic_ns()
        number = int(block.data[-1])
        place = ((number % 9 - 4) * 5e-9, (number // 9 % 9 - 4) * 5e-9)
        trace = Trace(
            exposed=block.exposed_ns, published=block.published_ns, received=received, decided=time.monotonic_ns()
        )
        command = c.AcquireSpectrum(place, c.Diffraction(EXPOSURE))
        return Submit(command, HOLDER, self._epoch, ((block.spec.name, block.index + block.count - 1),), trace)
