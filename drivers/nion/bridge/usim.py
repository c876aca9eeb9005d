"""nionswift-usim as a column: Nion's simulated instrument, camera, spectrometer and scan, without a window.

usim's parts are put together as its own configuration does, but for three things. The camera's sensor is `pixels`
wide instead of 2,048: usim reads a part of a sensor as if it were the whole (shifts and higher orders come out
wrong), and bins the whole one slowly. What a sample looks like is kept until stage or field change. And with a `seed`
the noise, of usim's own distribution, comes from a generator that has one.

How the probe moves: usim shifts the shadow image by the fraction of the scan context at which a parked probe is, so
the context is the whole field, and every exposure names its place in it. It draws the sample into as many cells as
the sensor has pixels, rounding down, and reads cell n / 2 as the middle: half a cell each, which is made good here,
because with a small sensor a cell is some nanometres.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from .server import Refusal
from .wire import MOST_PAYLOAD

PACKAGES = ("nionswift", "nionswift-instrumentation", "nionswift-usim")
CHANNELS = ("HAADF", "MAADF")
DISPERSION = "energy_per_channel_eV"  # no control in usim, but a property
AWAY = 5e-6  # [m] that the stage is moved for vacuum; the largest sample reaches 1 um from its middle
_STAGE = "stage_position_m.x"
PICTURES = 4  # that are kept


class Usim:
    """The simulated column; options: sample, pixels, half_angle [rad], field [m], seed, controls."""

    def __init__(self, options: dict[str, Any]) -> None:
        from nion.device_kit import ScanDevice
        from nion.usim_device import EELSCameraSimulator, InstrumentDevice, RonchigramCameraSimulator
        from nion.utils import Geometry

        self._geometry, self._scan_parameters = Geometry, ScanDevice.ScanFrameParameters
        values, axes = InstrumentDevice.ValueManager(), InstrumentDevice.AxisManager()
        generator = InstrumentDevice.ScanDataGenerator(sample_index=int(options["sample"]))
        self._kept = _Kept(generator)
        self._instrument: Any = InstrumentDevice.Instrument("usim_stem_controller", values, axes, self._kept)
        self._values: Any = values
        self._field = float(options["field"])
        self._pixels = n = int(options["pixels"])
        self._instrument.stage_size_nm = self._field * 1e9
        self._instrument.max_defocus = self._field / math.sin(2 * float(options["half_angle"]))
        self._instrument.set_scan_controller(_Parked(ScanDevice.ScanFrameParameters()))
        context = self._instrument.scan_context
        context.update(Geometry.IntSize(n, n), Geometry.FloatPoint(), self._field * 1e9, 0.0)
        counts = self._instrument.counts_per_electron
        self._camera: Any = RonchigramCameraSimulator.RonchigramCameraSimulator(
            self._instrument, Geometry.IntSize(n, n), counts, self._instrument.stage_size_nm
        )
        self._eels_shape = Geometry.IntSize.make(self._instrument.camera_sensor_dimensions("eels"))
        self._eels: Any = EELSCameraSimulator.EELSCameraSimulator(self._instrument, self._eels_shape, counts)
        self._rng = np.random.default_rng(options["seed"])
        if options["seed"] is not None:
            self._camera.noise, self._eels.noise = SeededNoise(self._rng), SeededNoise(self._rng)
        self._lock = threading.Lock()  # of everything but blanking
        self._changed = threading.Condition()
        self._run = 0
        self.set({str(name): float(value) for name, value in options["controls"].items()})

    def describe(self) -> dict[str, Any]:
        """Return what it is; angles [rad], lengths [m], voltage [V]."""
        vertical, _ = self._camera.get_dimensional_calibrations(None, None)
        return {
            "kind": "usim",
            "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
            "sample": self._kept.title,
            "channels": CHANNELS,
            "pixels": self._pixels,
            "pixel_angle": vertical.scale,
            "field": self._field,
            "energy_channels": self._eels_shape.width,
            "counts_per_electron": self._instrument.counts_per_electron,
            "convergence": self._instrument.GetVal("ConvergenceAngle"),
            "voltage": self._instrument.GetVal("EHT"),
        }

    def get(self, names: list[str]) -> dict[str, float]:
        """Return controls."""
        return {name: self._value(name) for name in names}

    def _value(self, name: str) -> float:
        if name == DISPERSION:
            return float(self._values.energy_per_channel_eV)
        found, value = self._instrument.TryGetVal(name)
        if not found:
            raise Refusal(f"usim has no control {name!r}", "Nion's names, such as C10, C12.x, EHT")
        return float(value)

    def set(self, values: dict[str, float]) -> None:
        """Set controls; blanking waits for nobody."""
        for name in values:
            self._value(name)
        if set(values) == {"C_Blank"}:
            self._instrument.SetVal("C_Blank", values["C_Blank"])
            return
        with self._lock:
            for name, value in values.items():
                if name == DISPERSION:
                    self._values.energy_per_channel_eV = value
                elif not self._instrument.SetVal(name, value):
                    raise Refusal(f"usim does not set {name!r}")

    def probe(self, x: float, y: float) -> None:
        """Put the probe to a place."""
        with self._lock:
            self._instrument.set_probe_position(self._fraction(x, y))

    def begin(self) -> int:
        """Return the number of a new run."""
        with self._changed:
            self._run += 1
            return self._run

    def safe(self) -> None:
        """Blank, and end what runs."""
        with self._changed:
            self._run += 1
            self._instrument.SetVal("C_Blank", 1.0)
            self._changed.notify_all()

    def expose(self, run: int, places: Any, exposure: float, binning: int, of: str) -> tuple[Any, list[int]]:
        """Expose the camera at each place for `exposure` of real time."""
        n, area = self._pixels, self._geometry.IntRect.from_tlbr(0, 0, self._pixels, self._pixels)
        if binning < 1 or n % binning:
            raise Refusal(f"binning {binning} does not divide {n} pixels", "1, 2, 4 or 8")
        size, bins = n // binning, self._geometry.IntSize(binning, binning)
        if 4 * len(places) * size**2 > MOST_PAYLOAD:
            raise Refusal(f"{len(places)} frames at once are too many")
        frames, times = np.empty((len(places), size, size), np.float32), list[int]()
        off = (1 + binning) / 2 * self._field / n
        with self._lock, self._looking_at(of, run):
            for x, y in places.tolist():
                if self._run != run:
                    break
                times.append(time.monotonic_ns())
                where = self._fraction(x - off, y - off)
                data = self._camera.get_frame_data(area, bins, exposure, self._instrument.scan_context, where)
                frames[len(times) - 1] = data.data
                if not self._exposed(run, times[-1] + round(exposure * 1e9)):
                    times.pop()
                    break
        return frames[: len(times)], times

    def scan(
        self, run: int, channels: list[str], shape: tuple[int, int], size: tuple[float, float],
        centre: tuple[float, float], dwell: float,
    ) -> Any:  # fmt: skip
        """Return what usim's scan generator gives; nothing at all of a blanked beam, which it does not mind."""
        unknown = sorted(set(channels) - set(CHANNELS))
        if unknown:
            raise Refusal(f"no detector {', '.join(unknown)}", f"channels: {', '.join(CHANNELS)}")
        parameters = self._scan_parameters(
            pixel_size=shape, fov_nm=size[1] * 1e9, center_nm=(centre[1] * 1e9, centre[0] * 1e9),
            pixel_time_us=dwell * 1e6, rotation_rad=0.0,
        )  # fmt: skip
        images = np.empty((len(channels), *shape), np.float32)
        with self._lock:
            for i in range(len(channels)):
                if self._run != run:
                    return images[:0]
                images[i] = 0.0 if self._blanked else self._kept.generate_scan_data(self._instrument, parameters)
        return images

    def spectrum(self, run: int, x: float, y: float, exposure: float, n: int) -> tuple[Any, int]:
        """Return the sum of `n` read-outs, over the height of the sensor."""
        area = self._geometry.IntRect.from_tlbr(0, 0, *self._eels_shape)
        once = self._geometry.IntSize(1, 1)
        total, begun = np.zeros(self._eels_shape.width, np.float32), time.monotonic_ns()
        with self._lock, self._looking_at("sample", run):
            for i in range(n):
                if not self._blanked and self._run == run:
                    data = self._eels.get_frame_data(
                        area, once, exposure, self._instrument.scan_context, self._fraction(x, y)
                    )
                    total += data.data.sum(axis=0)
                if not self._exposed(run, begun + round((i + 1) * exposure * 1e9)):
                    return total[:0], begun
        return total, begun

    @property
    def _blanked(self) -> bool:
        return bool(self._values.is_blanked)

    def _fraction(self, x: float, y: float) -> Any:
        return self._geometry.FloatPoint(y=0.5 + y / self._field, x=0.5 + x / self._field)

    def _exposed(self, run: int, until_ns: int) -> bool:
        """Wait for the end of an exposure; False when `safe` came meanwhile."""
        with self._changed:
            while (left := until_ns - time.monotonic_ns()) > 0 and self._run == run:
                self._changed.wait(left / 1e9)
            return self._run == run

    @contextlib.contextmanager
    def _looking_at(self, of: str, run: int) -> Iterator[None]:
        """Blank the beam, or move the sample away, and back; unless `safe` came meanwhile, which leaves it blanked.

        The cameras are made to calculate anew: one that was at it when the beam was blanked may not have noticed.
        """
        blanked, stage = self._blanked, self._instrument.GetVal(_STAGE)
        if of == "dark":
            self._values.is_blanked = True
        elif of == "vacuum":
            self._instrument.SetVal(_STAGE, stage + AWAY)
        elif of != "sample":
            raise Refusal(f"nothing is called {of!r} here", "sample, dark, vacuum")
        self._values.property_changed_event.fire("is_blanked")
        try:
            yield
        finally:
            self._instrument.SetVal(_STAGE, stage)
            with self._changed:
                if self._run == run:
                    self._values.is_blanked = blanked


