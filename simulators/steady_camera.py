"""A camera that runs on the host's clock and waits for nobody: a known load, every frame of it checkable.

Its frames come out of a pool of Poisson frames and carry their number in the first four pixels, so that whoever
has frame n can hold every bit of it against `expected(n)`.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from probeloop.api import (
    Acquisition,
    Axis,
    Blank,
    Calibration,
    Clock,
    FrameBuffer,
    FrameFlag,
    InstrumentInfo,
    Limits,
    MonotonicClock,
    Scan,
    Settings,
    StreamSpec,
    Unblank,
    quantity,
    visit_order,
)

Frame = Annotated[int, msgspec.Meta(ge=0, le=10**12)]
NUMBER_PIXELS = 4  # uint16 each: a frame's number, little-endian
HALF = 100e-9  # [m]
SEEN = 256e-3  # what the camera sees across [rad]


class SteadyCameraSettings(Settings):
    """A camera of pixels x pixels, uint16.

    mean: electrons a pixel and frame. pool: how many different frames there are. buffer: frames that the camera
    itself keeps while nobody takes them; beyond these the oldest are overwritten, and missed. drop_frames,
    flip_frames: numbers of frames that never come, and that come with one byte wrong, to see that somebody notices.
    """

    seed: Annotated[int, msgspec.Meta(ge=0, le=2**62)] = 1
    pixels: Annotated[int, msgspec.Meta(ge=8, le=2048, multiple_of=2)] = 256
    mean: Annotated[float, quantity("", ge=0, le=1e4)] = 0.15
    pool: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 64
    buffer: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 256
    drop_frames: tuple[Frame, ...] = ()
    flip_frames: tuple[Frame, ...] = ()


class SteadyCamera:
    """A camera that runs on the host's clock and waits for nobody."""

    Parameters: ClassVar[type[SteadyCameraSettings]] = SteadyCameraSettings

    def __init__(self, parameters: SteadyCameraSettings | None = None) -> None:
        self.parameters = p = parameters or SteadyCameraSettings()
        self.clock: Clock = MonotonicClock()
        rng = np.random.default_rng(p.seed)
        self._pool = rng.poisson(p.mean, (p.pool, p.pixels, p.pixels)).astype("<u2")
        self._angle = SEEN / p.pixels
        self._flipped = frozenset(p.flip_frames)
        self._dropped = np.asarray(p.drop_frames, np.int64)
        self._cancelled = threading.Event()
        self._blanked = False
        self._exposed = self.missed = 0

    def describe(self) -> InstrumentInfo:
        """Say what it is."""
        p = self.parameters
        return InstrumentInfo(
            name="steady_camera",
            modality="stem",
            origin="simulation",
            commands=("Scan", "Blank", "Unblank", "Stop", "Pause", "Resume", "Settle", "Read", "Annotate"),
            limits=Limits(region=((-HALF, -HALF), (HALF, HALF)), dwell_time=(1e-5, 1.0), flux_per_pixel=1e9),
            topics={"camera": 2 * p.pixels**2},
            safe_state=(Blank(),),
            safe_readback={"blanked": True},
            calibrations=self._calibrations(),
            can_wait=False,
            camera_pixels=p.pixels**2,
            description=f"{p.pixels} x {p.pixels} uint16, Poisson, {p.mean:g} e a pixel, waits for nobody",
        )

    def read_back(self) -> dict[str, Any]:
        """Return its state; frames_exposed, frames_missed: since the start."""
        return {"blanked": self._blanked, "frames_exposed": self._exposed, "frames_missed": self.missed}

    def make_safe(self) -> None:
        """End what is running and blank."""
        self._blanked = True
        self._cancelled.set()

    def close(self) -> None:
        """End what is running."""
        self.make_safe()

    def blank(self, command: Blank) -> int:
        """Take the beam off; the camera runs on, as if it did not matter."""
        self._blanked = True
        return self.clock.now_ns()

    def unblank(self, command: Unblank) -> int:
        """Put the beam on."""
        self._blanked = False
        return self.clock.now_ns()

    def scan(self, command: Scan) -> Acquisition:
        """Begin a scan: a frame every dwell time, whoever takes it or not."""
        self._cancelled = threading.Event()
        ny, nx = command.shape
        region, period = command.region, round(command.dwell_time * 1e9)
        step_y, step_x = region.height / ny, region.width / nx
        spec = StreamSpec(
            "camera",
            "frames",
            "<u2",
            (
                Axis("y", ny, step_y, region.centre_y - step_y * (ny - 1) / 2, "m"),
                Axis("x", nx, step_x, region.centre_x - step_x * (nx - 1) / 2, "m"),
            ),
            tuple(Axis(name, self.parameters.pixels, self._angle, 0.0, "rad") for name in ("ky", "kx")),
            units="e",
            origin="simulation",
            stamp="hardware",
            exposure_ns=period,
        )
        frames = self._frames(command, period, self._cancelled)
        return Acquisition("camera", spec, frames, frame_period_ns=period, settings={"rate": 1e9 / period})

    def expected(self, numbers: NDArray[np.int64]) -> NDArray[np.uint16]:
        """Return what the frames of these numbers must be, (N, pixels, pixels)."""
        frames: NDArray[np.uint16] = self._pool[numbers % len(self._pool)]
        frames[:, 0, :NUMBER_PIXELS] = numbers.astype("<i8").view("<u2").reshape(-1, NUMBER_PIXELS)
        return frames

    def truth(self) -> dict[str, Any]:
        """Return what no real camera tells: expected(numbers), the frames of these numbers as they must arrive."""
        return {"expected": self.expected}

    def _frames(self, command: Scan, period: int, cancelled: threading.Event) -> Generator[int, FrameBuffer, None]:
        """Hand out frames as the clock exposes them; those the camera could not keep are left out, and counted."""
        nx = command.shape[1]
        order = np.tile(visit_order(command.shape, command.order), command.frames)
        positions = command.region.positions(command.shape)
        electrons = self.parameters.mean * self.parameters.pixels**2
        base, at = self._exposed, 0
        self._exposed += len(order)
        start = self.clock.now_ns()
        buffer = yield 0
        while at < len(order):
            late = (self.clock.now_ns() - start) // period - at - self.parameters.buffer
            if late > 0:
                late = min(late, len(order) - at)
                self.missed += late
                at += late
                continue
            n = min(buffer.capacity, len(order) - at)
            if not self.clock.wait_until(start + (at + n) * period, cancelled):
                return
            t = np.arange(at, at + n)
            at += n
            if self._dropped.size:
                t = t[~np.isin(base + t, self._dropped)]
                n = len(t)
                if not n:
                    continue
            self._fill(buffer, base + t)
            pixel = order[t]
            buffer.time_ns[:n] = start + t * period
            buffer.scan_index[:n] = pixel
            buffer.position[:n] = positions[pixel]
            buffer.dose[:n] = electrons
            flags = np.where(t % nx == 0, int(FrameFlag.LINE_START), 0)
            buffer.flags[:n] = flags | np.where(t % nx == nx - 1, int(FrameFlag.LINE_END), 0)
            buffer = yield n

    def _fill(self, buffer: FrameBuffer, numbers: NDArray[np.int64]) -> None:
        n = len(numbers)
        np.take(self._pool, numbers % len(self._pool), axis=0, out=buffer.data[:n], mode="clip")
        buffer.data[:n, 0, :NUMBER_PIXELS] = numbers.view("<u2").reshape(n, NUMBER_PIXELS)
        for row, number in enumerate(numbers.tolist()):
            if number in self._flipped:
                buffer.data[row, -1, -1] ^= 1

    def _calibrations(self) -> tuple[Calibration, ...]:
        half = float(self.parameters.pixels // 2)

        def known(kind: Any, value: tuple[float, ...], units: str) -> Calibration:
            return Calibration(
                id=f"steady-{kind}", kind=kind, value=value, sigma=(0.0,) * len(value), units=units,
                method="by definition", time="2026-01-01T00:00:00+00:00", valid_for={},
            )  # fmt: skip

        return (
            known("pattern_centre", (half, half), "px"),
            known("detector_scale", (self._angle,), "rad/px"),
            known("convergence_angle", (25e-3,), "rad"),
            known("scan_detector_rotation", (0.0,), "rad"),
            known("scan_detector_flip", (1.0,), ""),
        )
