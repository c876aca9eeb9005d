"""What a choice of places is worth where the truth is known: hits, objects, regret, the map and its uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats

Array = NDArray[np.float64]
TOP = 0.01
_NORMAL_90 = 1.6448536
_LEAST_SIGMA = 1e-3  # in deviations of the truth: no prediction is surer when densities are compared
EVIDENCE = 1e-3  # chance of claiming a link where there is none


class Score(msgspec.Struct, frozen=True):
    """One run. hits: of the best 1 % of the cells, of `best` cells, by valid measurements at different cells.

    x_random: hits over what as many random cells would have. objects: connected groups of the best 1 % that were
    hit, of `groups`. regret: best value of the map less the best one measured, over the range of the map. nlpd: mean
    negative log predictive density [nat] of the truth in units of its own deviation, over cells that were not
    measured; coverage_90: share of these within the 90 % interval; both None without a map. invalid: measurements
    that were.
    """

    hits: int
    best: int
    x_random: float
    objects: int
    groups: int
    regret: float
    nlpd: float | None
    coverage_90: float | None
    invalid: int


def top_cells(truth: Array, known: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """Return which cells (N,) are the best 1 % of those that are `known` (default: all)."""
    fit = np.ones(truth.shape, bool) if known is None else known
    count = max(1, round(TOP * int(fit.sum())))
    ranked = np.where(fit, truth, -np.inf)
    made = np.zeros(truth.shape, bool)
    made[np.argsort(-ranked, kind="stable")[:count]] = True
    return made


def score(
    truth: Array,
    shape: tuple[int, int],
    cells: Sequence[int],
    valid: Sequence[bool],
    prediction: Array | None = None,
    sigma: Array | None = None,
) -> Score:
    """Score measurements at `cells`, in order, against the true values (N,) of a map of `shape`.

    prediction, sigma: (N,) of the value, in its units, standard deviation of the value without measuring noise.
    """
    best = top_cells(truth)
    good = np.unique(np.asarray(cells, np.int64)[np.asarray(valid, bool)])
    hit = np.zeros(truth.shape, bool)
    hit[good] = True
    hits = int((hit & best).sum())
    groups, count = ndimage.label(best.reshape(shape), np.ones((3, 3)))
    objects = len(np.unique(groups.ravel()[hit & best]))
    by_chance = len(cells) * float(best.mean())
    reached = float(truth[good].max()) if len(good) else float(truth.min())
    nlpd = coverage = None
    if prediction is not None and sigma is not None:
        unseen = np.ones(truth.shape, bool)
        unseen[np.asarray(cells, np.int64)] = False
        nlpd, coverage = density(truth[unseen], prediction[unseen], sigma[unseen], float(truth.std()))
    return Score(
        hits, int(best.sum()), hits / by_chance, objects, int(count),
        float(truth.max() - reached) / float(np.ptp(truth)), nlpd, coverage, len(cells) - int(np.sum(valid)),
    )  # fmt: skip


def density(truth: Array, prediction: Array, sigma: Array, unit: float) -> tuple[float, float]:
    """Return (NLPD [nat] in units of `unit`, share within the 90 % interval) of normal predictions."""
    spread = np.maximum(sigma / unit, _LEAST_SIGMA)
    away = (truth - prediction) / unit / spread
    nlpd = float(np.mean(0.5 * away**2 + np.log(spread) + 0.5 * np.log(2 * np.pi)))
    return nlpd, float(np.mean(np.abs(away) <= _NORMAL_90))


def foretold(predicted: Sequence[float], measured: Sequence[float]) -> tuple[float, float]:
    """Return (rank correlation, chance of one as high by chance) of values with what was predicted before each.

    Each prediction was made before its value was known, so where structure tells nothing the two are independent,
    however the places were chosen (Dawid, J. R. Stat. Soc. A 147 (1984) 278, on prequential forecasts).
    """
    p, m = np.asarray(predicted, np.float64), np.asarray(measured, np.float64)
    there = np.isfinite(p) & np.isfinite(m)
    if there.sum() < 8 or np.ptp(p[there]) == 0 or np.ptp(m[there]) == 0:
        return 0.0, 1.0
    found = stats.spearmanr(p[there], m[there], alternative="greater")
    return float(found.statistic), float(found.pvalue)


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Return median and 90 % interval (5th to 95th percentile) of values, None where there is none."""
    kept = np.array([v for v in values if v is not None], np.float64)
    if not len(kept):
        return {"median": None, "low": None, "high": None, "n": 0}
    low, middle, high = (float(v) for v in np.percentile(kept, [5, 50, 95]))
    return {"median": middle, "low": low, "high": high, "n": len(kept)}


def paired(first: Sequence[float], second: Sequence[float], seed: int = 0, draws: int = 4000) -> dict[str, Any]:
    """Return the mean difference first - second of runs in the same worlds and its 90 % bootstrap interval."""
    difference = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    rng = np.random.default_rng(seed)
    means = difference[rng.integers(0, len(difference), (draws, len(difference)))].mean(axis=1)
    low, high = (float(v) for v in np.percentile(means, [5, 95]))
    return {"mean": float(difference.mean()), "low": low, "high": high, "n": len(difference)}


def rate_interval(hits: int, expected: float) -> tuple[float, float, float]:
    """Return hits over what chance gives, and its exact 90 % Poisson interval (Garwood, Biometrika 28 (1936) 437)."""
    low = stats.chi2.ppf(0.05, 2 * hits) / 2 if hits else 0.0
    high = stats.chi2.ppf(0.95, 2 * hits + 2) / 2
    return hits / expected, float(low) / expected, float(high) / expected
