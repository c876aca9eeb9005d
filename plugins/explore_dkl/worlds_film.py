"""The specimen of a world: a simulated ferroelectric film, its overview scan, and where its walls are.

The film is the scanning probe simulator's own, asked for by name, in this process and without a bus. What is kept is
the overview that a policy is shown and, for scoring alone, the true geometry on the simulator's fine grid.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from probeloop.api import ApplyPulse, Approach, FrameBuffer, Region, Scan, SetDrive, load_simulator

Map = NDArray[np.float64]

SIDE = 64  # candidates a side
CONTACT = 10e-9  # standard deviation of what the tip averages over [m]
SMOOTH = 20e-9  # of walls, before their direction and bend are taken [m]
_DWELL = 1e-3  # of the overview [s]
_DOT_BIAS, _DOT_TIME = 10.2, 1e-3  # writes a dot of some 21 nm radius [V], [s]
_CLEAR = 32e-9  # of a dot's centre from any wall [m]
_APART = 90e-9  # of dots from each other and from the edge of the scan [m]


class Film(msgspec.Struct, frozen=True):
    """A film as scanned and as it is.

    response: (SIDE, SIDE) float32 in-phase piezoresponse [m] of the overview. places: (SIDE * SIDE, 2) (x, y) [m].
    pitch: of them [m]. distance: from the nearest 180 degree wall [m]; sense: component along x of that wall's normal
    (towards up), -1 to 1; curvature: of it [1/m], positive inside the bend; dots: 1 in a written dot; each (n, n) on
    the fine grid, which begins at `edge` [m] with cells of `cell` [m].
    """

    response: NDArray[np.float32]
    places: Map
    pitch: float
    distance: Map
    sense: Map
    curvature: Map
    dots: Map
    cell: float
    edge: float

    def felt(self, fine: Map) -> Map:
        """Return a map on the fine grid as the tip feels it at the candidates (SIDE, SIDE)."""
        blurred = ndimage.gaussian_filter(fine, CONTACT / self.cell, mode="nearest")
        x, y = ((self.places - self.edge) / self.cell - 0.5).T
        made: Map = ndimage.map_coordinates(blurred, [y, x], order=1, mode="nearest").reshape(SIDE, SIDE)
        return made


def film(seed: int, domains: str = "random_field", domain_size: float = 150.0, dots: int = 0) -> Film:
    """Return the film of `seed`, scanned once with all noise that the simulated microscope has.

    domains: who draws them, `domain_size` [nm]. dots: round domains that are written by pulses first.
    """
    given = {"seed": seed, "pace": None, "domains": domains, "domain_size": domain_size, "in_plane": 0.06}
    spm = load_simulator("spm", given)
    try:
        spm.approach(Approach())
        (x0, y0), (x1, y1) = spm.describe().limits.region
        written = _write(spm, dots, np.random.default_rng([seed, 31])) if dots else []
        spm.set_drive(SetDrive(amplitude=1.0))
        region = Region((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)
        image = _scan(spm, Scan(region, (SIDE, SIDE), _DWELL, channels=("response_trace",)))
        truth = spm.truth()
    finally:
        spm.close()
    cell, edge, up = truth["cell"], truth["edge"], truth["up"]
    distance, sense, curvature = _walls(up, cell)
    dotted = np.zeros(up.shape)
    y, x = (np.mgrid[0 : len(up), 0 : len(up)] + 0.5) * cell + edge
    for dx, dy, sign in written:
        dotted[(np.hypot(x - dx, y - dy) < 1.5 * CONTACT + 2.5e-8) & (up == sign)] = 1.0
    return Film(
        image, region.positions((SIDE, SIDE)), (x1 - x0) / SIDE, distance, sense, curvature, dotted, cell,
        edge,
    )  # fmt: skip


def _scan(spm: Any, command: Scan) -> NDArray[np.float32]:
    """Return the in-phase part of a scanned response (ny, nx) [m]: the phase offset is a calibration."""
    phase = next(c.value[0] for c in spm.describe().calibrations if c.kind == "phase_offset")
    taken = spm.scan(command)
    buffer = FrameBuffer.allocate(taken.spec, command.shape[1])
    made = np.zeros(command.shape[0] * command.shape[1], np.complex64)
    next(taken.frames)
    while True:
        try:
            count = taken.frames.send(buffer)
        except StopIteration:
            break
        made[buffer.scan_index[:count]] = buffer.data[:count].reshape(count)
    turned: NDArray[np.float32] = np.real(made * np.exp(-1j * phase)).astype(np.float32)
    return turned.reshape(command.shape)


def _write(spm: Any, number: int, rng: np.random.Generator) -> list[tuple[float, float, int]]:
    """Write dots in the middle of domains of the other sign; return where, and their sign."""
    truth = spm.truth()
    cell, edge, up = truth["cell"], truth["edge"], truth["up"]
    half = 0.45 * cell * len(up) - _APART
    away = truth["wall_distance"].copy()
    y, x = (np.mgrid[0 : len(up), 0 : len(up)] + 0.5) * cell + edge
    away[(np.abs(x) > half) | (np.abs(y) > half)] = 0.0
    for dx, dy in truth["defects"]:  # they hold walls, and a dot would not become round
        away[np.hypot(x - dx, y - dy) < 40e-9] = 0.0
    made: list[tuple[float, float, int]] = []
    while len(made) < number:
        clear = np.flatnonzero(away > min(_CLEAR, 0.9 * float(away.max())))
        row, column = divmod(int(rng.choice(clear)), len(up))
        place = (float(x[row, column]), float(y[row, column]))
        sign = -int(up[row, column])
        spm.apply_pulse(ApplyPulse(place, sign * _DOT_BIAS, _DOT_TIME))
        made.append((*place, sign))
        away[np.hypot(x - place[0], y - place[1]) < _APART] = 0.0
    return made


def _walls(up: NDArray[np.int8], cell: float) -> tuple[Map, Map, Map]:
    """Return of the nearest 180 degree wall: distance [m], x component of its normal, and curvature [1/m].

    curvature: positive inside the bend. It and the normal are those of the wall as the image can show it, smoothed.
    """
    edges = np.zeros(up.shape, bool)
    edges[1:] |= up[1:] != up[:-1]
    edges[:, 1:] |= up[:, 1:] != up[:, :-1]
    if not edges.any():
        return np.full(up.shape, np.inf), np.zeros(up.shape), np.zeros(up.shape)
    distance, (iy, ix) = ndimage.distance_transform_edt(~edges, return_indices=True)
    gy, gx = np.gradient(ndimage.gaussian_filter(up.astype(np.float64), SMOOTH / cell, mode="nearest"))
    size = np.hypot(gx, gy) + 1e-6
    bend = np.gradient(gy / size, axis=0) + np.gradient(gx / size, axis=1)
    return distance * cell, (gx / size)[iy, ix], -bend[iy, ix] * up / cell
