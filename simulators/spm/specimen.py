"""The specimen: its domains and their walls, its surface, and what pulses and loops have done to it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .fields import draw, gaussian_field
from .settings import SpmSettings

FARTHEST = 200e-9  # beyond it a wall is not felt, and distances are cut there [m]
CRITICAL_RADIUS = 20e-9  # a switched disc below it, and away from its own kind, does not last [m]
NUCLEATION = 3.0  # least bias that switches, far from a wall [V]
_GROWTH = 3.0e-9  # of the radius, per volt above it [m/V]
_PER_DECADE = 0.25  # of the radius, by the duration
_REFERENCE_TIME = 1e-3  # [s]
_CONTACT = 10e-9  # radius of the tip-sample contact, over which the response is averaged [m]
_LYING = 0.12  # vertical response of in-plane polarisation
_PINNED = 18e-9  # reach of a defect [m]
_PIN_HOLDS = 4.0  # the more that it takes to switch there [V]
_RELAXATION = 300.0  # of injected charge [s]
_MOST_CHARGE = 1.2  # that a place holds, in the bias that it shifts a loop by [V]


@dataclass(frozen=True)
class Place:
    """What a loop depends on at a place.

    distance to the nearest wall [m]; right_angle: that wall is a 90 degree one; curvature [1/m] of the nearest 180
    degree wall, positive in the domain that lies inside the bend; up: +1 or -1; lying: in-plane there. defect: how
    much of one is there, 0 to 1, with its sign. charge: injected, in equivalents of volts. cycles: switched before.
    """

    distance: float
    right_angle: bool
    curvature: float
    up: int
    lying: bool
    defect: float
    charge: float
    cycles: float


class Specimen:
    """Maps over (n, n) cells of `cell` [m] with the origin in the middle; rows are y. Heights in m."""

    def __init__(self, parameters: SpmSettings) -> None:
        p = parameters
        self.n, self.cell = p.cells, p.width * 1e-9 / p.cells
        self.edge = -p.width * 0.5e-9  # of the first cell, in x and y
        rng = np.random.default_rng([p.seed, 2])
        self.piezoelectric = p.surface == "film"
        size = p.domain_size * 1e-9 / self.cell
        drawn = draw(p.domains, p.seed, self.n, size, p.in_plane)
        self.up, self.in_plane = drawn.up.copy(), drawn.in_plane
        self.defects = rng.uniform(self.edge, -self.edge, (p.defects, 2))
        self.defect_signs = rng.choice([-1.0, 1.0], p.defects)
        self.strength = 1 + 0.12 * gaussian_field(rng, self.n, size / 3)
        self.stiffness = (0.6e3 * gaussian_field(rng, self.n, size / 4)).astype(np.float32)  # shifts the resonance
        self.surface = surface_of(p, self, rng)
        self._events: list[tuple[float, float, float, float, float, float]] = []
        self._walls: dict[str, Any] = {}
        self.polarisation: NDArray[np.float32] = np.zeros((self.n, self.n), np.float32)
        self._refresh()

    def index(self, x: float, y: float) -> tuple[int, int]:
        """Return the cell (row, column) at a place [m], the nearest one outside."""
        last = self.n - 1
        row, column = (int(np.clip((v - self.edge) / self.cell, 0, last)) for v in (y, x))
        return row, column

    def _refresh(self, rows: slice = slice(None), columns: slice = slice(None)) -> None:
        """Compute anew what the tip feels of these cells; walls when somebody asks."""
        self._walls = {}
        if not self.piezoelectric:
            return
        sigma = _CONTACT / self.cell
        reach = int(4 * sigma) + 1
        (top, low), (left, right) = ((s.start or 0, self.n if s.stop is None else s.stop) for s in (rows, columns))
        # what the blur brings in comes from as far again
        wide, inner = [], []
        for first, last in ((top, low), (left, right)):
            a, b = max(0, first - reach), min(self.n, last + reach)
            wide.append(slice(max(0, a - reach), min(self.n, b + reach)))
            inner.append(slice(a, b))
        around = tuple(wide)
        felt = np.where(self.in_plane[around], _LYING, 1.0) * self.up[around]
        blurred = ndimage.gaussian_filter(felt, sigma, mode="nearest", truncate=4.0)
        y, x = inner
        cut = blurred[
            y.start - wide[0].start : y.stop - wide[0].start, x.start - wide[1].start : x.stop - wide[1].start
        ]
        self.polarisation[y, x] = cut * self.strength[y, x]

    @property
    def walls(self) -> dict[str, Any]:
        """Distance [m], curvature [1/m], right_angle: (n, n), of the walls that there are now."""
        if not self._walls:
            self._walls = walls_of(self.up, self.in_plane, self.cell)
        return self._walls

    def place(self, x: float, y: float, time: float) -> Place:
        """Return what a loop depends on at (x, y) [m] at `time` [s]."""
        row, column = self.index(x, y)
        walls = self.walls
        defect = 0.0
        if len(self.defects):
            away = np.hypot(*(self.defects - (x, y)).T)
            defect = float(self.defect_signs @ np.exp(-((away / _PINNED) ** 2)))
        charge, cycles = self._history(x, y, time)
        return Place(
            float(walls["distance"][row, column]),
            bool(walls["right_angle"][row, column]),
            float(walls["curvature"][row, column]),
            int(self.up[row, column]),
            bool(self.in_plane[row, column]),
            defect,
            charge,
            cycles,
        )

    def _history(self, x: float, y: float, time: float) -> tuple[float, float]:
        if not self._events:
            return 0.0, 0.0
        events = np.asarray(self._events)
        near = np.exp(-((events[:, 0] - x) ** 2 + (events[:, 1] - y) ** 2) / (2 * events[:, 2] ** 2))
        fading = np.exp(-np.clip(time - events[:, 3], 0, None) / _RELAXATION)
        charge = float((near * fading) @ events[:, 4])
        return _MOST_CHARGE * math.tanh(charge / _MOST_CHARGE), float(near @ events[:, 5])

    def remember(self, x: float, y: float, radius: float, time: float, charge: float, cycles: float) -> None:
        """Keep what a pulse or loop leaves: injected charge [V], which fades, and switching cycles, which do not."""
        self._events.append((x, y, radius, time, charge, cycles))

    def nucleation(self, x: float, y: float) -> float:
        """Return the least bias that switches at a place [V]: half as much at a wall, more where a defect pins."""
        row, column = self.index(x, y)
        near = float(np.exp(-self.walls["distance"][row, column] / 25e-9))
        pinned = 0.0
        if len(self.defects):
            away = np.hypot(*(self.defects - (x, y)).T)
            pinned = float(np.exp(-((away.min() / _PINNED) ** 2)))
        return NUCLEATION * (1 - 0.5 * near) + _PIN_HOLDS * pinned

    def radius(self, x: float, y: float, volts: float, duration: float) -> float:
        """Return the radius that a pulse of `volts` [V] for `duration` [s] switches, 0 = nothing."""
        above = abs(volts) - self.nucleation(x, y)
        grown = 1 + _PER_DECADE * np.log10(max(duration, 1e-9) / _REFERENCE_TIME)
        return float(_GROWTH * max(0.0, above) * max(0.0, grown))

    def pulse(self, x: float, y: float, volts: float, duration: float, time: float, cycles: float = 0.5) -> float:
        """Apply a pulse; return the radius [m] of what stays switched, 0 = nothing does.

        cycles: that it ends; a loop's last pulse finds the charge of the ones before it gone.
        """
        radius = self.radius(x, y, volts, duration)
        charge = 0.06 * volts if cycles < 1 else 0.01 * volts
        self.remember(x, y, max(radius, 1e-8), time, charge, cycles if radius else 0.0)
        return radius if radius and self._switch(x, y, radius, 1 if volts > 0 else -1, abs(volts)) else 0.0

    def _switch(self, x: float, y: float, radius: float, sign: int, volts: float) -> bool:
        """Turn a disc; False where it is too small to last. Walls stop at the defects that hold them."""
        cells = int(np.ceil(radius / self.cell)) + 1
        row, column = self.index(x, y)
        rows = slice(max(0, row - cells), min(self.n, row + cells + 1))
        columns = slice(max(0, column - cells), min(self.n, column + cells + 1))
        cy = self.edge + (np.arange(rows.start, rows.stop) + 0.5) * self.cell - y
        cx = self.edge + (np.arange(columns.start, columns.stop) + 0.5) * self.cell - x
        disc = cy[:, None] ** 2 + cx[None, :] ** 2 <= radius**2
        part = self.up[rows, columns]
        if radius < CRITICAL_RADIUS and not (part[disc] == sign).any():
            return False
        for (dx, dy), _ in zip(self.defects - (x, y), self.defect_signs, strict=True):
            if np.hypot(dx, dy) < radius + _PINNED and volts < NUCLEATION + _PIN_HOLDS:
                disc &= (cy[:, None] - dy) ** 2 + (cx[None, :] - dx) ** 2 > (_PINNED / 2) ** 2
        if (part[disc] != sign).any():
            part[disc] = sign
            self._refresh(rows, columns)
        return True

    def write_line(self, x: NDArray[np.float64], y: NDArray[np.float64], bias: float) -> None:
        """Let a biased tip that is scanned along (x, y) [m] write what it passes."""
        if not self.piezoelectric or abs(bias) <= NUCLEATION:
            return
        radius = max(_GROWTH * (abs(bias) - NUCLEATION), _CONTACT)
        keep = np.hypot(np.diff(x, prepend=x[0] - radius), np.diff(y, prepend=y[0])).cumsum() // (radius / 2)
        turned = np.zeros((self.n, self.n), bool)
        for i in np.unique(keep, return_index=True)[1]:
            turned[self.index(float(x[i]), float(y[i]))] = True
        reach = int(np.ceil(radius / self.cell))
        rows = np.flatnonzero(turned.any(axis=1))
        part = slice(max(0, int(rows[0]) - reach - 1), min(self.n, int(rows[-1]) + reach + 2))
        near = ndimage.distance_transform_edt(~turned[part]) * self.cell <= radius
        self.up[part][near] = 1 if bias > 0 else -1
        self._refresh(part)


def walls_of(up: NDArray[np.int8], in_plane: NDArray[np.bool_], cell: float) -> dict[str, Any]:
    """Return the distance to the nearest wall (cut at FARTHEST) [m], whether it is a 90 degree one, and the bend.

    curvature [1/m]: of the nearest 180 degree wall, positive inside the bend, as in a small round domain.
    """
    turned, tilted = _edges(up), _edges(in_plane)
    if not turned.any() and not tilted.any():
        far = np.full(up.shape, FARTHEST)
        return {"distance": far, "right_angle": np.zeros(up.shape, bool), "curvature": np.zeros(up.shape)}
    to_180 = np.full(up.shape, np.inf)
    curvature = np.zeros(up.shape)
    if turned.any():
        to_180, (iy, ix) = ndimage.distance_transform_edt(~turned, return_indices=True)
        smooth = ndimage.gaussian_filter(up.astype(np.float64), 12e-9 / cell, mode="nearest")
        gy, gx = np.gradient(smooth)
        size = np.sqrt(gx**2 + gy**2) + 1e-6
        bend = np.gradient(gy / size, axis=0) + np.gradient(gx / size, axis=1)
        curvature = np.clip(-bend[iy, ix] * up / cell, -1e8, 1e8)
    to_90 = ndimage.distance_transform_edt(~tilted) if tilted.any() else np.full(up.shape, np.inf)
    distance = np.minimum(np.minimum(to_180, to_90) * cell + cell / 2, FARTHEST)
    return {"distance": distance, "right_angle": to_90 < to_180, "curvature": curvature}


def _edges(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the cells that have a neighbour of another kind."""
    made = np.zeros(values.shape, bool)
    down, right = values[1:] != values[:-1], values[:, 1:] != values[:, :-1]
    made[1:] |= down
    made[:-1] |= down
    made[:, 1:] |= right
    made[:, :-1] |= right
    return made


