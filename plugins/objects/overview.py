"""Where an overview is, and where points on it are."""

from __future__ import annotations

import math
from collections.abc import Sequence

from probeloop.api import InstrumentInfo, Region

from .points import Point

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
