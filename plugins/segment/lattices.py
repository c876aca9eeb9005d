"""Pictures of atomic columns with their truth, as an annular dark-field detector shows a crystal on its zone axis.

A column is as bright as its atomic number to the power 1.7, about what a high-angle detector sees (Pennycook and
Jesson, Ultramicroscopy 37 (1991) 14). The crystal may be strained, bent and of two grains, may end in the picture,
lack atoms and have foreign ones; below it lies amorphous material. The probe is a Gaussian with wide tails. The scan
drifts, jitters from line to line, and is still coming back where a line begins; the detector counts electrons.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from .picture import Mask, Picture, near, pink, waves

Field = NDArray[np.float64]
SEEN = 4.0  # sigma of its noise that a column must rise by, within its own area, to be seen
_FAINT = 0.1  # of the brightest columns: less is lost in their tails
_EDGE = 2.0  # pixels from the edge within which a column is neither missed nor false
_RIM = 24  # pixels around the picture where columns stand too

# Cells as a microscopist meets them: lengths of the two axes, the angle between them [deg], and columns (along the
# first, along the second, mean atomic number). Pairs stand for species that the generator exchanges at will.
_CELLS: dict[str, tuple[tuple[float, float, float], tuple[tuple[float, float, float], ...]]] = {
    "square": ((1, 1, 90), ((0, 0, 29),)),
    "perovskite": ((1, 1, 90), ((0, 0, 38), (0.5, 0.5, 22), (0.5, 0, 8), (0, 0.5, 8))),
    "perovskite_heavy": ((1, 1.05, 90), ((0, 0, 82), (0.5, 0.54, 24), (0.5, 0.04, 8), (0, 0.54, 8))),
    "hexagonal": ((1, 1, 120), ((0, 0, 47),)),
    "honeycomb": ((1, 1, 120), ((0, 0, 42), (1 / 3, 2 / 3, 26))),
    "graphene": ((1, 1, 120), ((0, 0, 6), (1 / 3, 2 / 3, 6))),
    "fcc_110": ((1, 0.7071, 90), ((0, 0, 79), (0.5, 0.5, 79))),
    "dumbbell": ((1, 0.7071, 90), ((0, 0, 31), (0.25, 0, 33), (0.5, 0.5, 31), (0.75, 0.5, 33))),
    "rutile": ((1, 1, 90), ((0, 0, 22), (0.5, 0.5, 22), (0.3, 0.3, 8), (0.7, 0.7, 8))),
}
_LATTICES = (*_CELLS, "oblique")


class ColumnPicture(Picture, frozen=True):
    """A picture of columns. `line` holds the pixel of each; unseen: of those that noise or the edge hides.

    positions: (N, 2) (row, column) [px] of the columns in `line`. radius: of the discs that are to be marked [px].
    spacing: between nearest columns [px].
    """

    positions: Field
    radius: float
    spacing: float

    @property
    def wall(self) -> Mask:
        """Pixels of the discs."""
        return near(self.line, self.radius)


def columns(rng: np.random.Generator, size: int = 128, lattice: str | None = None) -> ColumnPicture:
    """Return a picture (size, size). lattice: "square", "perovskite", ... or "oblique"; None = by chance."""
    spacing = float(np.exp(rng.uniform(np.log(5.0), np.log(17.0))))
    at, weight, spacing = _crystal(rng, size, spacing, lattice or str(rng.choice(_LATTICES)))
    sigma = max(0.85, spacing * rng.uniform(0.16, 0.30))
    x, y, jitter = _places(rng, size)
    shown = _rendered(x, y, at, weight, sigma, jitter)
    tail = rng.uniform(0.05, 0.35)
    shown = (1 - tail) * shown + tail * ndi.gaussian_filter(shown, 1.8 * sigma)
    brightest = float(np.quantile(weight, 0.9)) if len(weight) else 1.0
    rough = brightest * rng.uniform(0.0, 0.14)
    film = rough * _amorphous(rng, size, max(0.7, rng.uniform(0.7, 1.3) * sigma))
    ground = brightest * rng.uniform(0.05, 0.7) * (1 + rng.uniform(0, 0.3) * waves(rng, x, y, 1.2 * size))
    clean = np.maximum(shown + film + ground, 0.0)
    dose = float(np.exp(rng.uniform(np.log(12.0), np.log(900.0)))) / (brightest + float(ground.mean()))
    measured, noise = _counted(rng, clean, dose)
    positions = _in_picture(at, x - jitter, y)
    contrast = weight * (1 - tail)
    level = np.sqrt(noise**2 / (np.pi * sigma**2) + rough**2)
    visible = (contrast > SEEN * level) & (weight > _FAINT * brightest)
    return _finished(measured, positions, visible, spacing, sigma, float(brightest / noise))


def _finished(
    measured: Field, positions: Field, visible: Mask, spacing: float, sigma: float, snr: float
) -> ColumnPicture:
    size = len(measured)
    pixels = np.rint(positions).astype(np.int64)
    inside = ((pixels >= 0) & (pixels < size)).all(axis=1)
    clear = visible & ((positions >= _EDGE) & (positions <= size - 1 - _EDGE)).all(axis=1)
    line, unseen = np.zeros((size, size), bool), np.zeros((size, size), bool)
    line[tuple(pixels[inside & clear].T)] = True
    unseen[tuple(pixels[inside & ~clear].T)] = True
    radius = float(np.clip(0.24 * spacing, 1.0, 2.5))
    return ColumnPicture(
        measured.astype(np.float32), line, unseen & ~line, sigma, snr, "columns", positions[inside & clear], radius,
        spacing,
    )  # fmt: skip


def _crystal(rng: np.random.Generator, size: int, spacing: float, lattice: str) -> tuple[Field, Field, float]:
    """Return the columns (N, 2) (row, column) [px], how bright each is, and the least distance of bright ones."""
    vectors, sites, weights = _cell(rng, lattice, spacing)
    turn = rng.uniform(0, 2 * np.pi)
    grains = [_grain(rng, vectors, sites, weights, turn, size)]
    if rng.random() < 0.4:  # another grain, or a twin, or the same one moved by a part of a cell
        other = turn + (rng.uniform(0.08, 0.8) * rng.choice([-1, 1]) if rng.random() < 0.8 else 0.0)
        grains.append(_grain(rng, vectors, sites, weights, other, size))
    across = _side(rng, size)
    at, weight = grains[0]
    if len(grains) == 2:
        keep = [across(grains[0][0]) >= 0, across(grains[1][0]) < 0]
        at = np.concatenate([grain[0][kept] for grain, kept in zip(grains, keep, strict=True)])
        weight = np.concatenate([grain[1][kept] for grain, kept in zip(grains, keep, strict=True)])
        apart = _apart(at, weight, 0.72 * spacing)
        at, weight = at[apart], weight[apart]
    if rng.random() < 0.25:  # it ends: beyond is what it lies on
        kept = _side(rng, size)(at) >= 0
        at, weight = at[kept], weight[kept]
    period = rng.uniform(0.5, 2.0) * size
    bend = np.stack([waves(rng, at[:, 1], at[:, 0], period) for _ in range(2)], axis=1)
    at = at + rng.uniform(0, 0.03) * period / (2 * np.pi) * bend
    at = at + rng.uniform(0, 0.03) * spacing * rng.normal(size=at.shape)
    weight = weight * np.exp(rng.uniform(0, 0.25) * waves(rng, at[:, 1], at[:, 0], 1.2 * size))
    at, weight = _defects(rng, at, weight)
    if rng.random() < 0.06:
        at, weight = at[:0], weight[:0]  # amorphous material alone
    return at, weight, spacing


def _cell(rng: np.random.Generator, lattice: str, spacing: float) -> tuple[Field, Field, Field]:
    """Return two vectors (row, column) [px], sites (M, 2) in parts of these, and how bright a column of each is."""
    if lattice == "oblique":
        shape: Any = (1.0, rng.uniform(0.8, 1.6), rng.uniform(65, 115))
        count = int(rng.integers(1, 4))
        places = [(float(u), float(v), float(rng.uniform(14, 82))) for u, v in rng.random((count, 2))]
    else:
        shape, given = _CELLS[lattice]
        swap = rng.uniform(0.75, 1.33, len(given)) if rng.random() < 0.7 else np.ones(len(given))
        places = [(u, v, z * k) for (u, v, z), k in zip(given, swap, strict=True)]
    a, b, angle = shape
    angle = np.deg2rad(angle)
    vectors = np.array([[0.0, a], [b * np.sin(angle), b * np.cos(angle)]])
    sites, z = np.array([p[:2] for p in places]), np.array([p[2] for p in places])
    weights = (z / z.max()) ** 1.7
    if len(weights) > 1 and rng.random() < 0.5:  # columns of fewer atoms, or beside a bright one
        weights[1:] *= np.exp(rng.uniform(np.log(0.2), 0.0))
    kept = np.ones(len(sites), bool)
    for _ in range(len(sites)):  # random sites that fall upon each other are one
        nearest, pair = _nearest(vectors, sites[kept], weights[kept])
        if lattice != "oblique" or nearest > 0.45 or not pair:
            break
        kept[np.flatnonzero(kept)[pair]] = False
    nearest, _ = _nearest(vectors, sites[kept], weights[kept])
    return vectors * spacing / nearest, sites[kept], weights[kept]


def _nearest(vectors: Field, sites: Field, weights: Field) -> tuple[float, int]:
    """Return the least distance between columns that are not faint, and the second site of it, 0 = the first one."""
    bright = np.flatnonzero(weights > _FAINT)
    moves = np.array([(i, j) for i in (-2, -1, 0, 1, 2) for j in (-2, -1, 0, 1, 2)], float)
    best, which = np.inf, 0
    for k in bright:
        for m in bright:
            away = np.hypot(*((sites[m] - sites[k] + moves) @ vectors).T)
            away = away[away > 1e-9]
            if away.size and away.min() < best:
                best, which = float(away.min()), int(m) if m != k else 0
    return best, which


def _grain(
    rng: np.random.Generator, vectors: Field, sites: Field, weights: Field, turn: float, size: int
) -> tuple[Field, Field]:
    """Return the columns of a turned crystal that covers the picture and a rim."""
    c, s = np.cos(turn), np.sin(turn)
    strain = np.eye(2) + rng.normal(0, 0.02, (2, 2))
    own = vectors @ np.array([[c, s], [-s, c]]) @ strain
    reach = int(np.ceil((size / 2 + _RIM) * 1.5 / np.sqrt(np.linalg.eigvalsh(own @ own.T)[0]))) + 1
    i, j = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1), indexing="ij")
    cells = np.stack([i.ravel(), j.ravel()], axis=1)[:, None] + sites[None] + rng.random(2)
    at = (cells @ own + size / 2).reshape(-1, 2)
    inside = ((at > -_RIM) & (at < size + _RIM)).all(axis=1)
    return at[inside], np.tile(weights, len(i.ravel()))[inside]


def _side(rng: np.random.Generator, size: int) -> Any:
    """Return a function of places (N, 2): how far they lie on one side of a bent line through the picture."""
    angle, bend, phase = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.06) * size, rng.uniform(0, 2 * np.pi)
    through = rng.uniform(0.25, 0.75, 2) * size
    period = rng.uniform(0.6, 2.0) * size

    def across(at: Field) -> Field:
        y, x = (at - through).T
        along = np.cos(angle) * x + np.sin(angle) * y
        made: Field = -np.sin(angle) * x + np.cos(angle) * y + bend * np.sin(2 * np.pi * along / period + phase)
        return made

    return across


def _apart(at: Field, weight: Field, least: float) -> Mask:
    """Return which columns stay where two grains meet: of two that are too near, the brighter one."""
    kept = np.ones(len(at), bool)
    bright = np.flatnonzero(weight > _FAINT)
    for i, k in sorted(cKDTree(at[bright]).query_pairs(least)):
        first, second = bright[i], bright[k]
        if kept[first] and kept[second]:
            kept[second if weight[first] >= weight[second] else first] = False
    return kept


def _defects(rng: np.random.Generator, at: Field, weight: Field) -> tuple[Field, Field]:
    """Return the columns with atoms missing from some, all of them from a few, and heavier ones in others."""
    weight = weight.copy()
    lacking = rng.random(len(at)) < rng.uniform(0, 0.08)
    weight[lacking] *= rng.choice([0.0, 0.4, 0.7], lacking.sum())
    foreign = rng.random(len(at)) < rng.uniform(0, 0.05)
    weight[foreign] *= rng.uniform(1.2, 2.2, foreign.sum())
    there = weight > 0
    return at[there], weight[there]


def _places(rng: np.random.Generator, size: int) -> tuple[Field, Field, Field]:
    """Return where each pixel was really measured (x, y) [px], and what of x is the jitter of lines."""
    rows = np.arange(size, dtype=np.float64)
    y, x = np.meshgrid(rows, rows, indexing="ij")
    drift = rng.normal(0, 0.03, 2)
    wander = rng.uniform(0, 1.0) * np.stack([waves(rng, 0 * rows, rows, 1.5 * size, 4) for _ in range(2)])
    x = x + drift[0] * y + wander[0][:, None]
    y = y * (1 + drift[1]) + wander[1][:, None]
    if rng.random() < 0.4:  # the beam is still coming back
        reach = rng.uniform(0.03, 0.2) * size
        x = x + min(4.0, rng.uniform(0, 0.5) * reach) * np.exp(-rows / reach)[None, :]
    jitter = np.zeros((size, 1))
    if rng.random() < 0.6:
        jitter = rng.uniform(0, 0.45) * pink(rng, size, rng.uniform(0, 1))[:, None]
    return x + jitter, y, np.broadcast_to(jitter, x.shape)


def _rendered(x: Field, y: Field, at: Field, weight: Field, sigma: float, jitter: Field) -> Field:
    """Return the sum of Gaussians at columns (N, 2), seen at (x, y)."""
    size = len(x)
    made = np.zeros(size * size)
    middle = np.rint(_in_picture(at, x - jitter, y)).astype(np.int64)
    reach = int(np.ceil(3.5 * sigma)) + 2
    span = np.arange(-reach, reach + 1)
    row = middle[:, 0, None, None] + span[None, :, None]
    column = middle[:, 1, None, None] + span[None, None, :]
    row, column = np.broadcast_arrays(row, column)
    inside = (row >= 0) & (row < size) & (column >= 0) & (column < size)
    which = np.broadcast_to(np.arange(len(at))[:, None, None], row.shape)[inside]
    flat = (row * size + column)[inside]
    square = (x.ravel()[flat] - at[which, 1]) ** 2 + (y.ravel()[flat] - at[which, 0]) ** 2
    np.add.at(made, flat, weight[which] * np.exp(-square / (2 * sigma**2)))
    return made.reshape(size, size)


def _in_picture(at: Field, x: Field, y: Field) -> Field:
    """Return at which (row, column) [px] places (N, 2) appear where pixels were measured at (x, y)."""
    rows = np.arange(len(x), dtype=np.float64)
    off_y, off_x = y - rows[:, None], x - rows[None, :]
    made = at.copy()
    for _ in range(8):
        off = np.stack([ndi.map_coordinates(each, made.T, order=1, mode="nearest") for each in (off_y, off_x)], 1)
        made = at - off
    return made


def _amorphous(rng: np.random.Generator, size: int, width: float) -> Field:
    """Return what atoms without order add, standard deviation 1."""
    made = ndi.gaussian_filter(rng.normal(size=(size, size)), width, mode="wrap")
    return np.asarray(made / max(float(made.std()), 1e-12))


def _counted(rng: np.random.Generator, clean: Field, dose: float) -> tuple[Field, float]:
    """Return what the detector made of a picture, and the noise of a pixel of mean brightness, both as `clean`."""
    size = len(clean)
    lit = clean
    if rng.random() < 0.4:  # emission and gain change from line to line
        lit = clean * (1 + rng.uniform(0, 0.04) * pink(rng, size, rng.uniform(0, 1)))[:, None]
    counts = rng.poisson(np.maximum(lit, 0) * dose).astype(np.float64)
    readout = rng.uniform(0, 1.5)
    counts += readout * rng.normal(size=counts.shape)
    if rng.random() < 0.25:  # the scintillator glows on
        keep = rng.uniform(0.05, 0.3)
        for column in range(1, size):
            counts[:, column] = (1 - keep) * counts[:, column] + keep * counts[:, column - 1]
    noise = float(np.sqrt(dose * clean.mean() + readout**2)) / dose
    return counts / dose, noise
