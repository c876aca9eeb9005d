"""The detector as its DCU tells it: what it is, how it is set, and how it is made ready for a series."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from probeloop.api import DriverError, SetDetector

from .settings import DectrisSettings
from .simplon import Simplon, Value

BUSY = ("ready", "acquire", "configure", "initialize", "test")
_STATUS = {  # what we call it: where it may be, by firmware
    "temperature": ("temperature", "board_000/th0_temp"),
    "humidity": ("humidity", "board_000/th0_humidity"),
    "high_voltage": ("high_voltage/state",),
}
_CONFIG = {
    "exposure": ("count_time",),
    "frame_time": ("frame_time",),
    "bit_depth": ("bit_depth_image",),
    "threshold": ("threshold/1/energy", "threshold_energy"),
    "trigger_mode": ("trigger_mode",),
    "compression": ("compression",),
    "images": ("nimages",),
    "triggers": ("ntrigger",),
    "incident_energy": ("incident_energy",),
}
_DETECTOR = ("description", "detector_number", "software_version", "eiger_fw_version", "sensor_material",
             "sensor_thickness", "x_pixel_size", "y_pixel_size", "detector_readout_time")  # fmt: skip


@dataclass(frozen=True)
class Sensor:
    """What a frame is. shape: (height, width). bits: 8, 16 or 32."""

    shape: tuple[int, int]
    bits: int


@dataclass(frozen=True)
class Timing:
    """How a series is taken. mode: ints, inte, exts or exte. images: a trigger. period, exposure: [s]."""

    mode: str
    images: int
    triggers: int
    period: float
    exposure: float | None = None


class Detector:
    """A detector behind a DCU; any thread. Raises DriverError at every call when the DCU does not do it."""

    def __init__(self, settings: DectrisSettings) -> None:
        self.settings = settings
        self.simplon = Simplon(settings.host, settings.api_port, settings.timeout, settings.api_version)
        self._known: dict[str, tuple[str, str]] = {}
        self.sensor()
        self.fixed = {name: found.value for name in _DETECTOR if (found := self.simplon.find("config", name))}
        for kind, names in (("status", _STATUS), ("config", _CONFIG)):
            for ours, theirs in names.items():
                there = next((name for name in theirs if self.simplon.find(kind, name)), None)  # type: ignore[arg-type]
                if there is not None:
                    self._known[ours] = (kind, there)

    @property
    def readout_time(self) -> float:
        """How long it counts nothing between two frames [s], 0 = it does not say."""
        value = self.fixed.get("detector_readout_time", 0.0)
        return float(value) if isinstance(value, int | float) and 0 <= value < 10 else 0.0

    def sensor(self) -> Sensor:
        """Return what a frame is now."""
        height, width, bits = (
            self.simplon.get("config", name).value
            for name in ("y_pixels_in_detector", "x_pixels_in_detector", "bit_depth_image")
        )
        if not all(isinstance(n, int) and not isinstance(n, bool) for n in (height, width, bits)) or bits not in (
            8,
            16,
            32,
        ):
            raise DriverError(
                f"{self.simplon} has {width!r} x {height!r} pixels of {bits!r} bit", "8, 16 and 32 bit can be read"
            )
        if not (1 <= height <= 1 << 16 and 1 <= width <= 1 << 16):
            raise DriverError(f"{self.simplon} has {width} x {height} pixels", "65,536 a side at most can be read")
        return Sensor((height, width), bits)

    def state(self) -> str:
        """Return the detector's state, "unknown" where the DCU has no such status."""
        found = self.simplon.find("status", "state")
        return found.value if found is not None and isinstance(found.value, str) else "unknown"

    def read(self) -> dict[str, Any]:
        """Return its values by our names."""
        values: dict[str, Any] = {"state": self.state()}
        for ours, (kind, theirs) in self._known.items():
            found = self.simplon.find(kind, theirs)  # type: ignore[arg-type]
            if found is not None and isinstance(found.value, int | float | str | bool):
                values[ours] = found.value
        dropped = self.simplon.find("status", "dropped", "stream")
        if dropped is not None and isinstance(dropped.value, int):
            values["stream_dropped"] = dropped.value
        return values

    def frame_time(self) -> float:
        """Return how long a frame takes now [s]."""
        value = self.simplon.get("config", "frame_time").value
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 3600:
            raise DriverError(f"{self.simplon} has a frame time of {value!r}", "set frame_time at the DCU")
        return float(value)

    def frame_times(self) -> tuple[float, float]:
        """Return the shortest and the longest frame [s]."""
        found = self.simplon.find("config", "frame_time")
        low, high = (getattr(found, name, None) for name in ("min", "max"))
        shortest = float(low) if isinstance(low, int | float) and 0 < low <= 60 else 1e-6
        longest = float(high) if isinstance(high, int | float) and shortest < high <= 3600 else 3600.0
        return shortest, longest

    def wake(self) -> None:
        """See that it is idle; initialize one that never was. Raises DriverError for one that is busy or faulty."""
        state = self.state()
        if state == "na":
            self.simplon.command("initialize")
            state = self.state()
        if state in BUSY:
            raise DriverError(f"{self.simplon} is busy: its state is {state!r}", "wait for it, or STOP to abort it")
        if state not in ("idle", "unknown"):
            raise DriverError(f"{self.simplon} can't measure: its state is {state!r}", "initialize it at the DCU")

    @contextlib.contextmanager
    def unless(self, stopped: Callable[[], bool]) -> Iterator[None]:
        """Ask and set parameters inside only while it is not `stopped`; raises DriverError then."""
        self.simplon.stopped = stopped
        try:
            yield
        finally:
            self.simplon.stopped = lambda: False

    def prepare(self, timing: Timing) -> None:
        """Set it and its stream for a series; raises DriverError when the DCU has something else afterwards."""
        ensure = self.simplon.ensure
        wanted: dict[str, Any] = {"trigger_mode": timing.mode, "compression": self.settings.compression}
        exposure = timing.exposure
        if exposure is None:
            exposure = timing.period - self.readout_time
        if not 0 < exposure <= timing.period:
            raise DriverError(
                f"an exposure of {exposure:g} s in a dwell time of {timing.period:g} s",
                f"a dwell time above {max(timing.exposure or 0, self.readout_time):g} s",
            )
        wanted |= {"count_time": exposure, "frame_time": timing.period}
        wanted |= {"nimages": timing.images, "ntrigger": timing.triggers}
        for name, value in wanted.items():
            ensure(name, value)
        for name, value in wanted.items():
            self._as_wanted(name, value, self.simplon.get("config", name))
        for name, value in self._stream().items():
            if name != "mode" and self.simplon.find("config", name, "stream") is None:
                if name == "format" and value == "cbor":
                    raise DriverError(f"{self.simplon} has no stream v2 (release 2022.1)", "set stream = 'v1'")
                continue
            self._as_wanted(name, value, ensure(name, value, "stream"))

    def appendices(self) -> tuple[bool, bool]:
        """Return whether the DCU adds a part to headers, and to images, of stream v1."""
        found = [self.simplon.find("config", name, "stream") for name in ("header_appendix", "image_appendix")]
        header, image = (each is not None and each.value not in ("", None) for each in found)
        return header, image

    def set(self, command: SetDetector) -> None:
        """Set what is given of it; raises DriverError for what it does not have."""
        if command.inserted is False:
            raise DriverError("a DCU does not move its detector", "retract it at the microscope")
        if command.binning not in (None, 1):
            raise DriverError("this detector has no binning", "binning = 1")
        if command.roi is not None:
            self._whole(command.roi)
        if command.bit_depth is not None:
            self._settable("bit_depth_image", command.bit_depth)
        if command.threshold is not None:
            kind_name = self._known.get("threshold")
            if kind_name is None:
                raise DriverError(f"{self.simplon} names no threshold", "set it at the DCU")
            self._settable(kind_name[1], command.threshold)
        if command.exposure is not None:
            self._settable("count_time", command.exposure)

    def abort(self, seconds: float) -> None:
        """End whatever it does, waiting `seconds` for an answer at most."""
        self.simplon.command("abort", timeout=seconds)

    def _stream(self) -> dict[str, str]:
        kind = "cbor" if self.settings.stream == "v2" else "legacy"
        return {"mode": "enabled", "format": kind, "header_detail": "basic"}

    def _settable(self, name: str, value: Any) -> None:
        self._as_wanted(name, value, self.simplon.ensure(name, value))

    def _as_wanted(self, name: str, value: Any, has: Value) -> None:
        if isinstance(value, float) and isinstance(has.value, int | float):
            good = abs(has.value - value) <= 0.01 * value
        else:
            good = has.value == value
        if not good:
            allowed = f"allowed: {has.allowed}" if has.allowed else f"{has.value!r} is what it takes"
            raise DriverError(f"{self.simplon} makes {name} = {has.value!r} of {value!r}", allowed)

    def _whole(self, roi: tuple[int, int, int, int]) -> None:
        """The whole detector is no region of interest; others are modes of the DCU, which have names, not corners."""
        height, width = self.sensor().shape
        mode = self.simplon.find("config", "roi_mode")
        if roi != (0, 0, height, width) or (mode is not None and mode.value != "disabled"):
            named = f"; its modes: {mode.allowed}" if mode is not None and mode.allowed else ""
            raise DriverError(
                f"a DCU takes no region by its corners{named}",
                f"roi = (0, 0, {height}, {width}), or roi_mode at the DCU",
            )
