"""Which pictures of a session the report shows: its maps, patterns, spectra, and where they were measured."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.axes import Axis
from ..data.errors import ProbeloopError
from .figures import curves, loops, picture
from .reader import RecordedTopic

_MOST_MAPS = 24
_MOST_FRAMES = 1024
_FULLEST = 2
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
        records = _chosen(list(group))
        for record in records:
            try:
                kind = record.spec.kind
                if kind == "values" and record.is_scan and len(record.spec.nav) == 2:
                    maps += _maps(record)
                    if last is None or name == "scan":
                        last = _first_map(record), record
                elif kind == "frames" and len(record.spec.sig) == 2 and record is records[-1]:
                    patterns.append(_pattern(record))
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
    """Return the fullest scans, the newest of equals, oldest first; of images the newest record alone."""

    def measured(record: RecordedTopic) -> int:
        try:
            return int(record.present.sum()) if record.is_scan else 0
        except ProbeloopError:
            return -1

    if not any(record.is_scan for record in records):
        return records[-1:]
    newest_first = sorted(records, key=lambda record: (measured(record), record.generation), reverse=True)
    return sorted(newest_first[:_FULLEST], key=lambda record: record.generation)


def _pixel(record: RecordedTopic) -> tuple[float, float] | None:
    return _pixel_of(record.spec.nav)


def _pixel_of(axes: tuple[Axis, ...]) -> tuple[float, float] | None:
    y, x = axes
    return (x.scale, y.scale) if x.scale and y.scale and x.units == "m" else None


def _first_map(record: RecordedTopic) -> NDArray[Any]:
    data = record.data()
    return _shown(data[..., 0] if data.ndim == 3 else data, record)


def _shown(values: NDArray[Any], record: RecordedTopic) -> NDArray[np.float64]:
    """Return the map with what was not measured as NaN, complex as its modulus."""
    made = np.abs(values) if values.dtype.kind == "c" else values.astype(np.float64)
    return np.where(record.present, made, np.nan)


def _maps(record: RecordedTopic) -> list[str]:
    data, spec = record.data(), record.spec
    part = float(record.present.mean())
    note = f"{record.topic}, generation {record.generation}, {spec.nav_shape[1]} × {spec.nav_shape[0]}"
    note += "" if part == 1 else f", {part:.0%} measured"
    if data.ndim == 2:
        units = spec.units or (spec.channels[0].units if spec.channels else "")
        return [picture(_shown(data, record), _title(record, 0), units, _pixel(record), note=note)]
    return [
        picture(_shown(data[..., k], record), _title(record, k), spec.channels[k].units, _pixel(record), note=note)
        for k in range(data.shape[2])
    ]


def _title(record: RecordedTopic, k: int) -> str:
    channels = record.spec.channels
    return channels[k].name.replace("_", " ") if k < len(channels) else record.topic.replace("_", " ")


def _pattern(record: RecordedTopic) -> str:
    """Return the mean of some patterns, on a logarithmic scale."""
    total, count = np.zeros(record.spec.frame_shape, np.float64), 0
    for block in record.blocks():
        total += block.data.sum(axis=0, dtype=np.float64)
        count += block.count
        if count >= _MOST_FRAMES:
            break
    if total.ndim != 2 or not count:
        return ""
    mean = total / count
    floor = mean[mean > 0].min() if np.any(mean > 0) else 1.0
    note = f"mean of {count:,} patterns, {record.spec.units or 'counts'} per pixel, log10"
    return picture(np.log10(np.maximum(mean, floor)), record.topic, "", name="inferno", note=note)


def _last_image(record: RecordedTopic) -> str:
    image = np.asarray(record.data(len(record) - 1)[0])
    if image.ndim != 2:
        return ""
    shown = np.abs(image) if image.dtype.kind == "c" else image.astype(np.float64)
    note = f"the last of {len(record)}"
    return picture(
        shown, record.topic.replace("_", " "), record.spec.units, _pixel_of(record.spec.sig), "grey", note=note
    )


def _curves(record: RecordedTopic) -> str:
    spec, data = record.spec, record.data()
    data = data.reshape(-1, data.shape[-1])
    axis = spec.sig[-1]
    if "bias" in spec.aux:
        x, label = np.asarray(spec.aux["bias"]), "bias [V]"
    else:
        x, label = axis.values(), f"{axis.name} [{axis.units or 'channel'}]"
    quantity = spec.channels[0].quantity if spec.channels else "intensity"
    shown = f"{quantity} [{spec.units}]" if spec.units else quantity
    if "bias" in spec.aux and len(data) > 6:
        return loops(x, data.real, label, shown, "loop")
    note = f"{len(data)} measured" + ("; the red one is their median" if len(data) > 3 else "")
    return curves(x, data.real, label, shown, record.topic.replace("_", " "), note)


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
    return picture(values, f"{name} where it was measured", "", _pixel(scan), note=note)


def _places(map_: tuple[NDArray[Any], RecordedTopic], record: RecordedTopic) -> str:
    values, scan = map_
    y, x = scan.spec.nav
    if not x.scale or not y.scale:
        return ""
    places = record.column("position")
    points = (places - (x.offset, y.offset)) / (x.scale, y.scale)
    units = scan.spec.channels[0].units if scan.spec.channels else scan.spec.units
    note = f"{len(places)} places on {_title(scan, 0)}"
    return picture(values, "where spectra were measured", units, _pixel(scan), name="grey", points=points, note=note)
