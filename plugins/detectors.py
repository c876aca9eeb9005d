"""Several detectors from one read of every pattern: any number of annuli, and the centre of mass.

Bright field, annular bright field, annular dark field and the mean deflection of the beam are sums over the same
pixels; taken together they cost little more than one of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated

import numpy as np

from probeloop.api import (
    DetectorGeometry,
    FrameBlock,
    FrameTransform,
    Outputs,
    Settings,
    StreamSpec,
    VirtualDetectors,
    detector_to_scan,
    quantity,
    standard_annuli,
)

Angle = Annotated[float, quantity("mrad", ge=0.0, le=1000.0)]
_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")
_OF_THE_CENTRE = ("deflection", "total")


class Annulus(Settings):
    """Half angles of collection, 0 <= inner < outer [mrad]."""

    inner: Angle
    outer: Angle


class Detectors(FrameTransform):
    """Intensity in any number of annuli, and the mean deflection of the beam, at every probe position."""

    may_be_nan = True  # a pattern without an electron has no centre

    class Parameters(Settings):
        """annuli: by name, each a topic; they may overlap. centre_of_mass: with `deflection` and `total`.

        No annulus named: bf, abf and adf, which are 0 to 1 and 0.5 to 1 convergence angles, and 2.4 to the edge.
        """

        annuli: dict[str, Annulus] = {}
        centre_of_mass: bool = True

        def problems(self) -> Iterable[str]:
            """Say which annulus is empty, or has a name that no topic can have."""
            for name, annulus in self.annuli.items():
                if annulus.inner >= annulus.outer:
                    yield (
                        f"annuli.{name}: inner ({annulus.inner:g} mrad) must be below outer ({annulus.outer:g} mrad)"
                    )
                if not _NAME.fullmatch(name) or name in _OF_THE_CENTRE:
                    yield (
                        f"annuli.{name}: no name for an annulus (small letters, digits and _, a letter first, "
                        f"not {' or '.join(_OF_THE_CENTRE)})"
                    )

    def outputs(self, spec: StreamSpec) -> dict[str, StreamSpec]:
        """Return an output of (N,) float32 in the units of the frames for each annulus.

        With the centre of mass also `deflection`, (N, 2) float32 (x, y) [rad] in the SCAN frame, and `total`, (N,).
        Raises CalibrationError when the pattern centre, the angle per pixel, for the centre of mass the rotation or
        the flip, or for the annuli left out the convergence angle is unknown, or when no pixel lies in an annulus.
        Warns when part of an annulus misses the detector.
        """
        who, known = "detectors", self.context.calibrations
        self._geometry = geometry = DetectorGeometry.of(spec, known, who)
        wanted = {name: (a.inner * 1e-3, a.outer * 1e-3) for name, a in self.parameters.annuli.items()}
        wanted = wanted or standard_annuli(geometry, known, who)
        self._names = tuple(wanted)
        self._detectors = VirtualDetectors(
            np.stack([geometry.annulus(*angles) for angles in wanted.values()]), self.context.device
        )
        self._with_centre = self.parameters.centre_of_mass
        shown = {name: Annulus(inner=inner * 1e3, outer=outer * 1e3) for name, (inner, outer) in wanted.items()}
        self.parameters = self.Parameters(annuli=shown, centre_of_mass=self._with_centre)
        made = {name: StreamSpec(name, "values", "<f4", units=spec.units) for name in wanted}
        if self._with_centre:
            self._to_scan = detector_to_scan(known, who)
            made["deflection"] = geometry.deflection_spec
            made["total"] = StreamSpec("total", "values", "<f4", units=spec.units)
        return made

    def process(self, block: FrameBlock) -> Outputs:
        """Return the sum over every annulus, and with the centre of mass deflection and total; NaN where empty."""
        made = {}
        if self._with_centre:
            sums, moments = self._detectors.sums_and_moments(block.data, self._geometry.centre)
            made["deflection"] = self._geometry.deflection(moments, self._to_scan).astype(np.float32)
            made["total"] = moments[:, 0].astype(np.float32)
        else:
            sums = self._detectors.sums(block.data)
        return made | dict(zip(self._names, sums.astype(np.float32).T, strict=True))
