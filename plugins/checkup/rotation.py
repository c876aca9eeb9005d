"""How the detector is turned and mirrored against the scan, from a known change of focus, and from the curl.

M = R(rotation) diag(1, flip) turns an angle on the detector into the scan's frame (CONVENTIONS.md 1).

Knob: the fit of the interference (`interference`) leaves half a turn open, together with the sign of the lens. C10
was changed by a known amount between two scans: the branch in which it moved the right way is the true one.

Curl: the mean deflection in a thin specimen is the gradient of a potential, so the M that turns it into the scan's
frame leaves no curl, and the wrong flip leaves some at every rotation (Hachtel, Idrobo and Chi, Adv. Struct. Chem.
Imaging 4 (2018) 10). Atoms deflect towards themselves, where the dark field is bright, which tells half a turn. The
probe smears dark field and deflection alike, so aberrations do not change this; out of focus little is left to see.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .interference import Lens

Array = NDArray[np.float64]
_KNOB_ERROR = 0.3  # share by which a knob's response may be off
_NEAR, _FAR = 12e-9, 60e-9  # [m]
_APART = math.radians(4)  # two good fits agree to half a degree
_LEAST = math.radians(0.2)  # what the sampling of the disc leaves


@dataclass(frozen=True)
class Turn:
    """rotation, its sigma [rad]; flip 1 or -1; significance: how much better than the other flip and half turn."""

    rotation: float
    flip: float
    sigma: float
    significance: float

    def flat(self) -> tuple[float, ...]:
        """Return it as four floats."""
        return self.rotation, self.flip, self.sigma, self.significance


NO_TURN = Turn(0.0, 1.0, math.pi, 0.0)


def matrix(rotation: float, flip: float) -> Array:
    """Return M = R(rotation) diag(1, flip), counter-clockwise seen along +z: x to the right, y down."""
    c, s = math.cos(rotation), math.sin(rotation)
    return np.array([[c, s], [-s, c]]) @ np.diag([1.0, flip])


def turn_from_knob(first: Lens, second: Lens, change: float) -> tuple[Turn, str]:
    """Return how the detector is turned, from fits with `change` [m] of C10 between them, and why not, or ""."""
    if not (first.likelihood > 0 and second.likelihood > 0):
        return NO_TURN, "no interference is seen in the disc: no thin place, or too far out of focus"
    far, near = (first, second) if abs(first.c10) >= abs(second.c10) else (second, first)
    step = change if far is first else -change
    # the sign of the lens, and with it the half turn: the one that leaves the other scan at the defocus it has
    missed = {each: abs(abs(each.c10 + step) - abs(near.c10)) for each in (far, far.other_half)}
    best, other = sorted(missed, key=lambda each: missed[each])
    if missed[best] > _KNOB_ERROR * abs(change) or missed[other] < 2 * missed[best]:
        foci = f"{abs(first.c10) * 1e9:.0f} and {abs(second.c10) * 1e9:.0f} nm"
        return NO_TURN, f"C10 was changed by {change * 1e9:.0f} nm, which is not what is seen: {foci} from focus"
    flip = max((1.0, -1.0), key=lambda f: _of_flip(first, f) + _of_flip(second, f))
    if best.flip != flip:
        return NO_TURN, "the two scans disagree about the flip"
    better = math.sqrt(max(0.0, 2 * (far.likelihood - far.rival)))
    if abs(near.c10) < _NEAR:  # there the images of the disc's pixels lie on each other, and tell little
        return Turn(best.rotation, flip, _LEAST, better), ""
    apart = math.remainder(near.rotation - best.rotation, math.pi)
    if near.flip != flip or abs(apart) > _APART:
        return NO_TURN, "the two scans disagree about the rotation"
    weight = [min(abs(each.c10), _FAR) ** 2 for each in (best, near)]
    rotation = math.remainder(best.rotation + apart * weight[1] / sum(weight), 2 * math.pi)
    return Turn(rotation, flip, max(_LEAST, abs(apart) * weight[1] / sum(weight)), better), ""


def _of_flip(lens: Lens, flip: float) -> float:
    return lens.likelihood if lens.flip == flip else lens.rival


def turn_from_curl(com: NDArray[Any], dark: NDArray[Any], q: Array, step: tuple[float, float]) -> Turn:
    """Return how the detector is turned, from the mean deflection and the dark field of a crystal.

    com (ny, nx, 2): (x, y) on the detector [px]. dark (ny, nx): counts outside the disc. q (L, 2): frequencies of
    the crystal's reflections [1/m]. step (y, x) [m].
    """
    if len(q) < 2:
        return NO_TURN
    both = np.concatenate([com, dark[..., None]], axis=2)
    if not np.isfinite(both).all():
        return NO_TURN
    wave = _at(both - both.mean(axis=(0, 1)), q, step)
    c, d = wave[:, :2], wave[:, 2]
    direction = q / np.hypot(q[:, 0], q[:, 1])[:, None]
    tries = []
    for flip in (1.0, -1.0):
        mirrored = c * [1.0, flip]
        # along q after a turn by t: cos t (q . c) + sin t (q x c), counter-clockwise with y down
        along = (direction * mirrored).sum(axis=1)
        across = direction[:, 0] * mirrored[:, 1] - direction[:, 1] * mirrored[:, 0]
        aa, bb = float((np.abs(along) ** 2).sum()), float((np.abs(across) ** 2).sum())
        angle = 0.5 * math.atan2(2 * float((along * across.conj()).real.sum()), aa - bb)
        turned = math.cos(angle) * along + math.sin(angle) * across
        rest = 1 - float((np.abs(turned) ** 2).sum()) / max(aa + bb, 1e-30)
        tries.append((rest, angle, flip, turned))
    (rest, angle, flip, turned), (other, *_) = sorted(tries, key=lambda each: each[0])
    # a gradient of V has the spectrum 2 pi i q V, and V and the dark field are bright at the same places
    agreement = (turned * (1j * d).conj()).real
    if agreement.sum() < 0:
        angle += math.pi
    sided = abs(float(agreement.sum())) / max(float(np.abs(agreement).sum()), 1e-30)
    sigma = max(math.sqrt(max(rest, 0.0) / len(q)), math.radians(1.5))
    significance = 10 * sided * (other - rest) if sided > 0.8 else 0.0
    return Turn(math.remainder(angle, 2 * math.pi), flip, sigma, significance)


def _at(images: Array, q: Array, step: tuple[float, float]) -> NDArray[np.complex128]:
    """Return the transform (L, K) of images (ny, nx, K) at q, under a Hann window."""
    ny, nx = images.shape[:2]
    row = np.exp(-2j * np.pi * np.outer(q[:, 1], np.arange(ny) * step[0])) * np.hanning(ny + 2)[1:-1]
    column = np.exp(-2j * np.pi * np.outer(q[:, 0], np.arange(nx) * step[1])) * np.hanning(nx + 2)[1:-1]
    return np.asarray(np.einsum("qy,yxk,qx->qk", row, images, column))
