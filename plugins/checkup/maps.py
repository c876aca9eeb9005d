"""The checks of any scanned image: how fast it drifts, and whether lines begin where they should."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probeloop.api import InstrumentInfo, PlanContext, PlanError, Reduce, Region, Result, Scan

from .capabilities import Steps
from .diffraction import Diffraction
from .drift import rate, register
from .findings import Findings
from .readings import Totals, image_of, plain_image, totals

SLOW = 5.0  # times the usual dwell, for the drift
SERIES = 4
FLYBACK = 1e-3  # [s]
CLEAR = 0.5  # correlation of two images that show the same


@dataclass(frozen=True)
class Images:
    """What an instrument without patterns scans: points a side of its region, at a dwell time [s]."""

    points: int
    dwell: float


class Maps:
    """Steps of the plan. source: the checks of the patterns where these went well, else what to scan plainly."""

    def __init__(self, ctx: PlanContext, findings: Findings, source: Diffraction | Images) -> None:
        self._info, self._inputs, self._findings, self._source = ctx.info, ctx.inputs, findings, source
        self._step = 0.0
        self._most = math.inf

    def drift(self) -> Steps:
        """Several scans of one place, registered to the first."""
        self._must_be_live()
        taken: list[tuple[float, NDArray[np.float64]]] = []
        for _ in range(SERIES):
            result: Result = yield self._scan(SLOW)
            if isinstance(self._source, Diffraction):
                self._source.known.slow = result
            image = yield from self._image(result)
            when = yield from self._when(result)
            taken.append((when, image))
        times = np.array([when for when, _ in taken])
        found = [register(taken[0][1], image, self._most) for _, image in taken[1:]]
        if min(each.correlation for each in found) < CLEAR:
            raise PlanError("two scans of one place do not show the same: noise, or a drift of more than half a cell")
        shifts = np.array([(0.0, 0.0), *(each.shift for each in found)]) * self._step
        if not np.ptp(times) > 0:
            raise PlanError("the frames do not say when they were taken")
        # content that moves to the right in the image is a specimen that drifts to the right
        speed, sigma = rate(times, shifts, max(each.sigma for each in found) * self._step)
        size = math.hypot(*speed)
        words = f"{size * 1e12:.1f} ± {sigma * 1e12:.1f} pm/s over {np.ptp(times):.1f} s"
        self._findings.row("drift", "found", words, found=list(speed), sigma=sigma, units="m/s")
        self._findings.values["drift_rate"] = size

    def flyback(self) -> Steps:
        """Two scans, one of which waits after each line: the start of a line must lie at the same place."""
        self._must_be_live()
        fast: Result = yield self._scan(1.0)
        first = yield from self._image(fast)
        slow: Result = yield self._scan(1.0, FLYBACK)
        second = yield from self._image(slow)
        wide = max(8, first.shape[1] // 4)
        start = register(second[:, :wide], first[:, :wide], self._most)
        rest = register(second[:, -2 * wide :], first[:, -2 * wide :], self._most)
        if min(start.correlation, rest.correlation) < CLEAR:
            raise PlanError("the two scans do not show the same")
        moved = (start.shift[0] - rest.shift[0]) * self._step
        sigma = math.hypot(start.sigma, rest.sigma) * self._step
        shown = abs(moved) > max(3 * sigma, 0.2 * self._step)
        words = f"the first quarter of a line lies {moved * 1e12:+.0f} ± {sigma * 1e12:.0f} pm from where it does "
        words += f"{FLYBACK * 1e3:g} ms after the flyback"
        self._findings.row("flyback", "failed" if shown else "passed", words, found=moved, sigma=sigma, units="m")

    def _must_be_live(self) -> None:
        if self._info.origin == "replay":
            raise PlanError("a recorded file shows the same at every scan")

    def _scan(self, slower: float, flyback: float = 0.0) -> Scan:
        source = self._source
        if isinstance(source, Diffraction):
            self._step = source.wanted.step
            lengths = np.linalg.norm(np.linalg.inv(source.wanted.cell), axis=1)
            self._most = 0.45 * float(lengths.min()) / self._step
            return source.scan(source.known.place, source.wanted.dwell * slower, flyback)
        scan = plain_scan(self._info, source, slower, flyback)
        self._step = scan.region.width / scan.shape[1]
        return scan

    def _image(self, result: Result) -> Steps:
        if isinstance(self._source, Diffraction):
            image = yield from self._source.image(result)
        elif result.topic not in self._inputs:
            raise PlanError(f"the scan goes to {result.topic!r}, whose frames are too large for a plan to look at")
        else:
            image = image_of((yield Reduce(result, result.topic, plain_image)))
        if image is None:
            raise PlanError("the scan shows no image")
        return image

    def _when(self, result: Result) -> Steps:
        """Return when a scan was taken [s]: on the instrument's clock, or on the host's where that is not told."""
        if isinstance(self._source, Diffraction):
            return Totals(*(yield Reduce(result, self._source.wanted.totals, totals))).time
        return result.trace.applied * 1e-9


def plain_scan(info: InstrumentInfo, wanted: Images, slower: float, flyback: float) -> Scan:
    """Return a scan of all of the region on places that the scanner has; raises PlanError where it does not scan."""
    if "Scan" not in info.commands:
        raise PlanError(f"{info.name} does not scan")
    low, high = info.limits.dwell_time
    sides = [
        _side(
            info.grid.origin[i], info.grid.step[i], info.limits.region[0][i], info.limits.region[1][i], wanted.points
        )
        for i in (0, 1)
    ]
    (x, width, nx), (y, height, ny) = sides
    dwell = min(max(wanted.dwell * slower, low), high)
    return Scan(Region(x, y, width, height), (ny, nx), dwell, flyback_time=flyback)


def _side(origin: float, step: float, low: float, high: float, points: int) -> tuple[float, float, int]:
    """Return centre, size [m] and pixels of a side: every so many of the scanner's places, or anywhere (step 0)."""
    if step <= 0:
        return (low + high) / 2, high - low, points
    first, last = math.ceil((low - origin) / step - 1e-6), math.floor((high - origin) / step + 1e-6)
    stride = max(1, -(-(last - first + 1) // points))
    n = max(1, (last - first + 1) // stride)
    return origin + step * (first + (stride * n - 1) / 2), n * stride * step, n