def surface_of(p: SpmSettings, specimen: Specimen, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the heights (n, n) [m] of what was asked for, before any tip."""
    n, cell = specimen.n, specimen.cell
    y, x = (np.mgrid[0:n, 0:n] + 0.5) * cell + specimen.edge
    if p.surface == "grating":
        return _grating(x) + 0.15e-9 * gaussian_field(rng, n, 6e-9 / cell)  # polished
    rough: NDArray[np.float64] = 0.25e-9 * gaussian_field(rng, n, max(1.5, 8e-9 / cell)) + 0.0015 * x + 0.001 * y
    if p.surface == "particles":
        return rough + _spheres(p, specimen, rng, x, y)
    film: NDArray[np.float64] = rough + 2.0e-9 * gaussian_field(rng, n, 120e-9 / cell)
    # the lattice is tilted by some degrees in a needle: a shallow groove with one steep side
    groove = ndimage.gaussian_filter(specimen.in_plane.astype(np.float64), 5e-9 / cell, mode="nearest")
    film -= 1.1e-9 * groove
    film += 0.15e-9 * ndimage.gaussian_filter(specimen.up.astype(np.float64), 10e-9 / cell, mode="nearest")
    for _ in range(int(rng.integers(1, 4))):  # dirt, as on every film
        cx, cy = rng.uniform(specimen.edge, -specimen.edge, 2)
        size = rng.uniform(8e-9, 16e-9)
        film += rng.uniform(3e-9, 8e-9) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * size**2))
    return film


def _grating(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return bars 22 nm high, every 250 nm, with walls of 70 degrees: a calibration grating."""
    height, pitch = 22e-9, 250e-9
    run = height / np.tan(np.deg2rad(70))
    phase = np.abs((x % pitch) / pitch - 0.5) * pitch  # 0 in the middle of a bar
    return np.asarray(height * np.clip((pitch / 4 - phase) / run + 0.5, 0, 1))


def _spheres(
    p: SpmSettings, specimen: Specimen, rng: np.random.Generator, x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return gold spheres of 10 to 30 nm on a flat support: none is higher than it is wide."""
    made = np.zeros(x.shape)
    for _ in range(round(60 * (p.width / 1000) ** 2)):
        cx, cy = rng.uniform(specimen.edge, -specimen.edge, 2)
        radius = rng.uniform(5e-9, 15e-9)
        r2 = (x - cx) ** 2 + (y - cy) ** 2
        top = np.where(r2 < radius**2, radius + np.sqrt(np.maximum(radius**2 - r2, 0)), 0.0)
        np.maximum(made, top, out=made)
    return made
