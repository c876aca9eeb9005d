"""How many electrons went where: the incident dose, not the detected one (CONVENTIONS.md 5).

`DoseAccount` integrates the beam current over all time that is not blanked, by the instrument's clock, command
or none, and lays it on a map [e/m²] in SPECIMEN coordinates. What the frames account for goes where they were;
the rest (flyback, transit, idling) goes where the probe last was.

A cell of the map gets the mean of its area from a scan, whose pixels tile it, and the full density of the
footprint from a single place, as if all visits in the cell met: an upper bound in both.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data import commands as c
from ..data.control import Cost
from ..data.driver import InstrumentInfo
from ..data.scan import Position, Region
from .drift import Drift, in_scan_frame
from .gate import GateState

ELEMENTARY_CHARGE = 1.602176634e-19  # [C]
CELLS = 256
LARGEST_SPREAD = 16  # cells to each side that one footprint may reach


class DoseMap:
    """Electrons per area, (ny, nx) float64 [e/m²]. low, high: corners [m]; footprint: probe size [m]."""

    def __init__(self, low: Position, high: Position, footprint: float) -> None:
        self.low, self.high = np.asarray(low, float), np.asarray(high, float)
        span = np.maximum(self.high - self.low, 1e-15)
        self.footprint = footprint or float(np.max(span)) / CELLS
        cell = max(float(np.max(span)) / CELLS, self.footprint)
        nx, ny = (max(1, math.ceil(s / cell)) for s in span)
        self.cell = span / (nx, ny)
        self._corner: Position = (float(self.low[0]), float(self.low[1]))
        self._pitch: Position = (float(self.cell[0]), float(self.cell[1]))
        self.values = np.zeros((ny, nx))

    @property
    def maximum(self) -> float:
        """The density at the most irradiated place [e/m²]."""
        return float(self.values.max())

    def lay(self, places: NDArray[np.float64], electrons: NDArray[np.float64], step: float) -> None:
        """Add electrons (N,) at places (N, 2) [m]. step: pitch of the scan they belong to [m], 0 = single places."""
        if not len(places):
            return
        reach, area = self._spread(step)
        ny, nx = self.values.shape
        centre = np.floor((places - self.low) / self.cell).astype(np.int64)
        density = electrons / area
        centre = np.clip(centre, 0, (nx - 1, ny - 1))
        if not reach:
            np.add.at(self.values, (centre[:, 1], centre[:, 0]), density)
            return
        for (ix, iy), each in zip(centre.tolist(), density.tolist(), strict=True):  # 1 us a place
            self.values[max(0, iy - reach) : iy + reach + 1, max(0, ix - reach) : ix + reach + 1] += each

    def lay_one(self, place: Position, electrons: float, step: float) -> None:
        """Add electrons at one place [m], as `lay`; plain numbers, numpy takes ten times as long for one."""
        reach, area = self._spread(step)
        ix, iy = self._cell_of(place)
        if not reach:
            self.values[iy, ix] += electrons / area
        else:
            window = np.s_[max(0, iy - reach) : iy + reach + 1, max(0, ix - reach) : ix + reach + 1]
            self.values[window] += electrons / area

    def _spread(self, step: float) -> tuple[int, float]:
        """Return how many cells to each side a place reaches, and the area that its electrons meet [m²]."""
        size, cell = max(self.footprint, step), max(self._pitch)
        reach = max(0, min(LARGEST_SPREAD, math.floor(size / cell / 2)))
        return reach, size * size if not step or size > cell else self._pitch[0] * self._pitch[1]

    def _cell_of(self, place: Position) -> tuple[int, int]:
        (x, y), (x0, y0), (dx, dy), (ny, nx) = place, self._corner, self._pitch, self.values.shape
        return min(max(math.floor((x - x0) / dx), 0), nx - 1), min(max(math.floor((y - y0) / dy), 0), ny - 1)

    def highest_near(self, place: Position) -> float:
        """Return the density around a place [e/m²]."""
        reach = max(0, math.floor(self.footprint / max(self._pitch) / 2))
        ix, iy = self._cell_of(place)
        if not reach:
            return float(self.values[iy, ix])
        window = self.values[max(0, iy - reach) : iy + reach + 1, max(0, ix - reach) : ix + reach + 1]
        return float(window.max())

    def highest_in(self, scan: c.Scan) -> float:
        """Return the highest density inside a scan's rectangle, one cell wider [e/m²]."""
        ny, nx = self.values.shape
        corners = (scan.region.corners() - self.low) / self.cell
        x0, y0 = np.clip(np.floor(corners.min(axis=0)).astype(int) - 1, 0, (nx, ny))
        x1, y1 = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 2, 0, (nx, ny))
        x = self.low[0] + (np.arange(x0, x1) + 0.5) * self.cell[0] - scan.region.centre_x
        y = self.low[1] + (np.arange(y0, y1)[:, None] + 0.5) * self.cell[1] - scan.region.centre_y
        cos, sin = math.cos(scan.region.rotation), math.sin(scan.region.rotation)
        margin = float(self.cell.max())
        inside = (np.abs(cos * x + sin * y) <= scan.region.width / 2 + margin) & (
            np.abs(-sin * x + cos * y) <= scan.region.height / 2 + margin
        )
        return float(self.values[y0:y1, x0:x1][inside].max(initial=0.0))


