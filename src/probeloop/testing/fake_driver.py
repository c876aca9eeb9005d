"""A driver for tests: it can do everything, remembers every call, and obeys whatever it is told.

It checks nothing, so that what reaches it is what the gate let through.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data import commands as c
from ..data.axes import Axis, StreamSpec
from ..data.clock import Clock, VirtualClock
from ..data.control import Scalar
from ..data.driver import VERBS, Acquisition, Grid, InstrumentInfo, Modality
from ..data.frame import FrameBuffer, FrameFlag
from ..data.limits import Limits
from ..data.scan import Region, visit_order
from .fake_sensors import FakeSensors

ELEMENTARY_CHARGE = 1.602176634e-19
FAKE_LIMITS = Limits(
    region=((-50e-9, -50e-9), (50e-9, 50e-9)),
    max_step=40e-9,
    max_tip_speed=1e-3,
    dwell_time=(1e-6, 0.1),
    max_scan_points=4096,
    dose=1e9,
    area_dose=1e26,
    beam_current=(0.0, 200e-12),
    flux_per_pixel=1e7,
    knobs={"C10": (-1e-6, 1e-6), "C12a": (-1e-7, 1e-7), "drive": (0.0, 2.0), "drive_frequency": (1e3, 1e6)},
    bias=(-5.0, 5.0),
    bias_ramp=10.0,
    min_bias_engaged=0.01,
    pulses=3,
    spectrometer={"energy_offset": (-50.0, 2000.0), "dispersion": (0.01, 1.0), "slit": (0.0, 50.0)},
)


@dataclass(frozen=True, slots=True)
class Call:
    """One call that reached the driver. verb: a method, or "frames" for one filling of a buffer. state: before it."""

    verb: str
    command: c.Command | None
    time_ns: int
    state: dict[str, Scalar]


class FakeDriver:
    """Everything an instrument can do, in virtual time.

    commands: what it declares (default: every verb there is); the verbs exist all the same. settling: by command
    name [s]. hang: verbs (or "frames") that block until `make_safe`, as broken hardware does.
    watch: hears of every call. sensors: one for each alarm of `limits`; they read what a test tells them to.
    """

    def __init__(
        self,
        *,
        modality: Modality = "stm",
        commands: tuple[str, ...] | None = None,
        limits: Limits = FAKE_LIMITS,
        settling: dict[str, float] | None = None,
        clock: Clock | None = None,
        grid: Grid | None = None,
        can_wait: bool = False,
        camera: int = 8,
        hang: tuple[str, ...] = (),
    ) -> None:
        self.clock: Clock = clock or VirtualClock(pace=None)
        self.calls: list[Call] = []
        self.hang = hang
        self.watch: Callable[[Call], None] = lambda call: None
        self.hanging = threading.Event()
        self.safe_count = 0
        self._safe = threading.Event()
        self._lock = threading.RLock()
        self.sensors = FakeSensors(limits.alarms)
        self._settling = settling or {}
        self._camera = camera
        self._info = InstrumentInfo(
            name="fake",
            modality=modality,
            origin="simulation",
            commands=tuple(VERBS) if commands is None else commands,
            limits=limits,
            grid=grid or Grid(step=(1e-9, 1e-9)),
            topics={"camera": 2 * camera * camera, "spectrum": 64},
            safe_state=(c.SetDrive(amplitude=0.0), c.Withdraw(), c.Blank()),
            safe_readback={"blanked": True, "feedback": "withdrawn", "drive": 0.0},
            settling=self._settling,
            can_wait=can_wait,
            camera_pixels=camera * camera,
            footprint=1e-10,
        )
        self.values: dict[str, Scalar] = {
            "position_x": 0.0,
            "position_y": 0.0,
            "blanked": False,
            "beam_current": 50e-12,
            "detector_inserted": False,
            "feedback": "withdrawn",
            "bias": 0.5,
            "drive": 1.0,
            **{name: 0.0 for name in limits.knobs if name.startswith("C")},
        }

    def describe(self) -> InstrumentInfo:
        """Say what it can do."""
        return self._info

    def read_back(self) -> dict[str, Scalar]:
        """Return its state."""
        with self._lock:
            return dict(self.values)

    def sense(self) -> dict[str, Scalar]:
        """Return what its sensors read; a call that hangs elsewhere does not keep it."""
        return self.sensors.sense()

    def make_safe(self) -> None:
        """Blank, withdraw, drive to zero; whatever hangs, ends."""
        with self._lock:
            self._record("make_safe", None)
            self.safe_count += 1
            self._safe.set()
            self.values.update(blanked=True, feedback="withdrawn", drive=0.0)

    def close(self) -> None:
        """Let go."""
        self.sensors.hang(False)
        self.make_safe()

    def _record(self, verb: str, command: c.Command | None) -> None:
        call = Call(verb, command, self.clock.now_ns(), dict(self.values))
        self.calls.append(call)
        self.watch(call)

    def _do(self, verb: str, command: c.Command, **changes: Scalar) -> int:
        """Note the call, hang if told to, change the state, and say when it is settled."""
        with self._lock:
            self._record(verb, command)
            self._safe.clear()
        if verb in self.hang:
            self.hanging.set()
            self._safe.wait(10.0)
        with self._lock:
            self.values.update(changes)
        return self.clock.now_ns() + round(self._settling.get(c.name_of(command), 0.0) * 1e9)

    def move_probe(self, command: c.MoveProbe) -> int:
        """Move."""
        return self._do("move_probe", command, position_x=command.position[0], position_y=command.position[1])

    def set_detector(self, command: c.SetDetector) -> int:
        """Set the camera."""
        changes = {} if command.inserted is None else {"detector_inserted": command.inserted}
        return self._do("set_detector", command, **changes)

    def blank(self, command: c.Blank) -> int:
        """Blank."""
        return self._do("blank", command, blanked=True)

    def unblank(self, command: c.Unblank) -> int:
        """Unblank."""
        return self._do("unblank", command, blanked=False)

    def set_beam(self, command: c.SetBeam) -> int:
        """Set the current."""
        changes = {} if command.current is None else {"beam_current": command.current}
        return self._do("set_beam", command, **changes)

    def set_aberrations(self, command: c.SetAberrations) -> int:
        """Turn the knobs."""
        with self._lock:
            start = {n: 0.0 if command.absolute else float(self.values.get(n) or 0.0) for n in command.values}
        return self._do("set_aberrations", command, **{n: start[n] + v for n, v in command.values.items()})

    def approach(self, command: c.Approach) -> int:
        """Come into feedback."""
        return self._do("approach", command, feedback="engaged")

    def withdraw(self, command: c.Withdraw) -> int:
        """Go away from the surface."""
        return self._do("withdraw", command, feedback="withdrawn")

    def set_feedback(self, command: c.SetFeedback) -> int:
        """Feedback on or held."""
        return self._do("set_feedback", command, feedback="engaged" if command.state == "on" else "held")

    def set_bias(self, command: c.SetBias) -> int:
        """Ramp to a bias."""
        return self._do("set_bias", command, bias=command.value)

    def apply_pulse(self, command: c.ApplyPulse) -> int:
        """Pulse."""
        return self._do("apply_pulse", command, position_x=command.position[0], position_y=command.position[1])

    def set_drive(self, command: c.SetDrive) -> int:
        """Set the excitation."""
        return self._do("set_drive", command, **({} if command.amplitude is None else {"drive": command.amplitude}))

    def scan(self, command: c.Scan) -> Acquisition:
        """Begin a scan."""
        self._do("scan", command)
        ny, nx = command.shape
        order = np.tile(visit_order(command.shape, command.order), command.frames)
        nav = (
            Axis("y", ny, command.region.height / ny, units="m"),
            Axis("x", nx, command.region.width / nx, units="m"),
        )
        return self._acquisition("camera", nav, order, command.region.positions(command.shape), command.dwell_time)

    def scan_path(self, command: c.ScanPath) -> Acquisition:
        """Begin a path."""
        self._do("scan_path", command)
        places = np.asarray(command.positions, float).reshape(-1, 2)
        nav = (Axis("point", len(places)),)
        return self._acquisition("camera", nav, np.arange(len(places)), places, command.dwell_time)

    def set_spectrometer(self, command: c.SetSpectrometer) -> int:
        """Set the energy axis."""
        return self._do("set_spectrometer", command)

    def acquire_reference(self, command: c.AcquireReference) -> Acquisition:
        """Begin a reference."""
        self._do("acquire_reference", command)
        with self._lock:
            place = [[self.values["position_x"], self.values["position_y"]]]
        return self._acquisition("reference", (), np.zeros(command.frames, np.int64), np.asarray(place), 1e-4)

    def acquire_spectrum(self, command: c.AcquireSpectrum) -> Acquisition:
        """Begin a measurement at a place."""
        x, y = command.position
        self._do("acquire_spectrum", command, position_x=x, position_y=y)
        dwell = float(getattr(command.kind, "exposure", 1e-3))
        spec = StreamSpec("spectrum", "spectra", "<f4", (), (Axis("E", 16),), origin="simulation", sync="none")
        frames = self._frames(np.zeros(1, np.int64), np.asarray([[x, y]]), dwell)
        return Acquisition("spectrum", spec, frames, self.clock.now_ns(), round(dwell * 1e9))

    def _acquisition(
        self, topic: str, nav: tuple[Axis, ...], order: np.ndarray[Any, Any], places: Any, dwell: float
    ) -> Acquisition:
        k = self._camera
        spec = StreamSpec(
            topic,
            "frames",
            "<u2",
            nav,
            (Axis("ky", k), Axis("kx", k)),
            origin="simulation",
            sync="pixel" if nav else "none",
            exposure_ns=round(dwell * 1e9),
            can_wait=self._info.can_wait,
        )
        return Acquisition(topic, spec, self._frames(order, places, dwell), self.clock.now_ns(), round(dwell * 1e9))

    def _frames(
        self, order: np.ndarray[Any, Any], places: np.ndarray[Any, Any], dwell: float
    ) -> Generator[int, FrameBuffer, None]:
        buffer = yield 0
        at, period = 0, round(dwell * 1e9)
        while at < len(order):
            with self._lock:
                self._record("frames", None)
                if self._safe.is_set():
                    return
                rate = 0.0 if self.values["blanked"] else float(self.values["beam_current"] or 0.0)
            if "frames" in self.hang:
                self.hanging.set()
                self._safe.wait(10.0)
            n = min(buffer.capacity, len(order) - at)
            index = order[at : at + n]
            buffer.scan_index[:n] = index
            buffer.position[:n] = places[index % len(places)]
            buffer.time_ns[:n] = self.clock.now_ns() + period * np.arange(n)
            buffer.dose[:n] = rate / ELEMENTARY_CHARGE * dwell
            buffer.flags[:n] = np.where(index % 16 == 0, int(FrameFlag.LINE_START), 0)
            buffer.data[:n].reshape(n, -1)[:] = index[:, None] % 1000
            at += n
            self.clock.wait_until(self.clock.now_ns() + n * period, self._safe)
            buffer = yield n


SMALL_SCAN = c.Scan(Region(0.0, 0.0, 16e-9, 16e-9), (16, 16), 1e-4)
