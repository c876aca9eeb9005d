"""A Merlin as an instrument: a detector alone, beside a scan unit that is not ours."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Generator
from typing import Any, ClassVar

import numpy as np

from probeloop.api import (
    AcquireReference,
    Acquisition,
    Axis,
    Calibration,
    Clock,
    DriverError,
    FrameBuffer,
    InstrumentInfo,
    Limits,
    MonotonicClock,
    Region,
    Scan,
    SetDetector,
    StreamSpec,
)

from . import ring
from .connection import closed, connect, drain
from .control import ARMED, BUSY, Control, quietly
from .decode import warm_up
from .headers import dtype_of
from .run import Planned, Run, limit_of, no_positions
from .settings import MerlinSettings
from .stream import Expected, FrameStream

_DEPTHS = (1, 6, 12, 24)
_EDGES = {"ttl_rising": 1, "ttl_falling": 2, "lvds_rising": 3, "lvds_falling": 4}
_INTERNAL, _SOFT = 0, 5
_MOST_FRAMES = 100_000_000
_HEADER_WITHIN = 1.0  # [s] after the start; some software sends it with the first trigger only
_REFERENCES = ("dark", "gain", "vacuum_probe")
_READ = {  # the detector's name -> ours, and what to multiply by
    "ACQUISITIONTIME": ("exposure", 1e-3),
    "ACQUISITIONPERIOD": ("frame_period", 1e-3),
    "COUNTERDEPTH": ("bit_depth", 1.0),
    "THRESHOLD0": ("threshold", 1e3),
    "HVBIAS": ("sensor_bias", 1.0),
    "TEMPERATURE": ("temperature", 1.0),
}


class Merlin:
    """A Merlin of Quantum Detectors: arms it, and hands out its frames."""

    Parameters: ClassVar[type[MerlinSettings]] = MerlinSettings

    def __init__(self, parameters: MerlinSettings) -> None:
        """Connect; raises DriverError when nobody answers."""
        self.parameters = p = parameters
        self.clock: Clock = MonotonicClock()
        self._control = Control(p.host, p.control_port, p.timeout, self.clock)
        try:
            self._control.version = self._control.get("SOFTWAREVERSION")
            self._shape = self._asked_shape()
            depth = self._control.get_number("COUNTERDEPTH")
        except BaseException:
            self._control.close()
            raise
        self._depth = int(depth) if depth in _DEPTHS else 12
        # seconds in a new process: not while frames come, or a STOP waits for a scan's arming
        warm_up(dtype_of(self._depth))
        ring.warm_up()
        self._exposure: float | None = None
        self._period = 1e-3
        self._cancelled = threading.Event()
        self._memory = np.empty(0, np.uint8)
        self._data: socket.socket | None = None
        self._run: Run | None = None
        self._last_run: Run | None = None
        self._stale = 0
        self._headless = False

    def describe(self) -> InstrumentInfo:
        """Say what it is; a detector alone drives nothing that could be unsafe."""
        p, (ky, kx) = self.parameters, self._shape
        half_x, half_y = p.field_of_view[0] / 2, p.field_of_view[1] / 2
        slowest = max(p.timeout, p.trigger_timeout if p.trigger == "external" else 0.0)
        return InstrumentInfo(
            name="merlin",
            modality="stem",
            origin="experiment",
            commands=(
                "Scan", "SetDetector", "AcquireReference", "Stop", "Pause", "Resume", "Settle", "Read", "Annotate",
            ),
            limits=Limits(
                region=((-half_x, -half_y), (half_x, half_y)),
                dwell_time=(1e-6, 60.0),
                frame_timeout=slowest + 5.0,  # the driver says it first, in better words
            ),
            topics={"camera": 4 * ky * kx},
            safe_readback={"acquiring": False},
            calibrations=self._calibrations(),
            can_wait=p.can_wait,
            camera_pixels=ky * kx,
            description=(
                f"Merlin at {p.host}, software {self._control.version}, {ky} x {kx} pixels, {p.trigger} trigger"
            ),
        )  # fmt: skip

    def read_back(self) -> dict[str, Any]:
        """Return what the detector says of itself, and what came of the last run.

        exposure, frame_period [s], bit_depth, threshold [eV], sensor_bias [V], temperature [°C], status: its own
        number, acquiring, connected. frames_: taken, missing, refused, repeated, stale; bytes_skipped. What it does
        not tell is left out; acquiring is None where it can't be asked.
        """
        values: dict[str, Any] = {"connected": True, "acquiring": self._running}
        values["trigger"] = self.parameters.trigger
        try:
            status = self._control.status()
            if status is not None:
                values |= {"status": status, "acquiring": status in (BUSY, ARMED)}
            for name, (ours, factor) in _READ.items():
                number = self._control.get_number(name)
                if number is not None:
                    values[ours] = int(number) if ours == "bit_depth" else number * factor
        except DriverError:
            values |= {"connected": False, "acquiring": None}
        return values | self._last

    def make_safe(self) -> None:
        """End the acquisition; returns within 0.3 s, whether the detector is there or not."""
        self._cancelled.set()
        self._control.abort()

    def close(self) -> None:
        """End the acquisition and both connections."""
        if self._run is not None:
            self.make_safe()
        self._end()
        self._drop_data()
        if self._headless and self._control.connected:  # the operator wants to see pictures again
            with contextlib.suppress(DriverError):
                self._control.set("RUNHEADLESS", 0)
        self._control.close()

    def set_detector(self, command: SetDetector) -> int:
        """Set exposure, counter depth and threshold; raises DriverError for what a Merlin does not have."""
        if command.roi is not None or command.binning not in (None, 1):
            raise DriverError("a Merlin has no region of interest or binning here", "set it in its own software")
        if command.inserted is False:
            raise DriverError(
                "a Merlin can't be retracted over its network connection", "use the microscope's own switch"
            )
        depth = command.bit_depth
        if depth is not None and depth not in _DEPTHS:
            raise DriverError(f"a Merlin has no counter of {depth} bits", "1, 6, 12 or 24")
        self._end()
        if depth is not None:
            warm_up(dtype_of(depth))
            self._control.set("COUNTERDEPTH", depth)
            self._depth = depth
        if command.exposure is not None:
            self._control.set("ACQUISITIONTIME", _milliseconds(command.exposure))
            self._exposure = command.exposure
        if command.threshold is not None:
            self._control.set("THRESHOLD0", f"{command.threshold * 1e-3:.6g}")
        return self.clock.now_ns()

    def scan(self, command: Scan) -> Acquisition:
        """Arm the detector for a frame a pixel; which region that is, the scan unit decides."""
        self._check_region(command.region)
        if command.order != "raster":
            raise DriverError("the scan unit scans line by line", 'order = "raster"')
        if command.channels:
            raise DriverError("a Merlin has one channel", "leave channels out")
        (ny, nx), region = command.shape, command.region
        if ny * nx * command.frames > _MOST_FRAMES:
            raise DriverError(f"{ny * nx * command.frames} frames in one run", f"at most {_MOST_FRAMES}")
        step_y, step_x = region.height / ny, region.width / nx
        nav = (
            Axis("y", ny, step_y, region.centre_y - step_y * (ny - 1) / 2, "m"),
            Axis("x", nx, step_x, region.centre_x - step_x * (nx - 1) / 2, "m"),
        )
        external = self.parameters.trigger == "external"
        self._period = command.dwell_time
        return self._acquire(
            ny * nx * command.frames,
            nx,
            region.positions((ny, nx)),
            nav,
            "pixel" if external else "frame",
            external,
            command.dwell_time,
        )

    def acquire_reference(self, command: AcquireReference) -> Acquisition:
        """Take frames on the detector's own clock; whether the beam is on is the operator's."""
        if command.kind not in _REFERENCES:
            raise DriverError(f"a Merlin takes no {command.kind} reference", ", ".join(_REFERENCES))
        period = self._exposure if self._exposure is not None else self._period
        return self._acquire(command.frames, 0, no_positions(), (), "none", external=False, period=period)

    # --- a run ----------------------------------------------------------------------------------------------------

    def _acquire(
        self, frames: int, width: int, positions: Any, nav: tuple[Axis, ...], sync: Any, external: bool, period: float
    ) -> Acquisition:  # fmt: skip
        p = self.parameters
        self._end()
        self._cancelled = cancelled = threading.Event()
        exposure = self._exposure if self._exposure is not None else period
        if exposure > period * (1 + 1e-9):
            raise DriverError(
                f"an exposure of {exposure:g} s is longer than the dwell time of {period:g} s",
                f"a dwell of {exposure:g} s or more, or a shorter exposure",
            )
        soft = p.trigger == "soft"
        self._configure(frames, exposure, period, external, soft)
        dtype, expected = dtype_of(self._depth), Expected(self._shape, self._depth, p.file_format == "raw")
        warm_up(dtype)
        memory = self._room(expected)
        stream = FrameStream(self._connected(memory), memory, expected, self.clock)
        stream.counts.stale_bytes = self._stale
        patience = period + (p.trigger_timeout if external else p.timeout)
        plan = Planned(frames, width, positions, round(exposure * 1e9), patience, limit_of(self._depth))
        self._run = run = Run(plan, stream, self._control, self.clock, cancelled)
        stream.start()
        try:
            self._control.command("STARTACQUISITION", unless=cancelled)
            if not stream.began.wait(min(p.timeout, _HEADER_WITHIN)) and stream.reading:
                quietly(self._control, "STOPACQUISITION")  # it may have been told to who was connected before
                self._control.command("STARTACQUISITION", unless=cancelled)
                stream.began.wait(min(p.timeout, _HEADER_WITHIN))
        except BaseException:
            self._end()
            raise
        spec = StreamSpec(
            "camera", "frames", dtype, nav, self._detector_axes(), units="counts", origin="experiment", sync=sync,
            stamp="hardware", exposure_ns=round(exposure * 1e9), can_wait=p.can_wait,
        )  # fmt: skip
        return Acquisition(
            "camera", spec, self._frames(run, soft), frame_period_ns=round(period * 1e9),
            settings=dict(stream.acquisition),
        )  # fmt: skip

    def _configure(self, frames: int, exposure: float, period: float, external: bool, soft: bool) -> None:
        """Set the detector for a run; every reply is checked."""
        p = self.parameters
        quietly(self._control, "STOPACQUISITION")  # also what a killed process left running
        wanted = {
            "FILEENABLE": 0,
            "RUNHEADLESS": 1,
            "FILEFORMAT": 2 if p.file_format == "raw" else 0,
            "COUNTERDEPTH": self._depth,
            "CONTINUOUSRW": 0 if self._depth == 24 else 1,  # 24 bits take both counters
            "ACQUISITIONTIME": _milliseconds(exposure),
            "ACQUISITIONPERIOD": _milliseconds(period),
            "NUMFRAMESTOACQUIRE": frames,
            "NUMFRAMESPERTRIGGER": 1 if external else frames,
            "TRIGGERSTART": _EDGES[p.trigger_edge] if external else _SOFT if soft else _INTERNAL,
            "TRIGGERSTOP": _INTERNAL,
        }
        for name, value in wanted.items():
            if self._cancelled.is_set():  # a STOP does not wait for the rest
                raise DriverError("stopped before it was armed", "scan again")
            done = self._control.set(name, value, optional=name in ("FILEENABLE", "RUNHEADLESS"))
            if name == "RUNHEADLESS":  # its software draws no pictures: faster
                self._headless = done

    def _frames(self, run: Run, soft: bool) -> Generator[int, FrameBuffer, None]:
        try:
            if soft:
                self._control.command("SOFTTRIGGER", unless=run.cancelled)
            buffer = yield 0
            while n := run.fill(buffer):
                buffer = yield n
        finally:
            if self._run is run:
                self._end()

    def _end(self) -> None:
        """End the run, if there is one: the detector idle, the thread gone, what came counted."""
        run, self._run = self._run, None
        if run is None:
            return
        if not run.over:
            quietly(self._control, "STOPACQUISITION")
        run.stream.stop()
        self._last_run = run
        clean = run.over and not run.stream.left_over and not run.tally.surplus and not run.missing
        if not clean:  # what may still come would be the next run's
            self._drop_data()

    @property
    def _running(self) -> bool:
        return self._run is not None and not self._run.cancelled.is_set()

    @property
    def _last(self) -> dict[str, Any]:
        run = self._run or self._last_run
        if run is None:
            return {}
        counts = run.stream.counts
        return {
            "frames_taken": run.tally.frames,
            "frames_missing": run.missing,
            "frames_refused": run.refused,
            "frames_repeated": run.tally.repeated,
            "frames_stale": counts.stale_frames,
            "bytes_skipped": counts.skipped_bytes + counts.stale_bytes,
        }

    # --- the data connection ----------------------------------------------------------------------------------------

    def _connected(self, memory: Any) -> Any:
        """Return the data connection, empty; raises DriverError."""
        p, self._stale = self.parameters, 0
        if self._data is not None:
            try:
                self._stale = drain(self._data, memory, p.timeout, self.clock)
            except OSError:
                self._drop_data()
            else:
                return self._data
        try:
            self._data = connect(p.host, p.data_port, p.timeout)
        except OSError as error:
            why = "nothing listens there" if isinstance(error, ConnectionRefusedError) else error.strerror or error
            raise DriverError(
                f"no data from the Merlin at {p.host}:{p.data_port}: {why}",
                "switch the data port on in its software, or set data_port",
            ) from None
        return self._data

    def _drop_data(self) -> None:
        if self._data is not None:
            closed(self._data)
            self._data = None

    def _room(self, expected: Expected) -> Any:
        size = max(self.parameters.buffer << 20, 3 * expected.longest)
        if len(self._memory) != size:
            self._memory = np.empty(size, np.uint8)
        return self._memory

    # --- what it is -------------------------------------------------------------------------------------------------

    def _asked_shape(self) -> tuple[int, int]:
        """Return (ky, kx), of the settings or of the detector; raises DriverError when neither says."""
        p = self.parameters
        if p.pixels is not None:
            return p.pixels
        ky, kx = self._control.get_number("IMAGEY"), self._control.get_number("IMAGEX")
        if ky is None or kx is None or not 1 <= ky <= 8192 or not 1 <= kx <= 8192:
            raise DriverError(
                f"the Merlin at {p.host}:{p.control_port} does not say how large its frames are",
                "set pixels = [256, 256] for one chip, [512, 512] for four",
            )
        return int(ky), int(kx)

    def _detector_axes(self) -> tuple[Axis, ...]:
        angle = self.parameters.pixel_angle
        scale, units = (None, "") if angle is None else (angle * 1e-3, "rad")
        return tuple(
            Axis(name, size, scale, 0.0, units) for name, size in zip(("ky", "kx"), self._shape, strict=True)
        )

    def _calibrations(self) -> tuple[Calibration, ...]:
        angle = self.parameters.pixel_angle
        if angle is None:
            return ()
        return (
            Calibration(
                id="merlin-detector-scale", kind="detector_scale", value=(angle * 1e-3,), sigma=(0.0,),
                units="rad/px", method="pixel_angle of the rig",
            ),
        )  # fmt: skip

    def _check_region(self, region: Region) -> None:
        """Raise DriverError for a region that is not the one which the scan unit scans."""
        width, height = self.parameters.field_of_view
        whole = Region(0.0, 0.0, width, height)
        off = max(abs(getattr(region, name) - getattr(whole, name)) for name in Region.__struct_fields__[:4])
        if off > 1e-6 * max(width, height) or region.rotation:
            raise DriverError(
                f"the scan unit decides which region is scanned, and is set to {width:g} x {height:g} m",
                "scan the whole field of view, centred on 0, or set the scan unit and field_of_view",
            )


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.9g}"
