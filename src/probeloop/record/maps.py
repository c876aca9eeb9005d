"""Pictures of recorded maps: each channel as its kind of quantity is usually shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.axes import Channel
from .figures import PHASE, picture, vectors
from .reader import RecordedTopic

_COUNTS = ("e", "counts", "electrons")
_ANGLES = ("deflection", "angle", "tilt")  # in rad, and no phase


def pixel_of(record: RecordedTopic) -> tuple[float, float] | None:
    """Return the size of a pixel (x, y) [m], None where it is not known."""
    axes = record.spec.sig if record.spec.kind == "image" else record.spec.nav
    if len(axes) != 2:
        return None
    y, x = axes
    return (abs(x.scale), abs(y.scale)) if x.scale and y.scale and x.units == "m" else None


def shown(values: NDArray[Any], record: RecordedTopic) -> NDArray[Any]:
    """Return the map with what was not measured as NaN, real numbers as float64."""
    made = values.astype(np.complex128 if values.dtype.kind == "c" else np.float64)
    return np.where(record.present, made, np.nan)


def first_map(record: RecordedTopic) -> NDArray[np.float64]:
    """Return the first channel of a map, complex as its modulus."""
    data = record.data()
    made = shown(data[..., 0] if data.ndim == 3 else data, record)
    return np.abs(made) if made.dtype.kind == "c" else made


def title_of(record: RecordedTopic, k: int = 0) -> str:
    """Return what a channel is called."""
    channels = record.spec.channels
    return channels[k].name.replace("_", " ") if k < len(channels) else topic_title(record.topic)


def topic_title(topic: str) -> str:
    """Return what a topic is called: its plug-in's name where its output says nothing more."""
    instance, _, output = topic.rpartition(".")
    words = instance if instance and output in ("value", "phase", "power") else topic
    return words.replace("_", " ").replace(".", " ")


def map_figures(record: RecordedTopic) -> list[str]:
    """Return the pictures of a scan's values: (ny, nx) or (ny, nx, channels)."""
    data, spec = record.data(), record.spec
    measured = int(record.present.sum())
    ny, nx = spec.nav_shape
    note = f"{record.topic}, generation {record.generation}, {nx} × {ny} pixels, {measured:,} frames"
    note += "" if measured == nx * ny else f", {measured / (nx * ny):.0%} measured"
    if data.ndim == 2:
        channel = spec.channels[0] if spec.channels else Channel("", "", spec.units)
        return list(_channel(shown(data, record), channel, record, title_of(record), note))
    made: list[str] = []
    done: set[int] = set()
    for k, channel in enumerate(spec.channels):
        if k in done or (channel.direction == "retrace" and _traced(channel, spec.channels)):
            continue
        partner = _partner(k, spec.channels)
        if partner is not None and data.dtype.kind != "c":
            done.add(partner)
            pair = shown(data[..., k], record), shown(data[..., partner], record)
            what = channel.quantity or topic_title(record.topic)
            made.append(vectors(*pair, what, channel.units, pixel_of(record), note))
            continue
        made += _channel(shown(data[..., k], record), channel, record, title_of(record, k), note)
    return made


def _traced(channel: Channel, channels: tuple[Channel, ...]) -> bool:
    """True where the other direction of the same is there: one picture is enough."""
    name = channel.name.removesuffix("_retrace")
    return any(
        c.direction == "trace" and c.quantity == channel.quantity and c.name.removesuffix("_trace") == name
        for c in channels
    )


def _partner(k: int, channels: tuple[Channel, ...]) -> int | None:
    """Return the y component to the x component at k."""
    for j, other in enumerate(channels):
        same = (other.quantity, other.units, other.direction) == (
            channels[k].quantity,
            channels[k].units,
            channels[k].direction,
        )
        if same and channels[k].name.startswith("x") and other.name == "y" + channels[k].name[1:]:
            return j
    return None


def _channel(values: NDArray[Any], channel: Channel, record: RecordedTopic, title: str, note: str) -> Iterator[str]:
    """Yield the picture of a channel; of a complex one amplitude and phase, of a height without its plane."""
    pixel, units, quantity = pixel_of(record), channel.units or record.spec.units, channel.quantity
    if values.dtype.kind == "c" and not _is_height(channel) and np.any(np.nan_to_num(values.imag)):
        yield picture(np.abs(values), f"{title}, amplitude", units, pixel, note=note)
        yield picture(np.angle(values), f"{title}, phase", PHASE, pixel, name="phase", note=note, turn=2 * np.pi)
        return
    values = values.real
    if _is_height(channel):
        yield picture(without_plane(values), title, units, pixel, name="height", note=f"{note}, a plane taken out")
    elif quantity == "phase" or units == "deg" or (units == "rad" and quantity not in _ANGLES):
        turn = 360.0 if units == "deg" else 2 * np.pi
        yield picture(values, title, units.replace("rad", PHASE), pixel, name="phase", note=note, turn=turn)
    elif units == "rad":
        yield picture(values, title, units, pixel, name="signed", note=note)
    else:
        yield picture(values, title, units, pixel, name="grey" if units in _COUNTS else "", note=note)


def _is_height(channel: Channel) -> bool:
    words = channel.quantity.lower(), channel.name.lower()
    return channel.units == "m" and any(word.startswith(("height", "topography")) for word in words)


def without_plane(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a height map (ny, nx) less its least-squares plane; NaN stays NaN."""
    good = np.isfinite(values)
    if good.sum() < 3:
        return values
    grid = np.indices(values.shape)
    y, x = grid[0], grid[1]
    columns = np.stack([x[good], y[good], np.ones(int(good.sum()))], axis=1)
    fitted: NDArray[np.float64] = np.linalg.lstsq(columns, values[good], rcond=None)[0]
    a, b, c = fitted.tolist()
    return np.asarray(values - (a * x + b * y + c))
