"""Where a loop switches: both branches fitted together.

The response lies between two straight lines, one for either state of polarisation. At a bias V it has gone a share
(1 + tanh((V - c) / w)) / 2 of the way, with a coercive voltage c and a width w of its own on the branch of rising and
on that of falling bias. This is the form of the loop function of Jesse, Lee and Kalinin (Rev. Sci. Instrum. 77,
073702 (2006)), with tanh in place of erf, and a slope of its own for each state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .loops import Loop, noise_of

Array = NDArray[np.float64]
RISING, FALLING = 0, 1
LEAST_POINTS = 16
_FINEST = 0.005  # of the opening: no model follows a loop more closely
_UNRESOLVED = 0.3  # width below which only the step between two biases is known [steps]


@dataclass(frozen=True)
class Switching:
    """What a fit found; index 0 = while the bias rises, 1 = while it falls.

    coercive, width (2,) [V]. covariance (4, 4) of (coercive, log width), from what the fit leaves. opening: between
    the states at zero bias, noise: what the fit leaves over, scatter: between neighbouring steps, all in units of the
    response. low, high: of the bias [V]; step: the usual one between two biases [V].
    """

    coercive: Array
    width: Array
    covariance: Array
    opening: float
    noise: float
    scatter: float
    low: float
    high: float
    step: float

    def variance(self, gradient: Array) -> float:
        """Return the variance [V²] of what changes with (coercive, log width) as `gradient` (4,)."""
        return float(gradient @ self.covariance @ gradient)

    def believable(self, least: float, misfit: float) -> bool:
        """Tell whether this is a loop: open by `least` times what the fit leaves, and that no more than the scatter.

        misfit: how many times the scatter may be left. The bias must pass both coercive voltages, the one where it
        rises being the higher: a spectrum with a jump in it closes the other way round.
        """
        open_enough = abs(self.opening) > least * self.noise
        followed = self.noise <= misfit * max(self.scatter, _FINEST * abs(self.opening))
        inside = (self.coercive > self.low + self.step) & (self.coercive < self.high - self.step)
        return bool(open_enough and followed and inside.all() and self.coercive[0] > self.coercive[1])


def rising(bias: Array) -> NDArray[np.bool_]:
    """Return at which steps (E,) of a closed waveform the bias has just risen; where it stands, as before."""
    change = np.sign(bias - np.roll(bias, 1))
    last = change[np.flatnonzero(change)[-1]] if np.any(change) else 1.0
    for i in range(len(change)):
        last = change[i] = change[i] or last
    made: NDArray[np.bool_] = change > 0
    return made


def fitted(loop: Loop) -> Switching | None:
    """Fit a loop, spikes left out; None when there is too little, or it can't be done."""
    from scipy.optimize import least_squares  # takes a second to import: not at the start of a rig

    kept = ~loop.replaced
    up = rising(loop.bias)[kept]
    bias, response = loop.bias[kept], loop.response[kept]
    span, scale = float(np.ptp(loop.bias)), float(np.ptp(response))
    if min(np.count_nonzero(up), np.count_nonzero(~up)) < LEAST_POINTS // 2 or not span or not scale:
        return None
    moved = np.abs(np.diff(loop.bias))
    step = float(np.median(moved[moved > 0]))
    y = response / scale
    edge, middle = max(abs(bias.min()), abs(bias.max())), (loop.bias.max() + loop.bias.min()) / 2

    def design(p: Array) -> Array:
        share = _share(bias, up, p)
        return np.stack([share, share * bias / edge, 1 - share, (1 - share) * bias / edge], axis=1)

    def left(p: Array) -> Array:
        q, _ = np.linalg.qr(design(p))
        return np.asarray(y - q @ (q.T @ y))

    def slopes_of_left(p: Array) -> Array:
        """Return how `left` changes, the lines refitted (Kaufman, BIT 15 (1975) 49)."""
        q, r = np.linalg.qr(design(p))
        states = np.linalg.lstsq(r, q.T @ y, rcond=None)[0]
        moved = _slopes(bias, up, p, np.asarray(states, np.float64), edge)
        return np.asarray(q @ (q.T @ moved) - moved)

    start = np.array([_jump(bias[up], y[up]), _jump(bias[~up], y[~up]), math.log(step), math.log(step)])
    widest, narrowest = math.log(span), math.log(0.05 * step)
    bounds = ([middle - span] * 2 + [narrowest] * 2, [middle + span] * 2 + [widest] * 2)
    found = least_squares(left, start, jac=slopes_of_left, bounds=bounds, x_scale=[step, step, 1.0, 1.0], max_nfev=60)
    p, a = found.x, design(found.x)
    states = np.linalg.lstsq(a, y, rcond=None)[0]
    freedom = len(y) - 8
    if freedom < 4 or not np.isfinite(found.fun).all():
        return None
    noise = math.sqrt(float(found.fun @ found.fun) / freedom)
    full = np.concatenate([_slopes(bias, up, p, np.asarray(states, np.float64), edge), a], axis=1)
    covariance = noise**2 * np.linalg.pinv(full.T @ full, rcond=1e-12)[:4, :4]
    for branch in (RISING, FALLING):
        if math.exp(p[2 + branch]) < _UNRESOLVED * step:  # anywhere between two biases
            for each in (branch, 2 + branch):
                covariance[each, :] = covariance[:, each] = 0.0
            covariance[branch, branch], covariance[2 + branch, 2 + branch] = step**2 / 12, 1.0
    opening = float(states[0] - states[2])
    return Switching(
        p[:2].copy(), np.exp(p[2:]), covariance, opening * scale, noise * scale, noise_of(loop.response),
        float(loop.bias.min()), float(loop.bias.max()), step,
    )  # fmt: skip


def _share(bias: Array, up: NDArray[np.bool_], p: Array) -> Array:
    centre, width = np.where(up, p[0], p[1]), np.exp(np.where(up, p[2], p[3]))
    made: Array = (1 + np.tanh((bias - centre) / width)) / 2
    return made


def _slopes(bias: Array, up: NDArray[np.bool_], p: Array, states: Array, edge: float) -> Array:
    """Return how the model changes with (coercive, log width) at every step, (n, 4)."""
    centre, width = np.where(up, p[0], p[1]), np.exp(np.where(up, p[2], p[3]))
    u = (bias - centre) / width
    opening = states[0] - states[2] + (states[1] - states[3]) * bias / edge
    change = opening * (1 - np.tanh(u) ** 2) / 2
    return np.stack([-change / width * up, -change / width * ~up, -change * u * up, -change * u * ~up], axis=1)


def _jump(bias: Array, y: Array) -> float:
    """Return the bias [V] at which a step explains a branch best: the smallest scatter on its two sides."""
    order = np.argsort(bias, kind="stable")
    v, r = bias[order], y[order]
    n = np.arange(1, len(r))
    below, above = np.cumsum(r)[:-1], r.sum() - np.cumsum(r)[:-1]
    between = below**2 / n + above**2 / (len(r) - n)
    at = int(np.argmax(between))
    return float((v[at] + v[at + 1]) / 2)
