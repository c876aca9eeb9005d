"""Unpacks frames: bit shuffle with LZ4, and LZ4, in the framing of their HDF5 filters or as a bare block.

Lengths are held against each other before anything is unpacked, and it is unpacked to where it belongs: the memory
that the pump lends, with the interpreter let go. By dectris-compression where it is installed, else by our own
kernels, at a tenth of its speed.
Formats: bitshuffle's bshuf_h5filter.c, HDF5's LZ4 filter, the LZ4 block format.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import struct
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from probeloop.api import copy_into

from .messages import Packed

Way = Literal["in_place", "library", "kernels"]
FRAMING = struct.Struct(">QI")  # unpacked size, size of a block [bytes]
_SHUFFLED = 8  # pixels that are shuffled together
_LARGEST_BLOCK = 1 << 16  # of a frame that is smaller than a block
_NUMBER = {"bslz4": 0, "lz4": 1}  # of the algorithm, in dectris-compression's C interface
_PROBE = {  # a frame of 8 bytes, to see that it is that interface
    "bslz4": bytes.fromhex("0000000000000008 00002000 00000009 80 ff 00000000000000"),
    "lz4": bytes.fromhex("0000000000000008 00000008 00000008 0101010101010101"),
}


class DamagedError(ValueError):
    """A frame that does not unpack to what it should."""


def largest_packed(size: int) -> int:
    """Return how long `size` bytes may be when they are packed badly, in the smallest blocks [bytes]."""
    return 2 * size + 1024


class Unpacker:
    """Unpacks frames into memory of the right size.

    way: in_place = dectris-compression's C function; library = its Python function and a copy, where that is not to
    be found; kernels = ours. None = the fastest there is.
    """

    def __init__(self, way: Way | None = None) -> None:
        self._in_place = self._decompress = None
        self._scratch = np.empty(0, np.uint64)
        if way != "kernels":
            with contextlib.suppress(ImportError):
                from dectris import compression

                self._decompress = compression.decompress
                self._in_place = _c_function(compression.__file__) if way != "library" else None
        self.way: Way = "in_place" if self._in_place else "library" if self._decompress else "kernels"

    def unpack(self, packed: Packed, out: NDArray[Any], md5: str = "", address: int = 0) -> None:
        """Write the pixels of a frame into `out` (height, width), contiguous, in this host's byte order.

        md5: of the packed data, hexadecimal, "" = none to hold it against. address: of `out`, 0 = not known. Raises
        DamagedError; `out` holds anything then.
        """
        data, size = packed.data, out.nbytes
        if md5 and hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
            raise DamagedError("its bytes are not those that its md5 is of")
        if len(data) > largest_packed(size):
            raise DamagedError(f"{len(data)} packed bytes are more than a frame of {size} bytes can make")
        if packed.algorithm == "none":
            if len(data) != size:
                raise DamagedError(f"it has {len(data)} bytes, a frame has {size}")
            copy_into(out, np.frombuffer(data, packed.dtype).reshape(out.shape))
            return
        if packed.algorithm == "raw_lz4":
            _bare(data, out)
        else:
            self._framed(packed, out, size, address)
        if packed.dtype[0] == ">":
            out.byteswap(inplace=True)

    def _framed(self, packed: Packed, out: NDArray[Any], size: int, address: int) -> None:
        data, algorithm = packed.data, packed.algorithm
        if len(data) < FRAMING.size:
            raise DamagedError(f"{len(data)} bytes are shorter than its framing")
        claimed, block = FRAMING.unpack_from(data)
        if claimed != size:
            raise DamagedError(f"it says that it unpacks to {claimed} bytes, a frame has {size}")
        unit = _SHUFFLED * packed.element if algorithm == "bslz4" else 1
        if not 0 < block <= max(size, _LARGEST_BLOCK) or block % unit:
            raise DamagedError(f"blocks of {block} bytes, in a frame of {size}")
        if self._in_place is not None:
            where = address or out.ctypes.data
            done = self._in_place(_NUMBER[algorithm], where, size, data, len(data), packed.element)
            if done != size:
                raise DamagedError("its compressed blocks are damaged")
            return
        if self._decompress is not None:
            try:
                raw = self._decompress(data, algorithm, elem_size=packed.element)
            except (RuntimeError, ValueError, MemoryError):
                raise DamagedError("its compressed blocks are damaged") from None
            copy_into(out, np.frombuffer(raw, out.dtype).reshape(out.shape))
            return
        from .kernels import unpack

        if 4 * self._scratch.size < block:
            self._scratch = np.empty(-(-block // 4), np.uint64)
        source, to = np.frombuffer(data, np.uint8), out.view(np.uint8).reshape(-1)
        if not unpack(source, packed.element, algorithm == "bslz4", self._scratch, to):
            raise DamagedError("its compressed blocks are damaged")


def warm_up() -> None:
    """Load the libraries that unpack, and compile our own kernels where they are used."""
    unpacker, out = Unpacker(), np.zeros((2, 4), np.uint8)
    for algorithm, data in _PROBE.items():
        unpacker.unpack(Packed(algorithm, 1, "|u1", out.shape, data), out)  # type: ignore[arg-type]
    if not (out == 1).all():
        raise DamagedError("the libraries that unpack frames do not work here")


def _bare(data: bytes, out: NDArray[Any]) -> None:
    """Unpack one bare LZ4 block, as stream v1 sends it."""
    from numcodecs.lz4 import decompress

    try:
        decompress(struct.pack("<i", out.nbytes) + data, out)
    except (RuntimeError, ValueError):
        raise DamagedError("its LZ4 block is damaged") from None


def _c_function(library: str) -> Any:
    """Return dectris-compression's function that unpacks in place, or None where it is not to be found.

    Its Python function allocates the frame, which then has to be copied: as much work as to unpack it.
    """
    try:
        function = ctypes.CDLL(library).compression_decompress_buffer
    except (OSError, AttributeError):
        return None
    size = ctypes.c_size_t
    function.argtypes = (ctypes.c_int, ctypes.c_void_p, size, ctypes.c_char_p, size, size)
    function.restype = size
    for algorithm, data in _PROBE.items():
        out = np.zeros(8, np.uint8)
        done = function(_NUMBER[algorithm], out.ctypes.data, 8, data, len(data), 1)
        if done != 8 or not (out == 1).all():
            return None
    return function
