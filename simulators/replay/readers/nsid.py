"""HDF5 of sidpy/pyNSID: datasets with dimension scales, stored in any order, mostly [x, y]."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probeloop.api import Axis, ProbeloopError, SourceError, convert

from ..measured import Measured, little, phase_in_radian, snake, spm_channel


def read(path: Path) -> list[Measured]:
    """Read the images (as channels of one map) and every spectral image; raises SourceError."""
    import h5py

    images: dict[tuple[int, ...], list[tuple[str, str, NDArray[Any]]]] = {}
    scales: dict[tuple[int, ...], tuple[tuple[float, float], tuple[float, float]]] = {}
    found: list[Measured] = []
    with h5py.File(path, "r") as file:
        for name in _main_datasets(file):
            dataset = file[name]
            axes = [_axis(dataset, i) for i in range(dataset.ndim)]
            x, y = _place_of(axes, "x"), _place_of(axes, "y")
            if x is None or y is None:
                continue
            rest = [i for i in range(dataset.ndim) if i not in (x, y)]
            data = little(np.transpose(dataset[()], (y, x, *rest)))
            quantity = _text(dataset.attrs.get("quantity", "")) or name.rsplit("/", 1)[-1]
            units = _text(dataset.attrs.get("units", ""))
            scale = _scale(axes[x], axes[y])
            if rest:
                found.append(_spectra(name, data, axes, rest, quantity, units, scale))
                continue
            if scale is not None:
                scales.setdefault(data.shape, scale)
            images.setdefault(data.shape, []).append((quantity, units, data))
    for shape, group in images.items():
        found.append(_maps(path.stem, group, scales.get(shape)))
    if not found:
        raise SourceError(f"{path.name} holds no sidpy/pyNSID dataset with x and y", "is it another kind of HDF5?")
    return found


def _main_datasets(file: Any) -> list[str]:
    import h5py

    names: list[str] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim >= 2 and "DIMENSION_LABELS" in item.attrs:
            names.append(name)

    file.visititems(visit)
    return sorted(
        names, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
    )


def _axis(dataset: Any, i: int) -> tuple[str, str, NDArray[np.float64] | None]:
    """Return (name, units, values) of a dimension."""
    label = _text(dataset.attrs["DIMENSION_LABELS"][i])
    scales = dataset.dims[i]
    if not len(scales):
        return label, "", None
    values = np.asarray(scales[0][()], np.float64)
    return label, _text(scales[0].attrs.get("units", "")), values if values.shape == (dataset.shape[i],) else None


def _place_of(axes: list[tuple[str, str, NDArray[np.float64] | None]], letter: str) -> int | None:
    return next((i for i, axis in enumerate(axes) if axis[0].strip().lower() == letter), None)


def _scale(x: Any, y: Any) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Return (step, origin) in metres, or None: a phase channel calls the units of its places "deg"."""
    made = []
    for _, units, values in (x, y):
        if values is None or len(values) < 2:
            return None
        try:
            metre = convert(1.0, units, "m")
        except ProbeloopError:
            return None
        step = (values[-1] - values[0]) / (len(values) - 1)
        if step <= 0 or not np.allclose(np.diff(values), step, rtol=1e-3):
            return None
        made.append((float(step * metre), float(values[0] * metre)))
    return (made[0][0], made[1][0]), (made[0][1], made[1][1])


def _spectra(
    name: str, data: NDArray[Any], axes: list[Any], rest: list[int], quantity: str, units: str, scale: Any
) -> Measured:
    sig, aux = [], {}
    for i in rest:
        label, unit, values = axes[i]
        n = data.shape[2 + rest.index(i)]
        steps = np.diff(values) if values is not None and n > 1 else np.empty(0)
        if len(steps) and np.allclose(steps, steps[0], rtol=1e-3, atol=0):
            sig.append(Axis(snake(label), n, float(steps[0]), float(values[0]), unit))
            continue
        sig.append(Axis("step", n, 1.0))  # a waveform: uniform steps, and what was applied at each
        if values is not None:
            aux["bias" if unit.endswith("V") else snake(label)] = tuple(float(v) for v in values)
    step, origin = scale if scale is not None else (None, (0.0, 0.0))
    channel = spm_channel(quantity, units)
    kind: Any = "spectra" if len(rest) == 1 else "frames"
    return Measured(name, kind, data, step, origin, (channel,), tuple(sig), aux, units)


def _maps(name: str, group: list[tuple[str, str, NDArray[Any]]], scale: Any) -> Measured:
    channels = tuple(spm_channel(q, "rad" if "phase" in q.lower() else u) for q, u, _ in group)
    stack = np.stack([phase_in_radian(quantity, data) for quantity, _, data in group], axis=-1)
    step, origin = scale if scale is not None else (None, (0.0, 0.0))
    return Measured(name, "maps", np.ascontiguousarray(stack), step, origin, channels)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
