"""The lens behind its knobs: what a knob is set to, and what the probe then really has.

coefficient(t) = hidden offset + R knob(t) + drift(t). R, the response, is near the identity and is drawn from the
seed, like the offset; a turned knob approaches its value exponentially and is there after the settling time, a little
off where it has noise; and the coefficients walk at random. So tuning is needed, and never finished: corrected states
last minutes (Barthel and Thust, Ultramicroscopy 134 (2013) 6).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from probeloop.api import Aberrations

from .walk import RandomWalk

KNOBS: dict[str, float] = {"C10": 2e-6, "C12a": 5e-7, "C12b": 5e-7, "C21a": 5e-6, "C21b": 5e-6, "C30": 2e-4}
FURTHER_KNOBS: dict[str, float] = {
    "C23a": 5e-6, "C23b": 5e-6, "C32a": 1e-4, "C32b": 1e-4, "C34a": 1e-4, "C34b": 1e-4,
}  # fmt: skip
_STEPS = 16  # of a settling, so that not every frame needs a probe of its own
_ERA_NS = 1_000_000_000  # how long the coefficients stand still between two steps of their walk
_ALPHA = 0.025  # the aperture at which a drift is given [rad]
_CALM = 0.2  # phase of order n + 1 at the edge over that of order n, as the coefficients walk
_TICK = 5e-4  # smallest turn that counts for the noise, of a knob's range
_WALKING = ("C10", "C12a", "C12b", "C21a", "C21b", "C23a", "C23b", "C30", "C32a", "C32b", "C34a", "C34b")


def drift_sigmas(drift: float) -> list[float]:
    """Return the rms of each walking coefficient after a second [m], for `drift`, that of C10 after a minute [m].

    Higher orders move by a fifth of the phase at the edge of 25 mrad with each order: 12 nm of C21 for 1 nm of C10.
    """
    orders = np.array([int(name[1]) for name in _WALKING])
    return list(drift / math.sqrt(60) * (orders + 1) / 2 * (_CALM / _ALPHA) ** (orders - 1.0))


class Lens:
    """Knobs, their hidden truth, settling, drift and noise.

    offset: the coefficients with every knob at 0. response: (K, K) coefficient per knob, in the order of `knobs`.
    settling: [s]. drift: rms of C10 after a minute [m]. noise: rms error of a turn, in parts of the turn (and of the
    knob's smallest step). knobs: names and ranges [m]. Thread-safe.
    """

    def __init__(
        self, offset: Aberrations, response: np.ndarray, settling: float, *, seed: int = 0, drift: float = 0.0,
        noise: float = 0.0, knobs: Mapping[str, float] = KNOBS,
    ) -> None:  # fmt: skip
        self.offset, self.response, self.settling, self.noise = offset, response, settling, noise
        self.knobs = dict(knobs)
        self._names = list(self.knobs)
        self._ticks = _TICK * np.array(list(self.knobs.values()))
        self._walk = RandomWalk([seed, 5], drift_sigmas(drift), _ERA_NS, smooth=False)
        self._seed, self._turns = seed, 0
        self._lock = threading.Lock()
        self._target = np.zeros(len(self.knobs))  # what the knobs are set to
        self._landed = np.zeros(len(self.knobs))  # where they end up
        self._start = np.zeros(len(self.knobs))
        self._turned_ns = 0
        self._settled_ns = 0
        self._kept: tuple[tuple[int, int], Aberrations] = ((-1, -1), offset)

    @property
    def settled_ns(self) -> int:
        """When the last change is (or was) settled, on the instrument's clock [ns]."""
        return self._settled_ns

    def readback(self) -> dict[str, float]:
        """Return the knobs' values [m]: what they are set to, not what the probe has."""
        with self._lock:
            return dict(zip(self._names, map(float, self._target), strict=True))

    def turn(self, values: Mapping[str, float], absolute: bool, now_ns: int) -> int:
        """Turn knobs [m] and return when they will be settled [ns]; raises KeyError for an unknown knob."""
        with self._lock:
            self._start = self._knobs(now_ns)
            target = self._target.copy()
            for name, value in values.items():
                i = self._names.index(name)
                target[i] = value if absolute else target[i] + value
            self._landed = target + self._misses(target - self._target, [name in values for name in self._names])
            self._target = target
            self._turned_ns = now_ns
            self._settled_ns = now_ns + round(self.settling * 1e9)
            return self._settled_ns

    def at(self, time_ns: int) -> Aberrations:
        """Return the probe's true coefficients at a time."""
        return self.states(np.array([time_ns], np.int64))[0]

    def states(self, time_ns: NDArray[np.int64]) -> list[Aberrations]:
        """Return the probe's true coefficients at times (N,) that do not fall [ns]; equal ones are one object."""
        if time_ns[0] >= self._settled_ns and (self._walk.still or time_ns[0] // _ERA_NS == time_ns[-1] // _ERA_NS):
            return [self._steady(int(time_ns[-1]))] * len(time_ns)
        return [self._state(t) if t < self._settled_ns else self._steady(t) for t in map(int, time_ns)]

    def _steady(self, time_ns: int) -> Aberrations:
        """Return the state of a settled lens, the same object until something changes."""
        key = (self._turns, 0 if self._walk.still else time_ns // _ERA_NS)
        kept, state = self._kept
        if kept != key:
            state = self._state(time_ns)
            self._kept = (key, state)
        return state

    def _state(self, time_ns: int) -> Aberrations:
        with self._lock:
            knobs = self._knobs(time_ns)
        state = self.of(dict(zip(self._names, knobs, strict=True)))
        if self._walk.still:
            return state
        walked = self._walk.at(np.array([time_ns], np.int64))[0]
        return state.plus(dict(zip(_WALKING, map(float, walked), strict=True)))

    def of(self, knobs: Mapping[str, float]) -> Aberrations:
        """Return the true coefficients that settled `knobs` [m] give, drift left out."""
        added = self.response @ np.array([knobs.get(name, 0.0) for name in self._names])
        return self.offset.plus(dict(zip(self._names, map(float, added), strict=True)))

    def _misses(self, turned: np.ndarray, touched: list[bool]) -> np.ndarray:
        """Return by how much the knobs land beside their values [m]: a knob that is not touched keeps its error."""
        kept = self._landed - self._target
        self._turns += 1
        if not self.noise:
            return kept
        drawn = np.random.default_rng([self._seed, 6, self._turns]).standard_normal(turned.size)
        return np.where(touched, self.noise * (np.abs(turned) + self._ticks) * drawn, kept)

    def _knobs(self, time_ns: int) -> np.ndarray:
        if time_ns >= self._settled_ns or self.settling == 0:
            return self._landed.copy()
        part = max(0.0, (time_ns - self._turned_ns) / 1e9 / self.settling)
        stepped = math.floor(part * _STEPS) / _STEPS
        return self._landed + (self._start - self._landed) * math.exp(-5 * stepped)


def draw_lens(
    rng: np.random.Generator, misalignment: float, settling: float, cross_talk: float = 0.04, *, seed: int = 0,
    drift: float = 0.0, noise: float = 0.0, further: bool = False,
) -> Lens:  # fmt: skip
    """Return a lens with its secrets drawn from `rng`.

    misalignment: 1 = |C10| of 30-300 nm and |C12| of 5-50 nm, either sign; other values scale both. What no knob
    drives (C23) and the small rest of C21 and C30 does not scale: it bounds the attainable Strehl ratio.
    cross_talk: rms of the response between knobs of one order; a knob of a higher order leaks into lower ones by
    as much phase at the aperture's edge (25 mrad), not the other way round. further: knobs of C23, C32 and C34 too;
    the secrets of the first six stay what they are. seed, drift, noise: as of the Lens.
    """
    sign = rng.choice([-1.0, 1.0])
    angle = rng.uniform(0, 2 * np.pi, 3)
    c12 = misalignment * rng.uniform(5e-9, 50e-9)
    c21, c23 = rng.uniform(0, 50e-9), rng.uniform(0, 40e-9)
    offset = Aberrations(
        C10=float(misalignment * sign * rng.uniform(30e-9, 300e-9)),
        C12a=float(c12 * np.cos(angle[0])),
        C12b=float(c12 * np.sin(angle[0])),
        C21a=float(c21 * np.cos(angle[1])),
        C21b=float(c21 * np.sin(angle[1])),
        C23a=float(c23 * np.cos(angle[2])),
        C23b=float(c23 * np.sin(angle[2])),
        C30=float(rng.uniform(-1.5e-6, 1.5e-6)),
    )
    response = _response(rng, list(KNOBS), cross_talk)
    knobs = dict(KNOBS)
    if further:
        knobs |= FURTHER_KNOBS
        whole = _response(np.random.default_rng([seed, 7]), list(knobs), cross_talk)
        whole[: len(KNOBS), : len(KNOBS)] = response
        response = whole
    return Lens(offset, response, settling, seed=seed, drift=drift, noise=noise, knobs=knobs)


def _response(rng: np.random.Generator, names: list[str], cross_talk: float) -> np.ndarray:
    """Return a response matrix near the identity, (K, K), coefficient per knob."""
    order = np.array([int(name[1]) for name in names])
    steps = order[None, :] - order[:, None]
    leak = np.where(steps >= 0, _ALPHA ** np.maximum(steps, 0).astype(float), 0.0)
    response = leak * rng.normal(0, cross_talk, leak.shape)
    np.fill_diagonal(response, rng.normal(1, 2 * cross_talk, len(order)))
    return response
