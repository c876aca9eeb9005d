"""From a command to triggers: where the probe is told to be, where it really is, and when.

The deflectors follow what they are told with a time constant, so the first pixels of a line are pulled towards where
the probe came from; each line is off by a jitter of its own; on the way back to a line's start the beam stays on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

from probeloop.api import Axis, FrameFlag, Scan, ScanPath, visit_order

from .exposure import Triggers


@dataclass(frozen=True)
class Deflection:
    """How the scanner misses what it is told.

    settling: time constant of the deflectors [s]. line_jitter: rms displacement of a whole line, along each axis [m].
    seed: of the jitter.
    """

    settling: float = 0.0
    line_jitter: float = 0.0
    seed: int = 0

    def places(
        self, told: NDArray[np.float64], time_ns: NDArray[np.int64], exposure_ns: int, line: NDArray[np.int64],
        start: tuple[float, float],
    ) -> NDArray[np.float64]:  # fmt: skip
        """Return where the probe is in the middle of each exposure, (T, 2) SCAN [m].

        told: (T, 2) [m]. time_ns: (T,) start of each exposure. line: (T,) number of each trigger's line since the
        column was switched on. start: where the probe was before [m].
        """
        if not self.settling and not self.line_jitter:
            return told
        places = told
        if self.line_jitter:
            numbers, which = np.unique(line, return_inverse=True)
            drawn = [np.random.default_rng([self.seed, 8, int(n)]).standard_normal(2) for n in numbers]
            places = told + self.line_jitter * np.array(drawn)[which]
        if not self.settling:
            return places
        before = np.empty((len(places), 2))
        begun = np.concatenate([time_ns[:1], time_ns[:-1] + exposure_ns])  # the deflectors are told as a pixel ends
        waited = (time_ns - begun) * 1e-9
        _follow(places, waited, exposure_ns * 1e-9, self.settling, np.asarray(start, np.float64), before)
        return before


@nb.njit(nogil=True, cache=True)
def _follow(told: Any, waited: Any, exposure: Any, settling: Any, start: Any, out: Any) -> None:
    """Write where a first-order lag has the probe in the middle of each exposure into `out` (T, 2)."""
    y, x = start[1], start[0]
    for i in range(told.shape[0]):
        to_middle = np.exp(-(waited[i] + exposure / 2) / settling)
        to_end = np.exp(-(waited[i] + exposure) / settling)
        out[i, 0] = told[i, 0] + (x - told[i, 0]) * to_middle
        out[i, 1] = told[i, 1] + (y - told[i, 1]) * to_middle
        x = told[i, 0] + (x - told[i, 0]) * to_end
        y = told[i, 1] + (y - told[i, 1]) * to_end


def scan_triggers(
    command: Scan, first_ns: int, number: int, line: int, deflection: Deflection, start: tuple[float, float]
) -> Triggers:
    """Return the triggers of a scan: one a pixel, in the order of the visits.

    first_ns: start of the first exposure. number, line: of the first trigger and the first line since the column was
    switched on. start: where the probe was [m].
    """
    ny, nx = command.shape
    period = round(command.dwell_time * 1e9)
    order = np.tile(visit_order(command.shape, command.order), command.frames)
    t = np.arange(order.size)
    flags = np.zeros(order.size, np.uint16)
    flags[t % nx == 0] |= int(FrameFlag.LINE_START)
    flags[t % nx == nx - 1] |= int(FrameFlag.LINE_END)
    flags[t >= ny * nx] |= int(FrameFlag.REPEAT_VISIT)
    time_ns = first_ns + t * period + (t // nx) * round(command.flyback_time * 1e9)
    told = command.region.positions(command.shape, order)
    places = deflection.places(told, time_ns, period, line + t // nx, start)
    return Triggers(number + t, order, told, time_ns, flags, places)


def path_triggers(
    command: ScanPath, first_ns: int, number: int, line: int, deflection: Deflection, start: tuple[float, float]
) -> Triggers:
    """Return the triggers of a path: one a point, the whole path one line."""
    told = np.asarray(command.positions, np.float64).reshape(-1, 2)
    t = np.arange(len(told))
    period = round(command.dwell_time * 1e9)
    flags = np.zeros(len(told), np.uint16)
    flags[0] |= int(FrameFlag.LINE_START)
    flags[-1] |= int(FrameFlag.LINE_END)
    time_ns = first_ns + t * period
    places = deflection.places(told, time_ns, period, np.full(len(told), line), start)
    return Triggers(number + t, t, told, time_ns, flags, places)


def still_triggers(
    position: tuple[float, float], frames: int, first_ns: int, number: int, period_ns: int, scan_index: int = -1
) -> Triggers:
    """Return the triggers of a measurement that does not move: `frames` exposures one after the other."""
    t = np.arange(frames)
    places = np.tile(np.asarray(position, np.float64), (frames, 1))
    index = np.full(frames, scan_index, np.int64)
    return Triggers(number + t, index, places, first_ns + t * period_ns, np.zeros(frames, np.uint16), places)


def settling_first(triggers: Triggers, now_ns: int, period_ns: int) -> Triggers:
    """Put the frames of the free-running camera from now on before the first trigger."""
    count = max(0, -((now_ns - int(triggers.time_ns[0])) // period_ns))
    if not count:
        return triggers
    t = np.arange(count)

    def before(value: Any, column: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([np.broadcast_to(value, (count, *column.shape[1:])), column]).astype(column.dtype)

    return Triggers(
        before(-1 - t, triggers.number),
        before(-1, triggers.scan_index),
        before(triggers.position[0], triggers.position),
        np.concatenate([now_ns + t * period_ns, triggers.time_ns]),
        before(int(FrameFlag.SETTLING), triggers.flags),
        before(triggers.position[0], triggers.place),
    )


def map_axes(command: Scan) -> tuple[Axis, Axis]:
    """Return the axes of a scan's map; of a rotated region, along its own sides about its centre."""
    (ny, nx), region = command.shape, command.region
    step_y, step_x = region.height / ny, region.width / nx
    return (
        Axis("y", ny, step_y, region.centre_y - step_y * (ny - 1) / 2, "m"),
        Axis("x", nx, step_x, region.centre_x - step_x * (nx - 1) / 2, "m"),
    )
