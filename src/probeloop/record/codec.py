"""Chunks to bytes and back, with numcodecs alone; what is read is checked before it is decoded."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.errors import RecordError

MAX_CHUNK_BYTES = 256 << 20
_CODECS: dict[str, Any] = {}


def _blosc() -> Any:
    if "blosc" not in _CODECS:
        import numcodecs

        # the recorder's threads are its own: blosc must not start one for each core
        numcodecs.blosc.set_nthreads(1)
        _CODECS["blosc"] = numcodecs.Blosc(cname="lz4", clevel=1, shuffle=numcodecs.Blosc.BITSHUFFLE)
    return _CODECS["blosc"]


def encode(array: NDArray[Any]) -> bytes:
    """Return a C-contiguous array as a Blosc buffer (bitshuffle, lz4)."""
    made: bytes = bytes(_blosc().encode(np.ascontiguousarray(array)))
    return made


def check_chunk(shape: tuple[int, ...], dtype: np.dtype[Any], compressor: Any) -> int:
    """Return the size of a decoded chunk [bytes]; raises RecordError for a huge or strange one."""
    size = math.prod(shape) * dtype.itemsize
    if any(n < 1 for n in shape) or size > MAX_CHUNK_BYTES:
        raise RecordError(f"a chunk of shape {shape} takes {size} bytes, more than {MAX_CHUNK_BYTES}")
    if dtype.hasobject:
        raise RecordError("an array of Python objects is not read")
    if compressor is not None and (not isinstance(compressor, dict) or compressor.get("id") != "blosc"):
        raise RecordError(f"compressor {compressor!r} is not read", "blosc, or none")
    return size


def decode(raw: bytes, shape: tuple[int, ...], dtype: np.dtype[Any], packed: bool = True) -> NDArray[Any]:
    """Return the array in a chunk; raises RecordError when it isn't the one announced (bombs included)."""
    size = check_chunk(shape, dtype, {"id": "blosc"})
    if packed:
        if len(raw) < 16:
            raise RecordError(f"a chunk of {len(raw)} bytes is torn")
        declared, _, stored = struct.unpack_from("<III", raw, 4)
        if declared != size or stored != len(raw):
            raise RecordError(f"a chunk claims {declared} bytes in {stored}, announced are {size} in {len(raw)}")
        try:
            raw = _blosc().decode(raw)
        except (RuntimeError, ValueError) as error:
            raise RecordError(f"a chunk is damaged: {error}") from error
    if len(raw) != size:
        raise RecordError(f"a chunk has {len(raw)} bytes, announced are {size}")
    return np.frombuffer(raw, dtype).reshape(shape)
