"""Annular virtual detector: one number per probe position.

Sums the intensity between two collection angles in every diffraction pattern, about the measured pattern centre.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Annotated, Any

import numpy as np

from probeloop.api import (
    CalibrationError,
    DetectorGeometry,
    FrameBlock,
    FrameTransform,
    Outputs,
    Settings,
    StreamSpec,
    quantity,
    weighted_sums,
)

ADF_INNER = 2.4  # multiples of the convergence angle: outside the bright disc and its overlaps
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
            inner = ADF_INNER * self.context.calibrations.require("convergence_angle", who).value[0] * 1e3
        if outer is None:
            outer = max(geometry.inscribed * 1e3, inner)
        radius = geometry.radius() * 1e3
        weight = (radius >= inner) & (radius < outer)
        if not weight.any():
            raise CalibrationError(
                f"no pixel lies between {inner:.1f} and {outer:.1f} mrad, the detector sees {radius.max():.1f} mrad",
                "choose other angles or another camera length",
            )
        share = geometry.share(inner * 1e-3, outer * 1e-3)
        if outer > geometry.inscribed * 1e3 * 1.001 and share < 0.99:
            warnings.warn(
                f"only {share:.0%} of the annulus {inner:.1f} to {outer:.1f} mrad lies on the detector", stacklevel=2
            )
        self.parameters = self.Parameters(inner=inner, outer=outer)
        self._weight = weight.astype(np.float32)
        return {"intensity": StreamSpec("intensity", "values", "<f4", units=spec.units)}

    def process(self, block: FrameBlock) -> Outputs:
        """Return the sum over the annulus of every frame."""
        sums: Any = weighted_sums(block.data, self._weight)
        return {"intensity": sums.astype(np.float32)}
