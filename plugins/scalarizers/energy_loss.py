"""A loss spectrum as it is counted: its energies, the background before an edge, and how much it scatters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probeloop.api import CalibrationError, StreamSpec

from .loops import clipped

Array = NDArray[np.float64]
LEAST_CHANNELS = 4  # of a window
_COUNTS = 200.0  # below which equal counts in a row are chance, above it a full detector
_ROUNDS = 12
_KEPT = 0.9  # share of the channels whose scatter counts; the others may be sharp lines
_OF_ALL = 0.623  # mean of the lower nine tenths of chi squared with one degree of freedom


@dataclass(frozen=True)
class Counted:
    """Energies [eV] and counts (E,). fano: variance of a count over its mean, 1 for single electrons."""

    energy: Array
    counts: Array
    fano: float

    def window(self, low: float, high: float) -> NDArray[np.bool_]:
        """Return which channels (E,) lie at low <= energy < high [eV]."""
        return np.asarray((self.energy >= low) & (self.energy < high))


@dataclass(frozen=True)
class Background:
    """A power law A E^-r, as (log of its value at `at`, slope) with their covariance (2, 2). at [eV]."""

    at: float
    values: Array
    covariance: Array

    def counts(self, energy: Array) -> Array:
        """Return its counts at energies (n,) [eV]."""
        return np.asarray(np.exp(self.values[0] + self.values[1] * np.log(energy / self.at)))

    def slopes(self, energy: Array) -> Array:
        """Return how these change with the two values, (n, 2)."""
        made = self.counts(energy)
        return np.stack([made, made * np.log(energy / self.at)], axis=1)


def counted(
    spectrum: NDArray[Any], spec: StreamSpec, who: str, low: float, high: float, *, positive: bool = False
) -> Counted | None:
    """Return a spectrum (E,), or the first of (channels, E); None when what lies at low to high [eV] can't be used.

    That is: not finite, nothing counted, the same everywhere, or a detector that was full. positive: the window must
    lie above zero loss. Raises CalibrationError without an energy axis, or one that does not reach over the window.
    """
    axis = spec.sig[-1] if spec.sig else None
    if axis is None or axis.units != "eV" or axis.scale is None:
        raise CalibrationError(f"{who} needs an energy axis; {spec.name!r} has none", "calibrate it")
    energy = axis.values()
    inside = (energy >= low) & (energy < high)
    if energy.min() > low or energy.max() < high - abs(axis.scale) or inside.sum() < LEAST_CHANNELS:
        reach = f"{energy.min():.4g} to {energy.max():.4g} eV in steps of {abs(axis.scale):.3g}"
        raise CalibrationError(
            f"{who}: the spectrum reaches from {reach}, which does not hold {low:g} to {high:g} eV",
            "set the spectrometer, or the windows",
        )
    if positive and low <= 0:
        raise CalibrationError(f"{who}: a background from {low:g} eV on is no power law", "begin it above 0 eV")
    counts = np.real(np.asarray(spectrum)).astype(np.float64).reshape(-1, energy.size)[0]
    used = counts[inside]
    if not np.isfinite(used).all() or used.max() <= 0 or not np.ptp(used):
        return None
    if used.max() > _COUNTS and clipped(used, 3, low=False):
        return None
    return Counted(energy, np.where(np.isfinite(counts), counts, 0.0), fano_factor(used))


def fano_factor(counts: Array) -> float:
    """Return the variance of a count over its mean, from the scatter between neighbouring channels (E,).

    So the gain of a detector need not be known. Noise that neighbours share, by a point spread behind the counting,
    does not show in it.
    """
    if counts.size < 3:
        return 1.0
    bent = counts[1:-1] - (counts[:-2] + counts[2:]) / 2
    mean = np.maximum((counts[:-2] + counts[1:-1] + counts[2:]) / 3, 1.0)
    each = np.sort(bent**2 / (1.5 * mean))
    kept = max(1, round(_KEPT * each.size))
    return float(each[:kept].mean()) / _OF_ALL


def background(found: Counted, low: float, high: float) -> Background | None:
    """Fit a power law to the counts at low to high [eV] (Egerton, EELS in the Electron Microscope, section 4.4).

    The likelihood of Poisson counts is maximised, by iteratively reweighted least squares (McCullagh and Nelder,
    Generalized Linear Models): the logarithm of few counts would be biased. None when nothing was counted there.
    """
    window = found.window(low, high)
    energy, counts = found.energy[window], np.maximum(found.counts[window], 0.0)
    if energy.size < LEAST_CHANNELS or counts.sum() <= 0:
        return None
    at = float(np.exp(np.log(energy).mean()))
    a = np.stack([np.ones(energy.size), np.log(energy / at)], axis=1)
    values = np.array([np.log(counts.mean()), 0.0])
    for _ in range(_ROUNDS):
        mean = np.exp(np.clip(a @ values, -30.0, 30.0 + np.log(counts.mean() + 1)))
        normal = a.T @ (mean[:, None] * a)
        step = np.linalg.lstsq(normal, a.T @ (counts - mean), rcond=None)[0]
        values = values + np.clip(step, -3.0, 3.0)
        if np.abs(step).max() < 1e-9:
            break
    covariance = found.fano * np.linalg.pinv(normal)
    return Background(at, values, covariance) if np.isfinite(values).all() else None


def over(found: Counted, weight: Array, line: NDArray[np.bool_], below: Background | None) -> tuple[float, Array]:
    """Return the sum of weight (n,) times the signal over the background in `line`, and its slopes (2,) with that."""
    signal = found.counts[line]
    if below is None:
        return float(weight @ signal), np.zeros(2)
    energy = found.energy[line]
    return float(weight @ (signal - below.counts(energy))), -(weight @ below.slopes(energy))


def variance(
    found: Counted, weight: Array, line: NDArray[np.bool_], below: Background | None, slopes: Array
) -> float:
    """Return the variance of such a sum: the counting in the line, and the background's own."""
    mean = np.maximum(found.counts[line], 1.0)
    own = found.fano * float(weight**2 @ mean)
    return own if below is None else own + float(slopes @ below.covariance @ slopes)
