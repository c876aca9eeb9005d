"""A map as a plug-in is given one: whether it can be read as such, and which of its channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from .axes import Axis, Kind, StreamSpec
from .errors import Problem, SettingsError


class MapInput(msgspec.Struct, frozen=True):
    """What `map_input` found. axes: (y, x). channel: its number where a pixel has several numbers, else None.

    units: of the values.
    """

    axes: tuple[Axis, Axis]
    channel: int | None = None
    units: str = ""

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx)."""
        return self.axes[0].size, self.axes[1].size

    def of(self, data: Any) -> Any:
        """Return the map (ny, nx) of `data`, (ny, nx) or (ny, nx, k), itself or a view."""
        return data if self.channel is None else data[..., self.channel]


def map_input(
    spec: StreamSpec,
    channel: str = "",
    *,
    wanted: str = "a 2D map of numbers",
    kinds: Sequence[Kind] = ("values", "image"),
    several: bool = True,
    real: bool = False,
    metres: bool = False,
) -> MapInput:
    """Return how a plug-in with `takes = "map"` reads its input; raises SettingsError, in words, where it can't.

    channel: by name, "" = the first. wanted: said to the user as what is allowed. kinds: of stream that will do.
    several: whether a pixel may have several numbers. real: no complex ones. metres: both axes must have a scale in
    metres.
    """
    axes = spec.sig if spec.kind == "image" else spec.nav
    inside = 0 if spec.kind == "image" else len(spec.frame_shape)
    plain = spec.kind in kinds and inside <= int(several) and not (real and spec.numpy_dtype.kind == "c")
    if len(axes) != 2 or not plain:
        what = f"{spec.name!r} has {len(axes)} scan axes and {spec.kind} of shape {spec.frame_shape}"
        if spec.numpy_dtype.kind == "c":
            what += ", complex"
        raise SettingsError([Problem("input", what, wanted)])
    if metres and not all(axis.scale and axis.units == "m" for axis in axes):
        what = f"{spec.name!r} has no scale in metres: a length can't be told"
        raise SettingsError([Problem("input", what, "a calibrated map")])
    names = [each.name for each in spec.channels]
    if channel and channel not in names:
        raise SettingsError([Problem("channel", f"no {channel!r} in {spec.name!r}", " | ".join(names) or "none")])
    number = names.index(channel) if channel else 0
    units = spec.channels[number].units if spec.channels else spec.units
    return MapInput((axes[0], axes[1]), number if inside else None, units)
