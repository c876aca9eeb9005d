"""The configuration of a DECTRIS control unit, as its REST interface shows it and lets it be set."""

from __future__ import annotations

import threading
from typing import Any

_STATES = ["na", "idle", "ready", "acquire", "configure", "initialize", "error", "test"]
_NOTHING: dict[str, Any] = {"value": ""}


class ConfigError(ValueError):
    """A value that the DCU does not take."""


class Configuration:
    """Parameters by module and name; any thread. readout: time between two frames in which nothing counts [s]."""

    def __init__(self, shape: tuple[int, int], bits: int, readout: float = 1e-7) -> None:
        height, width = shape
        self._lock = threading.Lock()
        self._readout = readout
        self._all: dict[tuple[str, str], dict[str, Any]] = {}
        for name, value, more in (
            ("description", "simulated DECTRIS detector", {}),
            ("detector_number", "E-00-0001", {}),
            ("software_version", "1.8.0", {}),
            ("sensor_material", "Si", {}),
            ("sensor_thickness", 4.5e-4, {}),
            ("x_pixel_size", 7.5e-5, {}),
            ("y_pixel_size", 7.5e-5, {}),
            ("x_pixels_in_detector", width, {}),
            ("y_pixels_in_detector", height, {}),
            ("detector_readout_time", readout, {}),
            ("bit_depth_image", bits, {"allowed_values": [8, 16, 32]}),
            ("compression", "bslz4", {"allowed_values": ["bslz4", "lz4"]}),
            ("trigger_mode", "ints", {"allowed_values": ["ints", "inte", "exts", "exte"]}),
            ("count_time", 1e-3, {"min": 1e-7, "max": 3600.0}),
            ("frame_time", 1.1e-3, {"min": 1e-6, "max": 3600.0}),
            ("nimages", 1, {"min": 1, "max": 2_000_000_000}),
            ("ntrigger", 1, {"min": 1, "max": 2_000_000_000}),
            ("threshold/1/energy", 30e3, {"min": 1e3, "max": 2e5}),
            ("incident_energy", 200e3, {"min": 1e3, "max": 1e6}),
            ("roi_mode", "disabled", {"allowed_values": ["disabled"]}),
        ):
            self._all["detector", name] = {"value": value, "access_mode": "rw" if more else "r", **more}
        for name, value, allowed in (
            ("mode", "disabled", ["enabled", "disabled"]),
            ("format", "legacy", ["legacy", "cbor"]),
            ("header_detail", "basic", ["none", "basic", "all"]),
            ("header_appendix", "", []),
            ("image_appendix", "", []),
        ):
            self._all["stream", name] = {"value": value, "access_mode": "rw", "allowed_values": allowed}

    def get(self, name: str, module: str = "detector") -> Any:
        """Return a value, "" for a name that there is not."""
        return self._all.get((module, name), _NOTHING)["value"]

    def shown(self, module: str, name: str) -> dict[str, Any]:
        """Return what a GET shows; raises KeyError."""
        return dict(self._all[module, name])

    def values(self) -> dict[str, Any]:
        """Return every value of the detector, as headers carry them."""
        return {name: each["value"] for (module, name), each in self._all.items() if module == "detector"}

    def remove(self, name: str, module: str = "detector") -> None:
        """Be a DCU that has no such parameter."""
        del self._all[module, name]

    def put(self, module: str, name: str, value: Any) -> list[str]:
        """Set a value; return the names of what changed. Raises KeyError, ConfigError for what it does not take."""
        with self._lock:
            entry = self._all[module, name]
            if entry["access_mode"] != "rw":
                raise ConfigError(f"{name} can only be read")
            if not _is_like(entry["value"], value):
                raise ConfigError(f"{value!r} is no {type(entry['value']).__name__}")
            if entry.get("allowed_values") and value not in entry["allowed_values"]:
                raise ConfigError(f"{value!r} is not among {entry['allowed_values']}")
            if not entry.get("min", value) <= value <= entry.get("max", value):
                raise ConfigError(f"{value!r} is not in {entry['min']} to {entry['max']}")
            entry["value"] = value
            return [name, *self._follow(name)]

    def _follow(self, name: str) -> list[str]:
        """Keep a frame at least as long as its exposure."""
        count, frame = self._all["detector", "count_time"], self._all["detector", "frame_time"]
        if count["value"] + self._readout <= frame["value"] * (1 + 1e-9):
            return []
        if name == "count_time":
            frame["value"] = count["value"] + self._readout
            return ["frame_time"]
        count["value"] = max(1e-9, frame["value"] - self._readout)
        return ["count_time"] if name == "frame_time" else []


def _is_like(old: Any, new: Any) -> bool:
    if isinstance(old, bool) or isinstance(new, bool):
        return type(old) is type(new)
    if isinstance(old, float):
        return isinstance(new, int | float)
    return isinstance(new, type(old))