class SeededNoise:
    """usim's noise from a generator with a seed: of variance `poisson_level`, added whatever the signal is."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.enabled = True
        self.poisson_level: float | None = None
        self._rng = rng

    def apply(self, frame: Any) -> Any:
        """Return the frame with noise."""
        level = self.poisson_level
        if not (self.enabled and level):
            return frame
        if level > 1.0:
            return frame + self._rng.standard_normal(frame.data_shape, np.float32) * np.float32(math.sqrt(level))
        return frame + (self._rng.poisson(level, frame.data_shape) - level).astype(np.float32)


class _Kept:
    """usim's generator of scan data and its sample, whose picture is kept while nothing that it shows changes."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator
        self._pictures: dict[Any, Any] = {}

    @property
    def sample(self) -> _Kept:
        """What the cameras look at."""
        return self

    @property
    def title(self) -> str:
        """The sample's name."""
        return str(self._generator.sample.title)

    @property
    def features(self) -> Any:
        """The sample's features."""
        return self._generator.sample.features

    def plot_features(self, data: Any, offset_m: Any, fov_nm: Any, extra_nm: Any, centre_nm: Any, size: Any) -> None:
        """Add the sample's picture to `data`."""
        key = (*(tuple(each) for each in (offset_m, fov_nm, extra_nm, centre_nm, size)), data.shape)
        picture = self._pictures.get(key)
        if picture is None:
            picture = np.zeros_like(data)
            self._generator.sample.plot_features(picture, offset_m, fov_nm, extra_nm, centre_nm, size)
            while len(self._pictures) >= PICTURES:
                del self._pictures[next(iter(self._pictures))]
            self._pictures[key] = picture
        data += picture

    def generate_scan_data(self, instrument: Any, parameters: Any) -> Any:
        """Return an image of the annular detectors, (ny, nx)."""
        return self._generator.generate_scan_data(instrument, parameters)


class _Parked:
    """A scan controller that never scans: usim's cameras then take the place of the parked probe."""

    scan_device = object()

    def __init__(self, parameters: Any) -> None:
        self._parameters = parameters

    def get_current_frame_parameters(self) -> Any:
        """Return what the scan context starts with."""
        return self._parameters
