"""What can be asked of the simulated scanning probe microscope."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from probeloop.api import Settings, quantity


class SpmSettings(Settings):
    """A specimen, a tip on a cantilever, a scanner and its electronics.

    pace: virtual seconds per second; "unlimited" or None = as fast as possible. domains: who draws them: thresholds
    of a Gaussian random field, or an Allen-Cahn phase field; two independent generators. surface: the film with
    domains, or a bare calibration grating or spheres without piezoresponse. width: of the specimen, of which the
    middle nine tenths can be reached. cells: of its maps, a side. in_plane: share of needles with in-plane
    polarisation, whose walls are the 90 degree ones. defects: that pin walls, in number. double_tip: distance of a
    second apex, 0 = none. drift: of the specimen, laterally. creep: share of a move that is still missing at its
    end. hysteresis: of the fast axis, share of its length. noise: of the lock-in at 1 ms. broken_share: of the
    switching spectra that come out spoilt. resonance, quality: of the cantilever in contact. amplitude: of the bias
    waveform of a spectrum that names none. can_wait: stay behind the slowest lossless reader.
    """

    seed: Annotated[int, msgspec.Meta(ge=0, le=2**62)] = 1
    pace: Annotated[float, quantity("", gt=0, le=1e6)] | Literal["unlimited"] | None = 1.0
    domains: Literal["random_field", "phase_field"] = "random_field"
    surface: Literal["film", "grating", "particles"] = "film"
    width: Annotated[float, quantity("nm", ge=200, le=10_000)] = 1000.0
    cells: Annotated[int, msgspec.Meta(ge=128, le=1024, multiple_of=2)] = 512
    domain_size: Annotated[float, quantity("nm", ge=20, le=2000)] = 150.0
    in_plane: Annotated[float, quantity("", ge=0, le=0.5)] = 0.12
    defects: Annotated[int, msgspec.Meta(ge=0, le=2000)] = 30
    tip_radius: Annotated[float, quantity("nm", ge=2, le=500)] = 20.0
    double_tip: Annotated[float, quantity("nm", ge=0, le=500)] = 0.0
    drift: Annotated[float, quantity("m/s", ge=0, le=1e-9)] = 1e-11
    creep: Annotated[float, quantity("", ge=0, le=0.2)] = 0.01
    hysteresis: Annotated[float, quantity("", ge=0, le=0.1)] = 0.003
    noise: Annotated[float, quantity("m", ge=0, le=1e-9)] = 4e-12
    broken_share: Annotated[float, quantity("", ge=0, le=1)] = 0.05
    resonance: Annotated[float, quantity("kHz", ge=20, le=5000)] = 350.0
    quality: Annotated[float, quantity("", ge=5, le=1000)] = 80.0
    phase_offset: Annotated[float, quantity("rad", ge=-3.2, le=3.2)] = 0.1
    amplitude: Annotated[float, quantity("V", ge=1, le=20)] = 8.5
    can_wait: bool = True

    def problems(self) -> Iterable[str]:
        """Yield what the maps can't hold."""
        cell = self.width / self.cells
        if self.domain_size < 6 * cell:
            yield f"domain_size {self.domain_size:g} nm is below 6 cells of {cell:.3g} nm: raise it, or cells"
        if self.domain_size > self.width:
            yield f"domain_size {self.domain_size:g} nm is above the width, {self.width:g} nm"
        if self.double_tip and self.double_tip > self.width / 4:
            yield f"double_tip {self.double_tip:g} nm is above a quarter of the width, {self.width / 4:g} nm"

    @property
    def host_pace(self) -> float | None:
        """The pace as the clock takes it, None = as fast as possible."""
        return None if self.pace is None or self.pace == "unlimited" else float(self.pace)
