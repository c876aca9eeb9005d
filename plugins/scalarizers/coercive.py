"""Where a loop switches: the window between its coercive voltages, their mean, and where switching begins."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from probeloop.api import Scalarizer, StreamSpec, quantity

from .branches import Switching, fitted
from .loops import LoopSettings, loop_of

Array = NDArray[np.float64]


class SwitchingSettings(LoopSettings):
    """Which loops are believed.

    least: opening of the loop over what the fit leaves, below which it is invalid. misfit: what the fit leaves over
    the scatter between neighbouring steps, above which the spectrum is no loop: the tip slipped, or lost the contact.
    """

    least: Annotated[float, quantity("", ge=0, le=1e6)] = 5.0
    misfit: Annotated[float, quantity("", ge=1, le=1e6)] = 8.0


class _Switching(Scalarizer):
    """A number that follows from the fit of both branches."""

    units = "V"
    Parameters = SwitchingSettings

    def scalarize(self, spectrum: NDArray[Any], spec: StreamSpec) -> tuple[float, float, bool]:
        """Return (value, sigma, valid) [V] of a loop (E,); of (channels, E) that of the field asked for.

        sigma: of the fit. Invalid: too many spikes, no loop above the noise, or one that the bias does not close.
        Raises CalibrationError without a bias of every step, or without the field.
        """
        loop = loop_of(spectrum, spec, self.parameters, self.context.name or type(self).__name__)
        found = fitted(loop) if loop is not None else None
        if loop is None or found is None:
            return math.nan, math.nan, False
        value, gradient, inside = self._read(found)
        sigma = math.sqrt(max(found.variance(gradient), 0.0))
        valid = (
            loop.valid
            and inside
            and found.believable(self.parameters.least, self.parameters.misfit)
            and math.isfinite(sigma)
        )
        return value, sigma, valid

    @abstractmethod
    def _read(self, found: Switching) -> tuple[float, Array, bool]:
        """Return the value, how it changes with (coercive, log width), and whether it lies inside the bias."""


class CoerciveWindow(_Switching):
    """Width of a switching loop [V]: coercive voltage while the bias rises less that while it falls.

    At a coercive voltage half of the polarisation has switched, whatever offset the response has.
    """

    def _read(self, found: Switching) -> tuple[float, Array, bool]:
        return float(found.coercive[0] - found.coercive[1]), np.array([1.0, -1.0, 0.0, 0.0]), True


class Imprint(_Switching):
    """Shift of a switching loop along the bias [V]: the mean of its coercive voltages."""

    def _read(self, found: Switching) -> tuple[float, Array, bool]:
        return float(found.coercive.mean()), np.array([0.5, 0.5, 0.0, 0.0]), True


class NucleationBias(_Switching):
    """Bias at which switching begins [V]: where the fitted branch has gone a small share of its way.

    So are nucleation biases read from loop fits in the analysis of switching spectroscopy PFM (97 % of the response
    left in pycroscopy's BGlib, after Jesse, Lee and Kalinin, Rev. Sci. Instrum. 77, 073702 (2006)).
    """

    class Parameters(SwitchingSettings):
        """side: positive = while the bias rises, negative = while it falls, mean = half of what lies between them.

        share: switched there.
        """

        side: Literal["positive", "negative", "mean"] = "positive"
        share: Annotated[float, quantity("", ge=0.005, le=0.45)] = 0.03

    def _read(self, found: Switching) -> tuple[float, Array, bool]:
        ahead = math.atanh(1 - 2 * self.parameters.share)  # in widths before the coercive voltage
        up = found.coercive[0] - ahead * found.width[0]
        down = found.coercive[1] + ahead * found.width[1]
        inside = found.low < up and down < found.high
        rising = np.array([1.0, 0.0, -ahead * found.width[0], 0.0])
        falling = np.array([0.0, 1.0, 0.0, ahead * found.width[1]])
        match self.parameters.side:
            case "positive":
                return float(up), rising, bool(found.low < up < found.high)
            case "negative":
                return float(down), falling, bool(found.low < down < found.high)
        return float(up - down) / 2, (rising - falling) / 2, bool(inside)
