"""Amplitude, phase and topography of a piezoresponse scan, pixel by pixel.

Lock-in data stay complex for as long as anything is averaged or interpolated; this is the last step, where they
become what a person looks at.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import numpy as np

from probeloop.api import FrameBlock, FrameTransform, Outputs, Problem, Settings, SettingsError, StreamSpec, quantity


class Piezoresponse(FrameTransform):
    """Amplitude and phase of the response, and the height, of one direction of the scan."""

    class Parameters(Settings):
        """direction: of the scan. turn: added to the phase before it is wrapped, such as the lock-in's own offset."""

        direction: Literal["trace", "retrace"] = "trace"
        turn: Annotated[float, quantity("deg", ge=-360.0, le=360.0)] = 0.0

    def outputs(self, spec: StreamSpec) -> dict[str, StreamSpec]:
        """Return amplitude and phase [rad], and height where it is measured too, each (N,) float32.

        A complex map without channels is the response itself. Raises SettingsError where there is none of that
        direction.
        """
        self._response, self._height = self._channel(spec, "piezoresponse"), self._channel(spec, "height")
        alone = not spec.channels and not spec.frame_shape
        if spec.kind != "values" or spec.numpy_dtype.kind != "c" or (self._response is None and not alone):
            what = f"{spec.name!r} has no {self.parameters.direction} of the piezoresponse"
            raise SettingsError([Problem("direction", what, "a scan with complex lock-in data")])
        base = msgspec.structs.replace(spec, dtype="<f4", sig=(), channels=(), aux={})
        units = spec.units if self._response is None else spec.channels[self._response].units
        made = {"amplitude": units, "phase": "rad"}
        if self._height is not None:
            made["height"] = spec.channels[self._height].units
        return {name: msgspec.structs.replace(base, name=name, units=unit) for name, unit in made.items()}

    def _channel(self, spec: StreamSpec, quantity_: str) -> int | None:
        """Return which channel shows a quantity in the direction that is looked at."""
        way = self.parameters.direction
        fits = (i for i, c in enumerate(spec.channels) if c.quantity == quantity_ and c.direction == way)
        return next(fits, None)

    def process(self, block: FrameBlock) -> Outputs:
        """Take (N,) or (N, channels) complex to modulus and argument, and the height to its real part."""
        several = block.data.ndim > 1
        response = block.data[:, self._response or 0] if several else block.data
        turned = response * np.exp(1j * np.deg2rad(self.parameters.turn)).astype(np.complex64)
        made = {"amplitude": np.abs(response).astype(np.float32), "phase": np.angle(turned).astype(np.float32)}
        if self._height is not None:
            made["height"] = block.data[:, self._height].real.astype(np.float32)
        return made
