"""What can be asked of the simulated column."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from probeloop.api import Settings, quantity

Drill = Literal["none", "high_current", "stuck_sensor", "missing_sensor", "silent_camera"]
Frame = Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)]


class StemSettings(Settings):
    """A column, a camera and a specimen.

    pace: virtual seconds per second, None = as fast as possible. misalignment: of the lens at the start, 1 = some
    100 nm out of focus (see optics.draw_lens). offset: names and values [m] instead of drawn ones. drop_frames,
    double_frames: numbers of triggers since the start whose frame is lost or comes twice. settling_frames: the
    camera runs on while a lens settles. threads: for the physics; the bits are the same with any number. drill: a
    fault that the column has when its clock, which runs while it scans, has reached drill_after. mis_set: 0-1, how
    wrong the calibrations are that the operator believes (scan scale, rotation, flip, camera length, pattern centre,
    beam current: see misset.MisSet); 0 = they are true.
    """

    seed: Annotated[int, msgspec.Meta(ge=0, le=2**62)] = 1
    pace: Annotated[float, quantity("", gt=0, le=1e6)] | None = 1.0
    voltage: Annotated[float, quantity("kV", ge=20, le=300)] = 200.0
    convergence: Annotated[float, quantity("mrad", gt=1, le=40)] = 25.0
    pixels: Annotated[int, msgspec.Meta(ge=32, le=512, multiple_of=2)] = 128
    pixel_angle: Annotated[float, quantity("mrad", gt=0.1, le=10)] = 2.35
    beam_current: Annotated[float, quantity("pA", ge=0.01, le=1000)] = 50.0
    misalignment: Annotated[float, quantity("", ge=0, le=2)] = 0.01
    mis_set: Annotated[float, quantity("", ge=0, le=1)] = 0.0
    offset: dict[str, Annotated[float, quantity("m", ge=-1e-3, le=1e-3)]] = {}
    cross_talk: Annotated[float, quantity("", ge=0, le=0.3)] = 0.04
    settling: Annotated[float, quantity("s", ge=0, le=10)] = 0.05
    settling_frames: bool = True
    drift: Annotated[float, quantity("m/s", ge=0, le=1e-8)] = 5e-12
    drop_frames: tuple[Frame, ...] = ()
    double_frames: tuple[Frame, ...] = ()
    crystal: Annotated[float, quantity("nm", ge=0.4, le=20)] = 1.6
    carbon: Annotated[float, quantity("nm", ge=0, le=20)] = 3.0
    tile: Annotated[int, msgspec.Meta(ge=4, le=32)] = 20
    threads: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    can_wait: bool = True
    drill: Drill = "none"
    drill_after: Annotated[float, quantity("s", ge=0, le=1e6)] = 0.0

    def problems(self) -> Iterable[str]:
        """Yield what the camera can't hold."""
        if self.pixel_angle * self.pixels / 3 < self.convergence * (1 + 0.2 * self.mis_set):
            yield "the bright-field disc is larger than the camera: raise pixel_angle or pixels"
        twice = set(self.drop_frames) & set(self.double_frames)
        if twice:
            yield f"frames {sorted(twice)} can't be both dropped and doubled"
