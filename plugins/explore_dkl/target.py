"""Values as a model sees them: in units of their own spread, with far ones drawn in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]
KNEE = 3.0  # spreads from the middle; beyond it a value counts by its logarithm


class Target:
    """A monotone map of values to numbers of order 1, made from the values.

    The middle is the median. The spread is the larger of 1.48 times the median absolute deviation and the deviation
    of the values without their extreme twentieth (one at least) at either end, so that neither one outlier nor a
    majority of equal values decides. Beyond KNEE spreads the scale is logarithmic: an outlier stays the highest, and
    the others keep their differences. is_constant: all values are the same.
    """

    def __init__(self, values: Rows) -> None:
        values = np.sort(np.asarray(values, np.float64))
        self.middle = float(np.median(values)) if len(values) else 0.0
        cut = max(1, len(values) // 20)
        inner = values[cut:-cut] if len(values) > 4 else values
        spread = max(
            1.4826 * float(np.median(np.abs(values - self.middle))) if len(values) else 0.0,
            float(inner.std()) if len(inner) > 1 else 0.0,
        )
        least = 1e-12 * max(abs(self.middle), float(np.abs(values).max(initial=0.0)))
        if spread <= least:  # all but an extreme or two are equal
            spread = float(values.std()) if len(values) else 0.0
        self.is_constant = not (np.isfinite(spread) and spread > least)
        self.spread = 1.0 if self.is_constant else spread

    def forward(self, values: Rows) -> Rows:
        """Return values in units of the spread.

        >>> Target(np.array([1.0, 2.0, 3.0, 4.0, 5.0])).forward(np.array([3.0]))
        array([0.])
        """
        made = (np.asarray(values, np.float64) - self.middle) / self.spread
        far = np.abs(made) > KNEE
        made[far] = np.sign(made[far]) * (KNEE + np.log1p(np.abs(made[far]) - KNEE))
        return made

    def back(self, numbers: Rows) -> Rows:
        """Return the values of such numbers."""
        made = np.array(numbers, np.float64)
        far = np.abs(made) > KNEE
        made[far] = np.sign(made[far]) * (KNEE + np.expm1(np.minimum(np.abs(made[far]) - KNEE, 600.0)))
        return self.middle + self.spread * made

    def slope(self, numbers: Rows) -> Rows:
        """Return by how much a value changes with its number: what turns a small sigma into the value's unit."""
        beyond = np.minimum(np.maximum(np.abs(np.asarray(numbers, np.float64)) - KNEE, 0.0), 600.0)
        made: Rows = self.spread * np.exp(beyond)
        return made
