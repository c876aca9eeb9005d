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
        """Return amplitude and height, in the scan's units, and phase [rad], each (N,) float32.

        Raises SettingsError when the scan has no channel of that direction for the response or the height.
        """
        made = {}
        self._at = {}
        for name, quantity_ in (("response", "piezoresponse"), ("height", "height")):
            fits = [
                i
                for i, channel in enumerate(spec.channels)
                if channel.quantity == quantity_ and channel.direction == self.parameters.direction
            ]
            if not fits or (name == "response" and spec.numpy_dtype.kind != "c") or spec.kind != "values":
                what = f"{spec.name!r} has no {self.parameters.direction} of the {quantity_}"
                raise SettingsError([Problem("direction", what, "a scan with complex lock-in data and the height")])
            self._at[name] = fits[0]
            made[name] = spec.channels[fits[0]].units
        base = msgspec.structs.replace(spec, kind="values", dtype="<f4", sig=(), channels=(), aux={})
        return {
            "amplitude": msgspec.structs.replace(base, name="amplitude", units=made["response"]),
            "phase": msgspec.structs.replace(base, name="phase", units="rad"),
            "height": msgspec.structs.replace(base, name="height", units=made["height"]),
        }

    def process(self, block: FrameBlock) -> Outputs:
        """Take (N, channels) complex to their modulus, their argument, and the real part of the height."""
        response = block.data[:, self._at["response"]]
        turned = response * np.exp(1j * np.deg2rad(self.parameters.turn)).astype(np.complex64)
        return {
            "amplitude": np.abs(response).astype(np.float32),
            "phase": np.angle(turned).astype(np.float32),
            "height": block.data[:, self._at["height"]].real.astype(np.float32),
        }
