"""Where the specimen is: SPECIMEN = SCAN − drift(t) (CONVENTIONS.md 7).

Between two registered references the specimen moves with a constant velocity; each reference corrects the
offset and, from the second on, the velocity. What is not known grows with time:
sigma² = sigma₀² + (sigma_v·Δt)² + D·Δt, the last term a random walk.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import msgspec

from ..data.commands import Command
from ..data.driver import Grid
from ..data.errors import RefusedError
from ..data.scan import Position, Region

GOOD_PEAK = 1.5  # a correlation peak below this multiple of the second one is no registration


@dataclass(frozen=True, slots=True)
class Drift:
    """Drift of the specimen in the SCAN frame.

    time_ns: of the last reference. offset [m] and sigma [m] there; velocity [m/s] with velocity_sigma [m/s];
    diffusion [m²/s]. references: how many were registered.
    """

    time_ns: int = 0
    offset: Position = (0.0, 0.0)
    sigma: float = 0.0
    velocity: Position = (0.0, 0.0)
    velocity_sigma: float = 0.0
    diffusion: float = 0.0
    references: int = 0

    def at(self, now_ns: int) -> tuple[Position, float]:
        """Return (drift (x, y) [m], its sigma [m]) at `now_ns`."""
        dt = max(0.0, (now_ns - self.time_ns) / 1e9)
        (x, y), (vx, vy) = self.offset, self.velocity
        variance = self.sigma**2 + (self.velocity_sigma * dt) ** 2 + self.diffusion * dt
        return (x + vx * dt, y + vy * dt), math.sqrt(variance)

    def registered(self, now_ns: int, shift: Position, sigma: float, peak_ratio: float = math.inf) -> Drift:
        """Return the drift after a reference measured `shift` [m] in all, with `sigma` [m].

        Raises RefusedError for a poor peak, or a jump over three sigma of what was expected: stop the plan.
        """
        if not peak_ratio >= GOOD_PEAK:
            raise RefusedError(
                f"the registration failed: peak ratio {peak_ratio:.2f}", "peak_ratio", f"at least {GOOD_PEAK:g}"
            )
        expected, known = self.at(now_ns)
        jump = math.dist(expected, shift)
        allowed = 3.0 * math.hypot(known, sigma)
        if self.references and jump > allowed:
            raise RefusedError(f"the drift jumped by {jump:.3g} m", "3 sigma", f"at most {allowed:.3g} m")
        dt = (now_ns - self.time_ns) / 1e9
        velocity, velocity_sigma = self.velocity, self.velocity_sigma
        if self.references and dt > 0:
            velocity = ((shift[0] - self.offset[0]) / dt, (shift[1] - self.offset[1]) / dt)
            velocity_sigma = math.hypot(sigma, self.sigma) / dt
        return replace(
            self,
            time_ns=now_ns,
            offset=shift,
            sigma=sigma,
            velocity=velocity,
            velocity_sigma=velocity_sigma,
            references=self.references + 1,
        )

    def to_scan(self, position: Position, now_ns: int) -> Position:
        """Return where a place of the specimen is now in the SCAN frame [m]."""
        (dx, dy), _ = self.at(now_ns)
        return (position[0] + dx, position[1] + dy)

    def to_specimen(self, position: Position, now_ns: int) -> Position:
        """Return which place of the specimen is now at a position of the SCAN frame [m]."""
        (dx, dy), _ = self.at(now_ns)
        return (position[0] - dx, position[1] - dy)


def in_scan_frame(command: Command, drift: Drift, grid: Grid, now_ns: int) -> Command:
    """Return `command` with its places in the SCAN frame, as they are at `now_ns`.

    A place of the specimen moves, so nobody can put it on the scanner's grid before: the nearest reachable place
    is taken here. A command that is in the SCAN frame already is returned untouched.
    """
    if getattr(command, "frame", "scan") != "specimen":
        return command
    changes: dict[str, object] = {"frame": "scan"}
    region = getattr(command, "region", None)
    if isinstance(region, Region):
        x, y = drift.to_scan((region.centre_x, region.centre_y), now_ns)
        changes["region"] = msgspec.structs.replace(region, centre_x=x, centre_y=y)
    position = getattr(command, "position", None)
    if position is not None:
        changes["position"] = grid.nearest(drift.to_scan(position, now_ns))
    positions: Iterable[Position] | None = getattr(command, "positions", None)
    if positions is not None:
        changes["positions"] = tuple(grid.nearest(drift.to_scan(each, now_ns)) for each in positions)
    return msgspec.structs.replace(command, **changes)
