"""How the detector is turned and mirrored against the scan: two ways that share nothing but the patterns.

Tilt: with a defocus C10 the image seen by the detector pixel p lies C10 M p away from where the whole scan sees it
(M = R(rotation) diag(1, flip), CONVENTIONS.md 1). A known change of C10 moves it by a known amount along M p, which
gives rotation, flip and sign with no further knowledge, out of focus too: M is the orthogonal part of the change.
Astigmatism that comes with the change makes its symmetric part alone.

Curl: the mean deflection in a thin specimen is the gradient of a potential, so the M that turns it into the scan's
frame leaves no curl (Hachtel, Idrobo and Chi, Adv. Struct. Chem. Imaging 4 (2018) 10, for the rotation), a flipped
one leaves some at every rotation; atoms deflect towards themselves, where the dark field is bright, which tells
apart a half turn. Probe aberrations smear dark field and deflection alike and do not change this.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft as sf
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Turn:
    """rotation, its sigma [rad]; flip 1 or -1; significance: how far better than the other flip, in sigmas."""

    rotation: float
    flip: float
    sigma: float
    significance: float


NO_TURN = Turn(0.0, 1.0, math.pi, 0.0)


def matrix(rotation: float, flip: float) -> Array:
    """Return M = R(rotation) diag(1, flip), counter-clockwise seen along +z: x to the right, y down."""
    c, s = math.cos(rotation), math.sin(rotation)
    return np.array([[c, s], [-s, c]]) @ np.diag([1.0, flip])


def turn_of(m: Array) -> tuple[float, float]:
    """Return rotation [rad] and flip of the orthogonal matrix nearest to `m` (up to a positive symmetric factor)."""
    u, _, v = np.linalg.svd(m)
    orthogonal = u @ v
    flip = 1.0 if np.linalg.det(orthogonal) > 0 else -1.0
    return math.atan2(-orthogonal[1, 0], orthogonal[0, 0]), flip


@dataclass(frozen=True)
class Shifts:
    """matrix (2, 2): metres (x, y) of the scan that the image moves for a pixel (x, y) of the detector; sigma [m]."""

    matrix: Array
    sigma: float

    def flat(self) -> tuple[float, ...]:
        """Return it as five floats."""
        return (*map(float, self.matrix.ravel()), self.sigma)

    @classmethod
    def of(cls, values: tuple[float, ...]) -> Shifts:
        """Read what `flat` made."""
        return cls(np.reshape(values[:4], (2, 2)), values[4])


def tilt_shifts(images: NDArray[Any], disc: NDArray[np.bool_], step: tuple[float, float]) -> Shifts:
    """Measure how the image of a detector pixel moves from one pixel to the next.

    images (ny, nx, ky, kx); disc (ky, kx): pixels that are lit; step (y, x): of the scan [m]. The cross-spectra of
    all neighbours are summed, each frequency weighted by how well they agree, and the top of the correlation taken.
    """
    ny, nx = images.shape[:2]
    window = np.hanning(ny + 2)[1:-1, None] * np.hanning(nx + 2)[None, 1:-1]
    at = np.argwhere(disc)
    stack = images[:, :, at[:, 0], at[:, 1]].astype(np.float64)
    stack -= stack.mean(axis=(0, 1))
    wave = sf.fft2((stack * window[..., None]).astype(np.float32), axes=(0, 1), workers=1)
    qy, qx = sf.fftfreq(ny, step[0])[:, None], sf.fftfreq(nx, step[1])[None, :]
    inside = np.hypot(qy, qx) > 1.5 / min(ny * step[0], nx * step[1])
    number = {(int(y), int(x)): i for i, (y, x) in enumerate(at)}
    power = (np.abs(wave) ** 2).mean(axis=2)
    columns, sigmas = [], []
    for dy, dx in ((0, 1), (1, 0)):
        pairs = np.array([(i, number[y + dy, x + dx]) for (y, x), i in number.items() if (y + dy, x + dx) in number])
        if len(pairs) < 4:
            return Shifts(np.zeros((2, 2)), math.inf)
        cross = (wave[..., pairs[:, 1]] * wave[..., pairs[:, 0]].conj()).mean(axis=2)
        agree = np.clip(np.abs(cross) / np.maximum(power, 1e-30), 0, 0.98) * inside
        noise = 1.0 / math.sqrt(len(pairs))
        agree = np.where(agree > 3 * noise, agree, 0.0)
        weight = agree / (1 - agree**2)  # of a phase whose spread is (1 - agree^2) / agree
        phase = np.where(np.abs(cross) > 0, cross / np.maximum(np.abs(cross), 1e-30), 0)
        shift, sigma = _top(phase * weight, weight * agree * len(pairs), qy, qx, step)
        columns.append(shift)
        sigmas.append(sigma)
    return Shifts(np.array(columns).T, max(sigmas))


def _top(
    spectrum: NDArray[np.complex128], weight: Array, qy: Array, qx: Array, step: tuple[float, float]
) -> tuple[Array, float]:
    """Return (x, y) [m] of the highest top of the correlation whose spectrum exp(-2 pi i q shift) this is."""
    ny, nx = spectrum.shape
    padded = np.zeros((4 * ny, 4 * nx), complex)
    padded[np.ix_(np.round(qy[:, 0] * ny * step[0]).astype(int), np.round(qx[0] * nx * step[1]).astype(int))] = spectrum
    correlation = sf.ifft2(padded, workers=1).real
    j, i = np.unravel_index(int(np.argmax(correlation)), correlation.shape)
    y = (j if j < 2 * ny else j - 4 * ny) * step[0] / 4
    x = (i if i < 2 * nx else i - 4 * nx) * step[1] / 4
    for _ in range(6):
        turned = spectrum * np.exp(2j * np.pi * (qy * y + qx * x))
        gy, gx = (float((2 * np.pi * q * turned.imag).sum()) for q in (qy, qx))
        h = [[float(((2 * np.pi) ** 2 * a * b * turned.real).sum()) for b in (qy, qx)] for a in (qy, qx)]
        if h[0][0] * h[1][1] - h[0][1] ** 2 <= 0:
            break
        dy, dx = np.linalg.solve(np.array(h), np.array([gy, gx]))
        y, x = y - float(dy), x - float(dx)
    information = float(((2 * np.pi) ** 2 * (qy**2 + qx**2) * weight).sum()) / 2
    return np.array([x, y]), 1.0 / math.sqrt(max(information, 1e-30))


def turn_from_tilt(before: Shifts, after: Shifts, change: float) -> Turn:
    """Return how the detector is turned, from the shifts before and after C10 was changed by `change` [m]."""
    moved = (before.matrix - after.matrix) * np.sign(change)  # overfocus moves the image against M p
    size = np.linalg.svd(moved, compute_uv=False)
    sigma = math.hypot(before.sigma, after.sigma)
    if not np.isfinite(sigma) or size[0] <= 0:
        return NO_TURN
    rotation, flip = turn_of(moved)
    spread = max(sigma, 0.02 * float(size[0])) / float(size.mean())
    return Turn(rotation, flip, spread / math.sqrt(2), float(size[1] / max(sigma, 0.02 * float(size[0]))))


def turn_from_curl(com: NDArray[Any], dark: NDArray[Any], step: tuple[float, float]) -> Turn:
    """Return how the detector is turned, from the mean deflection and the dark field.

    com (ny, nx, 2): (x, y) on the detector [px]. dark (ny, nx): counts outside the disc. step (y, x) [m].
    """
    ny, nx = dark.shape
    window = np.hanning(ny + 2)[1:-1, None] * np.hanning(nx + 2)[None, 1:-1]
    flat = _levelled(np.concatenate([com, dark[..., None]], axis=2).astype(np.float64))
    wave = sf.fft2(flat * window[..., None], axes=(0, 1), workers=1)
    qy, qx = np.broadcast_arrays(sf.fftfreq(ny, step[0])[:, None], sf.fftfreq(nx, step[1])[None, :])
    length = np.hypot(qy, qx)
    power = (np.abs(wave[..., :2]) ** 2).sum(axis=2)
    ring = (length * min(ny * step[0], nx * step[1])).astype(int)
    noise = np.median(power[length > 0.7 * length.max()])
    used = (length > 2 / min(ny * step[0], nx * step[1])) & (power > 6 * noise) & (ring > 0)
    if used.sum() < 8:
        return NO_TURN
    c = wave[used][:, :2]
    d = wave[used][:, 2]
    direction = np.stack([qx[used], qy[used]], axis=1) / length[used][:, None]
    found = []
    for flip in (1.0, -1.0):
        mirrored = c * [1.0, flip]
        # longitudinal = u . R(t) c = cos t (u.c) + sin t (u x c), with R counter-clockwise and y down
        along = (direction * mirrored).sum(axis=1)
        across = direction[:, 0] * mirrored[:, 1] - direction[:, 1] * mirrored[:, 0]
        aa, bb = float((np.abs(along) ** 2).sum()), float((np.abs(across) ** 2).sum())
        ab = float((along * across.conj()).real.sum())
        angle = 0.5 * math.atan2(2 * ab, aa - bb)
        longitudinal = math.cos(angle) * along + math.sin(angle) * across
        rest = aa + bb - float((np.abs(longitudinal) ** 2).sum())
        found.append((rest / (aa + bb), angle, flip, longitudinal))
    (rest, angle, flip, longitudinal), other = sorted(found, key=lambda each: each[0])[:1][0], max(f[0] for f in found)
    # a gradient of V has the spectrum 2 pi i q V; V and the dark field are bright at the same places
    agreement = (longitudinal * (1j * d).conj()).real
    if agreement.sum() < 0:
        angle += math.pi
    angle = math.remainder(angle, 2 * math.pi)
    count = used.sum() / 2
    sigma = math.sqrt(max(rest, 1e-6) / count)
    sided = abs(float(agreement.sum())) / math.sqrt(float((agreement**2).sum()) * 2)
    return Turn(angle, flip, max(sigma, 1e-3), min(sided, (other - rest) / max(sigma, 1e-3)))


def _levelled(images: Array) -> Array:
    """Return (ny, nx, K) less its plane: descan and thickness wedges are no signal."""
    ny, nx = images.shape[:2]
    y, x = np.meshgrid(np.linspace(-1, 1, ny), np.linspace(-1, 1, nx), indexing="ij")
    plane = np.stack([np.ones(ny * nx), y.ravel(), x.ravel()], axis=1)
    flat = images.reshape(ny * nx, -1)
    fit, *_ = np.linalg.lstsq(plane, flat, rcond=None)
    return np.asarray((flat - plane @ fit).reshape(images.shape))
