"""What a rig says of a Merlin."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from probeloop.api import Settings, quantity

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Side = Annotated[int, msgspec.Meta(ge=16, le=8192)]
Width = Annotated[float, quantity("m", gt=0, le=1e-2)]
Trigger = Literal["internal", "soft", "external"]
Edge = Literal["ttl_rising", "ttl_falling", "lvds_rising", "lvds_falling"]


class MerlinSettings(Settings):
    """A Merlin, and what the scan unit that moves the probe does.

    field_of_view: width and height that the scan unit scans, as set there; centred on 0. trigger: external = one
    trigger a pixel from the scan unit, at `trigger_edge`; soft, internal = a run that software starts, frames on the
    detector's own clock. file_format: processed = the detector's software decodes the pixels; raw = this driver does.
    pixel_angle: angle that a pixel spans, left out = uncalibrated. pixels: (ky, kx) of a frame, for software that
    does not answer GET IMAGEX. timeout: for a reply, and beyond a frame's period until the detector counts as silent.
    trigger_timeout: the same for an external trigger, which waits for the scan unit. buffer: kept for frames that
    have come and are not yet taken [MiB]. can_wait: a reader that is late, such as the recorder, is waited for; the
    buffer and then the detector's own memory hold the frames meanwhile.
    """

    field_of_view: tuple[Width, Width]
    host: Annotated[str, msgspec.Meta(min_length=1, max_length=255)] = "127.0.0.1"
    control_port: Port = 6341
    data_port: Port = 6342
    trigger: Trigger = "internal"
    trigger_edge: Edge = "ttl_rising"
    file_format: Literal["processed", "raw"] = "processed"
    pixel_angle: Annotated[float, quantity("mrad", gt=0, le=100)] | None = None
    pixels: tuple[Side, Side] | None = None
    timeout: Annotated[float, quantity("s", ge=0.1, le=30)] = 2.0
    trigger_timeout: Annotated[float, quantity("s", ge=0.1, le=3600)] = 60.0
    buffer: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 64
    can_wait: bool = False
