"""The simulated column as an instrument: describes itself, obeys commands, hands out frames, becomes safe."""

from __future__ import annotations

import math
import threading
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from probeloop.api import (
    Aberrations,
    AcquireReference,
    Acquisition,
    Alarm,
    Axis,
    Blank,
    Calibration,
    DriverError,
    FrameFlag,
    InstrumentInfo,
    Limits,
    MoveProbe,
    Scan,
    SetAberrations,
    SetBeam,
    SetDetector,
    StreamSpec,
    Unblank,
    VirtualClock,
    interaction,
    visit_order,
    wavelength,
)

from .exposure import Conditions, Exposer, Triggers, delivered, frames
from .misset import REACH, MisSet, sigmas
from .monitor import BeamMonitor
from .optics import KNOBS, draw_lens
from .physics import Geometry, Planes
from .sample import SampleSettings, grain_of, projected_potential, transmission
from .settings import StemSettings

_ELECTRON = 1.602176634e-19
_DOSE_CELL = 0.25e-9
_MOVE_SETTLING_NS = 100_000
_HIGHEST_CURRENT = 1e-9
BEAM_MONITOR = Alarm(
    high=1.1 * _HIGHEST_CURRENT, units="A", when=("beam_on",), hold=0.1, stuck_after=1.0, missing_after=2.0
)


