"""What can be asked of the simulated column."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from probeloop.api import Aberrations, Settings, quantity

from .camera import CameraSettings, Detector
from .damage import DamageKind
from .scattering.settings import ScatteringSettings
from .specimen.settings import SpecimenName, StructureSettings
from .spectrometer import SpectrometerSettings

Drill = Literal["none", "high_current", "stuck_sensor", "missing_sensor", "silent_camera"]
Mrad = Annotated[float, quantity("mrad", ge=0, le=1000)]
Frame = Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)]


class StemSettings(Settings):
    """A column, a camera and a specimen.

    pace: virtual seconds per second, None = as fast as possible. misalignment: of the lens at the start, 1 = some
    100 nm out of focus (see optics.draw_lens). offset: names and values [m] instead of drawn ones. drop_frames,
    double_frames: numbers of triggers since the start whose frame is lost or comes twice. settling_frames: the
    camera runs on while a lens settles. threads: for the physics; the bits are the same with any number. drill: a
    fault that the column has when its clock, which runs while it scans, has reached drill_after.
    specimen: the bicrystal (`crystal` and `carbon` are its own), or another one: see `structure`, and `scattering`
    for its slices.
    knobs: those of the first orders, or of C23, C32 and C34 too. corrector_drift: rms by which C10 walks in a minute,
    higher orders with it. corrector_noise: rms error of a turn, in parts of it. drift_walk: rms by which the specimen
    walks in a second, besides its linear drift. line_jitter: rms displacement of a line. scan_settling: time constant
    of the deflectors. missed_rate, doubled_rate: share of the frames that are lost or come twice, by chance.
    detector: camera, what it does to a pattern. damage, critical_dose: what the dose does to the specimen, and where
    radiolysis has left 1/e. annuli: inner and outer angle of annular detectors, in the place of the default ones.
    mis_set: 0-1, how wrong the calibrations are that the operator believes (scan scale, rotation, flip, camera
    length, pattern centre, beam current: see misset.MisSet); 0 = they are true.
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
    knobs: Literal["first", "third"] = "first"
    corrector_drift: Annotated[float, quantity("m", ge=0, le=1e-7)] = 0.0
    corrector_noise: Annotated[float, quantity("", ge=0, le=0.3)] = 0.0
    drift_walk: Annotated[float, quantity("m", ge=0, le=1e-8)] = 0.0
    line_jitter: Annotated[float, quantity("m", ge=0, le=1e-8)] = 0.0
    scan_settling: Annotated[float, quantity("s", ge=0, le=0.1)] = 0.0
    missed_rate: Annotated[float, quantity("", ge=0, le=0.5)] = 0.0
    doubled_rate: Annotated[float, quantity("", ge=0, le=0.5)] = 0.0
    detector: Detector = "ideal"
    camera: CameraSettings = CameraSettings()
    annuli: dict[str, tuple[Mrad, Mrad]] = {}
    spectrometer: SpectrometerSettings = SpectrometerSettings()
    damage: DamageKind = "none"
    critical_dose: Annotated[float, quantity("e/m^2", gt=0, le=1e30)] = 1e24
    specimen: SpecimenName = "bicrystal"
    structure: StructureSettings = StructureSettings()
    scattering: ScatteringSettings = ScatteringSettings()

    def problems(self) -> Iterable[str]:
        """Yield what the camera can't hold."""
        limit = self.pixel_angle * self.pixels / 3 / (1 + 0.2 * self.mis_set)
        if limit < self.convergence:
            yield (
                "the bright-field disc is larger than the camera's band limit: raise pixel_angle or pixels, "
                f"or 1 mrad < convergence <= {limit:.3g} mrad"
            )
        unknown = sorted(set(self.offset) - set(Aberrations.__struct_fields__))
        if unknown:
            yield f"offset: no aberration is named {', '.join(unknown)}; {', '.join(Aberrations.__struct_fields__)}"
        if self.specimen == "bicrystal" and self.scattering != ScatteringSettings():
            yield "the bicrystal is one perfect slice: scattering needs another specimen"
        twice = set(self.drop_frames) & set(self.double_frames)
        if twice:
            yield f"frames {sorted(twice)} can't be both dropped and doubled"
        edge = self.pixel_angle * self.pixels / 3
        for name, (inner, outer) in self.annuli.items():
            if not inner < outer <= edge:
                yield f"annuli.{name}: {inner:g} to {outer:g} mrad; allowed: inner < outer <= {edge:.4g} (band limit)"
