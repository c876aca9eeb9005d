"""Where an overview is, and what makes an instrument ready for it."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import Any

from probeloop.api import Approach, InstrumentInfo, Read, Region, Result, SetDrive, Unblank

from .points import Point

DWELL = 1e-3  # [s]
DRIVE = 1.0  # of a lock-in measurement that says nothing else [V]
INNER = 0.94  # of the region that the limits allow, where the specimen may drift


def region_of(info: InstrumentInfo, wanted: Region | None, *, whole: bool) -> Region:
    """Return the wanted region, else what the limits allow; with a margin for drift unless the whole is meant."""
    if wanted is not None:
        return wanted
    (x0, y0), (x1, y1) = info.limits.region
    share = 1.0 if whole else INNER
    return Region((x0 + x1) / 2, (y0 + y1) / 2, share * (x1 - x0), share * (y1 - y0))


def at_places(region: Region, points: Sequence[Point]) -> tuple[tuple[float, float], ...]:
    """Return where points on the region's own axes from its centre are, (x, y) [m]."""
    c, s = math.cos(region.rotation), math.sin(region.rotation)
    return tuple(
        (region.centre_x + c * p.x - s * p.y, region.centre_y + s * p.x + c * p.y) for p in points
    )  # fmt: skip


def dwell(info: InstrumentInfo, wanted: float | None) -> float:
    """Return the dwell time [s]: the wanted one, else a millisecond, or what comes nearest to it."""
    low, high = info.limits.dwell_time
    return wanted if wanted is not None else min(max(DWELL, low), high)


def ready(info: InstrumentInfo) -> Generator[Any, Any, None]:
    """Make the instrument ready: beam on, tip at the surface and excited. The gate ends it."""
    if "Unblank" in info.commands:
        yield Unblank()
    if "Approach" not in info.commands:
        return
    now: Result = yield Read()
    if now.readback.get("feedback") not in ("engaged", "held"):
        yield Approach()
    if "SetDrive" in info.commands and not now.readback.get("drive"):
        low, high = info.limits.knobs.get("drive", (0.0, DRIVE))
        yield SetDrive(amplitude=min(max(DRIVE, low), high))
