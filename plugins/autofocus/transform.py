"""The pixels of the bright-field disc as one value each, and the dark field: what autofocus looks at."""

from __future__ import annotations

import msgspec
import numpy as np

from probeloop.api import (
    CalibrationSet,
    Channel,
    DetectorGeometry,
    FrameBlock,
    FrameTransform,
    Outputs,
    StreamSpec,
)

from .estimate import Disc


def calibrated_disc(calibrations: CalibrationSet, shape: tuple[int, int], who: str) -> Disc:
    """Return the disc on a camera of `shape`; raises CalibrationError for a calibration that is not there."""
    centre = calibrations.require("pattern_centre", who).value
    angle = calibrations.require("detector_scale", who).value[0]
    convergence = calibrations.require("convergence_angle", who).value[0]
    return Disc.on(shape, (centre[0], centre[1]), angle, convergence)


class BrightFieldPixels(FrameTransform):
    """Electrons in every pixel of the bright-field disc, in the annular dark field, and on the whole camera."""

    _disc: Disc | None = None

    def outputs(self, spec: StreamSpec) -> dict[str, StreamSpec]:
        """Return the stream of K + 2 values; raises CalibrationError."""
        shape = DetectorGeometry.of(spec, self.context.calibrations, "bright_field_pixels").shape
        disc = calibrated_disc(self.context.calibrations, shape, "bright_field_pixels")
        names = [f"y{y}x{x}" for y, x in zip(disc.rows, disc.columns, strict=True)]
        channels = tuple(Channel(name, "intensity", spec.units) for name in (*names, "dark_field", "total"))
        self._disc = disc
        self._bright = disc.rows * shape[1] + disc.columns
        self._dark = np.flatnonzero(disc.dark.ravel())
        return {
            "pixels": msgspec.structs.replace(
                spec, name="pixels", kind="values", dtype="<f4", sig=(), channels=channels, aux={}
            )
        }

    def process(self, block: FrameBlock) -> Outputs:
        """Return (N, K + 2)."""
        frames = block.data.reshape(block.count, -1)
        made = np.empty((block.count, self._bright.size + 2), np.float32)
        made[:, :-2] = frames[:, self._bright]
        made[:, -2] = frames[:, self._dark].sum(axis=1)
        made[:, -1] = frames.sum(axis=1)
        return {"pixels": made}
