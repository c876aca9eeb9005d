"""Pictures of diffraction patterns: the mean of a scan, one frame of it, and what a beam at rest gives."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.units import display
from .figures import picture
from .reader import RecordedTopic

_MOST_FRAMES = 1024
_AT_REST = 5e-11  # a scan no wider than this [m] looks at one place
_DEFOCUSED = 4e-9  # change of C10 [m] from where a pattern of one place is a shadow image: a Ronchigram


def pattern_figures(records: list[RecordedTopic]) -> list[str]:
    """Return the pictures of a topic of frames (ky, kx), out of its records, oldest first.

    Of the fullest scan the mean and the frame with the most counts; of the last beam at rest the mean, which is
    called a Ronchigram where the lens was turned off the focus of that scan for it.
    """
    scans = sorted((record for record in records if not at_rest(record)), key=_frames)
    still = [record for record in records if at_rest(record)]
    made: list[str] = []
    if scans:
        mean, single, count = _read(scans[-1])
        if count:
            where = f"generation {scans[-1].generation}" if scans[-1].is_scan else "single frames"
            note = f"{where}, mean of {count:,} frames"
            made.append(_picture(mean, "position-averaged CBED", scans[-1], note, "log10"))
            electrons = f"{single.sum():,.0f} {scans[-1].spec.units or 'counts'}"
            made.append(_picture(single, "CBED, one frame", scans[-1], f"{where}, 1 frame of {electrons}", "root"))
    if still:
        mean, _, count = _read(still[-1])
        away = _focus(still[-1]) - (_focus(scans[-1]) if scans else 0.0)
        name = "Ronchigram" if abs(away) >= _DEFOCUSED else "CBED, beam at rest"
        note = f"generation {still[-1].generation}, beam at rest, mean of {count:,} frames"
        note += (
            f", C10 {'+' if away > 0 else ''}{display(away, 'm', 3)} from that of the scan" if scans and away else ""
        )
        if count:
            made.insert(0, _picture(mean, name, still[-1], note, "linear", crop=True))
    return made


def _frames(record: RecordedTopic) -> tuple[int, int]:
    """Return how many frames it has, and its generation."""
    return int(record.present.sum()) if record.is_scan else len(record), record.generation


def at_rest(record: RecordedTopic) -> bool:
    """True for a scan that stays at one place."""
    spec = record.spec
    if not record.is_scan or len(spec.nav) != 2:
        return False
    return all(axis.units == "m" and axis.size * abs(axis.scale or 1.0) <= _AT_REST for axis in spec.nav)


def _focus(record: RecordedTopic) -> float:
    """Return what the defocus knob read when it was taken [m]."""
    try:
        value = json.loads(str(record.about.get("settings", "{}"))).get("C10")
    except (ValueError, AttributeError):
        return 0.0
    return float(value) if isinstance(value, int | float) else 0.0


def _read(record: RecordedTopic) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Return the mean of some frames, the one with the most counts, and how many they were."""
    total = np.zeros(record.spec.frame_shape, np.float64)
    best, most, count = total, -np.inf, 0
    for block in record.blocks():
        if not block.count:
            continue
        total += block.data.sum(axis=0, dtype=np.float64)
        count += block.count
        sums = block.data.reshape(block.count, -1).sum(axis=1, dtype=np.float64)
        at = int(np.argmax(sums))
        if sums[at] > most:
            best, most = block.data[at].astype(np.float64), float(sums[at])
        if count >= _MOST_FRAMES:
            break
    return total / max(1, count), best, count


def _picture(
    values: NDArray[np.float64], title: str, record: RecordedTopic, note: str, scale: str, crop: bool = False
) -> str:
    spec = record.spec
    y, x = spec.sig
    pixel = (abs(x.scale), abs(y.scale)) if x.scale and y.scale and x.units == y.units and x.units else None
    units = spec.units or "counts"
    if crop:
        values = values[_bright(values)]
    if scale == "log10":
        floor = values[values > 0].min() if np.any(values > 0) else 1.0
        values, units = np.log10(np.maximum(values, floor)), ""
        note += f", log10 of {spec.units or 'counts'} per pixel"
    elif scale == "root":
        values, units = np.sqrt(np.maximum(values, 0)), ""
        note += f", square root of {spec.units or 'counts'} per pixel"
    name = "grey" if scale == "linear" else "inferno"
    extra: dict[str, Any] = {"bar": x.units} if pixel is not None else {}
    return picture(values, title, units, pixel, name=name, note=f"{record.topic}, {note}", **extra)


def _bright(values: NDArray[np.float64]) -> tuple[slice, slice]:
    """Return the square around what is bright, with a margin: the disc of the aperture."""
    inside = np.argwhere(values > 0.15 * np.percentile(values, 99.8))
    if not len(inside):
        return slice(None), slice(None)
    low, high = inside.min(axis=0), inside.max(axis=0) + 1
    half = int(0.62 * (high - low).max()) + 1
    middle = (low + high) // 2
    return tuple(  # type: ignore[return-value]
        slice(max(0, int(m) - half), min(size, int(m) + half)) for m, size in zip(middle, values.shape, strict=True)
    )
