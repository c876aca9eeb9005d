"""Where a detector's pixels lie in angle: centre, scale, rotation, flip from the calibrations (CONVENTIONS.md 1)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..data.axes import Channel, StreamSpec
from ..data.calibration import CalibrationSet
from ..data.errors import CalibrationError

Annulus = tuple[float, float]  # inner and outer half angle [rad]


@dataclass(frozen=True)
class DetectorGeometry:
    """Geometry of a pixelated detector.

    shape (ky, kx) [px]; centre (ky, kx) of the undiffracted beam [px]; scale (ky, kx) [rad/px].
    """

    deflection_spec: ClassVar = StreamSpec(
        "deflection",
        "values",
        "<f4",
        channels=(Channel("x", "deflection", "rad"), Channel("y", "deflection", "rad")),
        units="rad",
    )
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

    def annulus(self, inner: float, outer: float) -> NDArray[np.bool_]:
        """Return the pixels (ky, kx) whose centres lie at inner <= angle < outer [rad].

        Raises CalibrationError when there is none. Warns with the share collected when part misses the detector.
        """
        radius = self.radius()
        pixels = (radius >= inner) & (radius < outer)
        between = f"{inner * 1e3:.1f} {{}} {outer * 1e3:.1f} mrad"
        if not pixels.any():
            raise CalibrationError(
                f"no pixel lies between {between.format('and')}, the detector sees {radius.max() * 1e3:.1f} mrad",
                "choose other angles or another camera length",
            )
        share = self.share(inner, outer)
        if outer > self.inscribed * 1.001 and share < 0.99:
            warnings.warn(
                f"only {share:.0%} of the annulus {between.format('to')} lies on the detector", stacklevel=2
            )
        return pixels

    def deflection(self, moments: NDArray[np.float64], to_scan: NDArray[np.float64]) -> NDArray[Any]:
        """Return the mean deflection (N, 2) (x, y) [rad] in the SCAN frame, NaN where a pattern is empty.

        moments (N, 3): sum(I), sum(I (kx - centre)), sum(I (ky - centre)). to_scan: of detector_to_scan.
        """
        total = moments[:, :1]
        turned = moments[:, 1:] @ (to_scan * self.scale[::-1]).T
        return np.divide(turned, total, out=np.full_like(turned, np.nan), where=total != 0)


def standard_annuli(geometry: DetectorGeometry, calibrations: CalibrationSet, who: str) -> dict[str, Annulus]:
    """Return bright field, annular bright field and annular dark field as "bf", "abf", "adf" (CONVENTIONS.md 2).

    In convergence angles: 0 to 1, 0.5 to 1, and 2.4 (outside the bright disc and its overlaps) to the edge.
    Raises CalibrationError when the convergence angle was not measured.
    """
    convergence = calibrations.require("convergence_angle", who).value[0]
    dark = 2.4 * convergence
    return {
        "bf": (0.0, convergence),
        "abf": (0.5 * convergence, convergence),
        "adf": (dark, max(geometry.inscribed, dark)),
    }


def detector_to_scan(calibrations: CalibrationSet, who: str) -> NDArray[np.float64]:
    """Return the 2 x 2 matrix R(rotation) diag(1, flip) that turns (x, y) from the centre into the SCAN frame.

    R is counter-clockwise seen along +z: x to the right, y down, so x turns towards -y. Raises CalibrationError when
    the rotation or the flip was not measured.
    """
    angle = calibrations.require("scan_detector_rotation", who).value[0]
    flip = -1.0 if calibrations.require("scan_detector_flip", who).value[0] < 0 else 1.0
    cos, sin = np.cos(angle), np.sin(angle)
    return np.asarray(np.array([[cos, sin], [-sin, cos]]) @ np.diag([1.0, flip]), np.float64)
