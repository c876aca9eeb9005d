"""Annular virtual detector: one number per probe position.

Sums the intensity between two collection angles in every diffraction pattern, about the measured pattern centre.
"""

from __future__ import annotations

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
    quantity,
    standard_annuli,
)

Angle = Annotated[float, quantity("mrad", ge=0.0, le=1000.0)]


class AnnularDetector(FrameTransform):
    """Intensity between two collection angles at every probe position."""

    class Parameters(Settings):
        """Half angles of collection, 0 <= inner < outer [mrad].

        Left out: annular dark field, from 2.4 convergence angles to the detector's edge. In convergence angles,
        bright field is 0 to 1, annular bright field 0.5 to 1.
        """

        inner: Angle | None = None
        outer: Angle | None = None

        def problems(self) -> Iterable[str]:
            """Say when the annulus is empty."""
            if self.inner is not None and self.outer is not None and self.inner >= self.outer:
                yield f"inner ({self.inner:g} mrad) must be below outer ({self.outer:g} mrad)"

    def outputs(self, spec: StreamSpec) -> dict[str, StreamSpec]:
        """Return `intensity`, (N,) float32 in the units of the frames.

        Raises CalibrationError when the pattern centre, the angle per pixel or (for a default) the convergence angle
        is unknown, or no pixel lies in the annulus. Warns when part of the annulus misses the detector.
        """
        who = "annular_detector"
        geometry = DetectorGeometry.of(spec, self.context.calibrations, who)
        inner, outer = self.parameters.inner, self.parameters.outer
        if inner is None:
            inner = standard_annuli(geometry, self.context.calibrations, who)["adf"][0] * 1e3
        if outer is None:
            outer = max(geometry.inscribed * 1e3, inner)
        mask = geometry.annulus(inner * 1e-3, outer * 1e-3)
        self.parameters = self.Parameters(inner=inner, outer=outer)
        self._detector = VirtualDetectors(mask[None], self.context.device)
        return {"intensity": StreamSpec("intensity", "values", "<f4", units=spec.units)}

    def process(self, block: FrameBlock) -> Outputs:
        """Return the sum over the annulus of every frame."""
        return {"intensity": self._detector.sums(block.data)[:, 0].astype(np.float32)}
