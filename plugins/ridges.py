"""Lines in a map by a ridge filter: walls between domains, boundaries between grains; no training, no weights.

Sato et al., Med. Image Anal. 2 (1998) 143, as scikit-image has it. It answers to every line, also to scan artefacts
and to the flanks of what is bright, and knows nothing of walls; but it needs nothing and is there at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

from probeloop.api import DropInError, Outputs, ScanTransform, Settings, StreamSpec, map_input, quantity

Array = NDArray[np.float64]
_STRONG = 97.0  # percentile of what answers at all; half of it is as likely a line as not
_NORMAL = 1.4826  # standard deviation over median absolute deviation, for Gaussian noise
_SMALLEST = 3  # lines, and pixels of a line, before there is anything to see


class Ridges(ScanTransform):
    """How much each place of the map so far lies on a line, 0 to 1."""

    every = "seconds"
    interval = 0.5
    takes = "map"
    may_be_nan = True  # where nothing is measured yet

    class Parameters(Settings):
        """What a line is.

        lines: darker or brighter than what is beside them, or either. contrast: of what is positive, such as an
        amplitude, the "ratio" to what is beside it (its logarithm is filtered), so that a wall in a weak domain
        counts as much as one in a strong domain; "difference" for all else. narrow, wide: standard deviations of the
        filter. level: take the median of each scan line out first. channel: of several, by name; "" = the first.
        """

        lines: Literal["dark", "bright", "both"] = "dark"
        contrast: Literal["ratio", "difference"] = "ratio"
        narrow: Annotated[float, quantity("px", ge=0.5, le=20)] = 1.0
        wide: Annotated[float, quantity("px", ge=0.5, le=20)] = 3.0
        level: bool = False
        channel: str = ""

        def problems(self) -> Iterable[str]:
            """Yield what does not fit together."""
            if self.narrow > self.wide:
                yield "narrow must not be larger than wide"
            if self.level and self.contrast == "ratio":
                yield 'level: what is levelled has both signs: contrast = "difference"'

    def outputs(self, spec: StreamSpec) -> dict[str, StreamSpec]:
        """Return `mean`, (1, ny, nx) float32 of 0 to 1, NaN = not measured.

        Raises SettingsError when the input is no map, or has no such channel, and DropInError without scikit-image.
        """
        try:
            import skimage.filters  # noqa: F401 - a second or two, which a map that comes would be told to hang for
        except ImportError as error:
            raise DropInError("ridges needs scikit-image", 'pip install "probeloop[objects]"') from error
        self._input = map_input(spec, self.parameters.channel)
        axes = tuple(map(msgspec.structs.replace, self._input.axes))
        return {"mean": StreamSpec("mean", "image", "<f4", sig=axes)}

    def update(self, data: Any, mask: NDArray[np.bool_] | None = None) -> Outputs | None:
        """Return how much of a line there is in `data`, (ny, nx) or (ny, nx, k), of complex numbers the magnitude.

        None before there are three lines.
        """
        p = self.parameters
        image = self._input.of(data)
        image = np.asarray(np.abs(image) if np.iscomplexobj(image) else image, np.float64)
        known = np.isfinite(image)
        if np.count_nonzero(known.any(axis=1)) < _SMALLEST or np.count_nonzero(known.any(axis=0)) < _SMALLEST:
            return None
        found = ridge_map(image, p.lines, p.contrast, (p.narrow, p.wide), level=p.level)
        answers = found[found > 0]
        even = float(np.percentile(answers, _STRONG)) / 2 if answers.size else 1.0
        scaled = np.where(known, found**2 / (found**2 + even**2), np.nan)  # never full: the order of the pixels stays
        return {"mean": scaled.astype(np.float32)[None]}


def ridge_map(
    image: Array,
    lines: Literal["dark", "bright", "both"] = "dark",
    contrast: Literal["ratio", "difference"] = "difference",
    widths: tuple[float, float] = (1.0, 3.0),
    *,
    level: bool = False,
) -> Array:
    """Return the largest answer (ny, nx), 0 or more, of ridge filters of three widths [px], the two and their mean.

    contrast, level: see Ridges. What is not finite is filled with the nearest that is, and 0 in the result; an image
    of one value is 0 everywhere.
    """
    from skimage.filters import sato

    known = np.isfinite(image)
    if not known.any():
        return np.zeros(image.shape)
    filled = image
    if not known.all():
        filled = image[tuple(ndi.distance_transform_edt(~known, return_distances=False, return_indices=True))]
    if contrast == "ratio":
        filled = np.abs(filled)
        noise = _NORMAL * float(np.median(np.abs(filled - ndi.median_filter(filled, 5, mode="nearest"))))
        filled = np.log(filled + (noise or float(filled.max()) * 1e-3 or 1.0))
    if level:
        filled = filled - np.median(filled, axis=1, keepdims=True)
    spread = float(np.ptp(filled))
    if not spread > 1e-9 * float(np.abs(filled).max()):
        return np.zeros(image.shape)
    scaled = (filled - filled.min()) / spread
    scales = tuple(dict.fromkeys((widths[0], (widths[0] + widths[1]) / 2, widths[1])))
    signs = {"dark": (True,), "bright": (False,), "both": (True, False)}[lines]
    answers = [sato(scaled, sigmas=scales, black_ridges=dark, mode="reflect") for dark in signs]
    return np.where(known, np.max(answers, axis=0), 0.0)