class DoseAccount:
    """The running account of one instrument; used under the lock of its owner.

    sigma: of the beam current's calibration, relative; None = no calibration, every figure is an estimate.
    """

    def __init__(self, info: InstrumentInfo, low: Position, high: Position, start_ns: int) -> None:
        self.map = DoseMap(low, high, info.footprint)
        self.total = 0.0
        self.sigma = relative_sigma(info)
        self._time_ns = start_ns
        self._lit = False
        self._current = 0.0
        self._framed = 0.0
        self._unplaced = 0.0

    @property
    def rate_per_ns(self) -> float:
        """Electrons on the sample per nanosecond, now."""
        return self._current / ELEMENTARY_CHARGE / 1e9 if self._lit else 0.0

    def tick(self, now_ns: int, lit: bool, current: float, place: Position) -> float:
        """Integrate up to `now_ns` in the state so far, then go on in the one given; return the total [e].

        lit: the beam is on the sample. current [A]. place: of the probe, SPECIMEN [m].
        """
        if self._lit and now_ns > self._time_ns:
            new = self._current / ELEMENTARY_CHARGE * (now_ns - self._time_ns) / 1e9
            self.total += new
            self._unplaced += new
        self._time_ns = max(now_ns, self._time_ns)
        self._lit, self._current = lit, current
        self._unplaced -= self._framed
        self._framed = 0.0
        if self._unplaced > 0:
            self.map.lay_one(place, self._unplaced, 0.0)
            self._unplaced = 0.0
        return self.total

    def frames(
        self, places: NDArray[np.float64], electrons: NDArray[np.float64], step: float, drift: Position = (0.0, 0.0)
    ) -> Position | None:
        """Lay the dose of delivered frames: places (N, 2) SCAN [m], electrons (N,); return the last known place."""
        if len(electrons) == 1:
            x, y = map(float, places[0])
            if not (math.isfinite(x) and math.isfinite(y)):
                return None
            if math.isfinite(charge := float(electrons[0])):
                self.map.lay_one((x - drift[0], y - drift[1]), charge, step)
                self._framed += charge
            return x, y
        placed = np.isfinite(places).all(axis=1)
        known = placed & np.isfinite(electrons)
        self.map.lay(places[known] - np.asarray(drift), electrons[known], step)
        self._framed += float(electrons[known].sum())
        last = np.flatnonzero(placed)
        return (float(places[last[-1], 0]), float(places[last[-1], 1])) if last.size else None

    def forecast(self, command: c.Command, state: GateState, info: InstrumentInfo, drift: Drift, now_ns: int) -> Cost:
        """Return what a command will spend; area_dose is the map's maximum where it acts, after it."""
        command = in_scan_frame(command, drift, info.grid, now_ns)
        time = duration(command) + info.settling.get(c.name_of(command), 0.0)
        pulses = int(isinstance(command, c.ApplyPulse))
        current = state.beam_current
        if isinstance(command, c.SetBeam) and command.current is not None:
            current = command.current
        lit = not state.blanked or state.parked or isinstance(command, c.Unblank)
        if not (lit and current):
            return Cost(time=time, pulses=pulses)
        electrons = current / ELEMENTARY_CHARGE * time
        area = self._area_after(command, state, electrons, current, drift, now_ns)
        return Cost(electrons, area, time, pulses, estimate=self.sigma is None)

    def _area_after(
        self, command: c.Command, state: GateState, electrons: float, current: float, drift: Drift, now_ns: int
    ) -> float:
        rate = current / ELEMENTARY_CHARGE
        if isinstance(command, c.Scan):
            x, y = drift.to_specimen((command.region.centre_x, command.region.centre_y), now_ns)
            moved = c.Scan(
                Region(x, y, command.region.width, command.region.height, command.region.rotation),
                command.shape,
                command.dwell_time,
            )
            pitch = (command.region.width / command.shape[1], command.region.height / command.shape[0])
            added = rate * command.dwell_time * command.frames / (pitch[0] * pitch[1])
            flyback = rate * command.flyback_time / self.map.footprint**2
            return self.map.highest_in(moved) + added + flyback
        density = 1.0 / self.map.footprint**2
        if isinstance(command, c.ScanPath):
            places = np.asarray([drift.to_specimen(p, now_ns) for p in command.positions])
            cells = np.floor((places - self.map.low) / self.map.cell).astype(np.int64)
            _, counts = np.unique(cells, axis=0, return_counts=True)
            most = max(self.map.highest_near((float(x), float(y))) for x, y in places)
            return most + rate * command.dwell_time * int(counts.max()) * density
        place = getattr(command, "position", state.position)
        return self.map.highest_near(drift.to_specimen(place, now_ns)) + electrons * density


