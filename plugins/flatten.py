"""A topography as it is looked at: without the tilt of the specimen and the steps between its lines."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from probeloop.api import Outputs, ScanTransform, Settings, StreamSpec, map_input


class Flatten(ScanTransform):
    """The map so far less its plane, then less the median of each line."""

    every = "seconds"
    interval = 0.25
    takes = "map"
    may_be_nan = True  # where nothing is measured yet

    class Parameters(Settings):
        """lines: take the median of each line too. channel: of several, by name; "" = the first."""

        lines: Literal["median", "none"] = "median"
        channel: str = ""

    def outputs(self, spec: StreamSpec) -> dict[str, StreamSpec]:
        """Return `flat`, (1, ny, nx) float32 in the map's units; of complex numbers the real part.

        Raises SettingsError when the input is no 2D scan of numbers, or has no such channel.
        """
        self._input = map_input(spec, self.parameters.channel, wanted="a 2D scan of numbers", kinds=("values",))
        axes = tuple(map(msgspec.structs.replace, self._input.axes))
        return {"flat": StreamSpec("flat", "image", "<f4", sig=axes, units=self._input.units, may_be_nan=True)}

    def update(self, data: Any, mask: NDArray[np.bool_] | None = None) -> Outputs | None:
        """Return the flattened map of `data`, (ny, nx) or (ny, nx, k), NaN where nothing is measured yet.

        None before there are three lines.
        """
        heights = np.real(self._input.of(data)).astype(np.float64)
        there = np.isfinite(heights)
        if mask is not None:
            there &= np.asarray(mask, bool).reshape(there.shape)
        if np.count_nonzero(there.any(axis=1)) < 3:
            return None
        return {"flat": flattened(np.where(there, heights, np.nan), self.parameters.lines == "median")[None]}


def flattened(heights: NDArray[np.float64], lines: bool) -> NDArray[np.float32]:
    """Return heights (ny, nx), NaN = not measured, less their plane of least squares, then the lines' medians."""
    there = np.isfinite(heights)
    iy, ix = np.nonzero(there)
    y, x = iy - iy.mean(), ix - ix.mean()
    values = heights[there]
    design = np.stack([np.ones(len(x)), x, y], axis=1)
    plane, *_ = np.linalg.lstsq(design, values, rcond=None)
    made = np.full(heights.shape, np.nan)
    made[there] = values - design @ plane
    if lines:
        for row in np.flatnonzero(there.any(axis=1)):
            made[row] -= np.nanmedian(made[row])
    return made.astype(np.float32)
