"""How the beam's way through the specimen is calculated."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from probeloop.api import Settings, quantity

HaadfMethod = Literal["object", "configurations"]
LEAST_CONFIGURATIONS = 8


class ScatteringSettings(Settings):
    """Slices, frozen phonons, partial coherence, dark field.

    slices: of the specimen, each a phase plate. configurations: frozen-phonon sets; every sample of a frame meets
    one, drawn by the frame's own stream. samples: how many probes are added up in one frame when the source is not
    perfect, each with its own focus, place and configuration. focal_spread: rms of the defocus by the spread of
    energy (chromatic). source_size: full width at half maximum of the effective source. haadf_inner, haadf_outer: of
    the dark-field detector. haadf_method: `object` = cross-sections of thermal diffuse scattering at the atoms times
    the probe's intensity; `configurations` = multislice averaged over the frozen phonons. memory: for the slices.
    """

    slices: Annotated[int, msgspec.Meta(ge=1, le=200)] = 1
    configurations: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    samples: Annotated[int, msgspec.Meta(ge=1, le=31)] = 1
    focal_spread: Annotated[float, quantity("nm", ge=0, le=50)] = 0.0
    source_size: Annotated[float, quantity("nm", ge=0, le=1)] = 0.0
    haadf_inner: Annotated[float, quantity("mrad", ge=20, le=300)] = 70.0
    haadf_outer: Annotated[float, quantity("mrad", gt=20, le=400)] = 200.0
    haadf_method: HaadfMethod = "object"
    memory: Annotated[int, msgspec.Meta(ge=8, le=65536, description="MB")] = 512

    def problems(self) -> Iterable[str]:
        """Yield what can't be calculated."""
        if self.haadf_inner >= self.haadf_outer:
            yield f"haadf_inner {self.haadf_inner:g} mrad must be smaller than haadf_outer {self.haadf_outer:g} mrad"
        if self.focal_spread and self.samples < 3:
            yield f"a focal spread needs 3 <= samples <= 31, not {self.samples}"
        if self.haadf_method == "configurations" and self.configurations < LEAST_CONFIGURATIONS:
            yield (
                f"dark field from frozen phonons needs {LEAST_CONFIGURATIONS} <= configurations <= 64, "
                f"not {self.configurations}"
            )
