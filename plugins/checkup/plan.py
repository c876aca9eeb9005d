"""The checkup as a plan: what the instrument believes of itself, measured again with what it has.

It runs on any instrument. What one can't do is said by name, with the reason; nothing is guessed. It puts back all
that it sets. The STOP drill is not part of it, because a STOP ends every plan: `probeloop checkup` does it before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import msgspec
import numpy as np

from probeloop.api import (
    CalibrationError,
    CalibrationSet,
    Checkpoint,
    DriverError,
    InstrumentInfo,
    Plan,
    PlanContext,
    PlanError,
    PlanSteps,
    RefusedError,
    Settings,
    detector_alone,
    quantity,
)

from .alone import alone
from .capabilities import ENDS, Steps, exercise
from .diffraction import Diffraction, Wanted
from .findings import Findings
from .lattice import reciprocal
from .maps import Images, Maps
from .settling import settling

# share of the whole time that is over when the step begins, as measured on the simulated column
_STARTS = {
    "read back": 0.0, "frames": 0.1, "dark": 0.09, "vacuum": 0.11, "lattice": 0.15, "rotation": 0.28, "bragg": 0.66,
    "drift": 0.7, "pixels": 0.9, "flyback": 0.92, "settling": 0.97,
}  # fmt: skip
_WORDS = {
    "read back": "sets, reads and puts back every capability", "frames": "frames and dead pixels",
    "dark": "dark reference and hot pixels",
    "vacuum": "vacuum probe: centre, camera length, beam current", "lattice": "looks for the known lattice",
    "pixels": "dead pixels", "rotation": "rotation and flip, at two foci", "bragg": "camera length by Bragg discs",
    "drift": "drift", "flyback": "flyback", "settling": "settling of the lens",
}  # fmt: skip


class Checkup(Plan):
    """Reads back every capability and measures the calibrations again; says what is other than believed."""

    class Parameters(Settings):
        """The known lattice and how it is scanned.

        lattice_a, lattice_b: sides of its cell, lattice_angle between them; b = 0: as a. points, step, dwell_time: of
        the scans; distance: of the places that are tried from the centre. defocus: C10 is changed by this much to
        either side. references: frames of a dark or vacuum reference. pixels, patterns: the rig's names of
        `disc_pixels` and `mean_pattern`.
        """

        lattice_a: Annotated[float, quantity("nm", ge=0.1, le=1e5)] = 0.3905
        lattice_b: Annotated[float, quantity("nm", ge=0, le=1e5)] = 0.0
        lattice_angle: Annotated[float, quantity("deg", ge=30, le=150)] = 90.0
        points: Annotated[int, msgspec.Meta(ge=24, le=96)] = 40
        step: Annotated[float, quantity("nm", ge=0.01, le=1e4)] = 0.075
        dwell_time: Annotated[float, quantity("ms", ge=0.001, le=1000)] = 0.1
        distance: Annotated[float, quantity("nm", ge=0, le=1e6)] = 3.5
        defocus: Annotated[float, quantity("nm", ge=5, le=100)] = 25.0
        references: Annotated[int, msgspec.Meta(ge=4, le=1000)] = 64
        pixels: str = "disc_pixels"
        patterns: str = "mean_pattern"

        def problems(self) -> Iterable[str]:
            """Yield what can't show the lattice."""
            if self.step * 2.2 > self.lattice_a:
                yield f"step: {self.step:g} nm is too coarse for a cell of {self.lattice_a:g} nm: at most a / 2.2"
            if self.points * self.step < 4 * self.lattice_a:
                yield "points: fewer than four cells are in the field: raise points or step"

    def inputs(self) -> tuple[str, ...]:
        """Return the topics of the two plug-ins."""
        p = self.parameters
        return (f"{p.pixels}.pixels", f"{p.patterns}.pattern", f"{p.patterns}.totals")

    def run(self, ctx: PlanContext) -> PlanSteps:
        """Yield the checks one after the other; one that can't be done does not keep the next from being done."""
        findings = Findings(CalibrationSet(ctx.info.calibrations))
        try:
            yield from self._part("read back", findings, exercise(ctx.info, findings))
            if detector_alone(ctx.info):
                _, pattern, totals = self.inputs()
                given = frozenset(ctx.inputs)
                yield from self._part("frames", findings, alone(ctx.info, findings, pattern, totals, given))
                yield Checkpoint(1.0, "done")
                return findings.summary()
            made: Diffraction | None = yield from self._diffraction(ctx, findings)
            sees = made is not None and made.known.lens is not None
            plain = Images(self.parameters.points, self.parameters.dwell_time * 1e-3)
            maps = Maps(ctx, findings, made if made is not None and sees else plain)
            yield from self._part("drift", findings, maps.drift())
            if made is not None:
                yield from self._part("pixels", findings, made.pixels())
            yield from self._part("flyback", findings, maps.flyback())
            if made is not None:
                yield from self._part("settling", findings, settling(made))
        except RefusedError as error:
            return findings.summary(str(error))
        yield Checkpoint(1.0, "done")
        return findings.summary()

    def _diffraction(self, ctx: PlanContext, findings: Findings) -> Steps:
        """Run the checks that need patterns; return them, None where there are no patterns."""
        if not _has_camera(ctx.info):
            findings.cannot("calibrations of the camera", f"{ctx.info.name} has no camera for diffraction patterns")
            findings.cannot(
                "scan scale, rotation and flip", "these are measured with a camera for diffraction patterns"
            )
            return None
        missing = [topic for topic in self.inputs() if topic not in ctx.inputs]
        if missing:
            findings.cannot("calibrations of the camera", f"{', '.join(missing)} is not there: probeloop checkup RIG")
            return None
        try:
            made = Diffraction(ctx.info, self._wanted(), findings)
        except CalibrationError as error:
            findings.cannot("calibrations of the camera", str(error))
            return None
        parts: dict[str, Callable[[], Steps]] = {
            "dark": made.dark, "vacuum": made.vacuum, "lattice": made.lattice,
            "rotation": made.rotation, "bragg": made.bragg,
        }  # fmt: skip
        references = "AcquireReference" in ctx.info.commands
        for name, part in parts.items():
            if name in ("dark", "vacuum") and not references:
                findings.cannot(_WORDS[name], f"{ctx.info.name} takes no references")
                continue
            yield from self._part(name, findings, part())
        return made

    def _part(self, name: str, findings: Findings, steps: Steps) -> Steps:
        """Run one check; what is refused or fails is written down."""
        yield Checkpoint(_STARTS[name], _WORDS[name])
        try:
            yield from steps
        except RefusedError as error:
            if error.limit in ENDS:
                raise
            findings.cannot(_WORDS[name], str(error))
        except (DriverError, PlanError, CalibrationError) as error:
            findings.cannot(_WORDS[name], str(error))

    def _wanted(self) -> Wanted:
        p = self.parameters
        a, b = p.lattice_a * 1e-9, (p.lattice_b or p.lattice_a) * 1e-9
        cell = reciprocal(a, b, math.radians(p.lattice_angle))
        pixels, pattern, totals = self.inputs()
        return Wanted(
            cell, _reflections(cell, 0.45 / (p.step * 1e-9)), p.points, p.step * 1e-9, p.dwell_time * 1e-3,
            p.distance * 1e-9, p.defocus * 1e-9, p.references, pixels, pattern, totals,
        )  # fmt: skip


def _has_camera(info: InstrumentInfo) -> bool:
    return info.camera_pixels > 0 and "camera" in info.topics and "Scan" in info.commands


def _reflections(cell: Any, band: float) -> tuple[tuple[int, int], ...]:
    """Return the shortest reflections (h, k) inside the band [1/m], one of each pair."""
    pairs = [(h, k) for h in range(-3, 4) for k in range(-3, 4) if (h, k) > (0, 0)]
    length = {each: float(np.hypot(*(cell @ np.array(each)))) for each in pairs}
    return tuple(sorted((each for each in pairs if length[each] < band), key=lambda each: (length[each], each))[:10])
