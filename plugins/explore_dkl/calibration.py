"""How far off predictions are, as held-out observations show: what their standard deviations are multiplied by.

In a map most places are dull and predicted well, and a few are interesting and predicted less well; one factor for
all makes the intervals of the many too wide, or those of the few too narrow. So the factor depends on what is
predicted: a local scale, as in locally weighted conformal prediction (Lei, G'Sell, Rinaldo, Tibshirani and Wasserman,
J. Am. Stat. Assoc. 113, 1094 (2018)), here the mode of a likelihood with a prior, since observations are few.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]
NEAR = 0.2  # predictions so far apart are alike [spreads of the values]
TRUST = 0.4  # deviation of the factor's logarithm in its prior: how far the model's own sigma can be off
_LEAST = 1e-10
_LOGS = np.linspace(-1.6, 1.1, 55)  # of the factors that are tried, 0.2 to 3
_BEYOND = 1.0  # of the predictions that were tested, the factor goes to 1 [spreads]


class Calibration(msgspec.Struct, frozen=True):
    """Factors (k,) on the standard deviation at predictions (k,), and between them by a line."""

    predicted: Rows
    factors: Rows

    def __call__(self, predicted: Rows) -> Rows:
        """Return the factor (N,) at predictions (N,)."""
        return np.interp(predicted, self.predicted, self.factors)


NONE = Calibration(np.zeros(1), np.ones(1))


def calibrate(values: Rows, predicted: Rows, own: Rows, measuring: Rows) -> tuple[Calibration, Rows]:
    """Return the factors that held-out values (n,) ask for, and those (n,) that all others ask for at each.

    In spreads of the values. predicted: (n,) without having seen them; own: (n,) variance of the prediction, which
    the factor's square multiplies; measuring: (n,) variance of the error of measuring, which it does not.
    """
    variance = np.exp(2 * _LOGS)[:, None] * np.maximum(own, _LEAST) + measuring
    likelihood = -0.5 * (np.log(variance) + (values - predicted) ** 2 / variance)
    prior = -0.5 * (_LOGS[:, None] / TRUST) ** 2
    places = np.linspace(predicted.min() - _BEYOND, predicted.max() + _BEYOND, 81)
    best = (likelihood @ _near(predicted, places) + prior).argmax(axis=0)
    others = (likelihood @ _near(predicted, predicted) - likelihood + prior).argmax(axis=0)
    return Calibration(places, np.exp(_LOGS[best])), np.exp(_LOGS[others])


def _near(a: Rows, b: Rows) -> Rows:
    """Return how alike predictions a (n,) and b (m,) are, (n, m)."""
    made: Rows = np.exp(-0.5 * ((a[:, None] - b) / NEAR) ** 2)
    return made
