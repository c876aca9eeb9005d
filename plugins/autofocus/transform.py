"""The bright-field disc as some hundred values, and the dark field: what autofocus looks at."""

from __future__ import annotations

import msgspec
import numpy as np

from probeloop.api import Channel, DetectorGeometry, FrameBlock, FrameTransform, Outputs, StreamSpec

from .disc import Disc, calibrated_disc


class BrightFieldPixels(FrameTransform):
    """Electrons in every pixel of the bright-field disc, in the annular dark field, and on the whole camera.

    Where the disc is wider than about 30 pixels, squares of pixels are summed: see `Disc`.
    """

    _disc: Disc | None = None

    def outputs(self, spec: StreamSpec) -> dict[str, StreamSpec]:
        """Return the stream of K + 2 values; raises CalibrationError."""
        shape = DetectorGeometry.of(spec, self.context.calibrations, "bright_field_pixels").shape
        disc = calibrated_disc(self.context.calibrations, shape, "bright_field_pixels")
        names = [f"y{y}x{x}" for y, x in zip(disc.rows, disc.columns, strict=True)]
        channels = tuple(Channel(name, "intensity", spec.units) for name in (*names, "dark_field", "total"))
        self._disc = disc
        self._dark = np.flatnonzero(disc.dark.ravel())
        return {
            "pixels": msgspec.structs.replace(
                spec, name="pixels", kind="values", dtype="<f4", sig=(), channels=channels, aux={}
            )
        }

    def process(self, block: FrameBlock) -> Outputs:
        """Return (N, K + 2)."""
        assert self._disc is not None
        frames, pixels = block.data.reshape(block.count, -1), self._disc.pixels
        made = np.empty((block.count, len(pixels) + 2), np.float32)
        made[:, :-2] = frames[:, pixels[:, 0]]
        for more in pixels[:, 1:].T:
            made[:, :-2] += frames[:, more]
        made[:, -2] = frames[:, self._dark].sum(axis=1)
        made[:, -1] = frames.sum(axis=1)
        return {"pixels": made}