def duration(command: c.Command) -> float:
    """Return how long a command takes by its own numbers [s], settling left out."""
    match command:
        case c.Scan():
            ny, nx = command.shape
            return (ny * nx * command.dwell_time + ny * command.flyback_time) * command.frames
        case c.ScanPath():
            return len(command.positions) * command.dwell_time
        case c.ApplyPulse():
            return command.duration
        case c.SetBias():
            return 0.0
        case c.AcquireSpectrum(kind=c.BEPS() as kind):
            return len(kind.waveform) * kind.cycles * kind.pulse_time
        case c.AcquireSpectrum(kind=c.IV() as kind):
            ways = 2 if kind.both_ways else 1
            return ways * (abs(kind.stop - kind.start) / kind.ramp + kind.n * kind.settle)
        case c.AcquireSpectrum(kind=c.ForceCurve() as kind):
            travel = 2 * abs(kind.depth) / kind.speed if kind.depth and kind.speed else 0.0
            return travel + kind.dwell
        case c.AcquireSpectrum(kind=c.EELS() as kind):
            return kind.exposure * kind.n
        case c.AcquireSpectrum(kind=c.EDS() | c.Diffraction() as kind):
            return kind.exposure
    return 0.0


def pitch_of(command: Any) -> float:
    """Return the larger pixel pitch of a scan [m], 0 for anything else."""
    if not isinstance(command, c.Scan):
        return 0.0
    return max(command.region.width / command.shape[1], command.region.height / command.shape[0])


def relative_sigma(info: InstrumentInfo) -> float | None:
    """Return the relative sigma of the calibrated beam current, or None: then doses are estimates."""
    found = [k for k in info.calibrations if k.kind == "beam_current" and k.value and k.value[0]]
    newest = max(found, key=lambda k: k.time, default=None)
    return None if newest is None else (newest.sigma[0] / newest.value[0] if newest.sigma else 0.0)
