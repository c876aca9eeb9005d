"""Switching loops of a world: what a place gives when it is measured, and what real spectra suffer.

A loop has two branches of the shape tanh, as the simulator's full loops have. Closed form, so that the truth of all
4,096 places is one matrix product; a measured one gets noise, may come out broken, and goes through the real
scalarizer `loop_area`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from probeloop.api import Axis, StreamSpec

Array = NDArray[np.float64]

STEPS = 64
AMPLITUDE = 8.5  # of the triangle [V]
COERCIVE = 4.2  # half the width of a loop [V]
WIDTH = 0.8  # of a branch [V]
SCALE = 1e-10  # response of a fully open loop [m]
LEAST = 0.3  # opening where the property is 0
NOISE = 0.08  # of a step, in SCALE: the area of a loop is known to 3 % of the range over a map
BROKEN = ("spikes", "no contact", "jump")  # as the simulator has them, with
OFTEN = (0.6, 0.2, 0.2)

_PHASE = np.arange(STEPS) / STEPS
BIAS = AMPLITUDE * np.interp(_PHASE, [0, 0.25, 0.75, 1], [0, 1, -1, 0])
_RISING = (_PHASE < 0.25) | (_PHASE >= 0.75)
SPEC = StreamSpec("spectrum", "spectra", "<f8", sig=(Axis("step", STEPS),), aux={"bias": tuple(BIAS.tolist())})


def loops(strength: Array, imprint: Array) -> Array:
    """Return noise-free loops (N, STEPS) [m] of places with this property, 0 to 1 (N,), and imprint (N,) [V]."""
    switching = np.where(_RISING, COERCIVE, -COERCIVE)
    opening = SCALE * (LEAST + (1 - LEAST) * strength)
    made: Array = opening[:, None] * np.tanh((BIAS - switching - imprint[:, None]) / WIDTH)
    return made


def work(loops: Array) -> Array:
    """Return the work of switching of clean loops (..., STEPS): minus the integral of R dV [m V].

    It is `loop_area` with its sign turned, since a response that follows its bias encloses a negative area.
    """
    made: Array = -(loops @ ((np.roll(BIAS, -1) - np.roll(BIAS, 1)) / 2))
    return made


def measured(loop: Array, broken: str, rng: np.random.Generator) -> Array:
    """Return a loop (STEPS,) [m] as it is recorded: with noise, and spoilt in one of the ways of BROKEN or not."""
    noise = NOISE * SCALE
    made = loop + noise * rng.standard_normal(STEPS)
    if broken == "spikes":
        number = max(2, round(float(rng.uniform(0.12, 0.3)) * STEPS))
        where = rng.choice(STEPS, number, replace=False)
        size = np.abs(loop).max() * 10 ** rng.uniform(0.4, 1.6, number)
        made[where] += size * rng.choice([-1.0, 1.0], number)
    elif broken == "no contact":
        made = noise * rng.standard_normal(STEPS)
    elif broken == "jump":
        at = int(rng.integers(STEPS // 5, 4 * STEPS // 5))
        made[at:] = made[at:] * rng.uniform(0.1, 0.5) + rng.choice([-1.0, 1.0]) * np.abs(loop).max()
    return made
