"""How much of the walls that there are a forward experiment visits when it goes by a map, and what it spends.

Films of the simulated microscope, whose walls are known; the places are those of the plan `forward` at the given
stride. The scanner stands still: what is scored is the map and the choice of places, no scanner.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from probeloop.api import Approach, Axis, Region, Scan, SetDrive, StreamSpec, load_class, load_simulator

from .ensemble import Ensemble
from .picture import between
from .prepare import logarithm
from .scanned import scanned

Image = NDArray[np.float32]
STRIDE, REACH = 5, 3.0  # [px]
GENERATORS = ("random_field", "phase_field")
SIDE = 256
_FIRST = 7_000  # of the films' seeds; no training sees a film
_STILL = {"pace": "unlimited", "drift": 0.0, "creep": 0.0, "hysteresis": 0.0}


class Film(msgspec.Struct, frozen=True):
    """amplitude: (ny, nx). walls: pixels (N, 2) (row, column) of every wall; antiparallel: of those, (M, 2).

    Of two neighbours in unlike domains the one that is nearer to the wall is its pixel, as in the pictures for
    training. pixel [m]. length: of the antiparallel walls [m].
    """

    amplitude: Image
    walls: NDArray[np.int64]
    antiparallel: NDArray[np.int64]
    pixel: float
    length: float


def film(seed: int, domains: str, side: int = SIDE) -> Film:
    """Return the piezoresponse amplitude of a simulated film, and its walls."""
    spm = load_simulator("spm", {"seed": seed, "domains": domains, **_STILL})
    try:
        spm.approach(Approach())
        spm.set_drive(SetDrive(amplitude=1.0))
        (x0, y0), (x1, y1) = spm.describe().limits.region
        region = Region((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)
        values, _ = scanned(spm.scan(Scan(region, (side, side), 1e-3, channels=("response_trace",))))
        truth = spm.truth()
        cell = np.floor((region.positions((side, side)) - truth["edge"]) / truth["cell"]).astype(np.int64)
        column, row = np.clip(cell.reshape(side, side, 2), 0, len(truth["up"]) - 1).transpose(2, 0, 1)
        turned, tilted = (walls_of(truth[name], row, column) for name in ("up", "in_plane"))
        up = truth["up"][row, column]
    finally:
        spm.close()
    pixel = region.width / side
    crossed = sum(int((np.diff(up, axis=axis) != 0).sum()) for axis in (0, 1))  # pi / 4 of them are the length
    return Film(np.abs(values).reshape(side, side).astype(np.float32), np.argwhere(turned | tilted),
                np.argwhere(turned), pixel, np.pi / 4 * crossed * pixel)  # fmt: skip


def walls_of(fine: NDArray[Any], row: NDArray[np.int64], column: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return the wall pixels of a scan whose pixels lie in the cells (row, column) of a finer map of domains."""
    edge = np.zeros(fine.shape, bool)
    for axis in (0, 1):
        changes = np.diff(fine, axis=axis) != 0
        edge |= np.pad(changes, [(0, int(axis == k)) for k in (0, 1)])
        edge |= np.pad(changes, [(int(axis == k), 0) for k in (0, 1)])
    if not edge.any():
        return np.zeros(row.shape, bool)
    return between(fine[row, column], ndi.distance_transform_edt(~edge)[row, column])


def by_networks(ensemble: Ensemble) -> Callable[[Image], Image]:
    """Return what maps an amplitude as the plug-in segment does with contrast = "ratio"."""
    return lambda values: ensemble.predict(logarithm(values.astype(np.float64), np.isfinite(values))).mean


def by_ridges(values: Image) -> Image:
    """Return the map of the plug-in ridges."""
    axes = tuple(Axis(name, size, 1e-9, 0.0, "m") for name, size in zip("yx", values.shape, strict=True))
    plugin = load_class("ridges", "ScanTransform")()
    plugin.outputs(StreamSpec("amplitude", "values", nav=axes))
    made: Image = plugin.update(values)["mean"][0]
    return made


def visited(mean: Image, pixel: float) -> NDArray[np.float64]:
    """Return where the plan forward measures on a map unless told otherwise, (N, 2) (row, column) [px]."""
    forward = load_class("forward", "Plan")
    plan = forward(forward.Parameters(stride=STRIDE, most=2000))
    places = np.array(plan.places_on(mean, (pixel, pixel))).reshape(-1, 2)
    middle = (np.array(mean.shape) - 1) / 2
    made: NDArray[np.float64] = places[:, ::-1] / pixel + middle
    return made


def covered(films: list[Film], mapped: Callable[[Image], Image]) -> dict[str, float]:
    """Return the share of antiparallel walls within `REACH` of a visited place, and what is spent, over films."""
    near = pixels = points = false = 0
    length = 0.0
    for each in films:
        places = visited(mapped(each.amplitude), each.pixel)
        points, pixels, length = points + len(places), pixels + len(each.antiparallel), length + each.length
        if not len(places):
            continue
        near += int((cKDTree(places).query(each.antiparallel)[0] <= REACH).sum())
        away = cKDTree(each.walls).query(places)[0] if len(each.walls) else np.full(len(places), np.inf)
        false += int((away > REACH).sum())
    um = max(length * 1e6, 1e-9)
    return {"coverage": near / max(pixels, 1), "points": points, "points_per_um": points / um,
            "false_points_per_um": false / um, "um_of_wall": um}  # fmt: skip


def route_coverage(ensemble: Ensemble, seed: int, films: int = 3) -> dict[str, Any]:
    """Return the figures of the ensemble and of the ridge filter on `films` films of each generator, by generator.

    route_coverage: of the ensemble, over all of them.
    """
    made = {name: [film(_FIRST + 100 * seed + i, name) for i in range(films)] for name in GENERATORS}
    ways = {"segment": by_networks(ensemble), "ridges": by_ridges}
    found: dict[str, Any] = {
        way: {name: covered(each, how) for name, each in made.items()} for way, how in ways.items()
    }
    total = covered([each for some in made.values() for each in some], ways["segment"])
    return {"route_coverage": total["coverage"], "route": {"all": total, "stride": STRIDE, **found}}
