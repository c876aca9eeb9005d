"""A DECTRIS detector as an instrument: frames of a scan that somebody else's scan unit makes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from probeloop.api import (
    AcquireReference,
    Acquisition,
    Axis,
    Channel,
    Clock,
    DriverError,
    FrameBuffer,
    InstrumentInfo,
    Limits,
    MonotonicClock,
    Scan,
    SetDetector,
    StreamSpec,
)

from .decompress import warm_up
from .detector import Detector, Timing
from .intake import Expected, Intake, Parser
from .port import DectrisPort
from .record import declared, flat
from .series import Counts, NoTriggers, Places, Series, Which
from .settings import DectrisSettings
from .simplon import MissingError
from .stream_v1 import PartsV1
from .stream_v2 import MessagesV2
from .trigger import SoftwareTrigger

_ABORT_S = 0.3
_HEADER_S = 0.3  # to wait for the header of a series, for the record
_REFERENCES = ("dark", "gain", "vacuum_probe")
_MOST_FRAMES = 100_000_000  # each is remembered in a byte
_KEPT = 1 << 20  # places that are worked out once


def places_of(command: Scan) -> Callable[[Which], NDArray[np.float64]]:
    """Return what gives the positions of pixels, (N, 2) [m]: out of a table, unless that would be large."""
    region, shape = command.region, command.shape
    if shape[0] * shape[1] <= _KEPT:
        return region.positions(shape).__getitem__
    return lambda which: region.positions(
        shape, np.arange(which.start, which.stop) if isinstance(which, slice) else which
    )


class Dectris:
    """A DECTRIS detector behind its control unit, over SIMPLON and stream v1 or v2."""

    Parameters: ClassVar[type[DectrisSettings]] = DectrisSettings

    def __init__(self, parameters: DectrisSettings) -> None:
        self.parameters = parameters
        self.clock: Clock = MonotonicClock()
        warm_up()  # seconds in a new process where the kernels are ours: not while a STOP may wait for a frame
        self._detector = Detector(parameters)
        self._sensor = self._detector.sensor()
        self._frame_times = self._detector.frame_times()
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._intake: Intake | None = None
        self._trigger: SoftwareTrigger | None = None
        self._exposure: float | None = None
        self._armed = False
        self._counts = Counts()

    @staticmethod
    def guard_connection(parameters: DectrisSettings) -> DectrisPort:
        """Return a second way to the DCU."""
        return DectrisPort(parameters)

    def describe(self) -> InstrumentInfo:
        """Say what the detector is."""
        p, (height, width) = self.parameters, self._sensor.shape
        x, y = (side / 2 for side in p.field_of_view)
        name = str(self._detector.fixed.get("description", "DECTRIS detector"))[:200]
        return InstrumentInfo(
            name="dectris",
            modality="stem",
            origin="experiment",
            commands=(
                "Scan",
                "SetDetector",
                "AcquireReference",
                "Stop",
                "Pause",
                "Resume",
                "Settle",
                "Read",
                "Annotate",
            ),
            limits=Limits(
                region=((-x, -y), (x, y)), dwell_time=self._frame_times, frame_timeout=min(1e4, p.silence + 5.0)
            ),
            topics={"camera": 4 * height * width * len(p.channels)},
            safe_readback={"acquiring": False},
            calibrations=declared(p),
            camera_pixels=height * width,
            description=f"{name}, {width} x {height}, stream {p.stream}, trigger {p.trigger}",
        )

    def read_back(self) -> dict[str, Any]:
        """Return the DCU's own values, and what came of the last series.

        exposure, frame_time [s]; threshold, incident_energy [eV]; temperature [deg C], humidity [%]; images,
        triggers: of a series. frames_received, _lost, _repeated, _refused, _beyond (more than asked for), _stale (of
        other series); garbage [messages]; remark: the first that went wrong, in words. acquiring: armed or counting.
        """
        values = self._detector.read()
        state, counts = values["state"], self._counts
        values["trigger"] = self.parameters.trigger
        values["acquiring"] = self._armed if state == "unknown" else state in ("ready", "acquire")
        for name in ("received", "lost", "repeated", "refused", "beyond", "stale"):
            values[f"frames_{name}"] = getattr(counts, name)
        values["garbage"], values["remark"] = counts.garbage, counts.remark
        return values

    def make_safe(self) -> None:
        """End what is running: within 0.3 s, whether the DCU answers or not."""
        self._cancelled.set()
        trigger = self._trigger
        if trigger is not None:
            trigger.cancel()
        self._abort()

    def close(self) -> None:
        """End what is running, and let go."""
        self.make_safe()
        self._end()

    def set_detector(self, command: SetDetector) -> int:
        """Set exposure [s], threshold [eV] and bit depth, where the DCU lets itself be set."""
        self._detector.wake()
        self._detector.set(command)
        if command.exposure is not None:
            self._exposure = command.exposure
        self._sensor = self._detector.sensor()
        return self.clock.now_ns()

    def scan(self, command: Scan) -> Acquisition:
        """Arm for a scan of the field of view: nothing comes before the triggers do."""
        self._is_ours(command)
        (ny, nx), p = command.shape, self.parameters
        pixels, total = ny * nx, ny * nx * command.frames
        if total > _MOST_FRAMES:
            raise DriverError(f"{total} frames", f"{_MOST_FRAMES} at most in a series")
        region = command.region
        step_y, step_x = region.height / ny, region.width / nx
        nav = (
            Axis("y", ny, step_y, region.centre_y - step_y * (ny - 1) / 2, "m"),
            Axis("x", nx, step_x, region.centre_x - step_x * (nx - 1) / 2, "m"),
        )
        timing = {
            "external": Timing(p.external, 1, total, command.dwell_time, self._exposure),
            "internal": Timing("ints", total, 1, command.dwell_time, self._exposure),
            "soft": Timing("inte", 1, total, command.dwell_time, self._exposure),
        }[p.trigger]
        places = Places(pixels, nx, places_of(command))
        return self._acquire(timing, total, nav, places)

    def acquire_reference(self, command: AcquireReference) -> Acquisition:
        """Take frames that stand for no pixel, on a software trigger, whatever triggers a scan."""
        if command.kind not in _REFERENCES:
            raise DriverError(f"a detector alone takes no {command.kind} reference", ", ".join(_REFERENCES))
        period = self._detector.frame_time()
        if self._exposure is not None:
            period = max(period, self._exposure + self._detector.readout_time)
        return self._acquire(Timing("ints", command.frames, 1, period, self._exposure), command.frames, (), Places())

    def _is_ours(self, command: Scan) -> None:
        """Refuse a scan that a detector alone can't know the pixels of."""
        width, height = self.parameters.field_of_view
        region = command.region
        wanted = (region.centre_x, region.centre_y, region.width, region.height, region.rotation)
        if not np.allclose(wanted, (0, 0, width, height, 0), rtol=1e-6, atol=1e-6 * min(width, height)):
            raise DriverError(
                "the scan unit decides what is scanned, not this detector",
                f"ask for the whole field of view, {width:g} x {height:g} m about 0, or set field_of_view",
            )
        if command.order != "raster":
            raise DriverError(f"the scan unit decides the order, which {command.order} is not", "order = 'raster'")
        if command.flyback_time and self.parameters.trigger != "external":
            raise DriverError("the detector's own clock knows no flyback", "flyback_time = 0, or external triggers")

    def _acquire(self, timing: Timing, total: int, nav: tuple[Axis, ...], places: Places) -> Acquisition:
        """Make the DCU and the stream ready, arm, and return what the frames will be."""
        p, detector = self.parameters, self._detector
        with self._lock:
            self._cancelled = cancelled = threading.Event()
        self._end()
        if self._armed:  # by an acquisition that nobody took
            self._abort()
        with detector.unless(cancelled.is_set):
            detector.wake()
            detector.prepare(timing)
            self._sensor = sensor = detector.sensor()
            told = detector.read()
        expected = Expected(sensor.shape, sensor.bits // 8, len(p.channels), total)
        read = {**told, "masked_value": 2**sensor.bits - 1, "stream": p.stream}
        exposure_ns = round(float(read.get("exposure", timing.period)) * 1e9)
        self._intake = intake = self._make_intake(expected)
        try:
            intake.connect(p.timeout, cancelled.is_set)
            series = self._arm(cancelled)
            intake.expect(series if p.series == "arm" else None)
            header = intake.wait_for_header(_HEADER_S, cancelled.is_set)
            if cancelled.is_set():
                raise DriverError("stopped while it was being armed", "scan again")
        except BaseException:
            self._end()
            if self._armed:
                self._abort()
            raise
        trigger = None
        if timing.mode in ("ints", "inte"):
            seconds = timing.images * timing.period + p.timeout
            value = timing.exposure or timing.period if timing.mode == "inte" else None
            trigger = self._trigger = SoftwareTrigger(detector.simplon, timing.triggers, seconds, value)
        run = Series(
            intake, expected, places, self.clock,
            exposure_ns=exposure_ns, silence=p.silence, cancelled=cancelled, ended=self._disarm,
            state=self._in_words, triggers=trigger or NoTriggers(),
        )  # fmt: skip
        frames = self._frames(run, intake, trigger.start if trigger else lambda: None, cancelled)
        named = flat(header.config) if header is not None else {}
        settings = {**read, **named, "series": intake.series if intake.series is not None else -1}
        spec = self._spec(sensor, nav, exposure_ns)
        return Acquisition("camera", spec, frames, frame_period_ns=round(timing.period * 1e9), settings=settings)

    def _frames(
        self, run: Series, intake: Intake, begin: Callable[[], None], cancelled: threading.Event
    ) -> Generator[int, FrameBuffer, None]:
        try:
            yield from run.frames(begin)
        finally:
            if self._intake is intake:  # else another series has begun, which is none of our business
                if not run.in_order and not cancelled.is_set():
                    self._abort()
                self._armed = False
                self._end()
                self._counts = run.settle()

    def _arm(self, cancelled: threading.Event) -> int:
        """Arm; return the number of the series. Nothing is left armed when it was stopped meanwhile."""
        if cancelled.is_set():
            raise DriverError("stopped before it was armed", "scan again")
        try:
            series = self._detector.simplon.command("arm")
        except MissingError as error:
            raise DriverError(f"{error.message}: it can't be armed", f"its state is {self._in_words()}") from None
        self._armed = True
        return series

    def _abort(self) -> None:
        with contextlib.suppress(DriverError):  # a DCU that is gone takes no frames either
            self._detector.abort(_ABORT_S)
        self._armed = False

    def _disarm(self) -> None:
        with contextlib.suppress(DriverError):  # all frames are there
            self._detector.simplon.command("disarm")
        self._armed = False

    def _end(self) -> None:
        """Let go of a series: its triggers and its connection."""
        trigger, self._trigger = self._trigger, None
        if trigger is not None:
            trigger.end()
        intake, self._intake = self._intake, None
        if intake is not None:
            intake.close()

    def _make_intake(self, expected: Expected) -> Intake:
        p = self.parameters
        parser: Parser
        if p.stream == "v1":
            parser = PartsV1(self._detector.appendices(), p.verify)
        else:
            parser = MessagesV2(p.channels)
        return Intake(f"tcp://{p.host}:{p.port}", parser, expected, self.clock.now_ns)

    def _in_words(self) -> str:
        try:
            return f"the detector says {self._detector.state()!r}"
        except DriverError as error:
            return error.message

    def _spec(self, sensor: Any, nav: tuple[Axis, ...], exposure_ns: int) -> StreamSpec:
        p = self.parameters
        scale, units = (p.pixel_angle * 1e-3, "rad") if p.pixel_angle is not None else (None, "px")
        return StreamSpec(
            "camera",
            "frames",
            f"<u{sensor.bits // 8}",
            nav,
            tuple(Axis(name, n, scale, 0.0, units) for name, n in zip(("ky", "kx"), sensor.shape, strict=True)),
            channels=tuple(Channel(name) for name in p.channels) if len(p.channels) > 1 else (),
            units="counts",
            origin="experiment",
            sync="none" if not nav else "pixel" if p.trigger == "external" else "frame",
            stamp="arrival",
            exposure_ns=exposure_ns,
        )
