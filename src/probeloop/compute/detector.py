"""Where a detector's pixels lie in angle: centre, scale, rotation, flip from the calibrations (CONVENTIONS.md 1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..data.axes import StreamSpec
from ..data.calibration import CalibrationSet
from ..data.errors import CalibrationError


@dataclass(frozen=True)
class DetectorGeometry:
    """Geometry of a pixelated detector.

    shape (ky, kx) [px]; centre (ky, kx) of the undiffracted beam [px]; scale (ky, kx) [rad/px].
    """

    shape: tuple[int, int]
    centre: tuple[float, float]
    scale: tuple[float, float]

    @classmethod
    def of(cls, spec: StreamSpec, calibrations: CalibrationSet, who: str) -> DetectorGeometry:
        """Return the geometry of the frames of `spec`.

        Raises CalibrationError when they are no diffraction patterns, or a calibration that `who` needs is absent.
        """
        if spec.kind != "frames" or len(spec.frame_shape) != 2:
            raise CalibrationError(
                f"{who} needs diffraction patterns; {spec.name!r} has {spec.kind} of shape {spec.frame_shape}",
                "choose another input",
            )
        centre = calibrations.require("pattern_centre", who).value
        scale = calibrations.require("detector_scale", who).value
        ky, kx = spec.frame_shape
        return cls((ky, kx), (centre[0], centre[-1]), (scale[0], scale[-1]))

    def angles(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the angle of every pixel centre along ky and kx, (ky, 1) and (1, kx) [rad]."""
        y = (np.arange(self.shape[0], dtype=np.float64) - self.centre[0]) * self.scale[0]
        x = (np.arange(self.shape[1], dtype=np.float64) - self.centre[1]) * self.scale[1]
        return y[:, None], x[None, :]

    def radius(self) -> NDArray[np.float64]:
        """Return the polar angle of every pixel centre, (ky, kx) [rad]."""
        y, x = self.angles()
        return np.hypot(y, x)

    @property
    def inscribed(self) -> float:
        """The largest angle at which the detector sees every azimuth [rad]."""
        return min(
            (min(centre, size - 1 - centre) + 0.5) * scale
            for size, centre, scale in zip(self.shape, self.centre, self.scale, strict=True)
        )

    def share(self, inner: float, outer: float) -> float:
        """Return which share of an annulus [rad] lies on the detector, 0 to 1."""
        radius = self.radius()
        pixels = np.count_nonzero((radius >= inner) & (radius < outer))
        area = np.pi * (outer**2 - inner**2) / (self.scale[0] * self.scale[1])
        return float(min(1.0, pixels / area)) if area > 0 else 0.0


def detector_to_scan(calibrations: CalibrationSet, who: str) -> NDArray[np.float64]:
    """Return the 2 x 2 matrix R(rotation) diag(1, flip) that turns (x, y) from the centre into the SCAN frame.

    R is counter-clockwise seen along +z: x to the right, y down, so x turns towards -y. Raises CalibrationError when
    the rotation or the flip was not measured.
    """
    angle = calibrations.require("scan_detector_rotation", who).value[0]
    flip = -1.0 if calibrations.require("scan_detector_flip", who).value[0] < 0 else 1.0
    cos, sin = np.cos(angle), np.sin(angle)
    return np.asarray(np.array([[cos, sin], [-sin, cos]]) @ np.diag([1.0, flip]), np.float64)
