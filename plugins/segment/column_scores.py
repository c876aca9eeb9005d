"""What a map of columns is worth: found and missed, and how far off, against plain maxima at the same counts.

On held-out pictures of the training generator, and on dark-field pictures of the simulated column, whose specimens,
probe, detector and drift are none of that generator's.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import scipy.ndimage as ndi
import scipy.sparse
from numpy.typing import NDArray
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial import cKDTree

from probeloop.api import Region, Scan, Unblank, load_simulator

from .columns import KNOWN, THRESHOLD, maxima, refined
from .ensemble import Ensemble
from .lattices import ColumnPicture
from .lattices import columns as lattice_picture
from .network import needed
from .picture import generator
from .scanned import scanned

Array = NDArray[np.float64]
TOLERANCE = 0.35  # of the spacing: how far a column that is found may be from the true one
_FIRST = 11_000  # of the seeds of the simulated column
_SPECIMENS = {"srtio3": 0.6, "bicrystal": 0.6, "pbtio3": 0.75}  # parts of the highest projected potential from which
# on a column shows in a dark field: oxygen alone does not, nor titanium beside lead


class Scene(msgspec.Struct, frozen=True):
    """A picture (ny, nx) of columns.

    true: (N, 2) (row, column) [px]; unsure: (M, 2), neither missed nor false. spacing, width: of columns [px].
    """

    values: NDArray[np.float32]
    true: Array
    unsure: Array
    spacing: float
    width: float


class Counts(msgspec.Struct, frozen=True):
    """found, right, true: columns. away: sum of the squared distances of the right ones [px²]."""

    found: int = 0
    right: int = 0
    true: int = 0
    away: float = 0.0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.found + other.found, self.right + other.right, self.true + other.true,
                      self.away + other.away)  # fmt: skip

    def plain(self) -> dict[str, float]:
        """Return recall, precision, and the rms distance along one axis [px]."""
        return {"recall": self.right / max(self.true, 1), "precision": self.right / max(self.found, 1),
                "rms_px": float(np.sqrt(self.away / max(2 * self.right, 1))), "true": self.true}  # fmt: skip


def counted(found: Array, scene: Scene) -> Counts:
    """Match places (N, 2) with the true columns, each with at most one: a largest matching within the tolerance."""
    reach = TOLERANCE * scene.spacing
    if len(scene.unsure) and len(found):
        off = cKDTree(scene.unsure).query(found)[0]
        near_true = cKDTree(scene.true).query(found)[0] if len(scene.true) else np.full(len(found), np.inf)
        found = found[(off > reach) | (near_true <= reach)]
    if not len(found) or not len(scene.true):
        return Counts(len(found), 0, len(scene.true))
    pairs = cKDTree(found).query_ball_tree(cKDTree(scene.true), reach)
    rows = np.repeat(np.arange(len(pairs)), [len(each) for each in pairs])
    columns = np.array([k for each in pairs for k in each], np.int64)
    graph = scipy.sparse.csr_matrix((np.ones(len(rows), np.int8), (rows, columns)), (len(found), len(scene.true)))
    partner = maximum_bipartite_matching(graph, perm_type="column")
    right = partner >= 0
    away = float(((found[right] - scene.true[partner[right]]) ** 2).sum())
    return Counts(len(found), int(right.sum()), len(scene.true), away)


def lattice_scene(picture: ColumnPicture) -> Scene:
    """Return a picture of the training generator as a scene."""
    unsure = np.argwhere(picture.unseen).astype(np.float64)
    return Scene(picture.values, picture.positions, unsure, picture.spacing, picture.width)


def column_scene(seed: int, specimen: str, side: int = 96) -> Scene:
    """Return a dark-field scan of "srtio3", the "bicrystal" or "pbtio3" in the simulated microscope, and its columns.

    The true columns are the maxima of the specimen's projected potential, as the drift has moved them.
    """
    rng = np.random.default_rng([_FIRST, seed])
    width = float(rng.uniform(1.8, 3.0)) * 1e-9
    given: dict[str, Any] = {
        "seed": _FIRST + seed, "pace": None, "pixels": 64, "pixel_angle": 4.4, "tile": 14, "specimen": specimen,
        "structure": {"rotation": float(rng.uniform(0, 45)), "thickness": 4.0}, "crystal": 4.0, "carbon": 2.0,
        "beam_current": float(np.exp(rng.uniform(np.log(20), np.log(120)))),
        "misalignment": 0.0, "offset": {"C10": float(rng.normal(0, 3e-9)), "C12a": float(rng.normal(0, 1e-9))},
        "drift": 1e-11, "line_jitter": float(rng.uniform(0, 1.2e-11)), "settling": 0.0,
    }  # fmt: skip
    column = load_simulator("stem", given)
    try:
        column.unblank(Unblank())
        taken = column.scan(Scan(Region(0, 0, width, width), (side, side), 2e-5, channels=("haadf",)))
        values, spec = scanned(taken)
        truth = taken.truth() if taken.truth is not None else {}
        y, x = spec.nav
        at, size = _potential_columns(column.truth(), width, _SPECIMENS[specimen])
        drift = np.mean(np.asarray(truth["drift"]), axis=0)  # (x, y) [m], within a frame far below a pixel
    finally:
        column.close()
    places = np.column_stack([(at[:, 1] - drift[1] - y.offset) / float(y.scale or 1),
                              (at[:, 0] - drift[0] - x.offset) / float(x.scale or 1)])  # fmt: skip
    spacing = float(np.median(cKDTree(places).query(places, k=2)[0][:, 1]))
    inside = ((places > -1) & (places < side)).all(axis=1)
    clear = ((places >= 2) & (places <= side - 3)).all(axis=1) & (size > 0)
    pixel = width / side
    return Scene(values.astype(np.float32), places[clear], places[inside & ~clear], spacing, 0.35e-10 / pixel)


def _potential_columns(truth: dict[str, Any], width: float, shown: float) -> tuple[Array, NDArray[np.int64]]:
    """Return the maxima of the projected potential (x, y) [m], and 1 for those that a dark field shows, else 0."""
    pixel = float(truth["potential_pixel"])
    potential = np.asarray(truth["potential"], np.float64)
    smooth = ndi.gaussian_filter(potential, 0.25e-10 / pixel, mode="wrap")
    at = maxima(smooth, 0.03 * float(smooth.max()), 0.6e-10 / pixel)
    middle = len(smooth) // 2
    places = (at - middle)[:, ::-1] * pixel
    inside = (np.abs(places) < 0.55 * width).all(axis=1)
    at, places = at[inside], places[inside]
    height = smooth[tuple(np.rint(at).astype(int).T)]
    return places, (height > shown * height.max()).astype(np.int64)


def found_by(ensemble: Ensemble, values: NDArray[np.float32]) -> Array:
    """Return the maxima of the networks' map, (N, 2) (row, column) [px]."""
    return maxima(ensemble.predict(values).mean, THRESHOLD)


