"""What can be asked of the driver, and of usim."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from probeloop.api import Settings, quantity

Value = Annotated[float, quantity("", ge=-1e9, le=1e9)]


class NionSettings(Settings):
    """Where Nion's libraries are, and what usim is.

    attach: drive the Nion Swift that serves on `port` with the word `key` (bridge/swift.py says how), in the place of
    a usim of our own; of what follows only binning then counts.
    python: interpreter of the environment that has them; "" = $PROBELOOP_PEERS/nion, else .peers/nion. port: that
    the bridge listens on, 0 = a free one. sample: 0 = flakes, 1 = amorphous, 2 = gold on amorphous carbon.
    camera_pixels: of the sensor of the Ronchigram camera, along a side. binning: of it, fixed, as the calibrations
    hold for it. half_angle: that it sees. convergence: of the probe, so of the disc. field: width of the part of the
    sample that the camera knows; rays that leave it are dark. controls: set at the start, by Nion's names [SI]. seed:
    of the noise, None = usim's own, which nobody can repeat. start_timeout: for the bridge.
    """

    attach: bool = False
    key: str = ""
    python: str = ""
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    sample: Annotated[int, msgspec.Meta(ge=0, le=2)] = 0
    camera_pixels: Annotated[int, msgspec.Meta(ge=32, le=512, multiple_of=8)] = 128
    binning: Literal[1, 2, 4, 8] = 1
    half_angle: Annotated[float, quantity("mrad", ge=20, le=100)] = 60.0
    convergence: Annotated[float, quantity("mrad", ge=5, le=90)] = 40.0
    field: Annotated[float, quantity("nm", ge=50, le=1000)] = 500.0
    controls: dict[str, Value] = {}
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**62)] | None = 1
    start_timeout: Annotated[float, quantity("s", ge=1, le=600)] = 60.0

    def problems(self) -> Iterable[str]:
        """Yield a disc that the camera can't hold, and half an address."""
        if self.attach and not (self.port and self.key):
            yield "attach needs port and key"
        if self.convergence > 0.95 * self.half_angle:
            yield (
                f"convergence {self.convergence:g} mrad fills the camera, which sees {self.half_angle:g} mrad: "
                f"at most {0.95 * self.half_angle:.3g} mrad"
            )
