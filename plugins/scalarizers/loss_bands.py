"""How much of a loss spectrum lies in a band, over its background, and the ratio of two such bands."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from probeloop.api import Scalarizer, Settings, StreamSpec, quantity

from .energy_loss import Background, Counted, background, counted, over, variance

Energy = Annotated[float, quantity("eV", ge=-100, le=10_000)]
Width = Annotated[float, quantity("eV", ge=0, le=1000)]


def _windows(low: float, high: float, before: float) -> Iterable[str]:
    """Yield what is no window."""
    if low >= high:
        yield "low must be smaller than high"
    if before and low - before <= 0:
        yield "the background must begin above 0 eV: choose a narrower `before`, or 0 for none"


def _below(found: Counted | None, low: float, before: float) -> tuple[Background | None, bool]:
    """Return the background before `low`, None where none is asked for, and whether that went well."""
    if found is None or not before:
        return None, found is not None
    below = background(found, low - before, low)
    return below, below is not None


class LossBand(Scalarizer):
    """Counts in a band of energy losses, over a power law fitted before it (Egerton, EELS in the TEM, 4.4)."""

    units = "counts"

    class Parameters(Settings):
        """low, high: the band. before: width of the window of the background, which ends at `low`; 0 = no background.

        A band without signal is a measurement too, of nothing.
        """

        low: Energy = 10.0
        high: Energy = 25.0
        before: Width = 5.0

        def problems(self) -> Iterable[str]:
            """Yield what is no window."""
            yield from _windows(self.low, self.high, self.before)

    def scalarize(self, spectrum: NDArray[Any], spec: StreamSpec) -> tuple[float, float, bool]:
        """Return (counts, sigma, valid) of a spectrum (E,) of counts; sigma: of the counting, background included.

        Raises CalibrationError without an energy axis, or when it does not reach over both windows.
        """
        p = self.parameters
        found = counted(spectrum, spec, "loss_band", p.low - p.before, p.high, positive=p.before > 0)
        below, fine = _below(found, p.low, p.before)
        if found is None or not fine:
            return math.nan, math.nan, False
        line = found.window(p.low, p.high)
        ones = np.ones(int(line.sum()))
        total, slopes = over(found, ones, line, below)
        return total, math.sqrt(variance(found, ones, line, below, slopes)), True


class LossRatio(Scalarizer):
    """Ratio of the counts in two bands of energy losses, over one power law before the first: as of white lines."""

    class Parameters(Settings):
        """first, second: bands (low, high); the ratio is first over second.

        before: width of the window of the background, which ends where the lower band begins; 0 = no background.
        least: of the second band's counts over their own noise, below which the ratio is invalid.
        """

        first: tuple[Energy, Energy] = (10.0, 17.0)
        second: tuple[Energy, Energy] = (17.0, 25.0)
        before: Width = 5.0
        least: Annotated[float, quantity("", ge=0, le=1e6)] = 5.0

        def problems(self) -> Iterable[str]:
            """Yield what is no window."""
            for band in (self.first, self.second):
                yield from _windows(*band, self.before if band[0] == self._low else 0.0)
            if max(self.first[0], self.second[0]) < min(self.first[1], self.second[1]):
                yield "the two bands overlap"

        @property
        def _low(self) -> float:
            return min(self.first[0], self.second[0])

    def scalarize(self, spectrum: NDArray[Any], spec: StreamSpec) -> tuple[float, float, bool]:
        """Return (ratio, sigma, valid) of a spectrum (E,) of counts; sigma: of the counting, background included.

        Raises CalibrationError without an energy axis, or when it does not reach over all windows.
        """
        p = self.parameters
        low, high = min(p.first[0], p.second[0]), max(p.first[1], p.second[1])
        found = counted(spectrum, spec, "loss_ratio", low - p.before, high, positive=p.before > 0)
        below, fine = _below(found, low, p.before)
        if found is None or not fine:
            return math.nan, math.nan, False
        one, two = found.window(*p.first), found.window(*p.second)
        lower, slopes = over(found, np.ones(int(two.sum())), two, below)
        noise = math.sqrt(variance(found, np.ones(int(two.sum())), two, below, slopes))
        if not lower > max(p.least * noise, 0.0):
            return math.nan, math.nan, False
        upper, _ = over(found, np.ones(int(one.sum())), one, below)
        ratio = upper / lower
        both = one | two
        weight = (one.astype(float) - ratio * two.astype(float))[both]
        _, slopes = over(found, weight, both, below)
        return ratio, math.sqrt(variance(found, weight, both, below, slopes)) / lower, True
