"""Does the image tell anything about the measurement? Said only where the record of predictions shows it."""

from __future__ import annotations

import msgspec
import numpy as np

from .surrogate import HeldOut

LEAST = 16  # observations
SURE = 2.6  # standard errors; one test in 200 passes it by chance
RECORD = 3.1  # deviations of the record of predictions; one in 1,000 passes it by chance
_PAST = 4  # values that a new one is ranked among, at least
_WORST = -6.0  # nats; below, a single surprise would decide


class Record:
    """How predictions made before each measurement went with its value.

    Where image and value have nothing in common, a new value takes any rank among all before it with the same chance,
    whatever was predicted and however the place was chosen. So the sum of (rank of the prediction - 1/2) times (rank
    of the value - 1/2), both among the values so far, has mean 0 and a known deviation: `deviations` is their ratio
    (a martingale; after Dawid, J. R. Stat. Soc. A 147 (1984) 278, on forecasts judged one by one).
    """

    def __init__(self) -> None:
        self._values: list[float] = []
        self._sum = self._variance = 0.0

    @property
    def deviations(self) -> float:
        """The sum in units of its deviation; NaN = nothing was predicted yet."""
        return self._sum / self._variance**0.5 if self._variance > 0 else float("nan")

    def tell(self, value: float, predicted: float | None) -> None:
        """Be told a valid value and what had been predicted for it, None = nothing."""
        n = len(self._values)
        if predicted is not None and n >= _PAST:
            past = np.array(self._values)
            weight = _rank(predicted, past) / n - 0.5
            self._sum += weight * ((_rank(value, past) + 0.5) / (n + 1) - 0.5)
            self._variance += weight**2 * n * (n + 2) / (12 * (n + 1) ** 2)
        self._values.append(value)


def _rank(value: float, past: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    """Return how many of the past values lie below, an equal one as half."""
    return float((past < value).sum() + 0.5 * (past == value).sum())


class Link(msgspec.Struct, frozen=True):
    """Evidence that structure and property go together.

    observations: held out. gain: in nats an observation, of the model's predictions over those of a constant; low:
    its lower bound (2.6 standard errors). over_place: the gain over predictions from the place alone, which sees no
    image; NaN = not compared. foretold: deviations of the record of predictions, see `Record`. seen: enough of it to
    say so.
    """

    observations: int = 0
    gain: float = float("nan")
    low: float = float("nan")
    over_place: float = float("nan")
    foretold: float = float("nan")
    seen: bool = False

    def __str__(self) -> str:
        if self.observations < LEAST:
            return f"too few observations ({self.observations}) to tell whether structure and property are linked"
        against = f"{self.gain:+.2f} nats an observation against a constant, at least {self.low:+.2f}"
        record = f"; predictions went with what was then measured ({self.foretold:.1f} deviations)"
        if self.seen:
            shown = "" if self.low > 0 else record
            return f"structure-property link seen: held-out predictions gain {against}{shown}"
        if self.over_place <= 0 and (self.low > 0 or (self.gain > 0 and self.foretold >= RECORD)):
            return f"no structure-property link seen: the place alone predicts as well ({self.over_place:+.2f} nats)"
        return f"no structure-property link seen: held-out predictions gain {against}"


def evidence(model: HeldOut | None, place: HeldOut | None = None, record: Record | None = None) -> Link:
    """Return what held-out predictions say. place: those of a model that goes by the position alone.

    A link is seen when the gain over a constant is sure, or when there is one and the record of predictions, which
    alone could be due to a drift of all values, shows it; and the place does not predict as well.
    """
    if model is None:
        return Link()
    known = np.isfinite(model.score) & np.isfinite(model.constant)
    if known.sum() < LEAST:
        return Link(int(known.sum()))
    score = np.maximum(model.score[known], _WORST)
    gain, low = _bound(score - np.maximum(model.constant[known], _WORST))
    over = float("nan")
    if place is not None and len(place.score) == len(model.score):
        both = known & np.isfinite(place.score)
        over = float((np.maximum(model.score[both], _WORST) - np.maximum(place.score[both], _WORST)).mean())
    foretold = record.deviations if record is not None else float("nan")
    seen = (low > 0 or (gain > 0 and foretold >= RECORD)) and not over <= 0
    return Link(int(known.sum()), gain, low, over, foretold, seen)


def better(model: HeldOut | None, rival: HeldOut | None) -> bool:
    """True when a model predicts held-out observations better than its rival, by 2 standard errors, paired."""
    if model is None or rival is None or len(model.score) != len(rival.score):
        return False
    both = np.isfinite(model.score) & np.isfinite(rival.score)
    if both.sum() < LEAST:
        return False
    gains = np.maximum(model.score[both], _WORST) - np.maximum(rival.score[both], _WORST)
    return _bound(gains, 2.0)[1] > 0


def _bound(gains: np.ndarray[tuple[int], np.dtype[np.float64]], sure: float = SURE) -> tuple[float, float]:
    mean = float(gains.mean())
    return mean, mean - sure * float(gains.std(ddof=1)) / len(gains) ** 0.5
