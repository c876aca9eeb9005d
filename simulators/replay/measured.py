"""One measured array on a grid of places, whatever file it came from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from probeloop.api import Axis, Channel, DriverError, SourceError, display

Kind = Literal["maps", "spectra", "frames"]


@dataclass(frozen=True)
class Measured:
    """Data (ny, nx, *frame), [slow = y, fast = x]; a map's channels are its last axis.

    step, origin: (x, y) [m] of the grid and of the centre of pixel [0, 0]; None = the file does not say.
    present: (ny, nx) bool, None = everywhere. sig, aux: detector axes, arrays along them. kind_of_spectrum: what an
    AcquireSpectrum of it is called.
    """

    name: str
    kind: Kind
    data: NDArray[Any]
    step: tuple[float, float] | None = None
    origin: tuple[float, float] = (0.0, 0.0)
    channels: tuple[Channel, ...] = ()
    sig: tuple[Axis, ...] = ()
    aux: dict[str, tuple[float, ...]] = field(default_factory=dict)
    units: str = ""
    present: NDArray[np.bool_] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Pixels (ny, nx)."""
        return self.data.shape[0], self.data.shape[1]

    def scaled(self, pixel_size: float, file: str) -> Measured:
        """Return it on a grid in metres: the rig's pixel size if there is one, else the file's own.

        Raises SourceError when neither says. With the rig's, the corner of the map is the origin.
        """
        if pixel_size > 0:
            return replace(self, step=(pixel_size, pixel_size), origin=(pixel_size / 2, pixel_size / 2))
        if self.step is None or min(self.step) <= 0:
            raise SourceError(f"{file} does not say how large its pixels are", 'set instrument.pixel_size = "5 nm"')
        return self

    def grid(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return origin and step, (2,) each (x, y) [m]; only of a scaled one."""
        assert self.step is not None
        return np.asarray(self.origin, np.float64), np.asarray(self.step, np.float64)

    @property
    def region(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """The lower and upper corner of what was measured, pixel edges (x, y) [m]."""
        origin, step = self.grid()
        low, high = origin - step / 2, origin + step * (np.array(self.shape[::-1]) - 0.5)
        return (float(low[0]), float(low[1])), (float(high[0]), float(high[1]))

    def nearest(self, positions: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the flat cells (N,) nearest to `positions` (N, 2) and their true places (N, 2) [m].

        Raises DriverError for a place beyond half a step of anything measured.
        """
        origin, step = self.grid()
        size = np.array(self.shape[::-1])
        cell = np.clip(np.rint((positions - origin) / step), 0, size - 1)
        true = origin + cell * step
        beyond = np.any(np.abs(positions - true) > step / 2 * (1 + 1e-6), axis=1)
        flat = (cell[:, 1] * size[0] + cell[:, 0]).astype(np.int64)
        if np.any(beyond):
            x, y = positions[np.argmax(beyond)]
            (x0, y0), (x1, y1) = self.region
            raise DriverError(
                f"nothing was measured at x = {display(float(x), 'm')}, y = {display(float(y), 'm')}",
                f"stay within x {display(x0, 'm')} to {display(x1, 'm')}, y {display(y0, 'm')} to {display(y1, 'm')}",
            )
        return flat, true

    def frames(self, cells: NDArray[np.int64]) -> NDArray[Any]:
        """Return the frames at flat cells, (N, *frame)."""
        made: NDArray[Any] = self.data.reshape((-1, *self.data.shape[2:]))[cells]
        return made


def little(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array in this machine's order, C-contiguous; same values."""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("="))


def snake(name: str) -> str:
    """Write a vendor's channel name as ours: "NapPhaseRetrace" becomes "nap_phase_retrace"."""
    made = ""
    for i, letter in enumerate(name):
        upper = letter.isupper() and i > 0 and (name[i - 1].islower() or name[i - 1].isdigit())
        made += ("_" if upper and not made.endswith("_") else "") + (letter.lower() if letter.isalnum() else "_")
    return made.strip("_") or "channel"


def spm_channel(name: str, units: str) -> Channel:
    """Return a channel of a scanning probe microscope from the name its vendor gave it."""
    low = name.lower()
    direction: Any = "retrace" if "retrac" in low else "trace" if "trace" in low else "none"
    return Channel(snake(name), name, units, direction, "2" if low.startswith("nap") else "1")


def phase_in_radian(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Return a phase channel [deg] in radian, wrapped as it was; other channels as they are.

    Such files call the unit of a phase "m" or "deg"; the name is what tells.
    """
    if "phase" not in name.lower():
        return values
    return np.deg2rad(values.astype(np.float64)).astype(values.dtype)


def overview(measured: Measured) -> Measured:
    """Return maps of spectra: what an overview scan of them shows.

    With a bias: amplitude (max - min) and the area of the loop |∮ R dV|, by the trapezoid rule over the closed
    waveform. Else: the sum over all channels.
    """
    data = measured.data.astype(np.float64)
    if "bias" in measured.aux:
        bias = np.asarray(measured.aux["bias"])
        change = (np.roll(bias, -1) - np.roll(bias, 1)) / 2
        channels: tuple[Channel, ...]
        maps = [np.ptp(data, axis=-1), np.abs(data @ change)]
        channels = (
            Channel("amplitude", "amplitude", measured.units),
            Channel("loop_area", "loop area", f"{measured.units} V".strip()),
        )
    else:
        maps, channels = [data.sum(axis=-1)], (Channel("total", "sum of the spectrum", measured.units),)
    stack = np.stack(maps, axis=-1).astype(np.float32)
    return replace(
        measured,
        name=f"{measured.name} overview",
        kind="maps",
        data=stack,
        channels=channels,
        sig=(),
        aux={},
        units="",
    )
