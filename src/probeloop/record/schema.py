"""HyperSpy's `.zspy` tree (Zarr 2 as plain JSON and bytes), as dictionaries: nothing is written here.

Pinned by tests against what HyperSpy itself saves and loads; format read from RosettaSciIO 0.15
(`rsciio/_hierarchical.py`, file_format_version 3.3).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..data.axes import Axis, StreamSpec
from ..data.errors import RecordError

FILE_FORMAT_VERSION = "3.3"
CHUNK_BYTES = 8 << 20
SPLIT_ROW_BYTES = 2 * CHUNK_BYTES
COLUMN_CHUNK_BYTES = 1 << 20
COMPRESSOR = {"id": "blosc", "cname": "lz4", "clevel": 1, "shuffle": 2, "blocksize": 0}
HYPERSPY_UNITS = {"m": ("nm", 1e9), "rad": ("mrad", 1e3), "1/m": ("1/nm", 1e-9), "rad/px": ("mrad/px", 1e3)}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,119}")


@dataclass(frozen=True)
class Column:
    """A per-frame number kept beside the data."""

    name: str
    dtype: str
    fill: float | int | bool
    shape: tuple[int, ...] = ()


COLUMNS = (
    Column("index", "<i8", -1),
    Column("time_ns", "<i8", 0),
    Column("position", "<f8", math.nan, (2,)),
    Column("dose", "<f8", math.nan),
    Column("frame_flags", "<u2", 0),
    Column("revision", "<i8", -1),
)
POINT_COLUMNS = (*COLUMNS, Column("generation", "<i8", 0), Column("scan_index", "<i8", -1))


@dataclass(frozen=True)
class Layout:
    """Where an array's axes are: `lead` + `nav` + `trail` on disk, `nav` + `lead` + `trail` as frames.

    Channels of a map come first on disk, as HyperSpy shows a stack of images. chunk_nav: whole rows of the first
    scan axis, or (a row over 16 MiB) a part of one row.
    """

    lead: tuple[int, ...]
    nav: tuple[int, ...]
    trail: tuple[int, ...]
    chunk_nav: tuple[int, ...]
    dtype: np.dtype[Any]
    fill: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape on disk."""
        return self.lead + self.nav + self.trail

    @property
    def chunks(self) -> tuple[int, ...]:
        """Shape of a chunk on disk."""
        return self.lead + self.chunk_nav + self.trail

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of one frame."""
        return self.lead + self.trail

    @property
    def chunk_cells(self) -> int:
        """Frames in a chunk."""
        return math.prod(self.chunk_nav)


def chunk_nav(nav: tuple[int, ...], frame_bytes: int, target: int = CHUNK_BYTES) -> tuple[int, ...]:
    """Return how many of each scan axis make a chunk of about `target` bytes."""
    row = max(1, math.prod(nav[1:]) * frame_bytes)
    if len(nav) > 1 and row > SPLIT_ROW_BYTES:
        cells = max(1, min(nav[-1], target // max(1, frame_bytes)))
        return (1,) * (len(nav) - 1) + (cells,)
    return (max(1, min(nav[0] or 1, target // row)), *nav[1:])


def data_layout(spec: StreamSpec, rows: int | None = None) -> Layout:
    """Return the layout of a stream's data: a map over its scan axes, or `rows` point measurements.

    Raises RecordError for kinds that HyperSpy's format has no place for.
    """
    if spec.kind in ("table", "ragged"):
        raise RecordError(f"{spec.name!r} is a {spec.kind}, which is no array", "it is recorded another way, or not")
    frame, dtype = spec.frame_shape, spec.numpy_dtype
    nav = spec.nav_shape if rows is None else (rows,)
    stacked = rows is None and spec.kind == "values" and len(frame) == 1
    lead, trail = (frame, ()) if stacked else ((), frame)
    if rows is None:
        chunk = chunk_nav(nav, spec.frame_bytes)
    else:
        chunk = (max(1, min(4096, COLUMN_CHUNK_BYTES // max(1, spec.frame_bytes))),)
    return Layout(lead, nav, trail, chunk, dtype, fill_of(dtype))


def column_layout(column: Column, nav: tuple[int, ...], growing: bool) -> Layout:
    """Return the layout of a column over the same scan axes."""
    dtype = np.dtype(column.dtype)
    size = dtype.itemsize * math.prod(column.shape)
    chunk = (4096,) if growing else chunk_nav(nav, size, COLUMN_CHUNK_BYTES)
    return Layout((), nav, column.shape, chunk, dtype, column.fill)


def fill_of(dtype: np.dtype[Any]) -> Any:
    """Return what an unwritten cell reads as: NaN where the type has one."""
    return math.nan if np.issubdtype(dtype, np.inexact) else 0


def filled(layout: Layout) -> NDArray[Any]:
    """Return an empty chunk in frame order, (cells, *frame_shape)."""
    shape = (layout.chunk_cells, *layout.frame_shape)
    return np.zeros(shape, layout.dtype) if layout.fill == 0 else np.full(shape, layout.fill, layout.dtype)


def zarray(layout: Layout, shape: tuple[int, ...] | None = None) -> dict[str, Any]:
    """Return the `.zarray` of a layout."""
    return {
        "zarr_format": 2,
        "shape": list(layout.shape if shape is None else shape),
        "chunks": list(layout.chunks),
        "dtype": layout.dtype.str,
        "compressor": COMPRESSOR,
        "fill_value": _fill_json(layout),
        "filters": None,
        "order": "C",
        "dimension_separator": "/",
    }


def _fill_json(layout: Layout) -> Any:
    value: Any = layout.fill
    if isinstance(value, float) and math.isnan(value):
        value = "NaN"
    if layout.dtype.kind == "b":
        return bool(value)
    return [value, value] if layout.dtype.kind == "c" else value


def axis_attrs(axis: Axis, navigate: bool) -> dict[str, Any]:
    """Return HyperSpy's attributes of an axis, in its default units; an uncalibrated one has none."""
    units, factor = HYPERSPY_UNITS.get(axis.units, (axis.units, 1.0))
    known = axis.scale is not None
    return {
        "_type": "UniformDataAxis",
        "name": axis.name or "_None_",
        "size": axis.size,
        "scale": round_trip(axis.scale * factor) if axis.scale is not None else 1.0,
        "offset": round_trip(axis.offset * factor) if known else 0.0,
        "units": (units or "_None_") if known else "_None_",
        "navigate": navigate,
        "is_binned": False,
    }


