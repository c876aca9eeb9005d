"""Several things interesting at once: a weighted sum of scalarizers, each in units of its own scale."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from probeloop.api import ProbeloopError, Scalarizer, Settings, StreamSpec, load_scalarizer, quantity

Name = Annotated[str, msgspec.Meta(pattern="^[a-z][a-z0-9_]{0,63}$")]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A scalarizer by name, with its parameters. weight: of its value over `scale`, which is in its `units`."""

    use: Name
    weight: Annotated[float, quantity("", ge=-1e6, le=1e6)] = 1.0
    scale: Annotated[float, quantity("", gt=0, le=1e30)] = 1.0
    units: str = ""
    parameters: dict[str, Any] = {}


class WeightedSum(Scalarizer):
    """Sum of weight x value / scale over several scalarizers; invalid where one of them is.

    Its sigma takes the errors of the parts for independent.
    """

    remembers = True  # a part may

    class Parameters(Settings):
        """parts: of the sum."""

        parts: tuple[Part, ...] = (Part("loop_area"),)

        def problems(self) -> Iterable[str]:
            """Yield the parts that can't be made, and units that are not the scalarizer's own."""
            if not self.parts:
                yield "parts: name at least one scalarizer"
            for i, part in enumerate(self.parts):
                try:
                    made = load_scalarizer(part.use, part.parameters)
                except ProbeloopError as error:
                    yield f"parts[{i}]: {error}"
                    continue
                if made.units and part.units != made.units:
                    yield f"parts[{i}]: {part.use} is in {made.units}: say units = {made.units!r} beside its scale"

    def scalarize(self, spectrum: NDArray[Any], spec: StreamSpec) -> tuple[float, float, bool]:
        """Return (sum, sigma, valid); raises what a part raises, such as CalibrationError."""
        total, variance, valid = 0.0, 0.0, True
        for part, made in zip(self.parameters.parts, self._made(), strict=True):
            value, sigma, fine = made.scalarize(spectrum, spec)
            total += part.weight * value / part.scale
            variance += (part.weight * sigma / part.scale) ** 2
            valid = valid and fine
        return total, math.sqrt(variance) if variance >= 0 else math.nan, valid and bool(np.isfinite(total))

    def forget(self) -> None:
        """Let every part begin anew."""
        for made in self._made():
            made.forget()

    def _made(self) -> tuple[Any, ...]:
        """Return the parts' scalarizers, made anew when the parameters were changed."""
        now = (self.parameters, self.context)
        if self._of is None or self._of[0] is not now[0] or self._of[1] is not now[1]:
            self._parts = tuple(load_scalarizer(p.use, p.parameters, self.context) for p in self.parameters.parts)
            self._of = now
        return self._parts

    _parts: tuple[Any, ...] = ()
    _of: tuple[Any, Any] | None = None
