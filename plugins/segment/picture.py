"""Pictures of walls with their truth: what both generators share, and the seeds that each use may draw from.

A use (training, calibration, scoring) has a range of seeds of its own, and the scoring of drift away from the
training data has a generator of its own (`foreign`), which has no geometry, no wall profile and no artefact from
`lamellae`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]
Use = Literal["training", "calibration", "scoring"]

_RANGE = 2**40
SEEDS: dict[Use, range] = {
    "training": range(0, _RANGE),
    "calibration": range(_RANGE, 2 * _RANGE),
    "scoring": range(2 * _RANGE, 3 * _RANGE),
}
NEAR = 1.0  # a pixel whose centre is no farther from a wall's line than this belongs to the wall
_SHORT = 4.0  # pixels, below which distances are not measured but shifted
SEEN = 2.5  # sigma of its noise that a wall must bend the picture by to be seen, both filtered alike


class Picture(msgspec.Struct, frozen=True):
    """A measured picture and what is true of it.

    values: (ny, nx) float32, as measured. line: the wall's pixels, one wide. unseen: pixels of a wall that noise
    hides: neither missed nor false. width: of the walls' profile [px]. snr: contrast (5-95 %) over sigma of the
    noise.
    """

    values: Image
    line: Mask
    unseen: Mask
    width: float
    snr: float
    kind: str

    @property
    def wall(self) -> Mask:
        """Pixels that belong to a wall: within `NEAR` of its line."""
        return near(self.line, NEAR)


def generator(use: Use, seed: int, number: int = 0) -> np.random.Generator:
    """Return the source of chance of picture `number` of a run with `seed`, out of the range of its use."""
    spread = np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0]
    return np.random.default_rng(SEEDS[use].start + int(spread) % _RANGE)


def near(line: Mask, distance: float) -> Mask:
    """Return the pixels within `distance` [px] of a pixel of `line`."""
    if not line.any():
        return np.zeros(line.shape, bool)
    if distance < _SHORT:
        return _beside(line, distance)
    made: Mask = ndi.distance_transform_edt(~line) <= distance
    return made


def _beside(line: Mask, distance: float) -> Mask:
    """Return the same from one shift for each pixel of a disc: for a small one a tenth of the cost."""
    reach, (ny, nx) = int(distance), line.shape
    made, from_ = line.copy(), np.pad(line, reach)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            if dy * dy + dx * dx <= distance * distance:
                made |= from_[reach + dy : reach + dy + ny, reach + dx : reach + dx + nx]
    return made


def crossing(level: NDArray[np.float64]) -> Mask:
    """Return the pixels next to a change of sign of `level` (ny, nx), on the side that is nearer to zero."""
    return between(level < 0, np.abs(level))


def between(labels: NDArray[Any], away: NDArray[np.float64]) -> Mask:
    """Return the pixels next to a change of label, of each pair the one that is less far `away` from it [px]."""
    made = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        low = (slice(None, -1), slice(None)) if axis == 0 else (slice(None), slice(None, -1))
        high = (slice(1, None), slice(None)) if axis == 0 else (slice(None), slice(1, None))
        changes = labels[low] != labels[high]
        first = away[low] <= away[high]
        made[low] |= changes & first
        made[high] |= changes & ~first
    return made


def depth(level: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the signed distance [px] to the zero of a smooth `level`, right near it (level over its slope)."""
    slopes = np.gradient(level)
    slope = np.hypot(slopes[0], slopes[1])
    made: NDArray[np.float64] = level / np.maximum(slope, 0.2 * float(slope.mean()) + 1e-12)
    return made


def waves(
    rng: np.random.Generator, x: NDArray[np.float64], y: NDArray[np.float64], period: float, count: int = 12
) -> NDArray[np.float64]:
    """Return a smooth random field of variance 1 at (x, y) [px]: plane waves of about one period [px]."""
    angle = rng.uniform(0, 2 * np.pi, count)
    k = 2 * np.pi / (period * rng.uniform(0.7, 1.6, count))
    phase = rng.uniform(0, 2 * np.pi, count)
    x, y = x.astype(np.float32), y.astype(np.float32)  # single precision: 1e-4 rad, and five times as fast
    made = np.zeros(x.shape, np.float32)
    terms = np.stack([k * np.cos(angle), k * np.sin(angle), phase], axis=1).astype(np.float32)
    for kx, ky, p in terms:
        made += np.cos(kx * x + ky * y + p)
    whole: NDArray[np.float64] = made.astype(np.float64) * np.sqrt(2 / count)
    return whole


def pink(rng: np.random.Generator, count: int, power: float = 1.0) -> NDArray[np.float64]:
    """Return `count` samples of 1/f^power noise with standard deviation 1."""
    f = np.fft.rfftfreq(count)
    f[0] = f[1]
    size = len(f)
    spectrum = (rng.normal(size=size) + 1j * rng.normal(size=size)) * f ** (-power / 2)
    spectrum[0] = 0
    made: NDArray[np.float64] = np.fft.irfft(spectrum, n=count)
    return made / max(float(made.std()), 1e-12)


def finished(
    clean: NDArray[np.float64], measured: NDArray[np.float64], line: Mask, noise: float, width: float, kind: str
) -> Picture:
    """Return the picture; `clean` is what the detector would show without noise of sigma `noise`."""
    # the Laplacian of a Gaussian: what changes slowly is nothing to it, a wall of this width most
    sigma = float(np.clip(width, 1.2, 4.0))
    bend = np.abs(ndi.gaussian_laplace(clean, sigma))
    seen = ndi.maximum_filter(bend, 2 * int(np.ceil(sigma)) + 1)
    least = SEEN * np.sqrt(sigma) * noise / (np.sqrt(2 * np.pi) * sigma**3)  # a line is seen by its length too
    unseen = line & (seen < least)
    contrast = float(np.subtract(*np.percentile(clean, [95, 5])))
    snr = contrast / max(noise, 1e-12)
    return Picture(measured.astype(np.float32), line & ~unseen, unseen, width, snr, kind)
