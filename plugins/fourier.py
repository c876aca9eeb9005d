"""Power spectrum of the map so far: lattice spacings, drift and scan noise at a glance."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from probeloop.api import Axis, Outputs, Problem, ScanTransform, Settings, SettingsError, StreamSpec


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
        axes = spec.sig if spec.kind == "image" else spec.nav
        plain = spec.kind == "image" or (spec.kind == "values" and len(spec.frame_shape) < 2)
        if len(axes) != 2 or not plain or spec.numpy_dtype.kind == "c":
            what = f"{spec.name!r} has {len(axes)} scan axes and frames of shape {spec.frame_shape}"
            raise SettingsError([Problem("input", what, "a 2D scan of real numbers")])
        names = [channel.name for channel in spec.channels]
        wanted = self.parameters.channel
        if wanted and wanted not in names:
            raise SettingsError([Problem("channel", f"no {wanted!r} in {spec.name!r}", " | ".join(names) or "none")])
        several = spec.kind == "values" and len(spec.frame_shape) == 1
        self._channel = (names.index(wanted) if wanted else 0) if several else None
        self._shape = (axes[0].size, axes[1].size)
        return {"power": StreamSpec("power", "image", "<f4", sig=tuple(map(_frequencies, axes)))}

    def update(self, data: Any, mask: NDArray[np.bool_] | None = None) -> Outputs | None:
        """Return the spectrum of `data`, (ny, nx) or (ny, nx, k), NaN where nothing is measured yet.

        None before the first pixel.
        """
        if self._channel is not None:
            data = data[..., self._channel]
        there = np.isfinite(data)
        if not there.any():
            return None
        taper = np.ones(self._shape)
        if self.parameters.window == "hann":
            taper = np.outer(*(np.hanning(size + 2)[1:-1] if size > 2 else np.ones(size) for size in self._shape))
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
