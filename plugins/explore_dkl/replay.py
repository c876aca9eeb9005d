"""The same comparison on measured loops of PbTiO3: what was measured everywhere is handed out place by place.

The file holds 50 x 50 switching loops and no image of its own. What a policy is shown is the response at the first
step of each loop, before any voltage: as near to a piezoresponse image taken beforehand as the file comes. It is one
of the 64 numbers of a loop and enters its area with a weight of nearly nothing.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from probeloop.api import (
    BEPS,
    AcquireSpectrum,
    FrameBuffer,
    Observation,
    SourceError,
    StreamSpec,
    load_scalarizer,
    load_simulator,
)

Array = NDArray[np.float64]
FILE = "spectra/BEPS_PTO_50x50.h5"
PROPERTIES = ("coercive_window", "imprint", "log_area")


class Measured(msgspec.Struct, frozen=True):
    """What was measured on a map of `shape`, N cells.

    places: (N, 2) (x, y) [m]. loops: (N, steps). values, sigma: (N,) of one property by name. valid: (N,) whether
    `loop_area` believes a loop. image: (ny, nx) response before the first voltage.
    """

    shape: tuple[int, int]
    places: Array
    loops: Array
    spec: StreamSpec
    values: dict[str, Array]
    sigma: dict[str, Array]
    valid: NDArray[np.bool_]
    image: Array


def measured(file: str = FILE) -> Measured:
    """Read the file through the replayed instrument, a spectrum a place; raises SourceError when it is not there.

    Its values are the logarithm of the area alone: `properties` adds the others.
    """
    instrument = load_simulator("replay", {"file": file, "pace": "unlimited"})
    try:
        grid = instrument.describe().grid
        (x0, y0), (x1, y1) = instrument.describe().limits.region
        nx, ny = round((x1 - x0) / grid.step[0]), round((y1 - y0) / grid.step[1])
        xs = grid.origin[0] + grid.step[0] * np.arange(nx)
        ys = grid.origin[1] + grid.step[1] * np.arange(ny)
        places = np.stack([v.ravel() for v in np.meshgrid(xs, ys)], axis=1)
        found = []
        for place in places:
            taken = instrument.acquire_spectrum(AcquireSpectrum((float(place[0]), float(place[1])), BEPS()))
            buffer = FrameBuffer.allocate(taken.spec, 1)
            next(taken.frames)
            taken.frames.send(buffer)
            found.append(np.array(buffer.data[0], np.float64).ravel())
        spec: StreamSpec = taken.spec
    finally:
        instrument.close()
    if "bias" not in spec.aux:
        raise SourceError(f"{file} has no bias of every step", "give a file of switching loops")
    loops = np.stack(found)
    start = int(np.argmin(np.abs(np.asarray(spec.aux["bias"])[:4])))
    image = ndimage.median_filter(loops[:, start].reshape(ny, nx), 3, mode="nearest")
    area, sigma, valid = scalars("loop_area", loops, spec, np.ones(len(loops), bool))
    valid &= area != 0
    with np.errstate(divide="ignore", invalid="ignore"):
        values = {"log_area": np.log(np.abs(area))}
        sigmas = {"log_area": sigma / np.abs(area)}
    return Measured((ny, nx), places, loops, spec, values, sigmas, valid, image)


def scalars(
    name: str, loops: Array, spec: StreamSpec, wanted: NDArray[np.bool_]
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Return what the scalarizer `name` makes of the `wanted` loops (N, steps): values, sigmas, valid (N,)."""
    scalarizer = load_scalarizer(name, {})
    value, sigma = np.full(len(loops), np.nan), np.full(len(loops), np.nan)
    valid = np.zeros(len(loops), bool)
    for i in np.flatnonzero(wanted):
        value[i], sigma[i], valid[i] = scalarizer.scalarize(loops[i], spec)
    return value, sigma, valid


def with_property(data: Measured, name: str) -> Measured:
    """Return the measurements with the values of a property: NaN where a loop is not believed, or has it not."""
    if name in data.values:
        return data
    value, sigma, valid = scalars(name, data.loops, data.spec, data.valid)
    return msgspec.structs.replace(
        data, values={**data.values, name: np.where(valid, value, np.nan)}, sigma={**data.sigma, name: sigma}
    )


class ReplayVisit:
    """Measurements of one property in the file, one after the other."""

    def __init__(self, data: Measured, name: str) -> None:
        self.data, self.name = data, name
        self.cells: list[int] = []
        self.valid: list[bool] = []

    def measure(self, cell: int) -> Observation:
        """Return what was measured at a cell."""
        value, sigma = self.data.values[self.name][cell], self.data.sigma[self.name][cell]
        valid = bool(self.data.valid[cell] and np.isfinite(value))
        self.cells.append(cell)
        self.valid.append(valid)
        place = self.data.places[cell]
        return Observation(
            position=(float(place[0]), float(place[1])), value=float(value), sigma=float(sigma), valid=valid,
            index=len(self.cells) - 1,
        )  # fmt: skip


def shown(data: Measured) -> dict[str, NDArray[Any]]:
    """Return the images that a policy sees."""
    return {"response": data.image.astype(np.float32)}
