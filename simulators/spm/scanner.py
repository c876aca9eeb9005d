"""Where the tip really is: hysteresis and creep of the scanner, drift of the specimen."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_CREEP_FROM, _DECADES = 0.1, 4.0  # creep runs from 0.1 s over 4 decades of time
_SETTLING = 3600.0  # time constant of the thermal drift [s]
_WAVES = 4


class Scanner:
    """SCAN places [m] at an instrument's time [s] to SPECIMEN places. Everything comes from the seed."""

    def __init__(self, seed: int, drift: float, creep: float, hysteresis: float) -> None:
        rng = np.random.default_rng([seed, 3])
        self.creep, self.hysteresis = creep, hysteresis
        angle = rng.uniform(0, 2 * np.pi)
        self.velocity = drift * np.array([math.cos(angle), math.sin(angle)])
        self._wave = 20 * drift * rng.normal(size=(_WAVES, 2)) / _WAVES  # the room's air conditioning
        self._period = rng.uniform(60, 600, _WAVES)
        self._phase = rng.uniform(0, 2 * np.pi, _WAVES)
        self._moves: list[tuple[float, NDArray[np.float64]]] = []

    def drift(self, time: float) -> NDArray[np.float64]:
        """Return how far the specimen has gone, (2,) (x, y) [m]: fast at first, slower as it warms."""
        swing = np.sin(2 * np.pi * time / self._period + self._phase) - np.sin(self._phase)
        return np.asarray(self.velocity * _SETTLING * -math.expm1(-time / _SETTLING) + swing @ self._wave)

    def moved(self, by: NDArray[np.float64], time: float) -> None:
        """Be told of a jump `by` (2,) [m], which the piezo ends only by creeping."""
        self._moves = [m for m in self._moves if self._left(m[0], time) > 0]
        if self.creep and float(np.hypot(*by)) > 0:
            self._moves.append((time, by))

    def _left(self, since: float, time: float) -> float:
        """Return what share of the creep of a move at `since` is still to come: less by as much in every decade."""
        decades = math.log10(1 + max(0.0, time - since) / _CREEP_FROM)
        return max(0.0, 1 - decades / _DECADES)

    def missing(self, time: float) -> NDArray[np.float64]:
        """Return what the piezo lags behind its command, (2,) [m]."""
        made = np.zeros(2)
        for since, by in self._moves:
            made += self.creep * self._left(since, time) * by
        return made

    def place(self, x: float, y: float, time: float) -> tuple[float, float]:
        """Return the SPECIMEN place of a SCAN place."""
        off = self.missing(time) + self.drift(time)
        return float(x - off[0]), float(y - off[1])

    def line(self, places: NDArray[np.float64], time: float, duration: float) -> NDArray[np.float64]:
        """Return the SPECIMEN places of a line forth and back, (2, 2, nx), of SCAN places (nx, 2).

        The piezo bows away from its command, one way forth and the other way back (Rayleigh's law).
        """
        nx = len(places)
        u = (np.arange(nx) + 0.5) / nx
        along = places[-1] - places[0]
        bow = 4 * self.hysteresis * u * (1 - u)
        made = np.empty((2, 2, nx))
        for back in (0, 1):
            off = self.missing(time + back * duration) + self.drift(time + back * duration)
            sign = -1.0 if back == 0 else 1.0
            for axis in (0, 1):
                made[back, axis] = places[:, axis] - off[axis] + sign * bow * along[axis]
        return made
