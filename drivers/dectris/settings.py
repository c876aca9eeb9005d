"""What can be asked of a DECTRIS detector: where it is, which stream it sends, who triggers it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from probeloop.api import Settings, quantity

STREAM_PORTS = {"v1": 9999, "v2": 31001}
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Side = Annotated[float, quantity("m", gt=0, le=1)]
Pixel = Annotated[float, quantity("px", ge=-1e5, le=1e5)]


class DectrisSettings(Settings):
    """A detector control unit (DCU), and what only the operator knows of the microscope around it.

    api_port: of the REST interface. api_version: "" = the one that the DCU names. stream: v1 (JSON and binary parts)
    or v2 (CBOR, from release 2022.1). stream_port: 0 = 9999 for v1, 31001 for v2.
    trigger: external = a trigger a pixel from the scan unit; internal = one software trigger, then the detector's own
    clock; soft = a software trigger a frame (slow). external: exts = each trigger starts an exposure of the set
    length, exte = the trigger's pulse is the exposure.
    field_of_view: what the scan unit scans, (width, height), centred on 0: the DCU does not know it.
    pixel_angle, convergence_angle, pattern_centre (ky, kx): None = uncalibrated.
    channels: of stream v2, those that are kept. verify: hold each frame of stream v1 against the md5 that comes with
    it (stream v2 has none). series: where the number of a series is taken from, the answer to `arm` or the first
    header after it. timeout: for the DCU's answers. silence: how long the stream may say nothing beyond a frame's own
    time before a run is given up; with external triggers the first of them must come within it.
    """

    field_of_view: tuple[Side, Side]
    host: Annotated[str, msgspec.Meta(min_length=1, max_length=253)] = "127.0.0.1"
    api_port: Port = 80
    api_version: Annotated[str, msgspec.Meta(pattern=r"^(\d+\.\d+\.\d+)?$", max_length=32)] = ""
    stream: Literal["v1", "v2"] = "v2"
    stream_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    trigger: Literal["external", "soft", "internal"] = "external"
    external: Literal["exts", "exte"] = "exts"
    pixel_angle: Annotated[float, quantity("mrad", gt=0, le=100)] | None = None
    convergence_angle: Annotated[float, quantity("mrad", gt=0, le=200)] | None = None
    pattern_centre: tuple[Pixel, Pixel] | None = None
    compression: Literal["bslz4", "lz4"] = "bslz4"
    channels: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1, max_length=8)] = ("threshold_1",)
    verify: bool = False
    series: Literal["arm", "header"] = "arm"
    timeout: Annotated[float, quantity("s", ge=0.1, le=600)] = 5.0
    silence: Annotated[float, quantity("s", ge=0.1, le=3600)] = 10.0

    def problems(self) -> Iterable[str]:
        """Say what stream v1 can't do."""
        if self.stream == "v1" and len(self.channels) > 1:
            yield "channels: stream v1 carries one; ask for stream = 'v2'"
        if len(set(self.channels)) < len(self.channels):
            yield "channels: one is named twice"

    @property
    def port(self) -> int:
        """The port of the stream."""
        return self.stream_port or STREAM_PORTS[self.stream]
