"""The simulated column as an instrument: describes itself, obeys commands, hands out frames, becomes safe."""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from probeloop.api import (
    EELS,
    Aberrations,
    AcquireReference,
    AcquireSpectrum,
    Acquisition,
    Alarm,
    Axis,
    Blank,
    DriverError,
    InstrumentInfo,
    Limits,
    MoveProbe,
    Scan,
    ScanPath,
    SetAberrations,
    SetBeam,
    SetDetector,
    SetSpectrometer,
    StreamSpec,
    Unblank,
    VirtualClock,
    wavelength,
)

from .annular import Annuli, default_annuli
from .believed import calibrations
from .camera import make_sensor, pattern_spec
from .damage import Damage
from .dose import CELL, DoseMap
from .exposure import Conditions, Exposer, Exposures, Pattern, Receiver, Triggers, delivered
from .misset import REACH, MisSet
from .monitor import BeamMonitor
from .mounted import mount
from .optics import draw_lens
from .physics import Geometry
from .scanning import Deflection, map_axes, path_triggers, scan_triggers, settling_first, still_triggers
from .settings import StemSettings
from .spectrometer import RANGES, EnergyLoss, Spectrum
from .truth import truth_of
from .walk import RandomWalk

_ELECTRON = 1.602176634e-19
_MOVE_SETTLING_NS = 100_000
_WALK_STEP_NS = 10_000_000
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
        self._lens = draw_lens(
            rng, p.misalignment, p.settling, p.cross_talk, seed=p.seed, drift=p.corrector_drift,
            noise=p.corrector_noise, further=p.knobs == "third",
        )  # fmt: skip
        if p.offset:
            self._lens.offset = Aberrations(**p.offset)
        angle = rng.uniform(0, 2 * np.pi)
        self._drift = p.drift * np.array([math.cos(angle), math.sin(angle)])
        self._width = p.tile * p.pixels * self.geometry.pixel
        self._mounted = mount(p, self.geometry, (volts, self.geometry.convergence, p.spectrometer.collection * 1e-3))
        self._reach = REACH if p.mis_set else 1.0
        self._exposer = Exposer(self.geometry, self._mounted.field, p.seed, p.threads, self._true)
        self._vacuum = Exposer(self.geometry, None, p.seed + 1, 1, self._true)
        self._walk = RandomWalk([p.seed, 4], (p.drift_walk, p.drift_walk), _WALK_STEP_NS, smooth=True)
        self._deflection = Deflection(p.scan_settling, p.line_jitter, p.seed)
        self._sensor = make_sensor(p.detector, p.camera, p.pixels, self.geometry.angle, p.seed)
        self._annuli = default_annuli(self.geometry) | {k: (a * 1e-3, b * 1e-3) for k, (a, b) in p.annuli.items()}
        self._spectrometer = EnergyLoss(p.spectrometer, volts, p.seed)
        self._dose = DoseMap(self._width, self.geometry.wavelength, self.geometry.convergence)
        self._damage: Damage | None = None
        if p.damage != "none":
            target, sites = self._mounted.target(), self._mounted.sites()
            self._damage = Damage(p.damage, sites, target, self._dose, volts, p.critical_dose, p.seed)
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._triggers = self._lines = self._references = self._spectra = 0
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
        p, half = self.parameters, self._reach * self._mounted.half
        return InstrumentInfo(
            name="stem",
            modality="stem",
            origin="simulation",
            commands=(
                "Scan", "ScanPath", "MoveProbe", "Blank", "Unblank", "SetBeam", "SetAberrations", "SetDetector",
                "SetSpectrometer", "AcquireReference", "AcquireSpectrum",
                "Stop", "Pause", "Resume", "Settle", "Read", "Annotate",
            ),
            limits=Limits(
                region=((-half, -half), (half, half)),
                dwell_time=(1e-5, 1.0),
                beam_current=(0.0, _HIGHEST_CURRENT),
                knobs={name: (-reach, reach) for name, reach in self._lens.knobs.items()},
                spectrometer=RANGES,
                flux_per_pixel=1e9,
                alarms={"beam_monitor": BEAM_MONITOR},
                frame_timeout=30.0,  # the very first frame may wait for a compiler
            ),
            topics={
                "camera": 2 * p.pixels**2,
                "scan": 4 * len(self._annuli),
                "spectrum": 4 * p.spectrometer.channels,
            },
            safe_state=(Blank(),),
            safe_readback={"blanked": True},
            settling={"SetAberrations": p.settling, "MoveProbe": _MOVE_SETTLING_NS / 1e9},
            calibrations=calibrations(p, self._sensor.counts_per_electron),
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
                **self._spectrometer.readback(),
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
        """Begin a scan: the camera is triggered at every pixel, or the annular detectors that `channels` names."""
        period = round(command.dwell_time * 1e9)
        first, settled = self._begin(period)
        annuli = Annuli(self.geometry, command.channels, self._annuli) if command.channels else None
        self._inside(command.region.corners())
        with self._lock:
            triggers = scan_triggers(command, first, self._triggers, self._lines, self._deflection, self._position)
            self._moved(triggers, command.shape[0] * command.frames, command.dwell_time)
        spec = self._spec(period, map_axes(command))
        if annuli is not None:
            spec = annuli.spec(spec, self._exposer.scatterer)
        return self._exposed(spec, triggers, annuli or self._pattern(), settled)

    def scan_path(self, command: ScanPath) -> Acquisition:
        """Begin a scan along a path; the camera is triggered at every point."""
        period = round(command.dwell_time * 1e9)
        if not command.positions:
            raise DriverError("a path without a place", "at least one position")
        self._inside(np.asarray(command.positions))
        first, settled = self._begin(period)
        with self._lock:
            triggers = path_triggers(command, first, self._triggers, self._lines, self._deflection, self._position)
            self._moved(triggers, 1, command.dwell_time)
        spec = self._spec(period, (Axis("point", len(command.positions)),))
        return self._exposed(spec, triggers, self._pattern(), settled)

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
        unknown = sorted(set(command.values) - set(self._lens.knobs))
        if unknown:
            raise DriverError(f"no knob {', '.join(unknown)}", f"knobs: {', '.join(self._lens.knobs)}")
        return self._lens.turn(command.values, command.absolute, int(self.clock.now_ns()))

    def set_detector(self, command: SetDetector) -> int:
        """Insert or retract the camera; set the depth of its counters where it has them."""
        self._sensor.set(command)
        if command.inserted is not None:
            self._inserted = command.inserted
        return int(self.clock.now_ns())

    def set_spectrometer(self, command: SetSpectrometer) -> int:
        """Set the energy axis and the slit."""
        self._spectrometer.set(command)
        return int(self.clock.now_ns())

    def acquire_reference(self, command: AcquireReference) -> Acquisition:
        """Take frames of the probe in vacuum, of an evenly lit camera, or in the dark."""
        if command.kind not in ("vacuum_probe", "gain", "dark"):
            raise DriverError(f"this column takes no {command.kind} reference", "vacuum_probe, gain or dark")
        period = round(self._dwell * 1e9)
        first, settled = self._begin(period)
        with self._lock:
            triggers = still_triggers(self._position, command.frames, first, self._references, period)
            self._references += command.frames
        triggers = settling_first(triggers, self.clock.now_ns(), period)
        conditions = replace(self._conditions(period, dark=command.kind == "dark"), dose=None, age=None)
        receiver = self._pattern(flat=command.kind == "gain")
        rows = np.arange(triggers.number.size)
        exposures = Exposures(triggers, rows, period, self._vacuum, receiver, conditions, self._silent_ns)
        return self._acquisition(self._spec(period, (), sync="none"), exposures, settled)

    def acquire_spectrum(self, command: AcquireSpectrum) -> Acquisition:
        """Measure the energy losses at a place; an offset or dispersion of the command stays set."""
        if not isinstance(command.kind, EELS):
            raise DriverError(f"this column measures no {type(command.kind).__name__}", "ask for EELS")
        kind, period = command.kind, round(command.kind.exposure * command.kind.n * 1e9)
        self._spectrometer.set(SetSpectrometer(kind.offset, kind.dispersion))
        first, settled = self._begin(period)
        with self._lock:
            triggers = still_triggers(command.position, 1, first, self._spectra, period, scan_index=0)
            self._spectra += 1
            self._position = command.position
        radius = self._dose.footprint(self._lens.at(first))
        receiver = Spectrum(self._spectrometer, self._mounted.composition, kind.n, radius)
        exposures = Exposures(
            triggers, np.zeros(1, np.int64), period, self._exposer, receiver, self._conditions(period)
        )
        return self._acquisition(self._spectrometer.spec(period, self.parameters.can_wait), exposures, settled)

    def expected_spectra(self, kind: Any, positions: NDArray[np.float64]) -> tuple[StreamSpec, NDArray[np.float64]]:
        """Return what the spectrometer would count at places (N, 2) [m] without noise; see `Foretelling`."""
        if not isinstance(kind, EELS):
            raise DriverError(f"this column measures no {type(kind).__name__}", "ask for EELS")
        electrons = self._true.current * self._current * kind.exposure * kind.n / _ELECTRON
        radius = self._dose.footprint(self._lens.at(self.clock.now_ns()))
        places = self._true.placed(np.asarray(positions), np.zeros((len(positions), 2)))
        return self._spectrometer.foretold(kind, self._mounted.composition, places, radius, electrons)

    def truth(self) -> dict[str, Any]:
        """Return what no real column tells, for scoring alone.

        aberrations: now. offset, response: of the lens. drift: (vx, vy) [m/s]. potential: [V m], pixel size
        potential_pixel [m]. dose_map: [e/m²] in cells of dose_cell [m]. grain(x, y): 0 or 1 at places [m]. All are
        about places on the specimen: to_specimen (2, 2) @ commanded (x, y). calibrations: true values by kind.
        composition: see composition.py. And what the specimen, the camera and the damage tell.
        """
        return {
            "aberrations": self._lens.at(self.clock.now_ns()),
            "offset": self._lens.offset,
            "response": self._lens.response.copy(),
            "drift": self._drift.copy(),
            "to_specimen": self._true.scale * self._true.to_scan.T,
            "calibrations": self._true.truth(self.parameters),
            "potential_pixel": self.geometry.pixel,
            "dose_map": self._dose.density,
            "dose_cell": CELL,
            "composition": self._mounted.composition,
            **self._mounted.truth(),
            **self._sensor.truth(),
            **(self._damage.truth() if self._damage else {}),
        }

    def _exposed(
        self, spec: StreamSpec, triggers: Triggers, receiver: Receiver, settled: int
    ) -> Acquisition:  # fmt: skip
        """Return the acquisition of a scan: the frames that arrive of its triggers and of those before them."""
        p = self.parameters
        triggers = settling_first(triggers, self.clock.now_ns(), spec.exposure_ns)
        rates = (p.missed_rate, p.doubled_rate)
        rows = delivered(triggers.number, p.drop_frames, p.double_frames, rates, p.seed)
        conditions = self._conditions(spec.exposure_ns)
        exposures = Exposures(
            triggers, rows, spec.exposure_ns, self._exposer, receiver, conditions, self._silent_ns
        )  # fmt: skip
        return self._acquisition(spec, exposures, settled)

    def _acquisition(self, spec: StreamSpec, exposures: Exposures, settled: int) -> Acquisition:
        made = exposures.frames(self.clock, self._cancelled)
        on_host = round(exposures.period_ns / (self.clock.pace or 1.0))
        sent = self._true.current * self._current * exposures.period_ns * 1e-9 / _ELECTRON
        truth = partial(truth_of, exposures.triggers, exposures.conditions, sent)
        return Acquisition(spec.name, spec, made, settled, on_host, self.read_back(), truth)

    def _inside(self, places: NDArray[np.float64]) -> None:
        """Raise DriverError where places (N, 2) [m] are not on a specimen that ends."""
        edge, most = self._reach * self._mounted.edge, float(np.abs(places).max())
        if most > edge * (1 + 1e-9):
            raise DriverError(
                f"the scan leaves the specimen: {most * 1e9:.3g} nm", f"|x|, |y| <= {edge * 1e9:.3g} nm"
            )

    def _moved(self, triggers: Triggers, lines: int, dwell: float) -> None:
        """Note that a scan was begun; the lock is held."""
        self._triggers += triggers.number.size
        self._lines += lines
        self._dwell = dwell
        x, y = triggers.position[-1]
        self._position = (float(x), float(y))

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

    def _conditions(self, period: int, dark: bool = False) -> Conditions:
        def electrons() -> float:
            return 0.0 if self._blanked or dark else self._true.current * self._current * period * 1e-9 / _ELECTRON

        return Conditions(
            self._lens.states,
            lambda: self._lens.settled_ns,
            self._drifted,
            electrons,
            self._dose,
            self._damage.age if self._damage else None,
            self._true,
        )

    def _drifted(self, time_ns: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return how far the specimen has drifted at times (N,) [ns], (N, 2) [m]."""
        linear: NDArray[np.float64] = time_ns[:, None] * 1e-9 * self._drift
        return linear if self._walk.still else linear + self._walk.at(time_ns)

    def _pattern(self, flat: bool = False) -> Pattern:
        centre = self.geometry.whole_centre
        return Pattern(self._sensor, self.parameters.pixels, lambda: self._inserted, flat, centre)

    def _spec(self, period: int, nav: tuple[Axis, ...], sync: Any = "pixel") -> StreamSpec:
        angle = self.parameters.pixel_angle * 1e-3
        spec = pattern_spec(self._sensor.units, self.parameters.pixels, angle, nav, period, sync)
        return msgspec.structs.replace(spec, can_wait=self.parameters.can_wait)
