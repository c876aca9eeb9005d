"""Notices that suggestions go round in circles, and for how long to look elsewhere.

Expected improvement is known to be trapped on one object (Pratiush et al., Digital Discovery 2025) and to depend on
where it began (Slautin et al., arXiv:2402.00071).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Escape = Literal["maximum_uncertainty", "thompson"]
WINDOW = 6  # measurements in a row
STEPS = 2  # suggestions elsewhere
_GAIN = 0.05  # spreads of the values that count as progress
_NEAR = 0.5  # spreads below the best that are nearly as good
_NOTHING = -14.0  # log of the expected improvement, in spreads, that is none


class Trap:
    """Watches where was measured and what came of it; `escape` names what to go by instead, None = go on.

    radius: within which measurements are on one object [pixels].
    """

    def __init__(self, radius: float) -> None:
        self.radius = radius
        self.escape: Escape | None = None
        self.times = 0
        self._left = 0
        self._places: list[tuple[float, float]] = []
        self._values: list[float] = []
        self._best: list[float] = []

    def tell(self, place: tuple[float, float], value: float, best: float, spread: float) -> str:
        """Be told of a measurement at (row, column) [pixels] and the best valid value after it; return what is wrong.

        value: NaN = invalid. spread: of the values, in their unit. As long as an object gives values near the best,
        twice as many may be taken there. Measurements of an escape are told too, and end it.
        """
        self._places.append(place)
        self._values.append(value)
        self._best.append(best)
        if self.escape is not None:
            self._left -= 1
            if self._left <= 0:
                self.escape = None
                self._places, self._values, self._best = [], [], []
            return ""
        recent = np.nan_to_num(self._values[-WINDOW:], nan=-np.inf)
        rich = np.isfinite(best) and np.median(recent) >= best - _NEAR * spread
        window = 2 * WINDOW if rich else WINDOW
        if len(self._places) <= window:
            return ""
        places = np.array(self._places[-window:])
        spot = places.mean(axis=0)
        close = float(np.hypot(*(places - spot).T).max()) <= self.radius
        gained = self._best[-1] - self._best[-window - 1] > _GAIN * spread
        if not close or gained:
            return ""
        row, column = (round(float(v)) for v in spot)
        return self._away(
            f"the last {window} measurements lie within {self.radius:g} pixels of row {row}, column {column}, "
            "and gain nothing"
        )

    def nothing_left(self, best_log_improvement: float) -> str:
        """Be told the highest log expected improvement anywhere, in spreads; return what is wrong."""
        if self.escape is not None or not best_log_improvement < _NOTHING:
            return ""
        return self._away("the model expects no improvement anywhere")

    def _away(self, why: str) -> str:
        self.times += 1
        self.escape = "maximum_uncertainty" if self.times % 2 else "thompson"
        self._left = STEPS
        word = "the model is least sure" if self.escape == "maximum_uncertainty" else "a draw of the model is highest"
        return f"{why}: the next {STEPS} go where {word}"
