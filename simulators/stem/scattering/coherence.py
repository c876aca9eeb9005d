"""A source that is not perfect: what a frame is averaged over.

Electrons of one frame differ in energy, so in focus, and come from different points of the source; a pattern is the
sum of *intensities*. An envelope on the amplitude, right for a linear image, is wrong for a convergent-beam pattern,
so each frame adds up `samples` coherent patterns: their focus at the nodes of a Gauss-Hermite quadrature (fixed
weights, so the mean over focus is exact for smooth dependence), their place and frozen phonons from the frame's own
stream of random numbers (the average over frames is right; with few samples one frame is sharper than it should be).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_STREAM = 0x5851F42D4C957F2D  # tells these streams from those that count electrons


@dataclass(frozen=True)
class Coherence:
    """focus, weights (S,): change of C10 [m] and share of every sample. source: rms radius along one axis [m]."""

    focus: NDArray[np.float64]
    weights: NDArray[np.float64]
    source: float

    @classmethod
    def of(cls, samples: int, focal_spread: float, source_size: float) -> Coherence:
        """Return the samples for an rms defocus [m] and a full width at half maximum of the source [m]."""
        source = source_size / math.sqrt(8 * math.log(2))
        if focal_spread == 0:
            return cls(np.zeros(samples), np.full(samples, 1 / samples), source)
        nodes, weights = np.polynomial.hermite_e.hermegauss(samples)
        return cls(nodes * focal_spread, weights / weights.sum(), source)

    def drawn(self, seed: int, frame: int, configurations: int) -> list[tuple[float, float, int]]:
        """Return (dx, dy [m], configuration) of every sample of a frame."""
        count = self.focus.size
        if not self.source and configurations == 1:
            return [(0.0, 0.0, 0)] * count
        u = _uniforms(seed, frame, 1 + 2 * count)
        first = int(u[0] * configurations)
        found = []
        for i in range(count):
            radius = self.source * math.sqrt(-2 * math.log(u[1 + 2 * i]))
            angle = 2 * math.pi * u[2 + 2 * i]
            found.append((radius * math.cos(angle), radius * math.sin(angle), (first + i) % configurations))
        return found


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
