"""The line that a tip draws: a loop that follows the surface, step by step, and what the lock-in makes of it."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

STEP = 50e-6  # of the controller [s]
MOST_STEPS = 64  # of it that are computed a pixel; in a longer dwell the loop has settled
PIEZO = 2 * math.pi * 2000.0  # of the z piezo [rad/s]
PIEZO_DAMPING = 0.3
PULL_OFF = 8e-9  # deflection at which the tip leaves the surface [m]
# what is kept of the loop from one line to the next
Z, SPEED, COMMAND, ERROR, SURFACE, DEFLECTION, TOUCHING, HIGHEST = range(8)
STATE = 8
HEIGHT, HEIGHT_BACK, RESPONSE, RESPONSE_BACK, FREQUENCY, FREQUENCY_BACK, BENT, BENT_BACK = range(8)


def piezo_step(step: float = STEP) -> NDArray[np.float64]:
    """Return the exact (2, 2) propagator of the z piezo, a damped oscillator, over a step with its input held."""
    swing = PIEZO * math.sqrt(1 - PIEZO_DAMPING**2)
    fade = math.exp(-PIEZO_DAMPING * PIEZO * step)
    c, s = math.cos(swing * step), math.sin(swing * step)
    lag = PIEZO_DAMPING * PIEZO / swing
    return fade * np.array([[c + lag * s, s / swing], [-(PIEZO**2) / swing * s, c - lag * s]])


@njit(nogil=True, cache=True)
def sample(values, edge, cell, x, y):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the map's value at (x, y) [m], bilinear between cell centres, the edge's beyond it."""
    n = values.shape[0]
    fx = min(max((x - edge) / cell - 0.5, 0.0), n - 1.001)
    fy = min(max((y - edge) / cell - 0.5, 0.0), n - 1.001)
    ix, iy = int(fx), int(fy)
    fx -= ix
    fy -= iy
    top = values[iy, ix] * (1 - fx) + values[iy, ix + 1] * fx
    low = values[iy + 1, ix] * (1 - fx) + values[iy + 1, ix + 1] * fx
    return top * (1 - fy) + low * fy


@njit(nogil=True, cache=True)
def _follow(surface, steps, state, closed, setpoint, proportional, integral, piezo):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Let the loop run for one pixel, while the surface goes over from the last pixel's height to this one's."""
    z, speed, command = state[Z], state[SPEED], state[COMMAND]
    before, last = state[SURFACE], state[ERROR]
    touching, highest, deflection = state[TOUCHING], state[HIGHEST], state[DEFLECTION]
    for k in range(steps):
        here = before + (surface - before) * (k + 1) / steps
        deflection = here - z
        if deflection > 0.0:
            touching = 1.0
        elif deflection < -PULL_OFF:
            touching = 0.0
        if touching == 0.0:
            deflection = 0.0
        highest = max(highest, deflection)
        if closed:
            error = deflection - setpoint
            command += integral * STEP * error + proportional * (error - last)
            last = error
        z, speed = (
            command + piezo[0, 0] * (z - command) + piezo[0, 1] * speed,
            piezo[1, 0] * (z - command) + piezo[1, 1] * speed,
        )
    state[Z], state[SPEED], state[COMMAND], state[ERROR] = z, speed, command, last
    state[SURFACE], state[DEFLECTION], state[TOUCHING], state[HIGHEST] = surface, deflection, touching, highest


@njit(nogil=True, cache=True)
def scan_line(  # type: ignore[no-untyped-def]  # pragma: no cover
    out, xy, surface, polarisation, stiffness, edge, cell, steps, state, loop, piezo, lock_in, noise
):
    """Draw a line forth and back.

    out (nx, 8) complex64: height, response, frequency of the contact resonance [Hz], deflection, each forth and
    back, in specimen order.
    xy (2, 2, nx): forth and back, x and y [m]. state (STATE,) of the loop, kept. loop: (closed, setpoint [m],
    proportional, integral [1/s], height offset [m]). lock_in: (gain [m], phase [rad], off [Hz] = drive less
    resonance, quality, resonance [Hz], 1 = follows the resonance, electrostatic part). noise (nx, 2, 5) standard
    normal, then (4,) its sizes: height [m], response [m], frequency [Hz], deflection [m].
    """
    numbers, sizes = noise
    closed, setpoint, proportional, integral, offset = loop
    gain, phase, detuned, quality, resonance, follows, electrostatic = lock_in
    turn = complex(math.cos(phase), math.sin(phase))
    nx = out.shape[0]
    for back in range(2):
        for i in range(nx):
            at = nx - 1 - i if back else i
            x, y = xy[back, 0, at], xy[back, 1, at]
            _follow(
                sample(surface, edge, cell, x, y),
                steps, state, closed, setpoint, proportional, integral, piezo,
            )  # fmt: skip
            shift = sample(stiffness, edge, cell, x, y)
            signal = complex(0.0, 0.0)
            if state[TOUCHING] > 0.0:
                signal = gain * turn * (sample(polarisation, edge, cell, x, y) + electrostatic)
                if follows == 0.0:
                    off = 2 * quality * (detuned - shift) / resonance
                    signal /= complex(1.0, off)
            g = numbers[at, back]
            signal += sizes[1] * complex(g[1], g[2])
            out[at, HEIGHT + back] = state[Z] + offset + sizes[0] * g[0]
            out[at, RESPONSE + back] = signal
            out[at, FREQUENCY + back] = resonance + shift + sizes[2] * g[3]
            out[at, BENT + back] = state[DEFLECTION] + sizes[3] * g[4]


@njit(nogil=True, cache=True)
def _dilate_rows(values, drop, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    reach = (drop.size - 1) // 2
    ny, nx = values.shape
    for iy in range(ny):
        for ix in range(nx):
            best = -np.inf
            for k in range(max(-reach, -ix), min(reach, nx - 1 - ix) + 1):
                best = max(best, values[iy, ix + k] - drop[k + reach])
            out[iy, ix] = best


def dilated(surface: NDArray[np.float64], cell: float, radius: float) -> NDArray[np.float64]:
    """Return where a paraboloid of `radius` [m] at its apex stops above `surface` (n, n) [m]: never below it.

    A grey dilation (Villarrubia, J. Res. NIST 102 (1997) 425); a paraboloid's falls apart into rows and columns.
    """
    relief = float(np.ptp(surface))
    reach = min(surface.shape[0] - 1, int(math.sqrt(2 * radius * relief) / cell) + 1)
    drop = (np.arange(-reach, reach + 1) * cell) ** 2 / (2 * radius)
    rows, both = np.empty_like(surface), np.empty_like(surface)
    _dilate_rows(surface, drop, rows)
    _dilate_rows(np.ascontiguousarray(rows.T), drop, both)
    return np.ascontiguousarray(both.T)
