"""Where an edge of an energy-loss spectrum lies: the mean energy of what is above the background in a window."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from probeloop.api import CalibrationError, Scalarizer, Settings, StreamSpec, quantity


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

    def scalarize(self, spectrum: NDArray[Any], spec: StreamSpec) -> tuple[float, float, bool]:
        """Return (energy, sigma, valid) of a spectrum (E,) of counts; sigma is that of the counting alone.

        Raises CalibrationError without an energy axis, or when it does not reach over both windows.
        """
        p = self.parameters
        axis = spec.sig[-1] if spec.sig else None
        if axis is None or axis.units != "eV" or axis.scale is None:
            raise CalibrationError(f"loss_centroid needs an energy axis; {spec.name!r} has none", "calibrate it")
        energy = axis.values()
        line = (energy >= p.low) & (energy < p.high)
        before = (energy >= p.low - p.before) & (energy < p.low) & (energy > 0)
        if energy.min() > p.low - p.before or energy.max() < p.high or before.sum() < 4 or line.sum() < 4:
            reach = f"{energy.min():.4g} to {energy.max():.4g} eV"
            raise CalibrationError(f"the spectrum reaches from {reach}", f"{p.low - p.before:g} to {p.high:g} eV")
        counts = np.asarray(spectrum, np.float64).reshape(-1, energy.size)[0]
        if not np.isfinite(counts).all() or not (counts[before] > 0).all():
            return float("nan"), float("nan"), False
        slope, level = np.polyfit(np.log(energy[before]), np.log(counts[before]), 1, w=np.sqrt(counts[before]))
        signal = counts[line] - np.exp(level + slope * np.log(energy[line]))
        total = float(signal.sum())
        noise = float(np.sqrt(counts[line].sum()))
        if not total > max(p.least * noise, 0.0):
            return float("nan"), float("nan"), False
        at = float((signal * energy[line]).sum() / total)
        sigma = float(np.sqrt(((energy[line] - at) ** 2 * np.maximum(counts[line], 1.0)).sum())) / total
        return at, sigma, p.low < at < p.high
