"""The fit of what a convergent probe's disc shows of a thin specimen: how the detector is turned, and the lens.

A spatial frequency q of a weak object makes the disc's pixel k vary with the scan as

    G(k, q) = A(k - s) exp(i chi(k) - i chi(k - s)) - A(k + s) exp(-i chi(k) + i chi(k + s)),    s = lambda q,

times one unknown number for each q (Rodenburg, McCallum and Nellist, Ultramicroscopy 48 (1993) 304). k is in the
scan's frame: k = M p radian per pixel, M = R(rotation) diag(1, flip). The likelihood, with the noise of every q
unknown, is searched over rotation and defocus and climbed over rotation, C10, C12a and C12b, for each flip. Half a
turn more with the lens's signs turned round fits as well: a known change of C10 tells (`rotation.turn_from_knob`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
import scipy.fft as sf
from numpy.typing import NDArray

from .rotation import matrix

Array = NDArray[np.float64]
Waves = NDArray[np.complex128]
_ANGLES, _REACH, _STEP = 30, 100e-9, 4e-9  # of the first search: angles in half a turn; defocus [m]
_FEW, _CLIMBS = 40, 10  # frequencies of the first search; its tops that are climbed
_ALIKE = 0.95  # a mirrored detector that explains this share as well: nothing is told
_BLUR = 2.2  # bins that a Hann window blurs a frequency by


@dataclass(frozen=True)
class Probe:
    """What is known: pixels (K, 2) (x, y) from the centre [px], radius of the disc [px], scan and beam.

    angle: of a pixel [rad]. wavelength [m]. scale: true over commanded metres. step (y, x): commanded [m].
    """

    pixels: Array
    radius: float
    angle: float
    wavelength: float
    scale: float
    step: tuple[float, float]


@dataclass(frozen=True)
class Lens:
    """How well it fits (log likelihood), with which rotation [rad] (up to half a turn), flip, C10, C12a, C12b [m]."""

    likelihood: float
    rotation: float
    flip: float
    c10: float
    c12a: float
    c12b: float
    rival: float = 0.0

    def flat(self) -> tuple[float, ...]:
        """Return it as seven floats."""
        return self.likelihood, self.rotation, self.flip, self.c10, self.c12a, self.c12b, self.rival

    @property
    def other_half(self) -> Lens:
        """What fits as well: half a turn more, and a lens of the other sign."""
        turned = math.remainder(self.rotation + math.pi, 2 * math.pi)
        return Lens(self.likelihood, turned, self.flip, -self.c10, -self.c12a, -self.c12b, self.rival)


UNSEEN = Lens(0.0, 0.0, 1.0, 0.0, 0.0, 0.0)


def frequencies(shape: tuple[int, int], probe: Probe, lattice: Array) -> Array:
    """Return the frequencies (Q, 2) [1/m] worth looking at: the lattice's (L, 2), then the grid's away from these."""
    ny, nx = shape
    qy, qx = np.meshgrid(sf.fftfreq(ny, probe.step[0]), sf.fftfreq(nx, probe.step[1]), indexing="ij")
    grid = np.stack([qx.ravel(), qy.ravel()], axis=1)
    bin_ = 1 / min(ny * probe.step[0], nx * probe.step[1])
    length = np.hypot(grid[:, 0], grid[:, 1])
    half = (grid[:, 1] > 0) | ((grid[:, 1] == 0) & (grid[:, 0] > 0))
    reach = 1.7 * probe.radius * probe.angle / probe.wavelength * probe.scale
    kept = half & (length > 2.5 * bin_) & (length < reach)
    for q in lattice:
        for sign in (1, -1):
            kept &= np.hypot(*(grid - sign * q).T) > _BLUR * bin_
    near = lattice[np.hypot(lattice[:, 0], lattice[:, 1]) < reach] if len(lattice) else np.zeros((0, 2))
    return np.concatenate([near, grid[kept]])


def waves(images: NDArray[Any], q: Array, step: tuple[float, float]) -> Waves:
    """Return the transform (Q, K) of images (ny, nx, K) at q (Q, 2) [1/m], under a Hann window, without the mean."""
    ny, nx, count = images.shape
    flat = (images - images.mean(axis=(0, 1))).astype(np.complex64)
    row = np.exp(-2j * np.pi * np.outer(q[:, 1], np.arange(ny) * step[0])) * np.hanning(ny + 2)[1:-1]
    column = np.exp(-2j * np.pi * np.outer(q[:, 0], np.arange(nx) * step[1])) * np.hanning(nx + 2)[1:-1]
    kernel = (row[:, :, None] * column[:, None, :]).reshape(len(q), -1).astype(np.complex64)
    return np.asarray(kernel @ flat.reshape(-1, count), np.complex128)


def modelled(probe: Probe, pixels: Array, q: Array, v: Array, flip: float) -> Waves:
    """Return the expected waves (Q, K), each up to a factor; v = rotation, C10, C12a, C12b."""
    k = pixels @ matrix(v[0], flip).T * probe.angle
    shift = probe.wavelength / probe.scale * q
    x, y, sx, sy = k[None, :, 0], k[None, :, 1], shift[:, :1], shift[:, 1:]
    unit = np.pi / probe.wavelength

    def aperture(x: Array, y: Array) -> Array:
        return np.asarray(np.clip(probe.radius - np.hypot(x, y) / probe.angle + 0.5, 0, 1))

    def chi(x: Array, y: Array) -> Array:
        return np.asarray(unit * ((v[1] + v[2]) * x * x + (v[1] - v[2]) * y * y + 2 * v[3] * x * y))

    here = chi(x, y)
    lower = aperture(x - sx, y - sy) * np.exp(1j * (here - chi(x - sx, y - sy)))
    upper = aperture(x + sx, y + sy) * np.exp(-1j * (here - chi(x + sx, y + sy)))
    return np.asarray(lower - upper)


@nb.njit(nogil=True, cache=True, inline="always")
def _aperture(square: Any, inner: Any, outer: Any, edge: Any) -> Any:
    """Return 1 within `inner`, 0 beyond `outer`, linear between; square: of the distance from the centre."""
    if square >= outer * outer:
        return 0.0
    if square <= inner * inner:
        return 1.0
    return (outer - math.sqrt(square)) / edge


@nb.njit(nogil=True, cache=True)
def explained(found: Any, k: Any, shift: Any, radius: Any, edge: Any, lens: Any) -> float:
    """Return the log likelihood of waves (Q, K), summed over the frequencies, their amplitude and noise unknown.

    k (K, 2), shift = lambda q (Q, 2), radius of the disc, edge: width of its rim [rad]. lens: C10, C12a, C12b times
    pi / lambda.
    """
    total = 0.0
    inner, outer = radius - edge / 2, radius + edge / 2
    xx, yy, xy = lens[0] + lens[1], lens[0] - lens[1], 2 * lens[2]
    for i in range(shift.shape[0]):
        sx, sy = shift[i, 0], shift[i, 1]
        own = xx * sx * sx + yy * sy * sy + xy * sx * sy
        own_re, own_im = math.cos(own), math.sin(own)
        re = im = power = most = 0.0
        seen = 0
        for j in range(k.shape[0]):
            x, y = k[j, 0], k[j, 1]
            low = _aperture((x - sx) ** 2 + (y - sy) ** 2, inner, outer, edge)
            up = _aperture((x + sx) ** 2 + (y + sy) ** 2, inner, outer, edge)
            if low + up < 0.02:
                continue
            ramp = 2 * (xx * x * sx + yy * y * sy) + xy * (x * sy + y * sx)
            # low exp(i (ramp - own)) - up exp(i (ramp + own))
            a, b = (low - up) * own_re, -(low + up) * own_im
            c, s = math.cos(ramp), math.sin(ramp)
            mr, mi = c * a - s * b, c * b + s * a
            value = found[i, j]
            re += mr * value.real + mi * value.imag
            im += mr * value.imag - mi * value.real
            power += mr * mr + mi * mi
            most += value.real * value.real + value.imag * value.imag
            seen += 1
        if power > 0 and most > 0:
            total -= seen * math.log1p(-min((re * re + im * im) / (power * most), 0.9999))
    return total


def likelihood(probe: Probe, pixels: Array, q: Array, found: Waves, v: Array, flip: float) -> float:
    """Return the log likelihood of waves (Q, K) of pixels (K, 2) at q (Q, 2); v = rotation, C10, C12a, C12b."""
    k = pixels @ (matrix(v[0], flip).T * probe.angle)
    shift = q * (probe.wavelength / probe.scale)
    lens = np.asarray(v[1:]) * (np.pi / probe.wavelength)
    return float(explained(found, k, shift, probe.radius * probe.angle, probe.angle, lens))


def fit_lens(images: NDArray[Any], probe: Probe, lattice: Array, most: int = 100) -> Lens:
    """Return the rotation, flip and lens that explain images (ny, nx, K) best; UNSEEN where nothing is explained.

    lattice (L, 2): frequencies of a crystal's reflections as commanded [1/m]. most: other frequencies, the strongest.
    """
    shape = (images.shape[0], images.shape[1])
    q = frequencies(shape, probe, lattice)
    if len(q) < 8 or len(probe.pixels) < 30:
        return UNSEEN
    found = waves(images, q, probe.step)
    power = (np.abs(found) ** 2).sum(axis=1)
    strong = np.argsort(power, kind="stable")[::-1][:most]
    q, found = q[strong], found[strong]
    tries = {flip: _best(probe, q, found, flip) for flip in (1.0, -1.0)}
    flip = max(tries, key=lambda each: tries[each][0])
    value, v = tries[flip]
    if value < 3 * len(q) or tries[-flip][0] > _ALIKE * value:
        return UNSEEN
    rotation, c10, c12a, c12b = map(float, v)
    made = Lens(value, rotation, flip, c10, c12a, c12b, tries[-flip][0])
    return made if round(made.rotation / math.pi) % 2 == 0 else made.other_half


def _best(probe: Probe, q: Array, found: Waves, flip: float) -> tuple[float, Array]:
    """Return the highest likelihood for a flip, and where it is."""
    from scipy.optimize import minimize  # takes a second to import: not at the start of a rig

    stride = slice(0, None, max(1, len(probe.pixels) // 90))
    thin, fewer = probe.pixels[stride], np.ascontiguousarray(found[:, stride])
    unit = np.array([1.0, 1e-9, 1e-9, 1e-9])
    starts = []
    for angle in np.arange(_ANGLES) * np.pi / _ANGLES:
        for c10 in np.arange(-_REACH, _REACH + _STEP / 2, _STEP):
            v = np.array([angle, c10, 0.0, 0.0])
            starts.append((likelihood(probe, thin, q[:_FEW], fewer[:_FEW], v, flip), float(angle), float(c10)))
    starts.sort(reverse=True)

    def climb(start: Array, turn: float, most: int, pixels: Array, q: Array, values: Waves) -> Any:
        simplex = start + np.vstack([np.zeros(4), np.diag([turn, 3.0, 3.0, 3.0])])
        options = {"initial_simplex": simplex, "xatol": 1e-4, "fatol": 1e-2, "maxfev": most}

        def loss(u: Array) -> float:
            return -likelihood(probe, pixels, q, values, u * unit, flip)

        return minimize(loss, start, method="Nelder-Mead", options=options)

    tops = [
        climb(np.array([a, c * 1e9, 0.0, 0.0]), 0.1, 120, thin, q[:_FEW], fewer[:_FEW]) for _, a, c in _apart(starts)
    ]
    made = climb(min(tops, key=lambda each: each.fun).x, 0.02, 300, probe.pixels, q, found)
    return -float(made.fun), made.x * unit


def _apart(starts: list[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
    """Return the best of `starts` that are no neighbours of a better one."""
    kept: list[tuple[float, float, float]] = []
    for each in starts:
        alone = all(
            abs(math.remainder(each[1] - other[1], math.pi)) > 0.15 or abs(each[2] - other[2]) > 1.5 * _STEP
            for other in kept
        )
        if alone:
            kept.append(each)
        if len(kept) == _CLIMBS:
            break
    return kept


def object_image(images: NDArray[Any], probe: Probe, lens: Lens) -> Array:
    """Return the specimen's image (ny, nx) that all pixels of the disc agree on, whatever the defocus.

    The phases that the lens puts on each frequency are taken out; frequencies beyond 1.7 discs are left out.
    """
    ny, nx = images.shape[:2]
    q = frequencies((ny, nx), probe, np.zeros((0, 2)))
    v = np.array([lens.rotation, lens.c10, lens.c12a, lens.c12b])
    expected = modelled(probe, probe.pixels, q, v, lens.flip)
    size = np.sqrt(np.maximum((np.abs(expected) ** 2).sum(axis=1), 1e-12))
    found = 1j * (expected.conj() * waves(images, q, probe.step)).sum(axis=1) / size
    spectrum = np.zeros((ny, nx), complex)
    y = np.round(q[:, 1] * ny * probe.step[0]).astype(int)
    x = np.round(q[:, 0] * nx * probe.step[1]).astype(int)
    spectrum[y, x] = found
    spectrum[-y, -x] = found.conj()
    return np.asarray(sf.ifft2(spectrum).real)
