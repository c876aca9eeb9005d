"""What an image shows around every candidate: a square patch, as one row of numbers.

Patches rather than positions are what deep kernel learning goes by (Liu et al., Nat. Mach. Intell. 4, 341 (2022);
Roccapriore et al., Adv. Sci. 9, 2203422 (2022)): places that look alike are taken to behave alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import ndimage

from probeloop.api import DropInError

Rows = NDArray[np.float64]
_KNEE = 3.0  # spreads from the median; beyond, a pixel counts by its logarithm
FEATURES = ("value", "mean", "spread", "slope", "curvature", "lowest", "highest")  # of one channel, see `features`


class Patches(msgspec.Struct, frozen=True):
    """Patches of a map of `shape` (ny, nx), one a pixel, N = ny * nx, in the map's order.

    rows: (N, channels * size * size) float64, each channel in units of its own spread over the map. size: side
    [pixels]. inside: (N,) bool, the patch lies wholly on the map and at least half of it is measured. channels: their
    names.
    """

    rows: Rows
    size: int
    inside: NDArray[np.bool_]
    channels: tuple[str, ...]


def channels(images: Mapping[str, NDArray[Any]], shape: tuple[int, int]) -> dict[str, Rows]:
    """Return images as real channels (ny, nx) by name, NaN where nothing is measured.

    images: (ny, nx) or (ny, nx, k) by topic; a complex one gives its real and its imaginary part. Channels that show
    nothing (constant, or measured nowhere) are left out. Raises DropInError for an image of another shape.
    """
    made: dict[str, Rows] = {}
    for name, image in images.items():
        if image.shape[:2] != shape or image.ndim > 3:
            raise DropInError(
                f"{name} is {image.shape}, the map is {shape}", "show the policy images of the overview it goes by"
            )
        stack = image.reshape(*shape, -1)
        if np.iscomplexobj(stack):
            stack = np.concatenate([stack.real, stack.imag], axis=2)
        for i in range(stack.shape[2]):
            values = np.asarray(stack[:, :, i], np.float64)
            values = np.where(np.isfinite(values), values, np.nan)
            known = values[np.isfinite(values)]
            if len(known) > 1 and known.max() - known.min() > 1e-12 * max(abs(known.max()), abs(known.min())):
                made[name if stack.shape[2] == 1 else f"{name}[{i}]"] = values
    return made


def standardised(values: Rows) -> Rows:
    """Return a channel less its median, over 1.48 times its median absolute deviation; far values by their logarithm.

    Failed fits leave values a thousand times those of the film: neither do they set the unit, nor does one of them
    dwarf all else. Where more than half of the pixels are equal, the others make the unit. What is not measured gets
    0.
    """
    known = values[np.isfinite(values)]
    middle = float(np.median(known))
    off = np.abs(known - middle)
    spread = 1.4826 * float(np.median(off) or np.median(off[off > 0]))
    made: Rows = np.nan_to_num((values - middle) / spread, nan=0.0)
    far = np.abs(made) > _KNEE
    made[far] = np.sign(made[far]) * (_KNEE + np.log1p(np.abs(made[far]) - _KNEE))
    return made


def cut(images: Mapping[str, NDArray[Any]], shape: tuple[int, int], size: int) -> Patches:
    """Return the patches of `size` pixels a side around every pixel; beyond the edges the image is mirrored.

    size: an even one has its centre half a pixel before the middle. Images as in `channels`. Raises DropInError when
    there is no image that shows anything.
    """
    planes = channels(images, shape)
    if not planes:
        shown = ", ".join(images) or "none"
        raise DropInError(f"no image shows any contrast (images: {shown})", "name a topic with contrast in images")
    before, after = size // 2, size - 1 - size // 2
    rows, known = [], np.zeros(shape[0] * shape[1])
    for values in planes.values():
        wide = np.pad(standardised(values), ((before, after), (before, after)), mode="symmetric")
        rows.append(sliding_window_view(wide, (size, size)).reshape(-1, size * size))
        measured = np.pad(np.isfinite(values).astype(float), ((before, after), (before, after)), mode="symmetric")
        known += sliding_window_view(measured, (size, size)).reshape(-1, size * size).mean(axis=1)
    enough = known / len(planes) >= 0.5
    return Patches(np.hstack(rows), size, edge_mask(shape, size) & enough, tuple(planes))


def edge_mask(shape: tuple[int, int], size: int) -> NDArray[np.bool_]:
    """Return where a patch of `size` pixels lies wholly on the map, (ny * nx,) bool; everywhere, if nowhere."""
    before, after = size // 2, size - 1 - size // 2
    inside = np.zeros(shape, bool)
    inside[before : shape[0] - after, before : shape[1] - after] = True
    return inside.ravel() if inside.any() else np.ones(shape[0] * shape[1], bool)


def features(images: Mapping[str, NDArray[Any]], shape: tuple[int, int], size: int) -> tuple[Rows, tuple[str, ...]]:
    """Return simple features of every pixel (N, k) and their names: what one would sort the image by at once.

    Of each channel: its value, and over `size` pixels around its mean, spread, slope (rms gradient), curvature
    (Laplacian of the smoothed image), lowest and highest value. Raises DropInError when no image shows anything.
    """
    planes = channels(images, shape)
    if not planes:
        raise DropInError("no image shows any contrast", "name a topic with contrast in images")
    columns, names = [], []
    for name, values in planes.items():
        image = standardised(values)
        mean = ndimage.uniform_filter(image, size, mode="mirror")
        square = ndimage.uniform_filter(image**2, size, mode="mirror")
        smooth = ndimage.gaussian_filter(image, max(size / 8, 0.5), mode="mirror")
        gy, gx = np.gradient(smooth)
        made = (
            image,
            mean,
            np.sqrt(np.maximum(square - mean**2, 0.0)),
            np.sqrt(np.maximum(ndimage.uniform_filter(gy**2 + gx**2, size, mode="mirror"), 0.0)),
            ndimage.laplace(smooth, mode="mirror"),
            ndimage.minimum_filter(image, size, mode="mirror"),
            ndimage.maximum_filter(image, size, mode="mirror"),
        )
        columns += [each.ravel() for each in made]
        names += [f"{name} {each}" for each in FEATURES]
    return np.stack(columns, axis=1), tuple(names)
