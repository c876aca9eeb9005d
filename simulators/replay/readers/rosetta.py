"""Whatever RosettaSciIO opens: .dm3 .dm4 .emd .mrc .mib .blo .hspy .zspy ..."""

from __future__ import annotations

import importlib
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from probeloop.api import Axis, Channel, ProbeloopError, SourceError, convert

from ..measured import Measured, little

_SI = {"eV": "eV", "keV": "eV"}


def read(path: Path) -> list[Measured]:
    """Read every signal of a file that has pixels or spectra; raises SourceError."""
    import rsciio

    suffix = path.suffix[1:].lower()
    plugins = [p["api"] for p in rsciio.IO_PLUGINS if suffix in p["file_extensions"]]
    if not plugins:
        raise SourceError(
            f"{path.name}: no reader for .{suffix} files", "give a format of RosettaSciIO, or .h5 .ibw .npy"
        )
    faults: list[Exception] = []
    for plugin in sorted(plugins):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                logging.getLogger("rsciio").setLevel(logging.CRITICAL)
                signals = importlib.import_module(plugin).file_reader(str(path))
        except Exception as error:  # a format has several readers; the first that can wins
            faults.append(error)
            continue
        return [made for signal in signals if (made := _measured(path, signal)) is not None]
    raise faults[0]


def _measured(path: Path, signal: dict[str, Any]) -> Measured | None:
    data = np.asarray(signal["data"])
    axes = [axis for axis in signal["axes"] if "size" in axis]
    title = str(signal.get("metadata", {}).get("General", {}).get("title") or path.stem)
    if data.dtype.kind not in "iufc" or data.ndim != len(axes) or not data.ndim:
        return None
    nav = [i for i, axis in enumerate(axes) if axis.get("navigate")]
    sig = [i for i in range(data.ndim) if i not in nav]
    if not nav and len(sig) == 2 and not _reciprocal(axes[sig[0]]):  # an image: its pixels are the places
        nav, sig = sig, []
    if len(nav) > 2 or len(sig) > 2:
        return None
    data = little(np.transpose(data, (*nav, *sig)))
    data = data.reshape((1,) * (2 - len(nav)) + data.shape)
    steps = [_length(axes[i]) for i in nav] or [None]
    steps = steps if len(steps) == 2 else [steps[0], steps[0]]
    known = all(s is not None and s[0] > 0 for s in steps)
    step = (steps[1][0], steps[0][0]) if known else None  # type: ignore[index]
    origin = (steps[1][1], steps[0][1]) if known else (0.0, 0.0)  # type: ignore[index]
    quantity = str(signal.get("metadata", {}).get("Signal", {}).get("quantity", "") or "intensity")
    if not sig:
        return Measured(title, "maps", data[..., None], step, origin, (Channel("image", quantity),))
    kind: Any = "spectra" if len(sig) == 1 else "frames"
    names = ("energy",) if len(sig) == 1 else ("ky", "kx")
    made = tuple(_axis(axes[i], name) for i, name in zip(sig, names, strict=True))
    return Measured(title, kind, data, step, origin, (), made, {}, "counts")


def _reciprocal(axis: dict[str, Any]) -> bool:
    units = str(axis.get("units", ""))
    return "1/" in units or "-1" in units or "rad" in units


def _length(axis: dict[str, Any]) -> tuple[float, float] | None:
    try:
        metre = convert(1.0, str(axis.get("units") or "-").replace("μ", "µ"), "m")
    except ProbeloopError:
        return None
    return float(axis.get("scale", 0.0)) * metre, float(axis.get("offset", 0.0)) * metre


def _axis(axis: dict[str, Any], name: str) -> Axis:
    units, size = str(axis.get("units") or ""), int(axis["size"])
    for unit, si in (("eV", "eV"), ("rad", "rad"), ("1/m", "1/m"), ("m", "m")):
        try:
            factor = convert(1.0, units, si)
        except ProbeloopError:
            continue
        return Axis(name, size, float(axis.get("scale", 1.0)) * factor, float(axis.get("offset", 0.0)) * factor, unit)
    return Axis(name, size)
