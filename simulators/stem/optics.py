"""The lens behind its knobs: what a knob is set to, and what the probe then really has.

coefficient(t) = hidden offset + R knob(t). R, the response, is near the identity and is drawn from the seed, like
the offset; a turned knob approaches its value exponentially and is there after the settling time.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping

import numpy as np

from probeloop.api import Aberrations

KNOBS: dict[str, float] = {"C10": 2e-6, "C12a": 5e-7, "C12b": 5e-7, "C21a": 5e-6, "C21b": 5e-6, "C30": 2e-4}
_ORDER = {"C10": 1, "C12a": 1, "C12b": 1, "C21a": 2, "C21b": 2, "C30": 3}
_STEPS = 16  # of a settling, so that not every frame needs a probe of its own


class Lens:
    """Knobs, their hidden truth, and settling.

    offset: the coefficients with every knob at 0. response: (6, 6) coefficient per knob, in the order of KNOBS.
    settling: [s]. Thread-safe.
    """

    def __init__(self, offset: Aberrations, response: np.ndarray, settling: float) -> None:
        self.offset, self.response, self.settling = offset, response, settling
        self._lock = threading.Lock()
        self._target = np.zeros(len(KNOBS))
        self._start = np.zeros(len(KNOBS))
        self._turned_ns = 0
        self._settled_ns = 0

    @property
    def settled_ns(self) -> int:
        """When the last change is (or was) settled, on the instrument's clock [ns]."""
        return self._settled_ns

    def readback(self) -> dict[str, float]:
        """Return the knobs' values [m]: what they are set to, not what the probe has."""
        with self._lock:
            return dict(zip(KNOBS, map(float, self._target), strict=True))

    def turn(self, values: Mapping[str, float], absolute: bool, now_ns: int) -> int:
        """Turn knobs [m] and return when they will be settled [ns]; raises KeyError for an unknown knob."""
        with self._lock:
            self._start = self._knobs(now_ns)
            target = self._target.copy()
            for name, value in values.items():
                i = list(KNOBS).index(name)
                target[i] = value if absolute else target[i] + value
            self._target = target
            self._turned_ns = now_ns
            self._settled_ns = now_ns + round(self.settling * 1e9)
            return self._settled_ns

    def at(self, time_ns: int) -> Aberrations:
        """Return the probe's true coefficients at a time."""
        with self._lock:
            knobs = self._knobs(time_ns)
        return self.of(dict(zip(KNOBS, knobs, strict=True)))

    def of(self, knobs: Mapping[str, float]) -> Aberrations:
        """Return the true coefficients that settled `knobs` [m] give."""
        added = self.response @ np.array([knobs.get(name, 0.0) for name in KNOBS])
        return self.offset.plus(dict(zip(KNOBS, map(float, added), strict=True)))

    def _knobs(self, time_ns: int) -> np.ndarray:
        if time_ns >= self._settled_ns or self.settling == 0:
            return self._target.copy()
        part = max(0.0, (time_ns - self._turned_ns) / 1e9 / self.settling)
        stepped = math.floor(part * _STEPS) / _STEPS
        return self._target + (self._start - self._target) * math.exp(-5 * stepped)


def draw_lens(rng: np.random.Generator, misalignment: float, settling: float, cross_talk: float = 0.04) -> Lens:
    """Return a lens with its secrets drawn from `rng`.

    misalignment: 1 = |C10| of 30-300 nm and |C12| of 5-50 nm, either sign; other values scale both. What no knob
    drives (C23) and the small rest of C21 and C30 does not scale: it bounds the attainable Strehl ratio.
    cross_talk: rms of the response between knobs of one order; a knob of a higher order leaks into lower ones by
    as much phase at the aperture's edge (25 mrad), not the other way round.
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
    order = np.array([_ORDER[name] for name in KNOBS])
    steps = order[None, :] - order[:, None]
    leak = np.where(steps >= 0, 0.025 ** np.maximum(steps, 0).astype(float), 0.0)
    response = leak * rng.normal(0, cross_talk, leak.shape)
    np.fill_diagonal(response, rng.normal(1, 2 * cross_talk, len(order)))
    return Lens(offset, response, settling)
