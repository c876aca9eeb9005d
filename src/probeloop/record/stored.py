"""One Zarr 2 array read back: sizes and codec checked before anything is decoded."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.errors import RecordError
from .codec import check_chunk, decode

MAX_JSON_BYTES = 64 << 20
MAX_ARRAY_BYTES = 1 << 46


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises RecordError for anything else."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise RecordError(f"{path} is too large for a description")
        made = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise RecordError(f"{path} is missing", "the folder is no session, or not all of it was copied") from error
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{path} can't be read: {error}") from error
    if not isinstance(made, dict):
        raise RecordError(f"{path} holds no description")
    return made


@dataclass(frozen=True)
class StoredArray:
    """A Zarr 2 array on disk."""

    path: Path
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    fill: Any
    packed: bool

    @classmethod
    def open(cls, path: Path) -> StoredArray:
        """Read and check the `.zarray`; raises RecordError for a hostile or foreign one."""
        head = read_json(path / ".zarray")
        try:
            shape, chunks = tuple(map(int, head["shape"])), tuple(map(int, head["chunks"]))
            dtype = np.dtype(head["dtype"])
            compressor, fill = head.get("compressor"), head.get("fill_value")
            plain = head["zarr_format"] == 2 and head.get("order", "C") == "C" and not head.get("filters")
        except (KeyError, TypeError, ValueError) as error:
            raise RecordError(f"{path}: no Zarr 2 array: {error}") from error
        if not plain or head.get("dimension_separator") != "/" or len(shape) != len(chunks):
            raise RecordError(f"{path}: an array with filters, or laid out in another way, is not read")
        check_chunk(chunks, dtype, compressor)
        count = math.prod(-(-n // c) for n, c in zip(shape, chunks, strict=True))
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > MAX_ARRAY_BYTES or count > 10_000_000:
            raise RecordError(f"{path}: an array of shape {shape} in {count} chunks is not read")
        return cls(path, shape, chunks, dtype, _fill(fill, dtype), compressor is not None)

    def chunk(self, key: tuple[int, ...]) -> NDArray[Any] | None:
        """Return a decoded chunk, None where nothing was written; raises RecordError for a damaged one."""
        path = self.path.joinpath(*map(str, key))
        try:
            if path.stat().st_size > 2 * math.prod(self.chunks) * self.dtype.itemsize + 4096:
                raise RecordError(f"{path} is larger than its chunk")
            raw = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RecordError(f"{path} can't be read: {error}") from error
        return decode(raw, self.chunks, self.dtype, self.packed)

    def read(self, first: int = 0, last: int | None = None, axis: int = 0) -> NDArray[Any]:
        """Return [first, last) along `axis`, whole in the others; unwritten cells hold the fill value."""
        last = self.shape[axis] if last is None else min(last, self.shape[axis])
        shape = (*self.shape[:axis], max(0, last - first), *self.shape[axis + 1 :])
        out = np.full(shape, self.fill, self.dtype)
        spans = [range(-(-n // c)) for n, c in zip(self.shape, self.chunks, strict=True)]
        size = self.chunks[axis]
        if out.size:
            spans[axis] = range(first // size, -(-last // size))
            for key in itertools.product(*spans):
                made = self.chunk(key)
                if made is not None:
                    _paste(out, made, key, self.chunks, axis, first)
        return out


def _paste(
    out: NDArray[Any], chunk: NDArray[Any], key: tuple[int, ...], chunks: tuple[int, ...], axis: int, first: int
) -> None:
    to, source = [], []
    for i, (k, c) in enumerate(zip(key, chunks, strict=True)):
        start = k * c - (first if i == axis else 0)
        a, b = max(start, 0), min(start + c, out.shape[i])
        to.append(slice(a, b))
        source.append(slice(a - start, b - start))
    out[tuple(to)] = chunk[tuple(source)]


def _fill(value: Any, dtype: np.dtype[Any]) -> Any:
    if dtype.kind == "c" and isinstance(value, list):
        value = complex(float(value[0]), float(value[1]))
    if value is None:
        value = 0
    try:
        return np.asarray(float(value) if isinstance(value, str) else value).astype(dtype)[()]
    except (TypeError, ValueError) as error:
        raise RecordError(f"fill value {value!r} does not fit {dtype}") from error
