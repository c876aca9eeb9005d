"""What a piezoresponse scan itself says of walls, as maps: where the phase jumps, and how low the amplitude is."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from probeloop.api import (
    Channel,
    DropInError,
    Outputs,
    Problem,
    ScanTransform,
    Settings,
    SettingsError,
    StreamSpec,
)

from .reference import antiparallel_walls, low_amplitude


class WallReference(ScanTransform):
    """Antiparallel walls by the phase, and low amplitude, of one direction of a finished piezoresponse scan."""

    every = "scan"
    takes = "map"
    may_be_nan = True  # where nothing is measured

    class Parameters(Settings):
        """amplitude, phase: names of the channels; "" = the first that say so, or the complex lock-in channel."""

        amplitude: str = ""
        phase: str = ""
        direction: Literal["trace", "retrace", "any"] = "any"

    def outputs(self, spec: StreamSpec) -> dict[str, StreamSpec]:
        """Return `antiparallel` (0 or 1) and `low_amplitude` (0 to 1), each (1, ny, nx) float32, NaN = not measured.

        Raises SettingsError when the input has no amplitude and phase, and DropInError without scikit-image.
        """
        try:
            import skimage.morphology  # noqa: F401 - a second or two, which a map that comes would be told to hang for
        except ImportError as error:
            raise DropInError("wall_reference needs scikit-image", 'pip install "probeloop[objects]"') from error
        if len(spec.nav) != 2 or spec.kind != "values" or len(spec.frame_shape) > 1:
            what = f"{spec.name!r} has {len(spec.nav)} scan axes and frames of shape {spec.frame_shape}"
            raise SettingsError([Problem("input", what, "a 2D piezoresponse scan")])
        lock_in = self._named(spec, "", ("piezoresponse",))
        alone = not spec.channels and not spec.frame_shape
        if spec.numpy_dtype.kind == "c" and not self.parameters.amplitude and (alone or lock_in is not None):
            self._channels: tuple[int | None, int | None] = (lock_in, lock_in)
        else:
            amplitude = self._named(spec, self.parameters.amplitude, ("amplitude",))
            phase = self._named(spec, self.parameters.phase, ("phase",))
            if amplitude is None or phase is None or spec.numpy_dtype.kind == "c":
                names = " | ".join(each.name for each in spec.channels) or "none"
                what = f"{spec.name!r} has no {'amplitude' if amplitude is None else 'phase'} of that name"
                raise SettingsError([Problem("input", what, names)])
            self._channels = (amplitude, phase)
        axes = tuple(map(msgspec.structs.replace, spec.nav))
        return {name: StreamSpec(name, "image", "<f4", sig=axes) for name in ("antiparallel", "low_amplitude")}

    def _named(self, spec: StreamSpec, name: str, quantities: tuple[str, ...]) -> int | None:
        """Return the channel of that name, or the first one whose quantity says so."""
        way = self.parameters.direction

        def fits(channel: Channel) -> bool:
            if name:
                return channel.name == name
            said = f"{channel.quantity} {channel.name}".lower()
            return any(each in said for each in quantities) and (way == "any" or channel.direction == way)

        return next((i for i, channel in enumerate(spec.channels) if fits(channel)), None)

    def update(self, data: Any, mask: NDArray[np.bool_] | None = None) -> Outputs | None:
        """Return both maps of a scan (ny, nx) complex, or (ny, nx, k)."""
        amplitude, phase = (data if i is None else data[..., i] for i in self._channels)
        if np.iscomplexobj(data):
            amplitude, phase = np.abs(amplitude), np.angle(phase)
        known = np.isfinite(amplitude) & np.isfinite(phase)
        if not known.any():
            return None
        level, turn = np.asarray(amplitude, np.float64), np.asarray(phase, np.float64)
        made = {"antiparallel": antiparallel_walls(level, turn), "low_amplitude": low_amplitude(level)}
        return {name: np.where(known, each, np.nan).astype(np.float32)[None] for name, each in made.items()}
