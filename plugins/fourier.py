"""Power spectrum of the map so far: lattice spacings, drift and scan noise at a glance."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from probeloop.api import Axis, Outputs, ScanTransform, Settings, StreamSpec, map_input


class Fourier(ScanTransform):
    """Logarithm of the power spectrum of the map so far."""

    every = "seconds"
    interval = 0.25
    takes = "map"

    class Parameters(Settings):
        """window: Hann suppresses the cross that a map's edges make. channel: of several, by name; "" = the first."""

        window: Literal["hann", "none"] = "hann"
        channel: str = ""

    def outputs(self, spec: StreamSpec) -> dict[str, StreamSpec]:
        """Return `power`, (1, ny, nx) float32: log10(1 + |F|^2), zero frequency in the middle, axes [1/m].

        Raises SettingsError when the input is no map of real numbers, or has no such channel.
        """
        self._input = map_input(spec, self.parameters.channel, wanted="a 2D scan of real numbers", real=True)
        axes = tuple(map(_frequencies, self._input.axes))
        return {"power": StreamSpec("power", "image", "<f4", sig=axes)}

    def update(self, data: Any, mask: NDArray[np.bool_] | None = None) -> Outputs | None:
        """Return the spectrum of `data`, (ny, nx) or (ny, nx, k), NaN where nothing is measured yet.

        None before the first pixel.
        """
        data = self._input.of(data)
        there = np.isfinite(data)
        if not there.any():
            return None
        taper = np.ones(self._input.shape)
        if self.parameters.window == "hann":
            sizes = self._input.shape
            taper = np.outer(*(np.hanning(size + 2)[1:-1] if size > 2 else np.ones(size) for size in sizes))
        # the mean of what is there goes first: what is missing is then zero, and makes no step
        weight = there * taper
        values = np.where(there, data, 0.0).astype(np.float64)
        centred = (values - (weight * values).sum() / weight.sum()) * weight
        power = np.abs(np.fft.fftshift(np.fft.fft2(centred))) ** 2
        return {"power": np.log10(1.0 + power).astype(np.float32)[None]}


def _frequencies(axis: Axis) -> Axis:
    """Return the frequency axis of a scan axis; uncalibrated stays so."""
    name, zero = f"k{axis.name}", axis.size // 2
    if axis.scale is None:
        return Axis(name, axis.size, None, 0.0, "")
    step = 1.0 / (axis.size * abs(axis.scale))
    return Axis(name, axis.size, step, -zero * step, f"1/{axis.units}" if axis.units else "")
