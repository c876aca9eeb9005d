"""Pictures of what a plan has learned: the way it took, the map it made, what was true, which structures are high.

A plan whose summary holds "learned" has shown maps on topics of its own (the step Show); see `Learned.of`.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..data.control import StateChange
from ..data.errors import ProbeloopError
from .figures import curves, number, picture
from .maps import first_map, pixel_of, topic_title
from .png import colour, data_url, levels
from .reader import RecordedTopic
from .truth import SessionTruth

Array = NDArray[np.float64]
_PATCHES, _SHOWN = 24, 46  # how many, and how large each is drawn
_TITLES = {"prediction": "learned map", "uncertainty": "its uncertainty, one standard deviation"}


@dataclass(frozen=True)
class Learned:
    """What the newest such plan says.

    plan, scalarizer: names. topics: of its maps, by map. images: topics that it looked at. generation, shape: of the
    overview. measured: how many places.
    """

    plan: str
    scalarizer: str
    topics: dict[str, str]
    images: tuple[str, ...]
    generation: int
    shape: tuple[int, int]
    measured: int

    @classmethod
    def of(cls, plans: Sequence[StateChange]) -> Learned | None:
        """Return it, None where no plan has learned anything."""
        for event in reversed(plans):
            told = event.data.get("learned")
            try:
                if isinstance(told, dict) and told["generation"] is not None:
                    name = str(event.data["plan"])
                    ny, nx = told["shape"]
                    topics = {str(each): f"{name}.{each}" for each in told["maps"]}
                    images = tuple(map(str, told["images"]))
                    scalarizer, number = str(told["scalarizer"]), int(told["generation"])
                    measured = int(event.data["spectra_measured"])
                    return cls(name, scalarizer, topics, images, number, (ny, nx), measured)
            except (KeyError, TypeError, ValueError):
                continue
        return None


def learned_figures(
    learned: Learned, records: Sequence[RecordedTopic], places: Sequence[tuple[float, float, float]], session: Path
) -> list[str]:  # fmt: skip
    """Return the figures. places: (x, y) [m] and value of every measurement in its order, NaN = invalid."""
    places = places[len(places) - min(learned.measured, len(places)) :]
    maps = {name: found for name, topic in learned.topics.items() if (found := _newest(records, topic)) is not None}
    image = next((found for t in learned.images if (found := _overview(records, t, learned)) is not None), None)
    truth = _truth(session, learned.shape)
    frame = next(iter(maps.values()), None)
    made: list[str] = []
    grid = image[1] if image is not None else frame[1] if frame is not None else None
    if grid is None:
        return made
    pixels = _in_pixels(grid, places)
    values = np.array([value for _, _, value in places])
    units = frame[1].spec.units if frame is not None else ""
    if image is not None:
        title = f"the way over {topic_title(learned.images[0])}"
        made.append(_way(image[0], title, pixel_of(image[1]), pixels, values, units))
    prediction = maps["prediction"][0] if "prediction" in maps else None
    span = None
    if prediction is not None and truth is not None:
        low, high = (levels(each) for each in (prediction, truth))
        span = min(low[0], high[0]), max(low[1], high[1])
    for name, (data, record) in maps.items():
        note = f"{record.topic}, after {len(places)} measurements"
        colours = "inferno" if name == "uncertainty" else ""
        own = span if name == "prediction" else None
        title = _TITLES.get(name, name.replace("_", " "))
        figure = picture(data, title, record.spec.units, pixel_of(record), name=colours, note=note, span=own)
        if name == "prediction" and truth is not None:
            said = f"{learned.scalarizer} without noise, before the plan; correlation {_correlation(data, truth)}"
            figure += picture(truth, "truth", record.spec.units, pixel_of(record), note=said, span=own)
            figure = f'<div class="figures">{figure}</div>'  # side by side, however wide the page is
        made.append(figure)
    made.append(regret(values, pixels, truth, units))
    if prediction is not None and image is not None and image[0].shape == prediction.shape:
        made.append(ordered(image[0], prediction, units, learned.images[0]))
    return [figure for figure in made if figure]


def regret(values: Array, pixels: Array, truth: Array | None, units: str) -> str:
    """Return the curve of what is still missing to the best place against measurements.

    With a truth (ny, nx): its highest value less the highest true value at what was measured validly. Without: the
    best value so far.
    """
    if len(values) < 2:
        return ""
    valid = np.isfinite(values)
    x = np.arange(1.0, len(values) + 1)
    if truth is None:
        best = np.maximum.accumulate(np.where(valid, values, -np.inf))
        y, title = np.where(np.isfinite(best), best, np.nan), "best value so far"
        note = f"{int(valid.sum())} valid of {len(values)}"
    else:
        rows, columns = (np.clip(np.rint(pixels[:, k]).astype(int), 0, truth.shape[1 - k] - 1) for k in (1, 0))
        there = np.where(valid, truth[rows, columns], np.nan)
        best = np.maximum.accumulate(np.where(np.isfinite(there), there, -np.inf))
        y = np.where(np.isfinite(best), np.nanmax(truth) - best, np.nan)
        share = np.nanquantile(truth, 0.99)
        hits = int((there >= share).sum())
        title = "regret: the highest true value less the best one measured"
        note = (
            f"{hits} of {len(values)} measurements lie in the true top 1 %; by chance {len(values) / 100:.1f} would"
        )
    label = f"{'value' if truth is None else 'regret'} [{units}]" if units else "value" if truth is None else "regret"
    return curves(x, y[None], "measurements", label, title, note)


def ordered(image: Array, prediction: Array, units: str, topic: str) -> str:
    """Return patches of the image (ny, nx), from the lowest to the highest predicted value, as one figure."""
    half = max(2, min(8, min(image.shape) // 12))
    chosen = _apart(prediction, half)
    if len(chosen) < 4:
        return ""
    low, high = levels(image)
    across = 8
    cell_x, cell_y = _SHOWN + 6, _SHOWN + 20
    body = []
    largest = max(abs(float(prediction[at])) for at in chosen)
    power = 3 * math.floor(math.log10(largest) / 3) if largest else 0
    power = 0 if power in (-3, 0) else power
    for k, (row, column) in enumerate(chosen):
        y, x = divmod(k, across)
        patch = image[row - half : row + half + 1, column - half : column + half + 1]
        at = f'x="{x * cell_x}" y="{y * cell_y}"'
        url = data_url(colour(patch, low, high, "grey"))
        body.append(
            f'<image href="{url}" {at} width="{_SHOWN}" height="{_SHOWN}" style="image-rendering:pixelated"/>'
        )
        value = f"{float(prediction[row, column]) / 10.0**power:.3g}"
        body.append(
            f'<text x="{x * cell_x + _SHOWN / 2}" y="{y * cell_y + _SHOWN + 13}" text-anchor="middle">{value}</text>'
        )
    width, height = across * cell_x, -(-len(chosen) // across) * cell_y
    told = " ".join(word for word in (f"1e{power}" if power else "", units) if word)
    note = f"{2 * half + 1} × {2 * half + 1} pixels of {topic} each, the predicted value below"
    note += f" [{told}]" if told else ""
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" width="{width}" height="{height}">{"".join(body)}</svg>'
        "<figcaption>structure and property: from low to high"
        f"<small>{html.escape(note)}</small></figcaption></figure>"
    )


def _apart(prediction: Array, half: int) -> list[tuple[int, int]]:
    """Return places in even steps of rank from the lowest to the highest value; patches share half at most."""
    ny, nx = prediction.shape
    inner = prediction[half : ny - half, half : nx - half]
    if not inner.size or not np.isfinite(inner).any():
        return []
    order = np.argsort(np.where(np.isfinite(inner), inner, np.nan), axis=None)[: int(np.isfinite(inner).sum())]
    free = np.ones(inner.shape, bool)
    found: dict[int, tuple[int, int]] = {}
    # the highest first: they are what was looked for, and take their places before the many low ones
    for rank in np.linspace(len(order) - 1, 0, _PATCHES).astype(int):
        for at in sorted(range(max(0, rank - len(order) // _PATCHES), rank + 1), reverse=True):
            row, column = divmod(int(order[at]), inner.shape[1])
            if free[row, column] and at not in found:
                found[at] = row + half, column + half
                reach = half
                free[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1] = False
                break
    return [found[at] for at in sorted(found)]


def _way(
    image: Array, title: str, pixel: tuple[float, float] | None, pixels: Array, values: Array, units: str
) -> str:  # fmt: skip
    """Return the image with what was measured on it: a line in its order, colour by value, a cross where invalid."""
    valid = np.isfinite(values)
    low, high = levels(values) if valid.any() else (0.0, 1.0)
    shades = colour(np.where(valid, values, np.nan)[None], low, high, "viridis")[0]

    def over(sx: float, sy: float) -> str:
        places = [((x + 0.5) * sx, (y + 0.5) * sy) for x, y in pixels]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        body = [f'<polyline points="{line}" fill="none" stroke="#fff" stroke-width="0.7" opacity="0.3"/>']
        for (x, y), shade, good in zip(places, shades, valid, strict=True):
            if good:
                fill = "#" + "".join(f"{int(v):02x}" for v in shade)
                body.append(
                    f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{fill}" stroke="#fff" stroke-width="0.8"/>'
                )
            else:
                cross = f"M{x - 3:.1f},{y - 3:.1f}l6,6m0,-6l-6,6"
                body.append(f'<path d="{cross}" stroke="#ff6b5e" stroke-width="1.6" fill="none"/>')
        if places:
            x, y = places[0]
            body.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="none" stroke="#ffb000" stroke-width="1.6"/>')
        return "".join(body)

    span = f"{number(low, units)} (dark) to {number(high, units)} (bright)" if valid.any() else "no valid value"
    note = f"{len(values)} measured, coloured by value, {span}; ring: the first"
    note += f"; crosses: {int((~valid).sum())} invalid" if not valid.all() else ""
    return picture(image, title, "", pixel, name="grey", note=note, over=over)


def _newest(records: Sequence[RecordedTopic], topic: str) -> tuple[Array, RecordedTopic] | None:
    """Return the last map of a topic of pictures."""
    found = [record for record in records if record.topic == topic and not record.is_scan]
    try:
        if not found or not len(found[-1]):
            return None
        record = found[-1]
        return record.data(len(record) - 1, len(record))[0].astype(np.float64), record
    except ProbeloopError:
        return None


def _overview(
    records: Sequence[RecordedTopic], topic: str, learned: Learned
) -> tuple[Array, RecordedTopic] | None:  # fmt: skip
    """Return the overview's map on a topic, be it a scan or pictures."""
    for record in records:
        try:
            if record.topic != topic:
                continue
            if record.is_scan and record.generation == learned.generation and record.spec.kind == "values":
                return first_map(record), record
            if not record.is_scan and record.spec.kind == "image":
                at = np.flatnonzero(record.column("generation") == learned.generation)
                if len(at):
                    data = record.data(int(at[-1]), int(at[-1]) + 1)[0]
                    return np.asarray(np.abs(data) if data.dtype.kind == "c" else data, np.float64), record
        except ProbeloopError:
            continue
    return None


def _in_pixels(record: RecordedTopic, places: Sequence[tuple[float, float, float]]) -> Array:
    """Return places as (x, y) in pixels of a map, (N, 2)."""
    axes = record.spec.sig if record.spec.kind == "image" else record.spec.nav
    y, x = axes[-2], axes[-1]
    at = np.array([(px, py) for px, py, _ in places]).reshape(-1, 2)
    return np.asarray((at - (x.offset, y.offset)) / (x.scale or 1.0, y.scale or 1.0), np.float64)


def _truth(session: Path, shape: tuple[int, int]) -> Array | None:
    """Return what a simulator says the map is, (ny, nx)."""
    try:
        values = SessionTruth(session).values("learned").get("value")
    except ProbeloopError:
        return None
    good = isinstance(values, np.ndarray) and values.shape == tuple(shape) and bool(np.isfinite(values).any())
    return np.asarray(values, np.float64) if good else None


def _correlation(a: Array, b: Array) -> str:
    good = np.isfinite(a) & np.isfinite(b)
    if good.sum() < 3 or not a[good].std() or not b[good].std():
        return "–"
    found = float(np.corrcoef(a[good], b[good])[0, 1])
    return f"{found:.2f}" if math.isfinite(found) else "–"