def round_trip(value: float) -> float:
    """Return `value` without the dust that a factor of 1e9 leaves in its last digits (15 are kept)."""
    return float(f"{value:.15g}")


def axes_of(spec: StreamSpec, points: int | None = None) -> list[dict[str, Any]]:
    """Return every axis on disk, slowest first: a map is a signal, a scan of frames navigates."""
    frame = spec.frame_shape
    channels = [Axis("channel", len(spec.channels), 1.0)] if len(spec.channels) > 1 else []
    sig = list(spec.sig)
    if points is not None:
        first = [axis_attrs(Axis("point", points, 1.0), navigate=bool(frame))]
        rest = [axis_attrs(a, navigate=bool(sig)) for a in channels]
        return first + rest + [axis_attrs(a, navigate=False) for a in sig]
    nav = list(spec.nav)
    if sig:
        return [axis_attrs(a, True) for a in nav + channels] + [axis_attrs(a, False) for a in sig]
    cut = max(0, len(nav) - 2)
    images = [axis_attrs(a, True) for a in nav[:cut]] + [axis_attrs(a, False) for a in nav[cut:]]
    return [axis_attrs(a, True) for a in channels] + images


def tree(name: str, branch: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (path, JSON) of the groups and attributes of a metadata tree; None is HyperSpy's "_None_"."""
    yield f"{name}/.zgroup", {"zarr_format": 2}
    leaves = {k: "_None_" if v is None else v for k, v in branch.items() if not isinstance(v, Mapping)}
    if leaves:
        yield f"{name}/.zattrs", leaves
    for key, value in branch.items():
        if isinstance(value, Mapping):
            yield from tree(f"{name}/{key}", value)


def skeleton(
    title: str, axes: list[dict[str, Any]], metadata: Mapping[str, Any], original: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return every JSON file of an empty `.zspy` by its path, arrays left out."""
    group = f"Experiments/{experiment(title)}"
    files: dict[str, dict[str, Any]] = {
        ".zgroup": {"zarr_format": 2},
        ".zattrs": {"file_format": "ZSpy", "file_format_version": FILE_FORMAT_VERSION},
        "Experiments/.zgroup": {"zarr_format": 2},
        f"{group}/.zgroup": {"zarr_format": 2},
        f"{group}/.zattrs": {"package": "hyperspy", "package_version": "2.5.0"},
        f"{group}/learning_results/.zgroup": {"zarr_format": 2},
    }
    files.update(tree(f"{group}/attributes", {"_lazy": False, "ragged": False}))
    for i, attrs in enumerate(axes):
        files.update(tree(f"{group}/axis-{i}", attrs))
    files.update(tree(f"{group}/metadata", metadata))
    files.update(tree(f"{group}/original_metadata", original))
    return files


def metadata_of(spec: StreamSpec, extra: Mapping[str, Any], date: str, time: str) -> dict[str, Any]:
    """Return HyperSpy's metadata of a stream; `extra` goes below `Probeloop`."""
    quantity = next((c.quantity for c in spec.channels if c.quantity), spec.name) if len(spec.channels) < 2 else ""
    units = spec.units or (spec.channels[0].units if len(spec.channels) == 1 else "")
    return {
        "General": {"title": spec.name, "date": date, "time": time},
        "Signal": {
            "signal_type": "",
            "signal_origin": "simulation" if spec.origin == "simulation" else "experiment",
            "quantity": f"{quantity} ({units})" if units else quantity,
        },
        "_HyperSpy": {
            "Folding": {
                "original_axes_manager": None,
                "original_shape": None,
                "signal_unfolded": False,
                "unfolded": False,
            }
        },
        "Probeloop": {
            "topic": spec.name,
            "origin": spec.origin,
            "channels": ", ".join(f"{c.name} [{c.units}]" for c in spec.channels),
            **extra,
        },
    }


def experiment(title: str) -> str:
    """Return the group's name: HyperSpy replaces the slash."""
    return title.replace("/", "-") or "__unnamed__"


def check_name(name: str) -> str:
    """Return `name` if it can be a file name on every system, or raise RecordError."""
    reserved = {"con", "nul", "aux", "prn"}
    if not _NAME.fullmatch(name) or name.split(".")[0].lower() in reserved or name.endswith("."):
        raise RecordError(f"{name!r} can't name a recorded topic", "use letters, digits, _ . - only")
    return name


def dump(value: Any) -> bytes:
    """Return JSON as zarr writes it."""
    return json.dumps(value, indent=4, sort_keys=True, ensure_ascii=True).encode()


def spec_text(spec: StreamSpec) -> str:
    """Return the spec as JSON text, for the file to carry."""
    return msgspec.json.encode(spec).decode()
