"""Random walks in time: drift of a lens or a stage that nobody asked for, the same whenever it is looked at.

The path is drawn from a seed on a grid of steps, so a place on it depends on the time alone and not on who asked
before.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_CHUNK = 1024  # steps drawn at once
_KEPT = 4


class RandomWalk:
    """Brownian motion of k independent components that starts at 0 at time 0. Any thread.

    seed: names the path. sigmas: (k,) rms of each component after one second, in its own unit. step_ns: grid of the
    path. smooth: straight between two grid points, else it stands still and then jumps.
    """

    def __init__(self, seed: Sequence[int], sigmas: Sequence[float], step_ns: int, smooth: bool) -> None:
        self._seed, self.step_ns, self._smooth = list(seed), step_ns, smooth
        self._sigmas = np.asarray(sigmas, np.float64) * np.sqrt(step_ns * 1e-9)
        self.still = not self._sigmas.any()  # whether nothing moves
        self._ends = [np.zeros(self._sigmas.size)]  # where chunk i begins
        self._chunks: dict[int, NDArray[np.float64]] = {}
        self._lock = threading.Lock()

    def at(self, time_ns: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the places at times (N,) [ns], (N, k)."""
        times = np.maximum(np.asarray(time_ns, np.int64), 0)
        if self.still:
            return np.zeros((times.size, self._sigmas.size))
        step = times // self.step_ns
        low = self._points(step)
        if not self._smooth:
            return low
        part = (times - step * self.step_ns) / self.step_ns
        return np.asarray(low + (self._points(step + 1) - low) * part[:, None])

    def _points(self, steps: NDArray[np.int64]) -> NDArray[np.float64]:
        out = np.empty((steps.size, self._sigmas.size))
        chunks = steps // _CHUNK
        with self._lock:
            for chunk in np.unique(chunks):
                mine = chunks == chunk
                out[mine] = self._chunk(int(chunk))[steps[mine] % _CHUNK]
        return out

    def _chunk(self, number: int) -> NDArray[np.float64]:
        """Return the places of one chunk of steps, (1024, k); the way there is drawn once and kept."""
        if number in self._chunks:
            return self._chunks[number]
        for i in range(len(self._ends) - 1, number):
            self._ends.append(self._ends[i] + self._draw(i).sum(axis=0))
        steps = self._draw(number)
        places = self._ends[number] + np.concatenate([np.zeros((1, steps.shape[1])), np.cumsum(steps, axis=0)[:-1]])
        while len(self._chunks) >= _KEPT:
            self._chunks.pop(next(iter(self._chunks)))
        self._chunks[number] = places
        return np.asarray(places, np.float64)

    def _draw(self, number: int) -> NDArray[np.float64]:
        rng = np.random.default_rng([*self._seed, number])
        return np.asarray(rng.standard_normal((_CHUNK, self._sigmas.size)) * self._sigmas)
