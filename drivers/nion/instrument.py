"""A Nion microscope as an instrument: describes itself, obeys commands, hands out frames, becomes safe."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from probeloop.api import (
    EELS,
    AcquireReference,
    AcquireSpectrum,
    Acquisition,
    Axis,
    Blank,
    Calibration,
    Clock,
    DriverError,
    InstrumentInfo,
    Limits,
    MonotonicClock,
    MoveProbe,
    Scan,
    SetAberrations,
    SetBeam,
    SetDetector,
    SetSpectrometer,
    StreamSpec,
    Unblank,
    wavelength,
)

from .knobs import BLANK, CONTROLS, KNOBS, READ, SPECTROMETER
from .link import REST_TIMEOUT, VALUES_TIMEOUT, Bridge, GuardPort, OwnBridge, interpreter
from .scanning import Visits, camera_frames, camera_spec, image_spec, image_values, map_axes, one_spectrum
from .settings import NionSettings

Origin = Literal["experiment", "simulation"]
SHORTEST = 1e-4  # [s] exposure of the camera
MOST_CURRENT = 1e-9  # [A]
MARGIN = 0.2  # of the field that rays of a defocused probe may need beyond the probe itself, on each side
REFERENCES = {"dark": "dark", "vacuum_probe": "vacuum"}
ENERGY = {"energy_offset": (-200.0, 3000.0), "dispersion": (0.01, 2.0)}


class Nion:
    """A Nion microscope behind a bridge: nionswift-usim, which is the only one it was tried with."""

    Parameters: ClassVar[type[NionSettings]] = NionSettings

    def __init__(self, parameters: NionSettings | None = None) -> None:
        self.parameters = parameters or NionSettings()
        self.clock: Clock = MonotonicClock()
        self._starting = threading.Lock()
        self._cancelled = threading.Event()
        self._position = (0.0, 0.0)
        self._exposure, self._binning = 1e-2, self.parameters.binning
        self._closed = False
        self._bridge = self._start({})
        self.about = self._bridge.about

    @staticmethod
    def guard_connection(parameters: NionSettings) -> GuardPort:
        """Connect once more, for the guard."""
        return GuardPort((parameters.port, parameters.key) if parameters.attach else None)

    def describe(self) -> InstrumentInfo:
        """Say what it can do."""
        reach, pixels = (0.5 - MARGIN) * float(self.about["field"]), self._pixels
        voltage, alpha = float(self.about["voltage"]), float(self.about["convergence"])
        return InstrumentInfo(
            name="nion",
            modality="stem",
            origin=self._origin,
            commands=(
                "Scan", "MoveProbe", "Blank", "Unblank", "SetBeam", "SetAberrations", "SetDetector",
                "SetSpectrometer", "AcquireReference", "AcquireSpectrum",
                "Stop", "Pause", "Resume", "Settle", "Read", "Annotate",
            ),
            limits=Limits(
                region=((-reach, -reach), (reach, reach)),
                dwell_time=(1e-6, 10.0),
                beam_current=(0.0, MOST_CURRENT),
                knobs={name: (-most, most) for name, most in KNOBS.items()},
                spectrometer=ENERGY,
                flux_per_pixel=1e9,
            ),
            topics={
                "camera": 4 * pixels**2,
                "scan": 4 * len(self.about["channels"]),
                "spectrum": 4 * int(self.about["energy_channels"]),
            },
            safe_state=(Blank(),),
            safe_readback={"blanked": True},
            calibrations=self._calibrations(),
            camera_pixels=pixels**2,
            footprint=0.6 * wavelength(voltage) / alpha,
            description=f"Nion ({self.about['kind']}): {self.about['sample']}, {voltage / 1e3:g} kV",
        )  # fmt: skip

    def read_back(self) -> dict[str, Any]:
        """Return Nion's own values: knobs, stage and shift [m], beam_current [A], voltage [V], energies [eV], angles.

        Of a bridge that is gone, with the microscope that it simulated: that nothing is on the sample.
        """
        place = {"position_x": self._position[0], "position_y": self._position[1], "detector_inserted": True}
        bridge = self._bridge
        if bridge.ended:
            return {"blanked": True, **place, "running": False, **dict.fromkeys(READ)}
        head, _ = bridge.values.ask("get", VALUES_TIMEOUT, names=[BLANK, *READ.values()])
        values = head["values"]
        ours = {name: float(values[control]) for name, control in READ.items()}
        return {
            "blanked": bool(values[BLANK]),
            **place,
            "running": True,
            "exposure": self._exposure,
            "binning": self._binning,
            **ours,
        }

    def make_safe(self) -> None:
        """Blank, and end what runs; a bridge that does not answer is ended, and its microscope with it."""
        self._cancelled.set()
        bridge = self._bridge
        if bridge.ended:
            return
        try:
            bridge.safety.ask("safe")
        except DriverError:
            bridge.kill()

    def close(self) -> None:
        """End the bridge."""
        self._closed = True
        self._cancelled.set()
        with self._starting:
            self._bridge.close()

    def scan(self, command: Scan) -> Acquisition:
        """Begin a scan: the Ronchigram camera at every pixel, or the annular detectors that `channels` names."""
        if command.channels:
            return self._image(command)
        period = self._period(command.dwell_time)
        run, visits = self._begin(), Visits.of(command)
        spec = camera_spec(map_axes(command.region, command.shape), self._pixels, self._angle, period)
        flyback = round(command.flyback_time * 1e9)
        expose = self._expose(run, command.dwell_time)
        frames = camera_frames(visits, expose, flyback, self.clock, self._cancelled)
        self._position = (float(visits.places[-1, 0]), float(visits.places[-1, 1]))
        return self._acquisition(spec, frames, period)

    def move_probe(self, command: MoveProbe) -> int:
        """Move the probe."""
        self._ask("probe", x=command.position[0], y=command.position[1])
        self._position = command.position
        return self.clock.now_ns()

    def blank(self, command: Blank) -> int:
        """Take the beam off."""
        return self._set({BLANK: 1.0})

    def unblank(self, command: Unblank) -> int:
        """Put the beam on."""
        return self._set({BLANK: 0.0})

    def set_beam(self, command: SetBeam) -> int:
        """Set the current; there are no spot numbers here."""
        if command.current is None:
            raise DriverError("this column has no spot numbers", "give a current in A")
        return self._set({"BeamCurrent": command.current})

    def set_aberrations(self, command: SetAberrations) -> int:
        """Turn knobs."""
        unknown = sorted(set(command.values) - set(CONTROLS))
        if unknown:
            raise DriverError(f"no knob {', '.join(unknown)}", f"knobs: {', '.join(CONTROLS)}")
        wanted = {CONTROLS[name]: value for name, value in command.values.items()}
        if not command.absolute and wanted:
            head = self._ask("get", names=list(wanted))
            wanted = {control: value + head["values"][control] for control, value in wanted.items()}
        return self._set(wanted)

    def set_detector(self, command: SetDetector) -> int:
        """Set the exposure of references; the binning is the settings', because the calibrations hold for it."""
        absent = [name for name in ("threshold", "bit_depth", "roi") if getattr(command, name) is not None]
        if absent:
            raise DriverError(f"this camera has no {', '.join(absent)}", "exposure, binning")
        if command.inserted is False:
            raise DriverError("this camera can't be retracted", "inserted = true")
        if command.binning not in (None, self._binning):
            raise DriverError(f"the calibrations hold for a binning of {self._binning}", "set it in the rig: binning")
        if command.exposure is not None:
            self._period(command.exposure)
            self._exposure = command.exposure
        return self.clock.now_ns()

    def set_spectrometer(self, command: SetSpectrometer) -> int:
        """Set the energy axis."""
        if command.slit is not None:
            raise DriverError("this spectrometer has no slit whose width can be set", "energy_offset, dispersion")
        values = {name: getattr(command, name) for name in SPECTROMETER}
        return self._set({SPECTROMETER[name]: value for name, value in values.items() if value is not None})

    def acquire_reference(self, command: AcquireReference) -> Acquisition:
        """Take frames with the beam blanked, or the sample moved away; it comes back after each block of them."""
        if command.kind not in REFERENCES:
            raise DriverError(f"this column takes no {command.kind} reference", ", ".join(REFERENCES))
        period, run = self._period(self._exposure), self._begin()
        spec = camera_spec((), self._pixels, self._angle, period, mapped=False)
        visits = Visits.still(self._position, command.frames)
        expose = self._expose(run, self._exposure, of=REFERENCES[command.kind])
        return self._acquisition(spec, camera_frames(visits, expose, 0, self.clock, self._cancelled), period)

    def acquire_spectrum(self, command: AcquireSpectrum) -> Acquisition:
        """Measure the energy losses at a place; an offset or dispersion of the command stays set."""
        kind = command.kind
        if not isinstance(kind, EELS):
            raise DriverError(f"this column measures no {type(kind).__name__}", "ask for EELS")
        self.set_spectrometer(SetSpectrometer(kind.offset, kind.dispersion))
        run, (x, y) = self._begin(), command.position
        head = self._ask("get", names=list(SPECTROMETER.values()))
        offset, dispersion = (float(head["values"][control]) for control in SPECTROMETER.values())
        axis = Axis("energy_loss", self.about["energy_channels"], dispersion, offset, "eV")
        period = round(kind.exposure * kind.n * 1e9)
        spec = StreamSpec(
            "spectrum", "spectra", "<f4", (), (axis,), units="counts", origin="simulation", sync="none",
            stamp="hardware", exposure_ns=period,
        )  # fmt: skip

        def take() -> tuple[NDArray[np.float32], int] | None:
            about, counts = self._bridge.work.ask(
                "spectrum", kind.exposure * kind.n + REST_TIMEOUT, run=run, x=x, y=y, exposure=kind.exposure, n=kind.n
            )
            return (np.frombuffer(counts, "<f4"), int(about["time"])) if about["count"] else None

        self._position = command.position
        return self._acquisition(spec, one_spectrum(take, command.position), period)

    def _image(self, command: Scan) -> Acquisition:
        """Begin a scan with the annular detectors, whose scan unit has square pixels and no rotation here."""
        region, (ny, nx) = command.region, command.shape
        if abs(region.width / nx - region.height / ny) > 1e-6 * region.width / nx:
            raise DriverError("Nion's scan has square pixels", "width / nx = height / ny")
        if region.rotation:
            raise DriverError("a rotated scan is for the camera alone", "rotation = 0, or no channels")
        unknown = sorted(set(command.channels) - set(self.about["channels"]))
        if unknown:
            raise DriverError(f"no detector {', '.join(unknown)}", f"channels: {', '.join(self.about['channels'])}")
        run, visits = self._begin(), Visits.of(command)
        spec = image_spec(map_axes(region, command.shape), command.channels, round(command.dwell_time * 1e9))

        def image() -> NDArray[np.float32] | None:
            head, data = self._work(
                "scan", ny * nx * command.dwell_time, run=run, channels=command.channels, shape=command.shape,
                width=region.width, height=region.height, centre_x=region.centre_x, centre_y=region.centre_y,
                dwell=command.dwell_time,
            )  # fmt: skip
            return np.frombuffer(data, "<f4").reshape(-1, ny, nx) if head["count"] else None

        self._position = (float(visits.places[-1, 0]), float(visits.places[-1, 1]))
        frames = image_values(command, visits, image, self.clock, self._cancelled)
        return self._acquisition(spec, frames, spec.exposure_ns)

    def _expose(self, run: int, exposure: float, *, of: str = "sample") -> Any:
        binning = self._binning

        def expose(places: NDArray[np.float64], memory: memoryview) -> list[int]:
            head, data = self._work(
                "expose", len(places) * exposure, np.ascontiguousarray(places, "<f8").tobytes(), memory,
                run=run, exposure=exposure, binning=binning, of=of,
            )  # fmt: skip
            if data.nbytes != memory.nbytes // len(places) * head["count"]:
                raise DriverError(f"the Nion bridge sent {data.nbytes} bytes for {head['count']} frames")
            return list(head["times"])

        return expose

    def _acquisition(self, spec: StreamSpec, frames: Any, period: int) -> Acquisition:
        spec = msgspec.structs.replace(spec, origin=self._origin)
        settings = {f"nion_{name}": value for name, value in self.about["versions"].items()}
        return Acquisition(spec.name, spec, frames, frame_period_ns=period, settings={**self.read_back(), **settings})

    @property
    def _origin(self) -> Origin:
        return "simulation" if self.about["kind"] == "usim" else "experiment"

    @property
    def _pixels(self) -> int:
        return int(self.about["pixels"]) // self._binning

    @property
    def _angle(self) -> float:
        return float(self.about["pixel_angle"]) * self._binning

    def _period(self, exposure: float) -> int:
        if exposure < SHORTEST:
            raise DriverError(f"the camera can't expose for {exposure * 1e6:g} us", f"at least {SHORTEST * 1e6:g} us")
        return round(exposure * 1e9)

    def _begin(self) -> int:
        """Start an acquisition: return the bridge's number of it."""
        self._cancelled = threading.Event()
        return int(self._ask("begin")["run"])

    def _set(self, values: dict[str, float]) -> int:
        if values:
            self._ask("set", values=values)
        return self.clock.now_ns()

    def _ask(self, do: str, **fields: Any) -> dict[str, Any]:
        """Ask a bridge that runs, starting another one where it has ended."""
        with self._starting:
            if not self._bridge.usable and not self._closed:
                self._bridge.close()
                self._bridge = self._start({BLANK: 1.0})
        return self._work(do, 0.0, **fields)[0]

    def _work(
        self, do: str, lasts: float, payload: bytes = b"", into: memoryview | None = None, /, **fields: Any
    ) -> tuple[dict[str, Any], memoryview]:  # fmt: skip
        bridge = self._bridge
        try:
            return bridge.work.ask(do, lasts + REST_TIMEOUT, payload, into, **fields)
        except DriverError:
            if bridge.work.whole:
                raise
            how = bridge.lost()
            if not how:
                raise
            raise DriverError(how, "the next command starts another") from None

    def _start(self, more: dict[str, float]) -> Bridge:
        """Start a bridge; more: controls to set besides those of the settings."""
        p = self.parameters
        if p.attach:
            return Bridge(p.port, p.key)
        options = {
            "port": p.port, "sample": p.sample, "pixels": p.camera_pixels, "half_angle": p.half_angle * 1e-3,
            "field": p.field * 1e-9, "seed": p.seed,
            "controls": {"S_VOA": 1.0, "ConvergenceAngle": p.convergence * 1e-3, **p.controls, **more},
        }  # fmt: skip
        return OwnBridge(interpreter(p.python), options, p.start_timeout)

    def _calibrations(self) -> tuple[Calibration, ...]:
        half, voltage = self._pixels / 2, float(self.about["voltage"])
        now = datetime.now(UTC).isoformat(timespec="seconds")

        def known(kind: Any, value: tuple[float, ...], units: str) -> Calibration:
            return Calibration(
                id=f"nion-{kind}", kind=kind, value=value, sigma=(0.0,) * len(value), units=units,
                method=f"as Nion's {self.about['kind']} states it", time=now, valid_for={"voltage": voltage},
            )  # fmt: skip

        return (
            known("pattern_centre", (half, half), "px"),
            known("detector_scale", (self._angle,), "rad/px"),
            known("convergence_angle", (float(self.about["convergence"]),), "rad"),
            known("scan_detector_rotation", (0.0,), "rad"),
            known("scan_detector_flip", (1.0,), ""),
            known("counts_per_electron", (float(self.about["counts_per_electron"]),), "counts/e"),
        )
