"""Area of a hysteresis loop: the work of switching, up to the calibration of the response.

A fit that failed leaves spikes, and the largest areas in a map are then its worst spectra. So spikes are replaced by
the median of their neighbours first, and a loop that needed many, or still has one, is invalid.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from probeloop.api import Scalarizer, StreamSpec

from .loops import LoopSettings, loop_of, noise_of


class LoopArea(Scalarizer):
    """Signed area of a response loop against bias, with its noise and whether the loop can be believed."""

    class Parameters(LoopSettings):
        """What makes a loop invalid, and how its area is told.

        scale "log": the natural logarithm of the magnitude, whose sigma is the relative one; for areas that spread
        over decades.
        """

        scale: Literal["linear", "log"] = "linear"

    def scalarize(self, spectrum: NDArray[Any], spec: StreamSpec) -> tuple[float, float, bool]:
        """Return (area, sigma, valid) of a loop (E,); of (channels, E) the first counts, of complex the real part.

        area: the integral of R dV around the closed loop [units of R x V], positive when R rises before V does.
        sigma: from the scatter between neighbouring steps. Raises CalibrationError without a bias of every step.
        """
        loop = loop_of(spectrum, spec, self.parameters, "loop_area")
        if loop is None:
            return math.nan, math.nan, False
        steps = (np.roll(loop.bias, -1) - np.roll(loop.bias, 1)) / 2
        area, sigma = float(loop.response @ steps), noise_of(loop.response) * float(np.linalg.norm(steps))
        if self.parameters.scale == "linear":
            return area, sigma, loop.valid
        if not abs(area) > sigma:  # its logarithm says nothing
            return math.nan, math.nan, False
        return math.log(abs(area)), sigma / abs(area), loop.valid