def plain_maxima(scene: Scene, count: int) -> Array:
    """Return the `count` highest maxima of the picture filtered by a Gaussian of half a column's width.

    The filter and the least distance of two maxima are those that suit the truth best, which nobody knows in a
    measured picture.
    """
    features = needed("skimage.feature", "scikit-image")
    smooth = ndi.gaussian_filter(scene.values.astype(np.float64), max(0.8, 0.7 * scene.width))
    apart = max(1, round(0.5 * scene.spacing))
    return np.asarray(
        features.peak_local_max(smooth, min_distance=apart, num_peaks=max(count, 1), exclude_border=1), np.float64
    ).reshape(-1, 2)[:count]


def blobs(scene: Scene, count: int) -> Array:
    """Return the `count` strongest blobs by the Laplacian of Gaussians about a column's width."""
    features = needed("skimage.feature", "scikit-image")
    values = scene.values.astype(np.float64)
    values = (values - values.min()) / max(float(np.ptp(values)), 1e-12)
    low, high = 0.7 * scene.width, 1.3 * scene.width
    made = np.asarray(features.blob_log(values, low, high, 4, threshold=0.0, overlap=0.5)).reshape(-1, 3)
    strength = -ndi.gaussian_laplace(values, scene.width)
    order = np.argsort(-strength[tuple(made[:, :2].astype(int).T)], kind="stable")
    return made[order[:count], :2].astype(np.float64)


def column_quality(ensemble: Ensemble, seed: int, pictures: int = 40, scans: int = 2) -> dict[str, Any]:
    """Return recall, precision and rms position error on held-out pictures and on the simulated column's.

    networks: the maxima of the map, refined. plain: the highest maxima, as many, refined in the same way. blob: the
    same with blobs. Each `within` TOLERANCE of the spacing.
    """
    lattices = [lattice_scene(lattice_picture(generator("scoring", seed, i), 128)) for i in range(pictures)]
    stem = [column_scene(100 * seed + i, each) for each in _SPECIMENS for i in range(scans)]
    return {"lattices": compared(ensemble, lattices), "stem": compared(ensemble, stem), "within": TOLERANCE}


def compared(ensemble: Ensemble, scenes: list[Scene]) -> dict[str, dict[str, float]]:
    """Return the figures of the networks and of both plain ways over scenes."""
    total = {name: Counts() for name in ("networks", "plain", "blob")}
    for scene in scenes:
        found = found_by(ensemble, scene.values)
        ways = {"networks": found, "plain": plain_maxima(scene, len(found)), "blob": blobs(scene, len(found))}
        for name, at in ways.items():
            total[name] += counted(refined(scene.values, at, KNOWN).at, scene)
    return {name: each.plain() for name, each in total.items()}
