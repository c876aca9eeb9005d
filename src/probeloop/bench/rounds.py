"""Interleaved rounds: whatever else the machine does meets all contestants alike, so their ratios hold.

Each round runs every contestant once, and each round starts with another one. A ratio is taken within a round, where
both met the same machine, and only then the median over the rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Figures:
    """What each contestant reached, by its name, one figure a round; figure i of each is of the same round."""

    values: Mapping[str, tuple[float, ...]]

    def median(self, name: str) -> float:
        """Return the median over the rounds."""
        return median(self.values[name])

    def spread(self, name: str) -> tuple[float, float]:
        """Return the lowest and the highest."""
        return min(self.values[name]), max(self.values[name])

    def ratios(self, name: str, to: str) -> tuple[float, ...]:
        """Return `name` over `to` of every round."""
        return tuple(a / b for a, b in zip(self.values[name], self.values[to], strict=True))

    def ratio(self, name: str, to: str) -> float:
        """Return the median over the rounds of `name` over `to` within a round."""
        return median(self.ratios(name, to))


def rounds_in(seconds: float, contestants: Mapping[str, Callable[[], float]], least: int = 5, most: int = 500) -> int:
    """Return how many rounds take about `seconds`: two are run, and the second, which is warm, is timed."""
    for _ in range(2):
        began = time.perf_counter()
        interleaved(contestants, 1, 0)
        took = time.perf_counter() - began
    return min(most, max(least, round(seconds / took)))


def interleaved(
    contestants: Mapping[str, Callable[[], float]],
    rounds: int,
    warmup: int = 1,
    after_round: Callable[[int, int], None] | None = None,
) -> Figures:
    """Run every contestant once a round and return what they reached.

    contestants: each does its work once, checks it, and returns its figure (> 0). warmup: rounds before, not counted.
    after_round: told (rounds done, rounds in all), those of the warm-up counted.
    """
    return spread_out({"": contestants}, rounds, warmup, after_round)[""]


def spread_out(
    measurements: Mapping[str, Mapping[str, Callable[[], float]]],
    rounds: int,
    warmup: int = 1,
    after_round: Callable[[int, int], None] | None = None,
) -> dict[str, Figures]:
    """Run several measurements, all of them in every round; return the figures of each. See `interleaved`.

    A neighbour who is busy for some seconds then spoils a round or two of each instead of all rounds of one.
    """
    if rounds < 1 or not measurements or not all(measurements.values()):
        raise ValueError("at least one round of at least one contestant")
    values: dict[str, dict[str, list[float]]] = {
        what: {name: [] for name in contestants} for what, contestants in measurements.items()
    }
    for turn in range(warmup + rounds):
        for what, contestants in measurements.items():
            names = list(contestants)
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                figure = contestants[name]()
                if turn >= warmup:
                    values[what][name].append(figure)
        if after_round is not None:
            after_round(turn + 1, warmup + rounds)
    return {what: Figures({name: tuple(each) for name, each in found.items()}) for what, found in values.items()}
