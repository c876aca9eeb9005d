"""Which pictures of a session the report shows: its maps, patterns, spectra, and where they were measured."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.axes import Channel
from ..data.errors import ProbeloopError
from .figures import PHASE, curves, labels, loops, picture
from .maps import first_map, map_figures, pixel_of, title_of, topic_title
from .patterns import pattern_figures
from .reader import RecordedTopic

_MOST_MAPS = 24
_FULLEST = 2
_LAST_IMAGES = 40
_PART = re.compile(r"-\d+$")  # a point record whose frames changed shape begins anew as TOPIC-GENERATION


def origin_of(topics: list[RecordedTopic]) -> str:
    """Return "simulation", "replay" or "experiment": the least real of all that was recorded."""
    origins = set()
    for topic in topics:
        try:
            origins.add(topic.spec.origin)
        except ProbeloopError:
            continue
    return next((name for name in ("simulation", "replay", "experiment") if name in origins), "experiment")


Observed = Mapping[str, Sequence[tuple[float, float, float]]]


def figures_of(topics: list[RecordedTopic], observed: Observed) -> list[str]:
    """Return the sections of pictures; a damaged record is left out here and named in the list of files.

    observed: by scalarizer, places (x, y) [m] and what came of them.
    """
    maps: list[str] = []
    spectra: list[str] = []
    patterns: list[str] = []
    last: tuple[NDArray[Any], RecordedTopic] | None = None
    for name, group in itertools.groupby(sorted(topics, key=_rank), key=lambda t: _PART.sub("", t.topic)):
        every = list(group)
        records = _chosen(every)
        for record in records:
            try:
                kind = record.spec.kind
                if kind == "values" and record.is_scan and len(record.spec.nav) == 2:
                    maps += map_figures(record)
                    if last is None or name == "scan":
                        last = first_map(record), record
                elif kind == "frames" and len(record.spec.sig) == 2 and record is records[-1]:
                    patterns += pattern_figures(every)
                elif kind == "image" and len(record.spec.sig) == 2 and len(record):
                    maps.append(_last_image(record))
                elif kind == "spectra" and not record.is_scan and len(record):
                    spectra.append(_curves(record))
                elif kind == "values" and not record.is_scan and len(record) > 2:
                    spectra.append(_history(record))
            except ProbeloopError:
                continue
    if last is not None:
        spectra = [_result(name, found, last[1]) for name, found in observed.items()] + spectra
    for record in topics:
        if last is not None and not record.is_scan and record.spec.kind == "spectra" and len(record):
            spectra.insert(0, _places(last, record))
    sections = (("Maps", maps[:_MOST_MAPS]), ("Spectra and points", spectra), ("Patterns", patterns))
    return [f'<h2>{title}</h2><div class="figures">{"".join(found)}</div>' for title, found in sections if any(found)]


def _rank(record: RecordedTopic) -> tuple[bool, str, int]:
    """Order topics: those of one map first, then by name, then by age."""
    try:
        several = len(record.spec.channels) > 1
    except ProbeloopError:
        several = True
    part = _PART.search(record.topic)
    return several, _PART.sub("", record.topic), int(part[0][1:]) if part else record.generation


def _chosen(records: list[RecordedTopic]) -> list[RecordedTopic]:
    """Return the fullest scans, the newest of equals, oldest first; of images the newest, and a larger one before."""

    def measured(record: RecordedTopic) -> int:
        try:
            return int(record.present.sum()) if record.is_scan else 0
        except ProbeloopError:
            return -1

    if not any(record.is_scan for record in records):
        largest = max(reversed(records), key=_pixels)
        return [largest, records[-1]] if _pixels(largest) > _pixels(records[-1]) else records[-1:]
    newest_first = sorted(records, key=lambda record: (measured(record), record.generation), reverse=True)
    return sorted(newest_first[:_FULLEST], key=lambda record: record.generation)


def _pixels(record: RecordedTopic) -> int:
    """Return how many pixels a picture of a record has, 0 of anything else."""
    try:
        return math.prod(axis.size for axis in record.spec.sig) if record.spec.kind == "image" else 0
    except ProbeloopError:
        return 0


def _last_image(record: RecordedTopic) -> str:
    last = record.data(max(0, len(record) - _LAST_IMAGES), len(record))
    if last.ndim != 3:
        return ""
    filled = np.isfinite(last).sum(axis=(1, 2))
    number_of = record.column("generation")[len(record) - len(last) : len(record)]
    pictures = Counter(number_of.tolist())  # a scan that had only begun shows nothing yet
    at = max(range(len(last)), key=lambda i: (int(filled[i]), pictures[number_of[i]], i))
    image, number = last[at], len(record) - len(last) + at + 1
    shown = np.abs(image) if image.dtype.kind == "c" else image.astype(np.float64)
    topic, axes = _PART.sub("", record.topic), record.spec.sig
    note = f"{topic}, generation {number_of[at]}, from {filled[at]:,} places"
    note += f", picture {number} of {len(record)}"
    pixel, bar = pixel_of(record), "m"
    if pixel is None and all(axis.scale and axis.units for axis in axes):
        pixel, bar = (abs(axes[1].scale or 1.0), abs(axes[0].scale or 1.0)), axes[1].units
    if record.spec.units == "id":
        return labels(shown, topic_title(topic), pixel, note, bar)
    units = record.spec.units.replace("rad", PHASE)
    return picture(shown, topic_title(topic), units, pixel, name="grey", note=note, bar=bar)


def _curves(record: RecordedTopic) -> str:
    """Return the spectra of each channel; complex ones turned to their common phase, and its real part."""
    spec, data = record.spec, record.data()
    data = data.reshape(len(record), -1, data.shape[-1])
    several = data.shape[1] > 1
    names = [channel.name.replace("_", " ") for channel in spec.channels] if several else []
    return "".join(_curves_of(record, data[:, k], k, names[k] if names else "") for k in range(data.shape[1]))


def _curves_of(record: RecordedTopic, data: NDArray[Any], k: int, name: str) -> str:
    spec, axis = record.spec, record.spec.sig[-1]
    if data.dtype.kind == "c":
        data = (data * np.exp(-0.5j * np.angle(np.nansum(data**2)))).real
    if "bias" in spec.aux:
        x, label = np.asarray(spec.aux["bias"]), "bias [V]"
    else:
        x, label = axis.values(), f"{axis.name} [{axis.units or 'channel'}]"
    channel = spec.channels[k] if k < len(spec.channels) else Channel("", "intensity", spec.units)
    units = channel.units or spec.units
    shown = f"{channel.quantity} [{units}]" if units else channel.quantity
    if "bias" in spec.aux and len(data) > 6:
        return loops(x, data, label, shown, f"{name}, loop" if name else "loop")
    note = f"{len(data)} measured" + ("; the red one is their median" if len(data) > 3 else "")
    title = f"{record.topic.replace('_', ' ')} {name}".strip()
    return curves(x, data, label, shown, title, note)


def _history(record: RecordedTopic) -> str:
    values = record.data().astype(np.float64)
    values = values.reshape(len(values), -1).T
    units = record.spec.units or (record.spec.channels[0].units if record.spec.channels else "")
    label = f"{record.topic} [{units}]" if units else record.topic
    note = f"{values.shape[1]} values"
    return curves(
        np.arange(values.shape[1], dtype=np.float64),
        values[:3],
        "measurement",
        label,
        record.topic.replace("_", " "),
        note,
    )


def _result(name: str, found: Sequence[tuple[float, float, float]], scan: RecordedTopic) -> str:
    """Return the map of what a scalarizer found, on the pixels of a scan; a place without a value stays grey."""
    y, x = scan.spec.nav
    if not x.scale or not y.scale:
        return ""
    values = np.full((y.size, x.size), np.nan)
    wide = min(y.size, x.size) // 128  # a single pixel of a fine map could not be seen
    for px, py, value in found:
        column, row = round((px - x.offset) / x.scale), round((py - y.offset) / y.scale)
        if 0 <= row < y.size and 0 <= column < x.size:
            values[max(0, row - wide) : row + wide + 1, max(0, column - wide) : column + wide + 1] = value
    valid = int(np.isfinite([value for _, _, value in found]).sum())
    note = f"{valid} valid of {len(found)} observations"
    return picture(values, f"{name} where it was measured", "", pixel_of(scan), note=note)


def _places(map_: tuple[NDArray[Any], RecordedTopic], record: RecordedTopic) -> str:
    values, scan = map_
    y, x = scan.spec.nav
    if not x.scale or not y.scale:
        return ""
    places = record.column("position")
    points = (places - (x.offset, y.offset)) / (x.scale, y.scale)
    units = scan.spec.channels[0].units if scan.spec.channels else scan.spec.units
    note = f"{len(places)} places on {title_of(scan)}"
    return picture(
        values, "where spectra were measured", units, pixel_of(scan), name="grey", points=points, note=note
    )
