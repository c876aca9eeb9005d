"""Arrays of numpy: [y, x], and spectra along a third axis; a .json beside it may say the field of view."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from probeloop.api import Axis, Channel, ProbeloopError, SourceError, convert

from ..measured import Measured, little


def read(path: Path) -> list[Measured]:
    """Read one array without unpickling anything; raises SourceError."""
    data = np.load(path, allow_pickle=False)
    if data.ndim not in (2, 3, 4) or data.dtype.kind not in "iufc":
        raise SourceError(
            f"{path.name} holds {data.dtype} of shape {data.shape}", "a map (y, x), or (y, x, spectrum)"
        )
    step = _step(path.with_suffix(".json"), data.shape)
    data = little(data)
    if data.ndim == 2:
        return [Measured(path.stem, "maps", data[..., None], step, channels=(Channel("image", "image"),))]
    names = ("step",) if data.ndim == 3 else ("ky", "kx")
    sig = tuple(Axis(name, n, 1.0 if data.ndim == 3 else None) for name, n in zip(names, data.shape[2:], strict=True))
    return [Measured(path.stem, "spectra" if data.ndim == 3 else "frames", data, step, sig=sig)]


def _step(path: Path, shape: tuple[int, ...]) -> tuple[float, float] | None:
    """Return the pixel size (x, y) [m] from "field_of_view_x" and its like, wherever they are in the JSON."""
    if not path.exists():
        return None
    found = _find(json.loads(path.read_text(encoding="utf-8")))
    try:
        unit = str(found["field_of_view_units"])
        width = convert(float(found["field_of_view_x"]), unit, "m")
        height = convert(float(found["field_of_view_y"]), unit, "m")
    except (KeyError, ValueError, ProbeloopError):
        return None
    return width / shape[1], height / shape[0]


def _find(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        if "field_of_view_x" in value:
            return value
        for inner in value.values():
            if made := _find(inner):
                return made
    return {}
