"""What a segmentation is worth: one-to-one matching of lines, localisation, calibration, ranking of errors."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import scipy.ndimage as ndi
import scipy.sparse
import scipy.stats
from numpy.typing import NDArray
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial import cKDTree

from .picture import Mask, Picture, near

TOLERANCE = 1.5  # pixels
_HIDDEN = 3.0  # pixels around a wall that noise hides, within which a found line is not false
_BINS = 15
_BLUR = 0.7  # pixels


class Matched(msgspec.Struct, frozen=True):
    """Counts of pixels of lines. away: sum of the squared distances of the found ones that are right."""

    found: int = 0
    right: int = 0
    true: int = 0
    away: float = 0.0

    def __add__(self, other: Matched) -> Matched:
        return Matched(self.found + other.found, self.right + other.right, self.true + other.true,
                       self.away + other.away)  # fmt: skip

    @property
    def precision(self) -> float:
        """Share of found pixels that are right."""
        return self.right / max(self.found, 1)

    @property
    def recall(self) -> float:
        """Share of true pixels that were found."""
        return self.right / max(self.true, 1)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.right / max(self.found + self.true, 1)

    @property
    def localisation(self) -> float:
        """Root of the mean squared distance [px] of right pixels from the line."""
        return float(np.sqrt(self.away / max(self.right, 1)))


def thinned(mask: Mask) -> Mask:
    """Return lines one pixel wide; raises DropInError without scikit-image."""
    from .network import needed

    made: Mask = needed("skimage.morphology", "scikit-image").skeletonize(mask)
    return made


def ridge(probability: NDArray[np.floating]) -> Mask:
    """Return the crests of a map (ny, nx): pixels that no neighbour across the crest exceeds.

    Non-maximum suppression along the eigenvector of the Hessian with the most negative eigenvalue, after Steger (IEEE
    PAMI 20 (1998) 113), of the map blurred by a pixel. Two walls that are close keep a crest each where a threshold
    low enough for faint walls would make one band of them.
    """
    blurred = ndi.gaussian_filter(probability.astype(np.float64), _BLUR, mode="nearest")
    yy, xx, xy = (
        ndi.gaussian_filter(blurred, 0.7, order=order, mode="nearest") for order in ((2, 0), (0, 2), (1, 1))
    )
    turned = 0.5 * np.arctan2(2 * xy, xx - yy)  # of the eigenvector with the larger eigenvalue
    ny, nx = -np.cos(turned), np.sin(turned)  # a quarter turn on: the smaller one
    curved = 0.5 * (xx + yy) - np.hypot(0.5 * (xx - yy), xy)
    y, x = np.mgrid[0 : blurred.shape[0], 0 : blurred.shape[1]].astype(np.float64)
    beside = [ndi.map_coordinates(blurred, (y + s * ny, x + s * nx), order=1, mode="nearest") for s in (-1, 1)]
    made: Mask = (blurred >= beside[0]) & (blurred >= beside[1]) & (curved < 0)
    return made


def lines(probability: NDArray[np.floating], threshold: float, weak: float = 0.0) -> Mask:
    """Return the lines of a map of probability (ny, nx), one pixel wide.

    They are its crests from `weak` on that are joined to a pixel from `threshold` on (hysteresis, Canny, IEEE PAMI 8
    (1986) 679). weak = 0: the middle of what is from `threshold` on. Raises DropInError without scikit-image.
    """
    return joined(ridge(probability), probability, threshold, weak) if weak else thinned(probability >= threshold)


def joined(crests: Mask, probability: NDArray[np.floating], threshold: float, weak: float) -> Mask:
    """Return the crests from `weak` on that are joined to a pixel from `threshold` on, one pixel wide."""
    parts, count = ndi.label(crests & (probability >= weak), np.ones((3, 3)))
    kept = np.zeros(count + 1, bool)
    kept[parts[probability >= threshold]] = True
    kept[0] = False
    return thinned(kept[parts])


def matched(probability: NDArray[np.float32], picture: Picture, threshold: float, weak: float = 0.0) -> Matched:
    """Match the predicted `lines` with the true ones, see `compared`."""
    return compared(lines(probability, threshold, weak), picture)


def compared(found: Mask, picture: Picture) -> Matched:
    """Match lines with the true ones: each pixel of one with at most one of the other.

    The matching is a largest one (Hopcroft and Karp 1973) of pairs within `TOLERANCE`, as in the Berkeley boundary
    benchmark (Martin, Fowlkes and Malik, IEEE PAMI 26 (2004) 530) but exact.
    """
    true = np.argwhere(thinned(picture.line))
    found_at = np.argwhere(found)
    if not len(true) or not len(found_at):
        free = int((found & ~near(picture.unseen, _HIDDEN)).sum())
        return Matched(found=free, true=len(true))
    pairs = cKDTree(found_at).query_ball_tree(cKDTree(true), TOLERANCE)
    rows = np.repeat(np.arange(len(pairs)), [len(each) for each in pairs])
    columns = np.array([k for each in pairs for k in each], np.int64)
    graph = scipy.sparse.csr_matrix((np.ones(len(rows), np.int8), (rows, columns)), (len(found_at), len(true)))
    partner = maximum_bipartite_matching(graph, perm_type="column")
    right = partner >= 0
    hidden = near(picture.unseen, _HIDDEN)[found_at[:, 0], found_at[:, 1]]
    nearest = cKDTree(true).query(found_at[right])[0]
    return Matched(int((right | ~hidden).sum()), int(right.sum()), len(true), float((nearest**2).sum()))


def counted(picture: Picture) -> Mask:
    """Return the pixels whose label is sure: all but those around walls that noise hides."""
    return ~near(picture.unseen, _HIDDEN) | picture.wall


def auroc(value: NDArray[Any], positive: Mask) -> float:
    """Return how often a positive one has the higher value (ties count half); NaN without both kinds."""
    yes = int(positive.sum())
    no = positive.size - yes
    if not yes or not no:
        return float("nan")
    ranks = scipy.stats.rankdata(value)
    return float((ranks[positive].sum() - yes * (yes + 1) / 2) / (yes * no))


def calibration_error(probability: NDArray[Any], wall: Mask) -> float:
    """Return the expected calibration error: mean |said - true share| over bins of what was said, by their size."""
    bins = np.minimum((probability * _BINS).astype(np.int64), _BINS - 1)
    size = np.bincount(bins, minlength=_BINS)
    said = np.bincount(bins, probability, minlength=_BINS)
    true = np.bincount(bins, wall, minlength=_BINS)
    return float(np.abs(said - true).sum() / max(size.sum(), 1))


def entropy(probability: NDArray[Any]) -> NDArray[np.float64]:
    """Return the entropy of yes or no [nat]."""
    p = np.clip(probability.astype(np.float64), 1e-7, 1 - 1e-7)
    made: NDArray[np.float64] = -p * np.log(p) - (1 - p) * np.log1p(-p)
    return made


def interval(values: NDArray[np.float64], seed: int, draws: int = 1000) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean of one value a frame."""
    rng = np.random.default_rng(seed)
    kept = values[np.isfinite(values)]
    means = kept[rng.integers(0, len(kept), (draws, len(kept)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
