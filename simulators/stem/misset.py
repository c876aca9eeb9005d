"""A column whose calibrations are believed and wrong: what is hidden, and how it acts.

The operator works in the SCAN frame of commanded metres; the specimen, the probe and the camera live in the
DETECTOR's frame here, because there the far field is a plain transform. With M = R(rotation) diag(1, flip), the
angle in SCAN of a detector pixel p is M p (CONVENTIONS.md 1), so that

    Psi(M p) = transform of psi(M r') at p:  a probe commanded to r is put at r' = M^T (scale r - drift),
    and the aberration function, which is given in SCAN, is evaluated at M p.

The camera length is the true angle of a pixel; the centre is moved by tilting the incident wave by less than half a
pixel (exact for one slice; for thick specimens a tilt of about 1 mrad) and the rest by whole pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from probeloop.api import Aberrations

from .settings import StemSettings

SCALE, CAMERA, CENTRE, CURRENT = 0.08, 0.06, 4.0, 0.2  # largest errors at mis_set = 1: shares; px of 128; share
REACH = 1.0 / (2**0.5 * (1 + SCALE))  # share of the field that stays inside it whatever is mis-set


@dataclass(frozen=True)
class MisSet:
    """What is true of a column.

    scale: true over commanded metres. rotation [rad], flip (1 or -1): from detector to scan. camera: true over
    believed rad/px. centre (ky, kx): true less believed [px]. current: true over believed.
    """

    scale: float = 1.0
    rotation: float = 0.0
    flip: float = 1.0
    camera: float = 1.0
    centre: tuple[float, float] = (0.0, 0.0)
    current: float = 1.0

    @classmethod
    def draw(cls, amount: float, seed: int, pixels: int) -> MisSet:
        """Return the secrets of `seed`; amount 0-1 scales all of them, 0 = nothing is mis-set."""
        if amount == 0:
            return cls()
        rng = np.random.default_rng([seed, 4])
        scale, rotation, camera, ky, kx, current = (amount * rng.uniform(-1, 1, 6)).tolist()
        flip = float(rng.choice([-1.0, 1.0]))
        reach = CENTRE * pixels / 128
        return cls(
            1 + SCALE * scale,
            np.pi * rotation,
            flip,
            1 + CAMERA * camera,
            (reach * ky, reach * kx),
            1 + CURRENT * current,
        )

    @property
    def to_scan(self) -> NDArray[np.float64]:
        """The matrix M = R(rotation) diag(1, flip) that turns (x, y) on the detector into the SCAN frame."""
        c, s = np.cos(self.rotation), np.sin(self.rotation)
        return np.asarray(np.array([[c, s], [-s, c]]) @ np.diag([1.0, self.flip]), np.float64)

    def placed(self, position: NDArray[np.float64], drift: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where on the specimen the probe is, (N, 2) (x, y) [m].

        position (N, 2): as commanded [m]. drift (N, 2): true metres along the scan's axes.
        """
        if self == TRUE:
            return position - drift
        return np.asarray((self.scale * position - drift) @ self.to_scan, np.float64)

    def turned(self, aberrations: Aberrations) -> Aberrations:
        """Return the aberrations as the detector's frame has them; they are given in the SCAN frame."""
        if self.rotation == 0 and self.flip == 1:
            return aberrations
        made = aberrations.as_dict()
        for name in {key[:3] for key in made if key[2] != "0"}:
            a, b = made.get(f"{name}a", 0.0), made.get(f"{name}b", 0.0)
            turn = int(name[2]) * self.rotation
            made[f"{name}a"] = float(a * np.cos(turn) - b * np.sin(turn))
            made[f"{name}b"] = float(self.flip * (a * np.sin(turn) + b * np.cos(turn)))
        return msgspec.convert(made, Aberrations)

    def truth(self, p: StemSettings) -> dict[str, tuple[float, ...]]:
        """Return the true calibrations by kind, where `p` is what is believed."""
        half = p.pixels / 2
        return {
            "scan_scale": (self.scale,),
            "scan_detector_rotation": (self.rotation,),
            "scan_detector_flip": (self.flip,),
            "pattern_centre": (half + self.centre[0], half + self.centre[1]),
            "detector_scale": (p.pixel_angle * 1e-3 * self.camera,),
            "convergence_angle": (p.convergence * 1e-3,),
            "beam_current": (p.beam_current * 1e-12 * self.current,),
        }


TRUE = MisSet()


def sigmas(amount: float) -> dict[str, float]:
    """Return how sure the operator may be of each calibration: shares, [rad], [px]; 0 where nothing is mis-set."""
    return {
        "scan_scale": amount * SCALE / 3**0.5,
        "scan_detector_rotation": amount * np.pi / 3**0.5,
        "detector_scale": amount * CAMERA / 3**0.5,
        "pattern_centre": amount * CENTRE / 3**0.5,
        "convergence_angle": amount * 0.002,
        "beam_current": max(0.02, amount * CURRENT / 3**0.5),
    }
