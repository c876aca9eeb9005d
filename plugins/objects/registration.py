"""How far a part of the specimen has moved since it was first seen."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import scipy.fft as sf
from numpy.typing import NDArray

Array = NDArray[np.float64]

FINE = 0.12  # cycles a pixel where a phase correlation has lost most of its weight: what is finer is noise
_OTHER = 4  # pixels from the highest peak where the second one is looked for
_LEVELS = 255


@dataclass(frozen=True)
class Shift:
    """x, y, sigma [px]: how far the second image's content lies from the first's. peak_ratio: to the second peak."""

    x: float
    y: float
    sigma: float
    peak_ratio: float


def shift_between(first: Array, second: Array) -> Shift:
    """Return how far the content of `second` lies from that of `first`, both (ny, nx), by phase correlation.

    Kuglin and Hines, Proc. Int. Conf. Cybernetics and Society (1975) 163, with a Gaussian weight on the frequencies
    and a parabola through the peak; a second time on what both show, since the window at the edges of an image draws
    the shift towards 0. NaN pixels count as the mean. sigma: a tenth of a pixel at best, more where the peak is not
    far above the second one. An image without contrast has the peak ratio 1: no registration.
    """
    found = _correlated(first, second)
    x, y = round(found.x), round(found.y)
    ny, nx = first.shape
    if not (x or y) or abs(x) > nx / 2 or abs(y) > ny / 2:
        return found
    mine = first[max(0, -y) : ny - max(0, y), max(0, -x) : nx - max(0, x)]
    theirs = second[max(0, y) : ny - max(0, -y), max(0, x) : nx - max(0, -x)]
    again = _correlated(mine, theirs)
    if np.hypot(again.x, again.y) > _OTHER or again.peak_ratio < 1:
        return found
    return Shift(x + again.x, y + again.y, again.sigma, again.peak_ratio)


def _correlated(first: Array, second: Array) -> Shift:
    a, b = (_spectrum(each) for each in (first, second))
    cross = b * a.conj()
    size = np.abs(cross)
    if not size.max() > 0:
        return Shift(0.0, 0.0, float("inf"), 1.0)
    fy, fx = sf.fftfreq(first.shape[0])[:, None], sf.fftfreq(first.shape[1])[None, :]
    weight = np.exp(-(fy**2 + fx**2) / (2 * FINE**2))
    found = sf.ifft2(cross / np.maximum(size, 1e-6 * size.max()) * weight).real
    y, x = (int(i) for i in np.unravel_index(int(np.argmax(found)), found.shape))
    ny, nx = found.shape
    row = (np.arange(ny)[:, None] - y + ny // 2) % ny - ny // 2
    column = (np.arange(nx)[None, :] - x + nx // 2) % nx - nx // 2
    others = found[np.hypot(row, column) > _OTHER]
    second_peak = float(others.max()) if others.size else 0.0
    ratio = float(found[y, x]) / max(second_peak, 1e-12)
    dy = _top(found[(y - 1) % ny, x], found[y, x], found[(y + 1) % ny, x])
    dx = _top(found[y, (x - 1) % nx], found[y, x], found[y, (x + 1) % nx])
    place = ((y + ny // 2) % ny - ny // 2 + dy, (x + nx // 2) % nx - nx // 2 + dx)
    return Shift(place[1], place[0], 0.1 + 0.5 / max(ratio, 1.0), ratio)


def _spectrum(image: Array) -> NDArray[np.complex128]:
    known = np.isfinite(image)
    mean = float(image[known].mean()) if known.any() else 0.0
    window = np.hanning(image.shape[0] + 2)[1:-1, None] * np.hanning(image.shape[1] + 2)[None, 1:-1]
    return np.asarray(sf.fft2(np.where(known, image - mean, 0.0) * window))


def _top(before: float, at: float, after: float) -> float:
    """Return where a parabola through three values has its top, from the middle one [px]."""
    bend = before - 2 * at + after
    return float(0.5 * (before - after) / bend) if bend < 0 else 0.0


def packed(image: Array) -> tuple[float, ...]:
    """Return an image (ny, nx) as whole numbers of 0 to 255, row by row, as a plan is told and records it."""
    known = np.isfinite(image)
    low, high = np.percentile(image[known], (0.5, 99.5)) if known.any() else (0.0, 0.0)
    span = float(high - low) or 1.0
    scaled = np.where(known, np.clip((np.where(known, image, low) - low) / span, 0, 1), 0.5)
    return tuple(np.rint(_LEVELS * scaled).ravel().tolist())


class Patch(msgspec.Struct, frozen=True):
    """Looks in a map for the part of (rows, columns) with the most contrast, and says what is there.

    margin: pixels at the edges of the map that are left out.
    """

    rows: int
    columns: int
    margin: int = 2

    def __call__(self, image: Any) -> tuple[float, ...]:
        """Return the first row and column of the part, its contrast, and its pixels as `packed` gives them."""
        values = _plane(image)
        known = np.isfinite(values)
        scale = float(values[known].std()) if known.any() else 0.0
        ny, nx = values.shape
        rows, columns = min(self.rows, ny), min(self.columns, nx)
        steps = [
            (top, left)
            for top in _starts(ny, rows, self.margin)
            for left in _starts(nx, columns, self.margin)
        ]  # fmt: skip

        def contrast(top: int, left: int) -> float:
            part = values[top : top + rows, left : left + columns]
            there = np.isfinite(part)
            return float(part[there].std()) if there.mean() > 0.5 else 0.0

        best = max(steps, key=lambda each: contrast(*each))
        part = values[best[0] : best[0] + rows, best[1] : best[1] + columns]
        return (float(best[0]), float(best[1]), contrast(*best) / scale if scale else 0.0, *packed(part))


class Moved(msgspec.Struct, frozen=True):
    """Registers a map of (rows, columns) with one seen before. before: its bytes in base 64."""

    before: str
    rows: int
    columns: int

    def __call__(self, image: Any) -> tuple[float, ...]:
        """Return the shift (x, y) [px], its sigma [px], and the peak ratio."""
        first = np.frombuffer(base64.b64decode(self.before), np.uint8).reshape(self.rows, self.columns)
        second = np.asarray(packed(_plane(image))).reshape(np.shape(image)[:2])
        if second.shape != first.shape:
            return (0.0, 0.0, float("inf"), 0.0)
        found = shift_between(first.astype(np.float64), second)
        return (found.x, found.y, found.sigma, found.peak_ratio)


def as_text(pixels: tuple[float, ...]) -> str:
    """Return whole numbers of 0 to 255 as `Moved` takes them."""
    return base64.b64encode(np.array(pixels, np.uint8).tobytes()).decode("ascii")


def _plane(image: Any) -> Array:
    """Return a map (ny, nx, ...) as one plane of magnitudes; of several channels the first."""
    values = np.asarray(np.abs(image) if np.iscomplexobj(image) else image, np.float64)
    return values.reshape(*values.shape[:2], -1)[:, :, 0]


def _starts(whole: int, part: int, margin: int) -> list[int]:
    last = whole - part
    return sorted({min(last, margin), *range(min(last, margin), max(last - margin, 0) + 1, max(1, part // 4))})
