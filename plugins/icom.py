"""Integrated centre of mass: the phase of a thin specimen, from the mean deflection of the beam at every place.

The deflection theta of a thin specimen is the gradient of its phase phi (blurred by the probe), theta = lambda / 2 pi
grad phi, so phi is its integral (Lazic, Bosch and Lazar, Ultramicroscopy 160 (2016) 265). It is taken in the least
squares sense by Fourier transforms of the map mirrored at its edges, where a field of view that is no whole number of
unit cells makes no cross (Frankot and Chellappa, IEEE PAMI 10 (1988) 439).
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from probeloop.api import (
    FrameBlock,
    Outputs,
    Problem,
    ScanTransform,
    Settings,
    SettingsError,
    StreamSpec,
    assemble,
    empty_map,
    is_pixel,
    quantity,
    wavelength,
)

_UPDATES = 12  # of the picture, in a scan


class IntegratedCentreOfMass(ScanTransform):
    """Phase of a thin specimen out of `centre_of_mass`: bright at the nuclei, light ones too."""

    every = "block"
    takes = "blocks"
    may_be_nan = True  # where nothing is measured yet

    class Parameters(Settings):
        """high_pass: structure larger than this is taken out, where noise integrates to clouds; 0 = none."""

        high_pass: Annotated[float, quantity("nm", ge=0, le=1e5)] = 1.0

    def outputs(self, spec: StreamSpec) -> dict[str, StreamSpec]:
        """Return `phase`, (1, ny, nx) float32 [rad] with mean 0; without a known voltage lambda phi / 2 pi [m].

        Raises SettingsError for what is no calibrated map of deflections (x, y) [rad].
        """
        units = spec.units or (spec.channels[0].units if spec.channels else "")
        scaled = len(spec.nav) == 2 and all(axis.scale and axis.units == "m" for axis in spec.nav)
        if spec.kind != "values" or spec.frame_shape != (2,) or units != "rad" or not scaled:
            what = f"{spec.name!r} has {len(spec.nav)} scan axes and frames of {spec.frame_shape} [{units or 'none'}]"
            raise SettingsError([Problem("input", what, "a map in metres of deflections (x, y) [rad]")])
        angle = self.context.calibrations.find("convergence_angle")
        volts = angle.valid_for.get("voltage") if angle is not None else None
        self._factor = 1.0 if volts is None else 2 * np.pi / float(wavelength(float(volts)))
        self._spec = spec
        self.begin(spec)
        units = "m" if volts is None else "rad"
        return {"phase": StreamSpec("phase", "image", "<f4", sig=spec.nav, units=units)}

    def begin(self, spec: StreamSpec) -> None:
        """Forget the last scan."""
        self._map: NDArray[Any] = empty_map(self._spec)
        self._places = np.full((*self._spec.nav_shape, 2), np.nan)
        self._new = 0

    def update(self, data: FrameBlock, mask: NDArray[np.bool_] | None = None) -> Outputs | None:
        """Take a block; return the phase of the rows so far now and then."""
        self._new += len(assemble(self._spec, data, self._map))
        wanted = is_pixel(data)
        self._places.reshape(-1, 2)[data.scan_index[wanted]] = data.position[wanted]
        cells = self._spec.nav_shape[0] * self._spec.nav_shape[1]
        if self._new < max(self._spec.nav_shape[1], cells // _UPDATES):
            return None
        return self._phase()

    def end(self, aborted: bool) -> Outputs | None:
        """Return the phase of all that was measured."""
        return self._phase()

    def _phase(self) -> Outputs | None:
        self._new = 0
        there = np.isfinite(self._map).all(axis=-1)
        rows = np.flatnonzero(there.any(axis=1))
        if not rows.size:
            return None
        some = slice(int(rows[0]), int(rows[-1]) + 1)
        steps, turn = axes_of(self._spec, self._places[some])
        seen = there[some]
        bent = np.where(seen[..., None], self._map[some].astype(np.float64), 0.0) @ turn
        bent -= np.where(seen[..., None], bent.sum(axis=(0, 1)) / seen.sum(), 0.0)  # a beam off the centre
        made = np.full(self._spec.nav_shape, np.nan, np.float32)
        path = integrate(bent[..., 0], bent[..., 1], steps, self.parameters.high_pass * 1e-9)
        made[some] = np.where(seen, path * self._factor, np.nan)
        return {"phase": made[None]}


def axes_of(spec: StreamSpec, places: NDArray[np.float64]) -> tuple[tuple[float, float], NDArray[np.float64]]:
    """Return the pixel's size (x, y) [m], and the matrix (2, 2) that a vector (x, y) in SCAN is multiplied by.

    v @ matrix is v along the rows and columns of the map: a scan may be rotated, and deflections are not.
    places (ny, nx, 2): where the pixels are [m], NaN = unknown; too few of them, and the axes of `spec` count.
    """
    known = np.argwhere(np.isfinite(places).all(axis=-1))
    plain = (float(spec.nav[1].scale or 1.0), float(spec.nav[0].scale or 1.0))
    if len(known) < 3 or np.ptp(known, axis=0).min() == 0:
        return plain, np.eye(2)
    fewer = known[:: max(1, len(known) // 2000)]
    index = np.column_stack([fewer[:, 1], fewer[:, 0], np.ones(len(fewer))])
    fit, _, rank, _ = np.linalg.lstsq(index, places[fewer[:, 0], fewer[:, 1]], rcond=None)
    along = fit[:2]  # rows: one step in x and one in y of the map, (x, y) [m]
    steps = np.hypot(*along.T)
    if rank < 3 or not steps.all():
        return plain, np.eye(2)
    return (float(steps[0]), float(steps[1])), (along / steps[:, None]).T


def integrate(
    x: NDArray[np.float64], y: NDArray[np.float64], steps: tuple[float, float], high_pass: float = 0.0
) -> NDArray[np.float64]:
    """Return the map (ny, nx) whose gradient is nearest to (x, y) in the least squares sense, with mean 0.

    steps: of a pixel (x, y) [m]. high_pass: periods [m] longer than this are damped, exp(-(period / high_pass)^-2);
    0 = none.
    """
    ny, nx = x.shape
    mirrored_x = np.concatenate([x, -x[:, ::-1]], axis=1)
    mirrored_x = np.concatenate([mirrored_x, mirrored_x[::-1]], axis=0)
    mirrored_y = np.concatenate([y, y[:, ::-1]], axis=1)
    mirrored_y = np.concatenate([mirrored_y, -mirrored_y[::-1]], axis=0)
    kx = scipy.fft.rfftfreq(2 * nx, steps[0])[None, :]
    ky = scipy.fft.fftfreq(2 * ny, steps[1])[:, None]
    square = kx**2 + ky**2
    square[0, 0] = 1.0  # there the sum is 0
    along = kx * scipy.fft.rfft2(mirrored_x, workers=1) + ky * scipy.fft.rfft2(mirrored_y, workers=1)
    wanted = along / (2j * np.pi * square)
    if high_pass > 0:
        wanted *= 1.0 - np.exp(-square * high_pass**2)
    whole: NDArray[np.float64] = scipy.fft.irfft2(wanted, s=mirrored_x.shape, workers=1)
    made: NDArray[np.float64] = whole[:ny, :nx]
    made -= made.mean()
    return made
