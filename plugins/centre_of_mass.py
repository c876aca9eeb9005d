"""Centre of mass of every diffraction pattern: the mean deflection of the beam.

First moments in one pass over the pattern (Muller-Caspary et al., Ultramicroscopy 178 (2017) 62), about the measured
pattern centre, turned into the SCAN frame by the measured rotation and flip.
"""

from __future__ import annotations

import numpy as np

from probeloop.api import (
    DetectorGeometry,
    FrameBlock,
    FrameTransform,
    Outputs,
    StreamSpec,
    VirtualDetectors,
    detector_to_scan,
)


class CentreOfMass(FrameTransform):
    """Mean deflection (x, y) of the beam at every probe position, and the intensity that it was taken from."""

    may_be_nan = True  # a pattern without an electron has no centre

    def outputs(self, spec: StreamSpec) -> dict[str, StreamSpec]:
        """Return `deflection`, (N, 2) float32 (x, y) [rad] in the SCAN frame, and `intensity`, (N,) float32.

        Raises CalibrationError when the centre, the angle per pixel, the rotation or the flip is unknown.
        """
        who = "centre_of_mass"
        self._geometry = DetectorGeometry.of(spec, self.context.calibrations, who)
        self._to_scan = detector_to_scan(self.context.calibrations, who)
        self._detector = VirtualDetectors(np.empty((0, *self._geometry.shape)), self.context.device)
        return {
            "deflection": self._geometry.deflection_spec,
            "intensity": StreamSpec("intensity", "values", "<f4", units=spec.units),
        }

    def process(self, block: FrameBlock) -> Outputs:
        """Return deflection and intensity; NaN where a pattern is empty."""
        _, moments = self._detector.sums_and_moments(block.data, self._geometry.centre)
        deflection = self._geometry.deflection(moments, self._to_scan)
        return {"deflection": deflection.astype(np.float32), "intensity": moments[:, 0].astype(np.float32)}