class StemSimulator:
    """A 4D-STEM with a thin bicrystal in it. Everything random is drawn from the seed."""

    Parameters: ClassVar[type[StemSettings]] = StemSettings

    def __init__(self, parameters: StemSettings | None = None) -> None:
        self.parameters = p = parameters or StemSettings()
        volts = p.voltage * 1e3
        self._true = MisSet.draw(p.mis_set, p.seed, p.pixels)
        angle = p.pixel_angle * 1e-3 * self._true.camera
        self.geometry = Geometry(p.pixels, angle, wavelength(volts), p.convergence * 1e-3, self._true.centre)
        self.clock = VirtualClock(p.pace)
        rng = np.random.default_rng([p.seed, 0])
        self._lens = draw_lens(rng, p.misalignment, p.settling, p.cross_talk)
        if p.offset:
            self._lens.offset = Aberrations(**p.offset)
        angle = rng.uniform(0, 2 * np.pi)
        self._drift = p.drift * np.array([math.cos(angle), math.sin(angle)])
        self._sample = SampleSettings(thickness=p.crystal * 1e-9, carbon=p.carbon * 1e-9)
        self._tile = p.tile * p.pixels
        self.potential = projected_potential(self._sample, self._tile, self.geometry.pixel, p.seed)
        specimen = Planes.of(transmission(self.potential, interaction(volts)))
        self._exposer = Exposer(self.geometry, specimen, p.seed, p.threads)
        self._vacuum = Exposer(self.geometry, None, p.seed + 1, 1)
        self._width = self._tile * self.geometry.pixel
        cells = math.ceil(self._width / _DOSE_CELL)
        self._dose_map = np.zeros((cells, cells))
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._triggers = 0
        self._blanked = False
        self._inserted = True
        self._current = p.beam_current * 1e-12
        self._dwell = 1e-3
        self._position = (0.0, 0.0)
        drilled = round(p.drill_after * 1e9)
        self._monitor = BeamMonitor(BEAM_MONITOR, p.seed, p.drill, drilled)
        self._silent_ns = drilled if p.drill == "silent_camera" else None

    def describe(self) -> InstrumentInfo:
        """Say what the column is and can do."""
        p = self.parameters
        half = 0.4 * self._width * (REACH if p.mis_set else 1.0)
        return InstrumentInfo(
            name="stem",
            modality="stem",
            origin="simulation",
            commands=(
                "Scan", "MoveProbe", "Blank", "Unblank", "SetBeam", "SetAberrations", "SetDetector",
                "AcquireReference", "Stop", "Pause", "Resume", "Settle", "Read", "Annotate",
            ),
            limits=Limits(
                region=((-half, -half), (half, half)),
                dwell_time=(1e-5, 1.0),
                beam_current=(0.0, _HIGHEST_CURRENT),
                knobs={name: (-reach, reach) for name, reach in KNOBS.items()},
                flux_per_pixel=1e9,
                alarms={"beam_monitor": BEAM_MONITOR},
                frame_timeout=30.0,  # the very first frame may wait for a compiler
            ),
            topics={"camera": 2 * p.pixels**2},
            safe_state=(Blank(),),
            safe_readback={"blanked": True},
            settling={"SetAberrations": p.settling, "MoveProbe": _MOVE_SETTLING_NS / 1e9},
            calibrations=self._calibrations(),
            can_wait=p.can_wait,
            camera_pixels=p.pixels**2,
            footprint=0.6 * self.geometry.wavelength / self.geometry.convergence,
            description=f"simulated 4D-STEM, {p.voltage:g} kV, {p.convergence:g} mrad, seed {p.seed}",
        )  # fmt: skip

    def read_back(self) -> dict[str, Any]:
        """Return the hardware's own values; a knob's value is what it is set to, not the coefficient."""
        with self._lock:
            return {
                "position_x": self._position[0],
                "position_y": self._position[1],
                "blanked": self._blanked,
                "beam_current": self._current,
                "detector_inserted": self._inserted,
                **self._lens.readback(),
            }

    def sense(self) -> dict[str, float | None]:
        """Return what the monitor of the beam current reads [A]."""
        return {"beam_monitor": self._monitor.read(0.0 if self._blanked else self._current, self.clock.now_ns())}

    def make_safe(self) -> None:
        """End what is running and blank."""
        with self._lock:
            self._blanked = True
            self._cancelled.set()

    def close(self) -> None:
        """End what is running, and the threads."""
        self.make_safe()
        self._exposer.close()
        self._vacuum.close()

    def scan(self, command: Scan) -> Acquisition:
        """Begin a scan; the camera is triggered at every pixel and tells its trigger count with each frame."""
        ny, nx = command.shape
        period = round(command.dwell_time * 1e9)
        order = np.tile(visit_order(command.shape, command.order), command.frames)
        first, settled = self._begin(period)
        count = order.size
        t = np.arange(count)
        flags = np.zeros(count, np.uint16)
        flags[t % nx == 0] |= int(FrameFlag.LINE_START)
        flags[t % nx == nx - 1] |= int(FrameFlag.LINE_END)
        flags[t >= ny * nx] |= int(FrameFlag.REPEAT_VISIT)
        times = first + t * period + (t // nx) * round(command.flyback_time * 1e9)
        positions = command.region.positions(command.shape, order)
        with self._lock:
            numbers = self._triggers + t
            self._triggers += count
            self._dwell = command.dwell_time
            x, y = positions[-1]
            self._position = (float(x), float(y))
        triggers = Triggers(numbers, order, positions, times, flags)
        triggers = self._while_settling(triggers, settled, period)
        p = self.parameters
        rows = delivered(triggers.number, p.drop_frames, p.double_frames)
        region = command.region
        step_y, step_x = region.height / ny, region.width / nx
        spec = self._spec(
            period,
            (
                Axis("y", ny, step_y, region.centre_y - step_y * (ny - 1) / 2, "m"),
                Axis("x", nx, step_x, region.centre_x - step_x * (nx - 1) / 2, "m"),
            ),
        )
        return self._acquisition(spec, triggers, rows, self._exposer, self._conditions(), settled)

    def move_probe(self, command: MoveProbe) -> int:
        """Move the probe."""
        with self._lock:
            self._position = command.position
        return int(self.clock.now_ns()) + _MOVE_SETTLING_NS

    def blank(self, command: Blank) -> int:
        """Take the beam off."""
        self._blanked = True
        return int(self.clock.now_ns())

    def unblank(self, command: Unblank) -> int:
        """Put the beam on."""
        self._blanked = False
        return int(self.clock.now_ns())

    def set_beam(self, command: SetBeam) -> int:
        """Set the current; there is no spot number here."""
        if command.current is None:
            raise DriverError("this column has no spot numbers", "give a current in A")
        self._current = command.current
        return int(self.clock.now_ns())

    def set_aberrations(self, command: SetAberrations) -> int:
        """Turn knobs."""
        unknown = sorted(set(command.values) - set(KNOBS))
        if unknown:
            raise DriverError(f"no knob {', '.join(unknown)}", f"knobs: {', '.join(KNOBS)}")
        return self._lens.turn(command.values, command.absolute, int(self.clock.now_ns()))

    def set_detector(self, command: SetDetector) -> int:
        """Insert or retract the camera, the only thing that can be set of it."""
        if command.inserted is None:
            raise DriverError("nothing to set", "this camera knows `inserted` alone")
        self._inserted = command.inserted
        return int(self.clock.now_ns())

    def acquire_reference(self, command: AcquireReference) -> Acquisition:
        """Take frames of the probe in vacuum, or in the dark."""
        if command.kind not in ("vacuum_probe", "dark"):
            raise DriverError(f"this column takes no {command.kind} reference", "vacuum_probe or dark")
        period = round(self._dwell * 1e9)
        first, settled = self._begin(period)
        t = np.arange(command.frames)
        places = np.tile(np.asarray(self._position), (command.frames, 1))
        none = np.full(command.frames, -1, np.int64)
        triggers = Triggers(t, none, places, first + t * period, np.zeros(command.frames, np.uint16))
        triggers = self._while_settling(triggers, settled, period)
        rows = np.arange(triggers.number.size)
        conditions = self._conditions(dark=command.kind == "dark")
        spec = self._spec(period, (), sync="none")
        return self._acquisition(spec, triggers, rows, self._vacuum, conditions, settled)

    def truth(self) -> dict[str, Any]:
        """Return what no real column tells, for scoring alone.

        aberrations: now. offset, response: of the lens. drift: (vx, vy) [m/s]. potential: [V m], pixel size
        potential_pixel [m]. dose_map: [e/m²] in cells of dose_cell [m]. grain(x, y): 0 or 1 at places [m]. All four
        are about places on the specimen: to_specimen (2, 2) @ commanded (x, y). calibrations: true values by kind.
        """
        return {
            "aberrations": self._lens.at(self.clock.now_ns()),
            "offset": self._lens.offset,
            "response": self._lens.response.copy(),
            "drift": self._drift.copy(),
            "to_specimen": self._true.scale * self._true.to_scan.T,
            "calibrations": self._true.truth(
                self.parameters.pixels / 2,
                self.parameters.pixel_angle * 1e-3,
                self.geometry.convergence,
                self.parameters.beam_current * 1e-12,
            ),
            "potential": self.potential,
            "potential_pixel": self.geometry.pixel,
            "dose_map": self._dose_map / _DOSE_CELL**2,
            "dose_cell": _DOSE_CELL,
            "grain": lambda x, y: grain_of(x, y, self._width, self._sample.boundary),
        }

    def _acquisition(
        self,
        spec: StreamSpec,
        triggers: Triggers,
        rows: NDArray[np.int64],
        exposer: Exposer,
        conditions: Conditions,
        settled: int,
    ) -> Acquisition:
        period = spec.exposure_ns
        made = frames(triggers, rows, period, exposer, conditions, self.clock, self._cancelled, self._silent_ns)
        on_host = round(period / (self.clock.pace or 1.0))
        return Acquisition("camera", spec, made, settled, on_host, self.read_back())

    def _begin(self, period: int) -> tuple[int, int]:
        """Start an acquisition: the time of its first trigger, and when the lens is settled [ns]."""
        with self._lock:
            self._cancelled = threading.Event()
        settled = self._lens.settled_ns
        now = self.clock.now_ns()
        if not self.parameters.settling_frames and settled > now:
            self.clock.wait_until(settled)
            now = settled
        self.clock.restart_pace()
        return max(now, settled), settled

    def _while_settling(self, triggers: Triggers, settled: int, period: int) -> Triggers:
        """Put the frames of the free-running camera before the first trigger."""
        now = self.clock.now_ns()
        count = max(0, math.ceil((int(triggers.time_ns[0]) - now) / period))
        if not count:
            return triggers
        t = np.arange(count)

        def before(value: Any, column: NDArray[Any]) -> NDArray[Any]:
            return np.concatenate([np.broadcast_to(value, (count, *column.shape[1:])), column]).astype(column.dtype)

        return Triggers(
            before(-1 - t, triggers.number),
            before(-1, triggers.scan_index),
            before(triggers.position[0], triggers.position),
            np.concatenate([now + t * period, triggers.time_ns]),
            before(int(FrameFlag.SETTLING), triggers.flags),
        )

    def _conditions(self, dark: bool = False) -> Conditions:
        def electrons() -> float:
            if self._blanked or not self._inserted or dark:
                return 0.0
            return self._true.current * self._current * self._dwell / _ELECTRON

        return Conditions(
            lambda time_ns: self._true.turned(self._lens.at(time_ns)),
            lambda: self._lens.settled_ns,
            lambda time_ns: time_ns[:, None] * 1e-9 * self._drift,
            electrons,
            self._irradiate,
            self._true,
        )

    def _irradiate(self, places: NDArray[np.float64], electrons: float) -> None:
        cells = self._dose_map.shape[0]
        index = np.floor(places / _DOSE_CELL).astype(np.int64) + cells // 2
        np.add.at(self._dose_map, (index[:, 1] % cells, index[:, 0] % cells), electrons)

    def _spec(self, period: int, nav: tuple[Axis, ...], sync: Any = "pixel") -> StreamSpec:
        n, angle = self.parameters.pixels, self.parameters.pixel_angle * 1e-3
        sig = tuple(Axis(name, n, angle, -(n // 2) * angle, "rad") for name in ("ky", "kx"))
        return StreamSpec(
            "camera",
            "frames",
            "<u2",
            nav,
            sig,
            units="e",
            origin="simulation",
            sync=sync,
            stamp="hardware",
            exposure_ns=period,
            can_wait=self.parameters.can_wait,
        )

    def _calibrations(self) -> tuple[Calibration, ...]:
        p, when = self.parameters, "2026-01-01T00:00:00+00:00"
        state: dict[str, float | int | bool | str] = {"voltage": p.voltage * 1e3}
        half = float(p.pixels // 2)

        def known(kind: Any, value: tuple[float, ...], sigma: float, units: str) -> Calibration:
            spread = (sigma,) * len(value)
            return Calibration(
                id=f"stem-{kind}", kind=kind, value=value, sigma=spread, units=units, method="simulator",
                time=when, valid_for=state,
            )  # fmt: skip

        unsure = sigmas(p.mis_set)
        scale, alpha, current = p.pixel_angle * 1e-3, p.convergence * 1e-3, p.beam_current * 1e-12
        return (
            known("pattern_centre", (half, half), unsure["pattern_centre"], "px"),
            known("detector_scale", (scale,), scale * unsure["detector_scale"], "rad/px"),
            known("convergence_angle", (alpha,), alpha * unsure["convergence_angle"], "rad"),
            known("counts_per_electron", (1.0,), 0.0, "counts/e"),
            known("beam_current", (current,), current * unsure["beam_current"], "A"),
            known("scan_scale", (1.0,), unsure["scan_scale"], ""),
            known("scan_detector_rotation", (0.0,), unsure["scan_detector_rotation"], "rad"),
            known("scan_detector_flip", (1.0,), 0.0, ""),
        )
