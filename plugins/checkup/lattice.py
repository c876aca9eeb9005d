"""A known lattice in images: its reciprocal vectors, and what they say of the scan's scale and distortion."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import scipy.fft as sf
from numpy.typing import NDArray

Array = NDArray[np.float64]
_PADDING = 4
_LOUD = 8.0  # times the power around: a peak


@dataclass(frozen=True)
class Fit:
    """A lattice as the scan sees it.

    transform (2, 2): commanded q = transform @ q of the lattice at angle 0. sigma: of scale, as a share. peaks: how
    many were used. significance: mean power of them over the power around.
    """

    transform: Array
    sigma: float
    peaks: int
    significance: float

    @property
    def scale(self) -> float:
        """True over commanded metres."""
        return math.sqrt(abs(float(np.linalg.det(self.transform))))

    @property
    def distortion(self) -> float:
        """How much longer the scan is along one direction than across it, less 1."""
        large, small = np.linalg.svd(self.transform, compute_uv=False)
        return float(large / small - 1)

    def flat(self) -> tuple[float, ...]:
        """Return it as seven floats."""
        return (*map(float, self.transform.ravel()), self.sigma, float(self.peaks), self.significance)

    @classmethod
    def of(cls, values: tuple[float, ...]) -> Fit:
        """Read what `flat` made."""
        return cls(np.reshape(values[:4], (2, 2)), values[4], int(values[5]), values[6])


NOTHING = Fit(np.eye(2), 1.0, 0, 0.0)


def reciprocal(a: float, b: float, angle: float) -> Array:
    """Return the reciprocal vectors of a cell as columns [1/m]; a, b [m], angle between them [rad]."""
    cell = np.array([[a, 0.0], [b * math.cos(angle), b * math.sin(angle)]])
    return np.asarray(np.linalg.inv(cell), np.float64)


class Power:
    """Power spectrum of a stack of images (ny, nx, K) with the pixel `step` (y, x) [m], summed over the stack."""

    def __init__(self, images: Array, step: tuple[float, float]) -> None:
        ny, nx = images.shape[:2]
        self.step, self.field = step, (ny * step[0], nx * step[1])
        window = np.hanning(ny + 2)[1:-1, None] * np.hanning(nx + 2)[None, 1:-1]
        mean = images.mean(axis=(0, 1), keepdims=True)
        self._size = (_PADDING * ny, _PADDING * nx)
        total = np.zeros(self._size)
        for first in range(0, images.shape[2], 32):
            part = ((images[..., first : first + 32] - mean[..., first : first + 32]) * window[..., None]).astype(
                np.float32
            )
            wave = sf.fft2(part, s=self._size, axes=(0, 1), workers=1)
            total += (wave.real**2 + wave.imag**2).sum(axis=2)
        self.values = total
        self._qy, self._qx = sf.fftfreq(self._size[0], step[0]), sf.fftfreq(self._size[1], step[1])
        self.radius = np.hypot(self._qy[:, None], self._qx)
        self._around = self._background()

    def at(self, q: Array) -> Array:
        """Return the power at q (..., 2) (x, y) [1/m] over the power around, bilinear."""
        return self._bilinear(self.values / self._around, q)

    def peak(self, q: Array) -> tuple[Array, float]:
        """Return the top (2,) [1/m] of the peak within a bin of `q`, and its power over the power around."""
        y, x = self._index(q)
        reach = _PADDING
        ys, xs = np.arange(round(y) - reach, round(y) + reach + 1), np.arange(round(x) - reach, round(x) + reach + 1)
        part = self.values[np.ix_(ys % self._size[0], xs % self._size[1])]
        j, i = np.unravel_index(int(np.argmax(part)), part.shape)
        if j in (0, 2 * reach) or i in (0, 2 * reach):
            return np.asarray(q, np.float64), 0.0
        near = np.log(part[j - 1 : j + 2, i - 1 : i + 2])
        dy = 0.5 * (near[0, 1] - near[2, 1]) / (near[0, 1] - 2 * near[1, 1] + near[2, 1])
        dx = 0.5 * (near[1, 0] - near[1, 2]) / (near[1, 0] - 2 * near[1, 1] + near[1, 2])
        at = np.array([(xs[i] + dx) / (self._size[1] * self.step[1]), (ys[j] + dy) / (self._size[0] * self.step[0])])
        around = self._around[ys[j] % self._size[0], xs[i] % self._size[1]]
        return at, float(part[j, i] / around)

    def _index(self, q: Array) -> tuple[float, float]:
        return float(q[1] * self._size[0] * self.step[0]), float(q[0] * self._size[1] * self.step[1])

    def _bilinear(self, values: Array, q: Array) -> Array:
        y, x = q[..., 1] * self._size[0] * self.step[0], q[..., 0] * self._size[1] * self.step[1]
        y0, x0 = np.floor(y).astype(int), np.floor(x).astype(int)
        fy, fx = y - y0, x - x0
        made = np.zeros(y.shape)
        for dy, wy in ((0, 1 - fy), (1, fy)):
            for dx, wx in ((0, 1 - fx), (1, fx)):
                made += wy * wx * values[(y0 + dy) % self._size[0], (x0 + dx) % self._size[1]]
        return made

    def _background(self) -> Array:
        """Return the median power in rings of 2 bins, at every q."""
        ring = (self.radius * min(self.field) / 2).astype(int)
        flat, order = ring.ravel(), np.argsort(ring.ravel(), kind="stable")
        cuts = np.searchsorted(flat[order], np.arange(flat.max() + 2))
        sorted_values = self.values.ravel()[order]
        medians = np.array([np.median(sorted_values[a:b]) if b > a else np.inf for a, b in itertools.pairwise(cuts)])
        return np.asarray(np.maximum(medians, 1e-12 * self.values.max() + 1e-30)[ring])


def fit_lattice(power: Power, cell: Array, reach: float = 0.15) -> Fit:
    """Return how the lattice whose reciprocal vectors are the columns of `cell` [1/m] lies in a power spectrum.

    reach: largest error of the scan's scale. First the best angle and scale of all, by the logarithm of the power at
    every reflection inside the band; then a least-squares fit of all four elements to the tops of the peaks.
    """
    band = 0.9 / (2 * max(power.step))
    least = 3.0 / min(power.field)
    orders = [(h, k) for h in range(-4, 5) for k in range(-4, 5) if (h, k) > (0, 0)]
    g = np.array([cell @ order for order in orders])
    length = np.hypot(g[:, 0], g[:, 1])
    g = g[np.argsort(length, kind="stable")][:10]
    length = np.hypot(g[:, 0], g[:, 1])
    g = g[(length * (1 + reach) < band) & (length * (1 - reach) > least)]
    length = np.hypot(g[:, 0], g[:, 1])
    if len(g) < 2:
        return NOTHING
    angles = np.deg2rad(np.arange(-90.0, 90.0, 0.5))
    scales = np.linspace(1 - reach, 1 + reach, round(2 * reach / 0.005) + 1)
    turn = np.stack([np.cos(angles), -np.sin(angles), np.sin(angles), np.cos(angles)], axis=1).reshape(-1, 2, 2)
    best, found = -np.inf, np.eye(2)
    for mirror in (1.0, -1.0):
        turned = np.einsum("aij,gj->agi", turn, g * [1.0, mirror])
        for scale in scales:
            score = np.log1p(power.at(scale * turned)).mean(axis=1)
            top = int(np.argmax(score))
            if score[top] > best + 1e-9:
                best, found = float(score[top]), scale * turn[top] @ np.diag([1.0, mirror])
    for _ in range(3):
        tops = [power.peak(found @ each) for each in g]
        loud = np.array([level for _, level in tops])
        used = loud > _LOUD
        if used.sum() < 2 or np.linalg.matrix_rank(g[used], tol=1e-3 * length.max()) < 2:
            return NOTHING
        weight = np.sqrt(np.minimum(loud[used], 1e4))[:, None]
        places = np.array([at for at, _ in tops])[used]
        solved, *_ = np.linalg.lstsq(g[used] * weight, places * weight, rcond=None)
        found = solved.T
    left = (places - g[used] @ found.T) * weight
    free = max(1, 2 * int(used.sum()) - 4)
    spread = math.sqrt(float((left**2).sum()) / free)
    strength = math.sqrt(float(((g[used] * weight) ** 2).sum()) / 2)
    sigma = max(spread / strength / math.sqrt(2), 0.02 / (min(power.field) * float(length[used].max())))
    return Fit(found, sigma, int(used.sum()), float(loud[used].mean()))
