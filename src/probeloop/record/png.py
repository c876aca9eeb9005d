"""Pictures without a plotting library: colour scales, PNG bytes."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

# ten steps of the perceptually uniform viridis and inferno (S. van der Walt, N. Smith, CC0); a wheel for phases
_STOPS = {
    "viridis": "440154 482878 3e4989 31688e 26828e 1f9e89 35b779 6ece58 b5de2b fde725",
    "inferno": "000004 1b0c41 4a0c6b 781c6d a52c60 cf4446 ed6925 fb9b06 f7d13d fcffa4",
    "grey": "000000 ffffff",
    "height": "1a0d08 4a2413 7d3f1d a8642e c98f4d e0b97e f1dfb9 fffaf0",
    "signed": "2c5aa0 7ba3d0 c9dcec f7f7f5 f2cfb5 d98a5f a83a2a",
    "phase": "2f3e8f 4b8fc4 8fcfc0 f2f0d0 f0a860 c8433a 7a2a62 2f3e8f",
}
MISSING = (226, 228, 233)


def scale(name: str) -> NDArray[np.uint8]:
    """Return a colour scale, (256, 3) uint8."""
    stops = np.array([[int(word[i : i + 2], 16) for i in (0, 2, 4)] for word in _STOPS[name].split()], float)
    at = np.linspace(0, len(stops) - 1, 256)
    made = np.stack([np.interp(at, np.arange(len(stops)), stops[:, c]) for c in range(3)], axis=1)
    return made.round().astype(np.uint8)


def levels(values: NDArray[Any]) -> tuple[float, float]:
    """Return the range that is shown: 0.5th to 99.5th percentile of what is finite."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = np.percentile(finite, (0.5, 99.5))
    if not high > low:
        low, high = finite.min(), finite.max()
    half = 0.5 if not 0 < abs(low) < 1 else abs(float(low)) / 2
    return (float(low), float(high)) if high > low else (float(low) - half, float(low) + half)


def colour(values: NDArray[Any], low: float, high: float, name: str) -> NDArray[np.uint8]:
    """Return (ny, nx, 3) uint8; what is not finite is grey, never a value of the scale."""
    good = np.isfinite(values)
    level = np.clip((np.where(good, values, low) - low) / (high - low), 0, 1) * 255
    made = scale(name)[level.round().astype(np.intp)]
    made[~good] = MISSING
    return made


def labelled(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return numbers of things (ny, nx) as (ny, nx, 3) uint8: a colour each, 0 black; not finite is grey."""
    good = np.isfinite(values)
    which = np.where(good, values, 0).astype(np.int64)
    turn = 2 * np.pi * (which * 0.61803398875 % 1.0)  # neighbours in number are far apart in hue
    hue = 0.62 + 0.38 * np.cos(turn[..., None] - 2 * np.pi / 3 * np.arange(3))
    made: NDArray[np.uint8] = np.where(which[..., None] == 0, 0, (255 * hue).round()).astype(np.uint8)
    made[~good] = MISSING
    return made


def wheel(x: NDArray[Any], y: NDArray[Any], most: float) -> NDArray[np.uint8]:
    """Return vectors (x to the right, y down) as (ny, nx, 3) uint8: direction as hue, length as brightness.

    most: the length that is drawn brightest. Three cosines a third of a turn apart make the hues, so that their sum,
    the brightness, depends on the length alone.
    """
    good = np.isfinite(x) & np.isfinite(y)
    angle = np.arctan2(np.where(good, -y, 0), np.where(good, x, 0))
    length = np.clip(np.hypot(np.where(good, x, 0), np.where(good, y, 0)) / most, 0, 1)
    hue = 0.5 + 0.5 * np.cos(angle[..., None] - 2 * np.pi / 3 * np.arange(3))
    made: NDArray[np.uint8] = (255 * length[..., None] * hue).round().astype(np.uint8)
    made[~good] = MISSING
    return made


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Return an 8-bit RGB picture (ny, nx, 3) as a PNG file."""
    height, width = pixels.shape[:2]
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)

    def part(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(rows.tobytes())) + part(b"IEND", b"")
    )


def data_url(pixels: NDArray[np.uint8]) -> str:
    """Return a picture to be put in a page."""
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode()
