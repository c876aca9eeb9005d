"""Where an edge of an energy-loss spectrum lies: the mean energy of what is above the background in a window."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from probeloop.api import Scalarizer, Settings, StreamSpec, quantity

from .energy_loss import background, counted, over, variance


class LossCentroid(Scalarizer):
    """Mean energy loss [eV] of an edge or line, over a power law fitted before it (Egerton, EELS in the TEM, 4.4)."""

    units = "eV"

    class Parameters(Settings):
        """low, high: window of the line. before: width of the window of the background, which ends at `low`.

        least: signal over its own noise, below which the value is invalid.
        """

        low: Annotated[float, quantity("eV", ge=0, le=10_000)] = 10.0
        high: Annotated[float, quantity("eV", ge=0, le=10_000)] = 25.0
        before: Annotated[float, quantity("eV", ge=1, le=1000)] = 8.0
        least: Annotated[float, quantity("", ge=0, le=1e6)] = 5.0

        def problems(self) -> Iterable[str]:
            """Yield what is no window."""
            if self.low >= self.high:
                yield "low must be smaller than high"
            if self.low - self.before <= 0:
                yield "the background must begin above 0 eV: low must be greater than before"

    def scalarize(self, spectrum: NDArray[Any], spec: StreamSpec) -> tuple[float, float, bool]:
        """Return (energy, sigma, valid) of a spectrum (E,) of counts; sigma: of the counting, background included.

        Raises CalibrationError without an energy axis, or when it does not reach over both windows.
        """
        p = self.parameters
        found = counted(spectrum, spec, "loss_centroid", p.low - p.before, p.high, positive=True)
        below = background(found, p.low - p.before, p.low) if found is not None else None
        if found is None or below is None:
            return math.nan, math.nan, False
        line = found.window(p.low, p.high)
        total, _ = over(found, np.ones(int(line.sum())), line, below)
        noise = math.sqrt(float(np.maximum(found.counts[line], 0.0).sum()) * found.fano)
        if not total > max(p.least * noise, 0.0):
            return math.nan, math.nan, False
        first, _ = over(found, found.energy[line], line, below)
        at = first / total
        _, slopes = over(found, found.energy[line] - at, line, below)
        sigma = math.sqrt(variance(found, found.energy[line] - at, line, below, slopes)) / total
        return at, sigma, p.low < at < p.high
