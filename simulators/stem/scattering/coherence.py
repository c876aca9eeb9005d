"""A source that is not perfect: what a frame is averaged over.

Electrons of one frame differ in energy, so in focus, and come from different points of the source; a pattern is the
sum of *intensities*. An envelope on the amplitude, right for a linear image, is wrong for a convergent-beam pattern,
so each frame adds up `samples` coherent patterns: their focus at the nodes of a Gauss-Hermite quadrature, their place
on a spiral whose points share out a Gaussian source and which the frame's own stream turns by an angle, their frozen
phonons drawn by that stream. With one sample the place itself is drawn: right in the mean over many frames alone.
"""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
_STREAM = 0x5851F42D4C957F2D  # tells these streams from those that count electrons


@dataclass(frozen=True)
class Coherence:
    """focus, weights (S,): change of C10 [m] and share of every sample. source: rms radius along one axis [m].

    points (S,): places in the source, x + iy [m]; their weighted mean is 0 and their rms that of the source.
    """

    focus: NDArray[np.float64]
    weights: NDArray[np.float64]
    source: float
    points: NDArray[np.complex128]

    @classmethod
    def of(cls, samples: int, focal_spread: float, source_size: float) -> Coherence:
        """Return the samples for an rms defocus [m] and a full width at half maximum of the source [m]."""
        source = source_size / math.sqrt(8 * math.log(2))
        focus, weights = np.zeros(samples), np.full(samples, 1 / samples)
        if focal_spread:
            nodes, shares = np.polynomial.hermite_e.hermegauss(samples)
            focus, weights = nodes * focal_spread, shares / shares.sum()
        return cls(focus, weights, source, _spiral(weights) * source)

    def drawn(self, seed: int, frame: int, configurations: int) -> list[tuple[float, float, int]]:
        """Return (dx, dy [m], configuration) of every sample of a frame."""
        count = self.focus.size
        if not self.source and configurations == 1:
            return [(0.0, 0.0, 0)] * count
        u = _uniforms(seed, frame, 3)
        first = int(u[0] * configurations)
        turn = cmath.exp(2j * math.pi * u[1])
        points = self.points * turn
        if count == 1:
            points = np.array([self.source * math.sqrt(-2 * math.log(u[2])) * turn])
        return [(float(p.real), float(p.imag), (first + i) % configurations) for i, p in enumerate(points)]


def _spiral(weights: NDArray[np.float64]) -> NDArray[np.complex128]:
    """Return points (S,) that share out a Gaussian of rms 1 along each axis in equal parts, each with its weight."""
    count = weights.size
    order = np.argsort(np.arange(count) * _GOLDEN_RATIO % 1)  # so that far out is not always out of focus
    radius = np.sqrt(-2 * np.log(1 - (order + 0.5) / count))
    points = radius * np.exp(2j * np.pi * _GOLDEN_RATIO * order)
    points = points - (weights * points).sum()
    spread = float((weights * np.abs(points) ** 2).sum())
    return np.asarray(points * math.sqrt(2 / spread) if spread else points)


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def _uniforms(seed: int, frame: int, count: int) -> list[float]:
    """Return numbers in (0, 1) of the stream (seed, frame): splitmix64."""
    state = _mix((_mix((seed ^ _STREAM) & _MASK) + frame * _GOLDEN) & _MASK)
    found = []
    for _ in range(count):
        state = (state + _GOLDEN) & _MASK
        found.append(((_mix(state) >> 11) + 0.5) / 9007199254740992.0)
    return found
