"""Switching loops: a set of Preisach relays whose thresholds follow the place, and how a spectrum can be spoilt.

Up and down thresholds are spread as a logistic distribution, so that a full loop has branches of the shape tanh; any
other waveform gives minor loops, and after one full cycle the loop is closed (Preisach, Z. Phys. 94 (1935) 277).
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numba import njit
from numpy.typing import NDArray

from .specimen import Place

Broken = Literal["", "spikes", "no contact", "jump"]
REACH = 25e-9  # of a wall's influence [m]
_RELAYS = 256
_COERCIVE = 4.4  # half the width of a loop far from any wall [V]
_IMPRINT = 0.8  # of the film's bottom electrode [V]
_FATIGUE = 400.0  # cycles to 1/e
_SPEED = 0.35  # of the coercive bias, per decade of the pulse's duration [V]
_SPEED_FROM = 4e-3  # [s]


class Loop(msgspec.Struct, frozen=True):
    """up, down: bias at which half has switched [V]; width of the branches [V]; response: half the opening, 1 = full.

    offset, slope [1/V]: of the response. field_slope [1/V]: what the bias itself adds while it is on.
    """

    up: float
    down: float
    width: float
    response: float
    offset: float
    slope: float
    field_slope: float

    @property
    def area(self) -> float:
        """Area of the full loop, the integral of R dV [V]: negative, since R rises after V does."""
        return -2 * self.response * (self.up - self.down)


def loop_at(place: Place, pulse_time: float) -> Loop:
    """Return the loop of a place.

    A wall that is near need only move, where a domain would have to nucleate: the loop is narrower, less open and
    rounder there. A bent wall pulls at the domain inside it; a defect and injected charge shift the loop.
    """
    near = float(np.exp(-place.distance / REACH))
    share = 0.4 if place.right_angle else 0.6
    half = _COERCIVE * (1 - share * near) - _SPEED * float(np.log10(pulse_time / _SPEED_FROM))
    half = max(0.3, half)
    bend = float(np.clip(place.curvature * 60e-9, -2, 2))
    imprint = _IMPRINT + 0.9 * bend * place.up * near + 1.2 * place.defect - place.charge
    response = (1 - 0.35 * near) * float(np.exp(-place.cycles / _FATIGUE)) * (0.45 if place.lying else 1.0)
    return Loop(
        up=imprint + half,
        down=imprint - half,
        width=0.35 + 0.7 * near + 0.4 * min(1.0, abs(place.defect)),
        response=response,
        offset=0.06 * place.up * near - 0.02,
        slope=0.006,
        field_slope=-0.022,
    )


def switched(loop: Loop, waveform: NDArray[np.float64], cycles: int, up: int) -> NDArray[np.float64]:
    """Return the switched share, -1 to 1, behind each step of `cycles` cycles (cycles * n,).

    One cycle goes before them, so that where the specimen began is forgotten and every loop is closed.
    """
    share = (np.arange(_RELAYS) + 0.5) / _RELAYS
    spread = loop.width / 2 * np.log(share / (1 - share))
    mixed = spread[np.random.default_rng(7).permutation(_RELAYS)]
    made: NDArray[np.float64] = _relays(
        loop.up + spread, np.minimum(loop.down + mixed, loop.up + spread), waveform, cycles + 1, up
    )
    return made[waveform.size :]


@njit(nogil=True, cache=True)
def _relays(rise, fall, waveform, cycles, start):  # type: ignore[no-untyped-def]  # pragma: no cover
    state = np.full(rise.size, float(start))
    out = np.empty(waveform.size * cycles)
    at = 0
    for _ in range(cycles):
        for volts in waveform:
            total = 0.0
            for i in range(rise.size):
                if volts > rise[i]:
                    state[i] = 1.0
                elif volts < fall[i]:
                    state[i] = -1.0
                total += state[i]
            out[at] = total / rise.size
            at += 1
    return out


def response(
    loop: Loop, waveform: NDArray[np.float64], share: NDArray[np.float64], field_on: bool
) -> NDArray[np.float64]:
    """Return the response (n,) to the share switched; with the field on, with what the bias itself adds."""
    volts = np.resize(waveform, share.size)
    made = loop.response * share * (1 + 0.01 * np.abs(volts)) + loop.offset + loop.slope * volts
    return made + loop.field_slope * volts if field_on else made


def spoil(
    values: NDArray[np.complex128], how: Broken, rng: np.random.Generator, noise: float
) -> NDArray[np.complex128]:
    """Return a spectrum (channels, steps) as a failed fit, a lost contact or a slip of the tip leaves it."""
    made = values.copy()
    steps = values.shape[-1]
    if how == "spikes":
        number = max(2, round(rng.uniform(0.08, 0.3) * steps))
        where = rng.choice(steps, number, replace=False)
        size = np.abs(values).max() * 10 ** rng.uniform(0.4, 1.6, number)
        made[:, where] += size * rng.choice([-1.0, 1.0], number)
    elif how == "no contact":
        made[:] = noise * (rng.standard_normal(made.shape) + 1j * rng.standard_normal(made.shape))
    elif how == "jump":
        at = int(rng.integers(steps // 5, 4 * steps // 5))
        made[:, at:] = made[:, at:] * rng.uniform(0.1, 0.5) + rng.choice([-1.0, 1.0]) * np.abs(values).max()
    return made


def triangle(amplitude: float, steps: int = 64) -> NDArray[np.float64]:
    """Return one cycle from 0 up, down, and back up to before 0, (steps,) [V]."""
    t = np.arange(steps) / steps
    return np.asarray(amplitude * (1 - 4 * np.abs(((t + 0.25) % 1) - 0.5)))
