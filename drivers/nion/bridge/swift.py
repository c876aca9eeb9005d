"""A running Nion Swift as a column: its STEM controller, scan and cameras, as Nion's registry names them.

Nion Swift keeps these in its own process, so this runs inside it. In its Python console, with the folder
`drivers/nion` of probeloop on the path:

    import sys; sys.path.insert(0, "DRIVERS/nion")
    from bridge import swift; bridge = swift.serve(port=28700, key="a word", field=100e-9)

and in the rig `attach = true`, `port = 28700`, `key = "a word"`. It was tried with the devices of nionswift-usim in
a process without a window, and with nothing else: on a real column watch the first steps with the valve closed.

The probe is put to every place before its frame is taken: parked, in fractions of the scan context, which is why
nothing outside of the field of view that Nion Swift has set can be reached. A frame counts when it began after that,
so that each takes up to two exposures.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import threading
import time
from typing import Any

import numpy as np

from .server import Refusal, Server

WAIT = 30.0  # [s] beyond two exposures


def serve(port: int, key: str, field: float) -> Server:
    """Serve the microscope of this Nion Swift until `close()`; field: width that a scan may have [m]."""
    return Server(Swift(field), key, port, stays=True)


class Swift:
    """The devices that Nion Swift has registered; raises Refusal where one is missing."""

    def __init__(self, field: float) -> None:
        from nion.utils import Geometry, Registry

        self._geometry, self._field = Geometry, field
        self._stem: Any = Registry.get_component("stem_controller")
        if self._stem is None:
            raise Refusal("Nion Swift has no STEM controller", "load an instrument first")
        self._scan, self._camera, self._eels = (
            self._device(name) for name in ("scan_controller", "ronchigram_camera", "eels_camera")
        )
        self._lock, self._changed = threading.Lock(), threading.Condition()
        self._run = 0

    def _device(self, name: str) -> Any:
        device = getattr(self._stem, name)
        if device is None:
            raise Refusal(f"Nion Swift has no {name.replace('_', ' ')}", "load it first")
        return device

    def describe(self) -> dict[str, Any]:
        """Return what it is; angles [rad], lengths [m], voltage [V]."""
        camera = self._camera.camera
        height, width = camera.get_expected_dimensions(1)
        if height != width:
            raise Refusal(f"the camera reads out {height} x {width} pixels", "a square readout area")
        controls = camera.calibration_controls
        _, energy_channels = self._eels.camera.get_expected_dimensions(
            self._eels.get_current_frame_parameters().binning
        )
        return {
            "kind": "swift",
            "versions": {"nionswift": importlib.metadata.version("nionswift")},
            "sample": "sample",
            "channels": self._channels(),
            "pixels": height,
            "pixel_angle": self._stem.GetVal(controls["y_scale_control"]),
            "field": self._field,
            "energy_channels": energy_channels,
            "counts_per_electron": controls.get("counts_per_electron_value", 0),
            "convergence": self._stem.GetVal("ConvergenceAngle"),
            "voltage": self._stem.GetVal("EHT"),
        }

    def get(self, names: list[str]) -> dict[str, float]:
        """Return controls."""
        return {name: self._value(name) for name in names}

    def _value(self, name: str) -> float:
        if name == "energy_per_channel_eV":
            binning = self._eels.get_current_frame_parameters().binning
            return float(self._stem.GetVal(self._eels.camera.calibration_controls["x_scale_control"]) * binning)
        found, value = self._stem.TryGetVal(name)
        if not found:
            raise Refusal(f"this instrument has no control {name!r}", "Nion's names, such as C10, C12.x, EHT")
        return float(value)

    def set(self, values: dict[str, float]) -> None:
        """Set controls; blanking waits for nobody."""
        for name in values:
            self._value(name)
        if "energy_per_channel_eV" in values:
            raise Refusal("the dispersion is set in Nion Swift", "energy_offset")
        with contextlib.nullcontext() if set(values) == {"C_Blank"} else self._lock:
            for name, value in values.items():
                if not self._stem.SetVal(name, value):
                    raise Refusal(f"the instrument does not set {name!r}")

    def probe(self, x: float, y: float) -> None:
        """Put the probe to a place."""
        with self._lock:
            self._stem.set_probe_position(self._fraction(x, y))

    def begin(self) -> int:
        """Return the number of a new run."""
        with self._changed:
            self._run += 1
            return self._run

    def safe(self) -> None:
        """Blank, and end what runs."""
        with self._changed:
            self._run += 1
            self._stem.SetVal("C_Blank", 1.0)
        with contextlib.suppress(Exception):  # nothing was running; the beam is off
            self._scan.abort_recording()

    def expose(self, run: int, places: Any, exposure: float, binning: int, of: str) -> tuple[Any, list[int]]:
        """Take a frame at each place."""
        if of == "vacuum":
            raise Refusal("no sample is moved away by itself", "sample, dark")
        frames, times = list[Any](), list[int]()
        with self._lock:
            blanked = self._stem.GetVal("C_Blank")
            if of == "dark":
                self._stem.SetVal("C_Blank", 1.0)
            for x, y in places.tolist():
                if self._run != run:
                    break
                self._stem.set_probe_position(self._fraction(x, y))
                begun, data = self._grab(self._camera, exposure, binning)
                if self._run == run:
                    frames.append(data)
                    times.append(begun)
            with self._changed:
                if self._run == run and of == "dark":
                    self._stem.SetVal("C_Blank", blanked)
        return np.asarray(frames, np.float32).reshape(len(frames), *self._shape(binning)), times

    def scan(
        self, run: int, channels: list[str], shape: tuple[int, int], size: tuple[float, float],
        centre: tuple[float, float], dwell: float,
    ) -> Any:  # fmt: skip
        """Record one frame of the annular detectors."""
        known = self._channels()
        unknown = sorted(set(channels) - set(known))
        if unknown:
            raise Refusal(f"no detector {', '.join(unknown)}", f"channels: {', '.join(known)}")
        with self._lock:
            if self._run != run:
                return np.empty((0, *shape), np.float32)
            parameters = self._scan.get_current_frame_parameters()
            parameters.pixel_size, parameters.fov_nm = self._geometry.IntSize(*shape), size[1] * 1e9
            parameters.center_nm = self._geometry.FloatPoint(y=centre[1] * 1e9, x=centre[0] * 1e9)
            parameters.pixel_time_us, parameters.rotation_rad = dwell * 1e6, 0.0
            order = [known.index(name) for name in channels]
            before = [i for i in range(len(known)) if self._scan.get_channel_enabled(i)]
            self._scan.set_enabled_channels(order)
            try:
                made = self._scan.record_immediate(parameters)
            finally:
                self._scan.set_enabled_channels(before)
        if self._run != run:
            return np.empty((0, *shape), np.float32)
        by_channel = dict(zip(sorted(order), made, strict=True))
        return np.asarray([by_channel[i].data for i in order], np.float32)

    def spectrum(self, run: int, x: float, y: float, exposure: float, n: int) -> tuple[Any, int]:
        """Return the sum of `n` read-outs, over the height of the sensor."""
        total: Any = None
        begun = time.monotonic_ns()
        with self._lock:
            self._stem.set_probe_position(self._fraction(x, y))
            for _ in range(n):
                if self._run != run:
                    break
                _, data = self._grab(self._eels, exposure, self._eels.get_current_frame_parameters().binning)
                rows = np.asarray(data, np.float32).reshape(-1, data.shape[-1]).sum(axis=0)
                total = rows if total is None else total + rows
        return (total if self._run == run and total is not None else np.empty(0, np.float32)), begun

    def _grab(self, camera: Any, exposure: float, binning: int) -> tuple[int, Any]:
        """Return the start [ns] and the data of a frame that began after now."""
        parameters = camera.get_current_frame_parameters()
        parameters.exposure_ms, parameters.binning = exposure * 1e3, binning
        camera.set_current_frame_parameters(parameters)
        if not camera.is_playing:
            camera.start_playing()
        (made, *_) = camera.grab_next_to_start(timeout=2 * exposure + WAIT)
        return time.monotonic_ns() - round(exposure * 1e9), made.data

    def _shape(self, binning: int) -> tuple[int, int]:
        height, width = self._camera.camera.get_expected_dimensions(binning)
        return int(height), int(width)

    def _channels(self) -> list[str]:
        return [str(self._scan.get_channel_name(i)) for i in range(self._scan.channel_count)]

    def _fraction(self, x: float, y: float) -> Any:
        context = self._stem.scan_context
        field, centre = context.fov_size_nm, context.center_nm
        fx, fy = 0.5 + (x * 1e9 - centre.x) / field.width, 0.5 + (y * 1e9 - centre.y) / field.height
        if not (0 <= fx <= 1 and 0 <= fy <= 1):
            raise Refusal(
                f"{x * 1e9:.4g}, {y * 1e9:.4g} nm lies outside of Nion Swift's scan",
                "scan a larger field there first",
            )
        return self._geometry.FloatPoint(y=fy, x=fx)
