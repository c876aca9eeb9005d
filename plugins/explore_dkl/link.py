"""Does the image tell anything about the measurement? Said only where the record of predictions shows it."""

from __future__ import annotations

import msgspec
import numpy as np

from .surrogate import HeldOut

LEAST = 16  # observations
SURE = 2.6  # standard errors; one test in 200 passes it by chance
_WORST = -6.0  # nats; below, a single surprise would decide


class Link(msgspec.Struct, frozen=True):
    """Evidence that structure and property go together.

    observations: held out. gain: in nats an observation, of the model's predictions over those of a constant; low:
    its lower bound (2.6 standard errors). over_place: the gain over predictions from the place alone, which sees no
    image; NaN = not compared. seen: enough of both to say so.
    """

    observations: int = 0
    gain: float = float("nan")
    low: float = float("nan")
    over_place: float = float("nan")
    seen: bool = False

    def __str__(self) -> str:
        if self.observations < LEAST:
            return f"too few observations ({self.observations}) to tell whether structure and property are linked"
        against = f"{self.gain:+.2f} nats an observation against a constant, at least {self.low:+.2f}"
        if self.seen:
            return f"structure-property link seen: held-out predictions gain {against}"
        if self.low > 0:
            return f"no structure-property link seen: the place alone predicts as well ({self.over_place:+.2f} nats)"
        return f"no structure-property link seen: held-out predictions gain {against}"


def evidence(model: HeldOut | None, place: HeldOut | None = None) -> Link:
    """Return what held-out predictions say. place: those of a model that goes by the position alone."""
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
    return Link(int(known.sum()), gain, low, over, low > 0 and not over <= 0)


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
