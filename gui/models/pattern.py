"""The newest detector frame, and the annulus that a person drags over it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probeloop.api import FrameBlock, FrameFlag, ProbeloopError, StreamSpec, convert

from .maps import Extent, extent_of


class NewestFrame:
    """The newest frame of a topic, copied, so that it may be looked at for as long as one likes."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.spec: StreamSpec | None = None
        self.data: NDArray[Any] | None = None
        self.version = 0
        self.generation = -1
        self.scan_index = -1
        self.position: tuple[float, float] | None = None
        self.settling = False
        self.exposed_ns = 0

    def take(self, block: FrameBlock) -> None:
        """Copy the last frame of a block."""
        if not block.count:
            return
        self.spec, self.data = block.spec, np.array(block.data[-1])
        self.generation, self.scan_index = block.generation, int(block.scan_index[-1])
        x, y = (float(v) for v in block.position[-1])
        self.position = (x, y) if np.isfinite(x) and np.isfinite(y) else None
        self.settling = bool(int(block.frame_flags[-1]) & int(FrameFlag.SETTLING))
        self.exposed_ns = block.exposed_ns or block.published_ns
        self.version += 1

    def picture(self, logarithmic: bool) -> tuple[NDArray[Any], Extent] | None:
        """Return the frame (ky, kx), log10(1 + counts) if wished, and its extent; None where it is no picture."""
        data, spec = self.data, self.spec
        if data is None or spec is None:
            return None
        while data.ndim > 2:
            data = data[0]
        if data.ndim != 2 or len(spec.sig) < 2:
            return None
        if np.iscomplexobj(data):
            data = np.abs(data)
        if logarithmic:
            data = np.log10(1.0 + np.clip(data, 0, None), dtype=np.float32)
        return data, extent_of(spec.sig)


@dataclass(frozen=True)
class Annulus:
    """A ring in the extent's units of the pattern: centre (x, y), inner and outer radius."""

    x: float
    y: float
    inner: float
    outer: float

    def resized(self, *, inner: float | None = None, outer: float | None = None, gap: float = 0.0) -> Annulus:
        """Return the ring with a new radius; the one that moves stays `gap` short of the other."""
        if inner is not None:
            return Annulus(self.x, self.y, min(max(0.0, inner), self.outer - gap), self.outer)
        if outer is not None:
            return Annulus(self.x, self.y, self.inner, max(outer, self.inner + gap))
        return self


@dataclass(frozen=True)
class AnnularControl:
    """A plug-in whose `inner` and `outer` can be dragged: which, in what unit, how far they may go."""

    plugin: str
    unit: str
    inner: float | None
    outer: float | None
    least: float
    most: float


def annular_control(name: str, schema: Mapping[str, Any], values: Mapping[str, Any]) -> AnnularControl | None:
    """Return the control of a plug-in with two radii called inner and outer in one unit, else None."""
    fields = schema.get("properties", {})
    if not {"inner", "outer"} <= set(fields) or not {"inner", "outer"} <= set(values):
        return None
    inner, outer = fields["inner"], fields["outer"]
    if inner.get("unit", "") != outer.get("unit", ""):
        return None
    at = [values["inner"], values["outer"]]
    if any(value is not None and not isinstance(value, int | float) for value in at):
        return None
    least = float(inner.get("minimum", inner.get("exclusiveMinimum", 0.0)))
    most = float(outer.get("maximum", outer.get("exclusiveMaximum", np.inf)))
    return AnnularControl(name, str(inner.get("unit", "")), at[0], at[1], least, most)


DARK_FIELD = 2.4


def ring_of(
    control: AnnularControl, extent: Extent, centre: tuple[float, float], convergence: float | None
) -> Annulus | None:
    """Return where a control's ring lies on a frame; None when the frame's angles are uncalibrated.

    Left out: from 2.4 convergence angles to the detector's edge (CONVENTIONS.md 2), as the plug-in has it.
    """
    radii = [
        None if value is None else units_to_radius(float(value), control.unit, extent.units, convergence)
        for value in (control.inner, control.outer)
    ]
    inner, outer = radii
    if control.inner is None:
        inner = DARK_FIELD * convergence if convergence and extent.units == "rad" else None
    if control.outer is None:
        x, y = centre
        outer = min(x - extent.x, extent.x + extent.width - x, y - extent.y, extent.y + extent.height - y)
    return None if inner is None or outer is None else Annulus(*centre, inner, max(outer, inner))


def radius_to_units(radius: float, pattern_units: str, unit: str, convergence: float | None) -> float | None:
    """Return a radius of the pattern (its extent's units) in the unit of a parameter; None when uncalibrated.

    convergence: half angle [rad]; a parameter without a unit counts in multiples of it (CONVENTIONS.md 2).
    """
    if unit in ("", "alpha"):
        return radius / convergence if convergence and pattern_units == "rad" else None
    if unit == pattern_units:
        return radius
    try:
        return float(convert(radius, pattern_units, unit))
    except ProbeloopError:
        return None


def units_to_radius(value: float, unit: str, pattern_units: str, convergence: float | None) -> float | None:
    """Return a parameter as a radius of the pattern, the inverse of `radius_to_units`."""
    one = radius_to_units(1.0, pattern_units, unit, convergence)
    return value / one if one else None
