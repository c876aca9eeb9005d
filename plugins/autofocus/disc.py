"""The bright-field disc as channels: one camera pixel each, or a square of them where the disc covers many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probeloop.api import CalibrationSet

Array = NDArray[np.float64]
_RADIUS = 11  # channels that the disc's radius shall have, at least 2/3 and at most 3/2 of it where pixels allow


@dataclass(frozen=True)
class Disc:
    """Channels of the bright-field disc, in the order of those of `bright_field_pixels`.

    rows, columns (K,): place in the lattice of channels; that of the pixels where a channel is one. pixels (K, n):
    flat indices of the camera's pixels whose sum a channel is. kx, ky (K,): angles about the measured centre [rad].
    pitch: between channels [rad]. convergence: [rad]. dark: mask of the annular dark field, 2.4 times the
    convergence angle and more.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    pixels: NDArray[np.int64]
    kx: Array
    ky: Array
    pitch: float
    convergence: float
    dark: NDArray[np.bool_]

    @classmethod
    def on(cls, shape: tuple[int, int], centre: tuple[float, float], angle: float, convergence: float) -> Disc:
        """Lay the disc on a camera of `shape`; centre (ky, kx) [px], angle [rad/px], convergence [rad].

        Pixels are put together in squares that lie wholly in the disc, one of them on its centre.
        """
        side = max(1, round(convergence / angle / _RADIUS))
        y = (np.arange(shape[0]) - centre[0])[:, None] * angle
        x = (np.arange(shape[1]) - centre[1])[None, :] * angle
        radius = np.hypot(y, x)
        first = [(round(middle) - side // 2) % side for middle in centre]
        ny, nx = (max(0, size - start) // side for size, start in zip(shape, first, strict=True))

        def squares(image: NDArray[Any]) -> NDArray[Any]:
            cut = image[first[0] : first[0] + ny * side, first[1] : first[1] + nx * side]
            return cut.reshape(ny, side, nx, side).swapaxes(1, 2).reshape(ny, nx, side * side)

        flat = squares(np.arange(radius.size).reshape(shape))
        rows, columns = np.nonzero((squares(radius) < convergence).all(axis=2))
        pixels = flat[rows, columns]
        at_y, at_x = np.divmod(pixels, shape[1])
        return cls(
            rows,
            columns,
            pixels,
            x[0, at_x].mean(axis=1),
            y[at_y, 0].mean(axis=1),
            side * angle,
            convergence,
            radius > 2.4 * convergence,
        )


def calibrated_disc(calibrations: CalibrationSet, shape: tuple[int, int], who: str) -> Disc:
    """Return the disc on a camera of `shape`; raises CalibrationError for a calibration that is not there."""
    centre = calibrations.require("pattern_centre", who).value
    angle = calibrations.require("detector_scale", who).value[0]
    convergence = calibrations.require("convergence_angle", who).value[0]
    return Disc.on(shape, (centre[0], centre[1]), angle, convergence)
