"""How unlike all spectra before it a spectrum is: for looking where nothing is known to be looked for."""

from __future__ import annotations

import math
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from probeloop.api import CalibrationError, Context, Scalarizer, Settings, StreamSpec, quantity

from .loops import NORMAL, LoopSettings, clipped, loop_of

Array = NDArray[np.float64]
LEAST = 3  # spectra before there is anything to compare with
_LEAST_CHANNELS = 8
_FLOOR = 0.05  # of the largest scatter of a channel: below it a channel shows its noise


class Novelty(Scalarizer):
    """Distance of a spectrum to those before it, over the usual distance among them: 1 = as unlike as they are.

    Spectra are standardised channel by channel, and compared in the space of their first principal components: the
    mean distance to the nearest ones (compare the curiosity-driven exploration of Vatsavai et al., arXiv:2504.20011).
    Both are computed anew from all valid spectra so far; the value of an earlier one stays what it was. The first
    three have nothing to be compared with: their value is 1, and so is its sigma.
    """

    remembers = True

    class Parameters(Settings):
        """components: principal ones that count. nearest: spectra whose mean distance counts.

        bins: that a long spectrum is summed into. most: spectra kept, of which the oldest go. spike, most_replaced,
        most_peak: of switching loops, see loop_area; a broken spectrum is new in no sense.
        """

        components: Annotated[int, msgspec.Meta(ge=1, le=32)] = 4
        nearest: Annotated[int, msgspec.Meta(ge=1, le=32)] = 3
        bins: Annotated[int, msgspec.Meta(ge=4, le=1024)] = 128
        most: Annotated[int, msgspec.Meta(ge=8, le=4096)] = 1000
        spike: Annotated[float, quantity("", ge=0.1, le=100.0)] = 1.0
        most_replaced: Annotated[float, quantity("", ge=0.0, le=1.0)] = 6 / 64
        most_peak: Annotated[float, quantity("", ge=1.0, le=1000.0)] = 4.0

    def __init__(self, parameters: Settings | None = None, context: Context | None = None) -> None:
        super().__init__(parameters, context)
        self._before: list[Array] = []

    def forget(self) -> None:
        """Begin anew, with no spectrum before."""
        self._before.clear()

    def scalarize(self, spectrum: NDArray[Any], spec: StreamSpec) -> tuple[float, float, bool]:
        """Return (novelty, sigma, valid) of a spectrum or pattern of any kind, and remember it when it is valid.

        sigma: of the noise of this spectrum alone, from the scatter between neighbouring channels. Invalid: not
        finite, constant, full, or a loop with too many spikes. A spectrum of another length begins anew.
        Raises CalibrationError for what is no spectrum, and for a loop without its bias.
        """
        found = self._taken(spectrum, spec)
        if found is None:
            return math.nan, math.nan, False
        values, noise = found
        if self._before and self._before[0].size != values.size:
            self.forget()
        novelty = self._novelty(values, noise)
        self._before.append(values)
        del self._before[: -self.parameters.most]
        return *novelty, True

    def _taken(self, spectrum: NDArray[Any], spec: StreamSpec) -> tuple[Array, float] | None:
        """Return the spectrum as it is compared (n,), and its noise there; None when it is broken."""
        p = self.parameters
        if "bias" in spec.aux:
            rules = LoopSettings(spike=p.spike, most_replaced=p.most_replaced, most_peak=p.most_peak)
            loop = loop_of(spectrum, spec, rules, "novelty")
            if loop is None or not loop.valid:
                return None
            flat = loop.response
        else:
            if not spec.sig:
                raise CalibrationError(f"novelty needs spectra or patterns; {spec.name!r} has none", "choose others")
            data = np.asarray(spectrum).ravel()
            flat = np.asarray(np.abs(data) if data.dtype.kind == "c" else data, np.float64)
            if not np.isfinite(flat).all() or clipped(flat, low=False):
                return None
        if flat.size < _LEAST_CHANNELS or not np.ptp(flat):
            return None
        bent = flat[1:-1] - (flat[:-2] + flat[2:]) / 2
        noise = NORMAL * float(np.median(np.abs(bent - np.median(bent)))) / math.sqrt(1.5)
        edges = np.linspace(0, flat.size, min(p.bins, flat.size) + 1).astype(int)
        width = np.diff(edges)
        return np.add.reduceat(flat, edges[:-1]) / width, noise / math.sqrt(float(width.mean()))

    def _novelty(self, values: Array, noise: float) -> tuple[float, float]:
        p = self.parameters
        if len(self._before) < LEAST:
            return 1.0, 1.0
        before = np.stack(self._before)
        spread = before.std(axis=0)
        spread = np.maximum(spread, _FLOOR * spread.max())
        if not spread.max() > 0:  # they are all the same: what is another number is new beyond measure
            spread = np.full(values.size, max(noise, 1e-300))
        standard, here = (before - before.mean(axis=0)) / spread, (values - before.mean(axis=0)) / spread
        axes = _axes(standard, p.components)
        places, place = standard @ axes, here @ axes
        rest = here - axes @ place  # what no earlier spectrum shows counts as well
        apart = np.linalg.norm(places - place, axis=1)
        near = np.argsort(apart, kind="stable")[: p.nearest]
        among = np.linalg.norm(places[:, None] - places[None], axis=2)
        np.fill_diagonal(among, np.inf)
        usual = float(np.sort(among, axis=1)[:, : min(p.nearest, len(places) - 1)].mean()) or 1.0
        left = math.sqrt(max(float(rest @ rest) - float((noise**2 / spread**2).sum()), 0.0))
        distance = math.hypot(float(apart[near].mean()), left)
        toward = ((place - places[near]) / np.maximum(apart[near], 1e-12)[:, None]).mean(axis=0)
        slope = (axes @ toward * float(apart[near].mean()) + rest * (left > 0)) / max(distance, 1e-12)
        sigma = float(np.linalg.norm(slope / spread)) * noise
        return distance / usual, sigma / usual


def _axes(standard: Array, components: int) -> Array:
    """Return the first principal axes (n, k) of spectra (m, n), each with its largest entry positive."""
    m, n = standard.shape
    gram = standard @ standard.T if m < n else standard.T @ standard
    values, vectors = np.linalg.eigh(gram)
    k = min(components, m - 1, n)
    vectors = vectors[:, ::-1][:, :k]
    if m < n:
        vectors = standard.T @ vectors / np.sqrt(np.maximum(values[::-1][:k], 1e-300))
    made: Array = vectors[:, np.linalg.norm(vectors, axis=0) > 0.5]
    return made
