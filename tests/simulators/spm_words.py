"""Words of the tests of the simulated scanning probe microscope: make one, scan, take a spectrum."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from probeloop.simulators.spm import SpmSettings, SpmSimulator

from probeloop.data.axes import StreamSpec
from probeloop.data.commands import BEPS, AcquireSpectrum, Approach, Scan, SetDrive
from probeloop.data.frame import FrameBuffer
from probeloop.data.scan import Region

STILL: dict[str, Any] = {"pace": "unlimited", "drift": 0.0, "creep": 0.0, "hysteresis": 0.0}


def made(engaged: bool = True, **parameters: Any) -> SpmSimulator:
    """Return one that stands still unless told otherwise, in contact and driven at 1 V."""
    spm = SpmSimulator(SpmSettings(**({"cells": 256} | STILL | parameters)))
    if engaged:
        spm.approach(Approach())
        spm.set_drive(SetDrive(amplitude=1.0))
    return spm


def drawn(spm: SpmSimulator, command: Scan) -> tuple[NDArray[Any], StreamSpec]:
    """Return the map (ny, nx, channels) of a scan, by scan index, and its spec."""
    acquisition = spm.scan(command)
    spec, shape = acquisition.spec, command.shape
    out = np.full((shape[0] * shape[1], *spec.frame_shape), np.nan, spec.numpy_dtype)
    next(acquisition.frames)
    buffer = FrameBuffer.allocate(spec, 4096)
    while True:
        try:
            n = acquisition.frames.send(buffer)
        except StopIteration:
            return out.reshape(*shape, -1), spec
        out[buffer.scan_index[:n]] = buffer.data[:n]


def whole(spm: SpmSimulator, shape: tuple[int, int], dwell_time: float = 1e-3, **more: Any) -> Scan:
    """Return a scan of all that can be reached."""
    (x0, y0), (x1, y1) = spm.describe().limits.region
    return Scan(Region((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0), shape, dwell_time, **more)


def spectrum(spm: SpmSimulator, place: tuple[float, float], kind: Any = None) -> tuple[NDArray[Any], StreamSpec, int]:
    """Return a spectrum, its spec, and its flags."""
    acquisition = spm.acquire_spectrum(AcquireSpectrum(place, kind or BEPS()))
    next(acquisition.frames)
    buffer = FrameBuffer.allocate(acquisition.spec, 1)
    assert acquisition.frames.send(buffer) == 1
    return buffer.data[0].copy(), acquisition.spec, int(buffer.flags[0])


def at(truth: dict[str, Any], name: str, places: NDArray[np.float64]) -> NDArray[Any]:
    """Return a true map at places (..., 2) (x, y) [m]."""
    n = truth[name].shape[0]
    cells = np.clip(((places - truth["edge"]) / truth["cell"]).astype(int), 0, n - 1)
    values: NDArray[Any] = truth[name][cells[..., 1], cells[..., 0]]
    return values
