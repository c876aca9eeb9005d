"""Moves as the gate wants them: on the scanner's grid, and no longer than the largest step allowed.

The gate never reroutes, so the sender does it, and everybody sees the single commands.
"""

from __future__ import annotations

import itertools
import math

import msgspec

from ..data.commands import AcquireSpectrum, ApplyPulse, Command, MoveProbe, ScanPath
from ..data.driver import Grid, InstrumentInfo
from ..data.scan import Position

MOST_STEPS = 10_000


def on_grid(command: Command, grid: Grid) -> Command:
    """Return the command with its positions on the grid."""
    if isinstance(command, MoveProbe | AcquireSpectrum | ApplyPulse):
        return msgspec.structs.replace(command, position=grid.nearest(command.position))
    if isinstance(command, ScanPath):
        return msgspec.structs.replace(command, positions=tuple(grid.nearest(p) for p in command.positions))
    return command


def goal_of(command: Command) -> Position | None:
    """Return where a command puts the probe, if it is one place."""
    return command.position if isinstance(command, MoveProbe | AcquireSpectrum | ApplyPulse) else None


def way(start: Position, goal: Position, info: InstrumentInfo) -> list[Position]:
    """Return the places between start and goal, both left out, so that no step is longer than allowed.

    Empty where one step will do, and where no way exists: then the gate says so.
    """
    longest = info.limits.max_step
    distance = math.dist(start, goal)
    if longest is None or distance <= longest or not math.isfinite(distance):
        return []
    for n in range(math.ceil(distance / longest), MOST_STEPS):
        points = [
            info.grid.nearest((start[0] + (goal[0] - start[0]) * i / n, start[1] + (goal[1] - start[1]) * i / n))
            for i in range(1, n)
        ]
        stops = [start, *points, goal]
        if all(math.dist(a, b) <= longest for a, b in itertools.pairwise(stops)):
            return points
        if n > 4 * distance / longest + 4:
            break
    return []
