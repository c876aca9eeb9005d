"""The simulated scanning probe microscope: describes itself, obeys commands, hands out lines, becomes safe."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Generator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from probeloop.api import (
    BEPS,
    AcquireSpectrum,
    Acquisition,
    ApplyPulse,
    Approach,
    Axis,
    DriverError,
    ForceCurve,
    FrameBuffer,
    FrameFlag,
    InstrumentInfo,
    MoveProbe,
    Position,
    Scan,
    SetBias,
    SetDrive,
    SetFeedback,
    StreamSpec,
    VirtualClock,
    Withdraw,
)

from .description import BIAS, DRIVE, SPEED, described_instrument
from .feedback import RAIL, Feedback
from .kernels import DEFLECTION, HIGHEST, Z, sample
from .scan import CHANNELS, LineScan, chosen, dtype_of
from .scanner import Scanner
from .settings import SpmSettings
from .specimen import CRITICAL_RADIUS, Specimen
from .spectra import (
    FORCE_CHANNELS,
    SpectrumTruth,
    amplitude,
    beps,
    beps_axes,
    beps_seconds,
    check_force_curve,
    expected_beps,
    force_curve,
    spectrum_bytes,
    waveform_of,
)
from .tip import CRASH, Tip
from .truth import told

_APPROACH = 1.5  # [s]
_LATERAL_SETTLING = 2e-3  # [s]
_MOST_ACROSS = 4096  # pixels a line
_Z_DRIFT = 2e-12  # [m/s]
_ELECTROSTATIC, _PER_VOLT = 0.05, -0.01  # share of a fully poled place's response
_BEND_NOISE, _Z_NOISE = 5e-11, 6e-11  # of a sensor's reading [m]


class SpmSimulator:
    """A tip in contact with a ferroelectric film, or a bare surface. Everything random is drawn from the seed."""

    Parameters: ClassVar[type[SpmSettings]] = SpmSettings

    def __init__(self, parameters: SpmSettings | None = None) -> None:
        self.parameters = p = parameters or SpmSettings()
        self.clock = VirtualClock(p.host_pace)
        self.specimen = Specimen(p)
        self.tip = Tip(self.specimen.surface, self.specimen.cell, p.tip_radius * 1e-9, p.double_tip * 1e-9)
        self.scanner = Scanner(p.seed, p.drift, p.creep, p.hysteresis)
        self.feedback = Feedback()
        self._half = 0.45 * p.width * 1e-9
        self._lock = threading.RLock()
        self._cancelled = threading.Event()
        self._scanning = False
        self._position: Position = (0.0, 0.0)
        self._bias = self._drive = 0.0
        self._frequency, self._band = p.resonance * 1e3, 60e3
        self._acquisitions = self._measured = 0
        self._readings = itertools.count()
        self._peak = self._struck = 0.0  # highest deflection since it was asked for; that of a crash, until withdrawn
        self._spectra: list[SpectrumTruth] = []

    def describe(self) -> InstrumentInfo:
        """Say what the microscope is and can do."""
        return described_instrument(self.parameters, len(CHANNELS), spectrum_bytes())

    def read_back(self) -> dict[str, Any]:
        """Return the hardware's own values. z_position: height of the tip's base, from the lower rail [m]."""
        with self._lock:
            return {
                "position_x": self._position[0],
                "position_y": self._position[1],
                "feedback": self.feedback.contact,
                "bias": self._bias,
                "drive": self._drive,
                "drive_frequency": self._frequency,
                "drive_band": self._band,
                "setpoint": self.feedback.setpoint,
                "proportional": self.feedback.proportional,
                "integral": self.feedback.integral,
                "z_position": self._z(),
                "scanning": self._scanning,
            }

    def sense(self) -> dict[str, float | None]:
        """Return the highest deflection since it was last asked for, and where z is [m]."""
        rng = np.random.default_rng([self.parameters.seed, 6, next(self._readings)])
        bend, z = rng.standard_normal(2)
        state = self.feedback.state
        highest, self._peak = max(float(state[HIGHEST]), float(state[DEFLECTION]), self._peak, self._struck), 0.0
        return {"deflection": highest + _BEND_NOISE * float(bend), "z_position": self._z() + _Z_NOISE * float(z)}

    def make_safe(self) -> None:
        """End what is running: drive to 0, tip away, bias to 0."""
        with self._lock:
            self._cancelled.set()
            self._drive = 0.0
            self.feedback.retract(1e-6)
            self._bias = self._peak = self._struck = 0.0
            self._scanning = False

    def close(self) -> None:
        """End what is running."""
        self.make_safe()

    def approach(self, command: Approach) -> int:
        """Bring the tip to the surface; with the loop held nothing stops it there."""
        cancelled = self._begin()
        with self._lock:
            if self.feedback.contact in ("engaged", "held"):
                return int(self.clock.now_ns())
            self.feedback.contact = "approaching"
        if self.clock.wait_until(self.clock.now_ns() + round(_APPROACH * 1e9), cancelled):
            with self._lock:
                if not cancelled.is_set():
                    closed = self.feedback.closed
                    self.feedback.engage(self._surface_at(self._position))
                    if not closed:
                        self._crash(2 * CRASH)
        return int(self.clock.now_ns())

    def withdraw(self, command: Withdraw) -> int:
        """Take the tip away."""
        with self._lock:
            self.feedback.retract(command.distance)
            self._peak = self._struck = 0.0
        return int(self.clock.now_ns())

    def set_feedback(self, command: SetFeedback) -> int:
        """Feedback on or held, with its set point [N] and gains (proportional, integral [1/s])."""
        with self._lock:
            self.feedback.set(command)
        return int(self.clock.now_ns()) + round(20e6)

    def set_bias(self, command: SetBias) -> int:
        """Ramp the tip's bias."""
        cancelled = self._begin()
        if not -BIAS <= command.value <= BIAS:
            raise DriverError(f"a bias of {command.value:g} V", f"allowed: {-BIAS:g} to {BIAS:g} V")
        done = self.clock.now_ns() + round(abs(command.value - self._bias) / command.ramp * 1e9)
        if self.clock.wait_until(done, cancelled):
            with self._lock:
                if not cancelled.is_set():
                    self._bias = command.value
        return int(self.clock.now_ns())

    def set_drive(self, command: SetDrive) -> int:
        """Set the excitation; with a band the lock-in follows the resonance, without it stays at its frequency."""
        asked = (("amplitude", command.amplitude, 0.0, DRIVE, "V"), ("frequency", command.frequency, 1e4, 5e6, "Hz"),
                 ("band", command.band, 0.0, 1e6, "Hz"))  # fmt: skip
        for name, value, low, high, units in asked:
            if value is not None and not low <= value <= high:
                raise DriverError(f"a drive {name} of {value:g} {units}", f"allowed: {low:g} to {high:g} {units}")
        with self._lock:
            self._drive = self._drive if command.amplitude is None else command.amplitude
            self._frequency = self._frequency if command.frequency is None else command.frequency
            self._band = self._band if command.band is None else command.band
        return int(self.clock.now_ns()) + round(2e6)

    def apply_pulse(self, command: ApplyPulse) -> int:
        """Go there and apply one pulse; out of contact it does nothing."""
        cancelled = self._begin()
        if not -BIAS <= command.value <= BIAS:
            raise DriverError(f"a pulse of {command.value:g} V", f"allowed: {-BIAS:g} to {BIAS:g} V")
        self._go(command.position)
        where = self.scanner.place(*command.position, self.clock.now_ns() * 1e-9)
        if self.clock.wait_until(self.clock.now_ns() + round(command.duration * 1e9), cancelled):
            with self._lock:
                if self.feedback.contact in ("engaged", "held") and self.specimen.piezoelectric:
                    now = self.clock.now_ns() * 1e-9
                    self.specimen.pulse(*where, command.value, command.duration, now)
        return int(self.clock.now_ns())

    def move_probe(self, command: MoveProbe) -> int:
        """Go there at the highest speed that the tip may have."""
        return self._go(command.position) + round(_LATERAL_SETTLING * 1e9)

    def scan(self, command: Scan) -> Acquisition:
        """Begin a scan: every line forth and back at `dwell_time` a pixel."""
        _, nx = command.shape
        if command.order != "raster":
            raise DriverError("a serpentine scan: this microscope draws every line forth and back", "use raster")
        if nx > _MOST_ACROSS:
            raise DriverError(f"{nx} pixels a line", f"at most {_MOST_ACROSS}")
        channels = chosen(command.channels, self.specimen.piezoelectric)
        cancelled = self._begin()
        with self._lock:
            self._acquisitions += 1
        lines = LineScan(self, command, channels, self._acquisitions, cancelled)
        settled = self._go((float(lines.places[0, 0, 0]), float(lines.places[0, 0, 1])))
        ny, region = command.shape[0], command.region
        dy, dx = region.height / ny, region.width / nx
        nav = (
            Axis("y", ny, dy, region.centre_y - (ny - 1) / 2 * dy, "m"),
            Axis("x", nx, dx, region.centre_x - (nx - 1) / 2 * dx, "m"),
        )
        named = tuple(CHANNELS[i] for i in channels)
        units = named[0].units if len(named) == 1 else ""
        spec = self._spec(
            "scan", "values", dtype_of(channels), nav, named, units=units, sync="line", exposure_ns=lines.period
        )
        return Acquisition("scan", spec, lines.frames(), settled, 0, self.read_back())

    def acquire_spectrum(self, command: AcquireSpectrum) -> Acquisition:
        """Measure switching loops, or a force curve, at a place."""
        kind = command.kind
        if not isinstance(kind, BEPS | ForceCurve):
            raise DriverError(f"this microscope takes no {type(kind).__name__}", "ask for BEPS or ForceCurve")
        if isinstance(kind, BEPS):
            if not self.specimen.piezoelectric:
                raise DriverError(f"a {self.parameters.surface} has no piezoresponse", "ask for ForceCurve")
            wave = waveform_of(kind, self.parameters.amplitude)
            reach = float(np.abs(wave).max()) + kind.drive
            if reach > BIAS + DRIVE:
                raise DriverError(f"{reach:g} V with the drive", f"allowed: up to {BIAS + DRIVE:g} V")
            spec = self._loop_spec(kind, wave)
        else:
            check_force_curve(kind)
            # how far it goes depends on the tip alone, so the axis is known before it is measured
            _, axis, _ = force_curve(kind, self.tip.radius, False, np.random.default_rng(0))
            spec = self._spec("spectrum", "spectra", "<f4", (), FORCE_CHANNELS, sig=(axis,), units="N")
        cancelled = self._begin()
        settled = self._go(command.position)
        frames = self._measure(command, cancelled)
        return Acquisition("spectrum", spec, frames, settled, 0, self.read_back())

    def _loop_spec(self, kind: BEPS, wave: NDArray[np.float64]) -> StreamSpec:
        channels, axis, aux = beps_axes(kind, wave)
        return self._spec("spectrum", "spectra", "<c8", (), channels, sig=(axis,), aux=aux, units="m")

    def _measure(self, command: AcquireSpectrum, cancelled: threading.Event) -> Generator[int, FrameBuffer, None]:
        p, kind = self.parameters, command.kind
        buffer = yield 0
        start = int(self.clock.now_ns())
        where = self.scanner.place(*command.position, start * 1e-9)
        with self._lock:
            number, self._measured = self._measured, self._measured + 1
        wave = waveform_of(kind, p.amplitude) if isinstance(kind, BEPS) else np.zeros(0)
        rng = np.random.default_rng([p.seed, 7, number])
        if isinstance(kind, BEPS):
            seconds = beps_seconds(kind, wave.size)
        else:
            assert isinstance(kind, ForceCurve)
            curve, _, seconds = force_curve(kind, self.tip.radius, self._in_contact(), rng)
        if not self.clock.wait_until(start + round(seconds * 1e9), cancelled):
            return
        again = any(math.dist(where, each.position) < CRITICAL_RADIUS for each in self._spectra)
        with self._lock:
            if isinstance(kind, BEPS):
                values, truth = beps(
                    self.specimen, kind, wave, where, start * 1e-9, number, p.seed, in_contact=self._in_contact(),
                    noise=p.noise, broken_share=p.broken_share, phase=p.phase_offset,
                )  # fmt: skip
                self._spectra.append(truth)
                buffer.data[0] = values if len(values) > 1 else values[0]
            else:
                buffer.data[0] = curve
        buffer.time_ns[0], buffer.scan_index[0], buffer.dose[0] = start, 0, 0.0
        buffer.position[0] = command.position
        buffer.flags[0] = int(FrameFlag.REPEAT_VISIT) if again else 0
        yield 1

    def truth(self) -> dict[str, Any]:
        """Return what no real microscope tells, for training and scoring alone.

        Maps (n, n), rows are y: up (+1 or -1), in_plane, wall_distance [m], right_angle (the nearest wall is a 90
        degree one), curvature [1/m], polarisation (what the tip feels), surface, felt (where the tip stops) [m]; cell
        and edge [m] say where. defects (K, 2) [m]. tip; drift(t), missing(t): (x, y) [m] at an instrument's time [s].
        spectra: one entry a loop, in the order in which they were measured.
        """
        with self._lock:
            return told(self.specimen, self.tip, self.scanner, self._spectra)

    def expected_spectra(self, kind: Any, positions: NDArray[np.float64]) -> tuple[StreamSpec, NDArray[Any]]:
        """Return the loops at places (N, 2) [m] of the specimen as it is, without noise; see `Foretelling`."""
        if not isinstance(kind, BEPS) or not self.specimen.piezoelectric:
            raise DriverError(f"no {type(kind).__name__} can be told before", "ask for BEPS, on a film")
        wave = waveform_of(kind, self.parameters.amplitude)
        loops = expected_beps(self.specimen, kind, wave, positions, self.parameters.phase_offset)
        return self._loop_spec(kind, wave), loops[:, 0] if loops.shape[1] == 1 else loops

    # --- what a scan under way asks and tells -----------------------------------------------------------------

    def lock_in(self) -> tuple[float, float, float, float, float, float, float]:
        """Return what the lock-in makes of a line; see kernels.scan_line."""
        p = self.parameters
        own = p.resonance * 1e3
        follows = float(self._band > 0)
        electrostatic = _ELECTROSTATIC + _PER_VOLT * self._bias
        return (
            amplitude(self._drive), p.phase_offset, self._frequency - own, p.quality, own, follows, electrostatic
        )  # fmt: skip

    def height_offset(self, time: float) -> float:
        """Return what z reads over the specimen's own height [m] at `time` [s]: the middle of its way, and drift."""
        return RAIL + _Z_DRIFT * time

    def scan_began(self, cancelled: threading.Event) -> None:
        """Hear that the first line begins."""
        with self._lock:
            self._scanning = not cancelled.is_set()

    def drew_line(
        self, state: NDArray[np.float64], places: NDArray[np.float64], xy: NDArray[np.float64],
        cancelled: threading.Event,
    ) -> None:  # fmt: skip
        """Hear what a line left: the loop's state, where the tip is, what a biased tip wrote and whether it broke.

        places (nx, 2) as commanded; xy (2, 2, nx) on the specimen.
        """
        with self._lock:
            if cancelled.is_set() or self.feedback.contact not in ("engaged", "held"):
                return
            self.feedback.state[:] = state
            self._position = (float(places[0, 0]), float(places[0, 1]))
            self._peak = max(self._peak, float(state[HIGHEST]))
            if self._bias:
                self.specimen.write_line(xy[0, 0], xy[0, 1], self._bias)
            if self._peak > CRASH:
                self._crash(self._peak)

    def scan_ended(self, cancelled: threading.Event) -> None:
        """Hear that no further line comes."""
        with self._lock:
            if self._cancelled is cancelled:
                self._scanning = False

    # ----------------------------------------------------------------------------------------------------------

    def _begin(self) -> threading.Event:
        with self._lock:
            self._cancelled = threading.Event()
        self.clock.restart_pace()
        return self._cancelled

    def _in_contact(self) -> bool:
        return self.feedback.contact in ("engaged", "held")

    def _z(self) -> float:
        return self.height_offset(self.clock.now_ns() * 1e-9) + float(self.feedback.state[Z])

    def _surface_at(self, position: Position) -> float:
        """Return where the tip stops at a SCAN place [m]."""
        s = self.specimen
        x, y = self.scanner.place(*position, self.clock.now_ns() * 1e-9)
        return float(sample(self.tip.felt, s.edge, s.cell, x, y))

    def _go(self, position: Position) -> int:
        """Take the tip to a SCAN place at its highest speed; return when it is there [ns]."""
        with self._lock:
            by = np.subtract(position, self._position)
            self.scanner.moved(by, self.clock.now_ns() * 1e-9)
            self._position = (float(position[0]), float(position[1]))
        self.clock.wait_until(self.clock.now_ns() + round(float(np.hypot(*by)) / SPEED * 1e9), self._cancelled)
        with self._lock:
            self.feedback.follow(self._surface_at(self._position))
            if self.feedback.state[DEFLECTION] > CRASH:
                self._crash(float(self.feedback.state[DEFLECTION]))
        return int(self.clock.now_ns())

    def _crash(self, bend: float) -> None:
        """Break the tip, once until it is withdrawn."""
        if not self._struck:
            self.tip.crash()
        self._struck = max(self._struck, bend)

    def _spec(self, topic: str, kind: Any, dtype: str, nav: Any, channels: Any, **more: Any) -> StreamSpec:
        return StreamSpec(
            topic, kind, dtype, nav, channels=channels, origin="simulation", stamp="hardware",
            can_wait=self.parameters.can_wait, **more,
        )  # fmt: skip
