"""A part of the overview that is looked at again, so that the gate knows how far the specimen has moved."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from probeloop.api import Reduce, RefusedError, Region, Register, Result, Scan

from .registration import Moved, Patch, as_text

_KNOWN = 0.5  # of a pixel: how well the overview itself places what is in it


@dataclass(frozen=True)
class Look:
    """What a look told: shift (x, y) from where the specimen was thought to be, sigma [m], peak ratio."""

    shift: tuple[float, float]
    sigma: float
    peak_ratio: float


@dataclass(frozen=True)
class Reference:
    """How the part is scanned, and what it looked like. pixel (x, y) [m].

    The part is looked at once right after the overview: that took long, and how far the specimen moved meanwhile is
    no measure of its speed from then on. Until there is a second look nothing is known of the speed, so the first one
    counts as poorly known.
    """

    scan: Scan
    topic: str
    before: Moved
    pixel: tuple[float, float]

    @classmethod
    def taken(
        cls, overview: Result, region: Region, shape: tuple[int, int], topic: str, side: int, dwell_time: float,
    ) -> Generator[Any, Any, Reference]:  # fmt: skip
        """Choose the part of `side` pixels with the most contrast in an overview.

        Raises RefusedError when the overview shows nothing to go by.
        """
        rows, columns = min(side, shape[0]), min(side, shape[1])
        values: tuple[float, ...] = yield Reduce(overview, topic, Patch(rows, columns))
        top, left, contrast = values[:3]
        if not contrast > 0:
            raise RefusedError(f"{topic} shows no contrast to register by", "contrast", "another register_topic")
        pixel = (region.width / shape[1], region.height / shape[0])
        right = (left + (columns - 1) / 2 - (shape[1] - 1) / 2) * pixel[0]
        down = (top + (rows - 1) / 2 - (shape[0] - 1) / 2) * pixel[1]
        c, s = math.cos(region.rotation), math.sin(region.rotation)
        part = Region(
            region.centre_x + c * right - s * down, region.centre_y + s * right + c * down,
            columns * pixel[0], rows * pixel[1], region.rotation,
        )  # fmt: skip
        scan = Scan(part, (rows, columns), dwell_time, frame="specimen")
        return cls(scan, topic, Moved(as_text(values[3:]), rows, columns), pixel)

    def look(self, least: float = _KNOWN) -> Generator[Any, Any, Look]:
        """Scan the part again and tell the gate; raises RefusedError for a poor registration or a jump.

        least: how well it is known at best [px].
        """
        seen: Result = yield self.scan
        x, y, sigma, ratio = yield Reduce(seen, self.topic, self.before)
        metres = min(1.0, max(sigma, least) * max(self.pixel))
        shift = (x * self.pixel[0], y * self.pixel[1])
        yield Register(shift, metres, ratio)
        return Look(shift, metres, ratio)
