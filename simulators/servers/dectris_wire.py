"""Messages of a DECTRIS control unit, written from the descriptions of stream v1, stream v2 and their compression.

LZ4 blocks are made by numcodecs; shuffle and framing are ours, from bitshuffle's and HDF5's descriptions.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TYPES = {1: "uint8", 2: "uint16", 4: "uint32"}
_TAGS = {1: 64, 2: 69, 4: 70}
_HOLES = (0xA1A2A3A4A5A6A701, 0xA1A2A3A4A5A6A702, 0xA1A2A3A4A5A6A703, 0xA1A2A3A4A5A6A704)
_BLOCK = 8192
CORRUPTIONS = ("size", "block", "flip", "cut", "shape", "type")


@dataclass(frozen=True)
class Packed:
    """A frame ready to be sent. shape: (height, width). bare: LZ4 without framing. md5: of `data`."""

    shape: tuple[int, int]
    itemsize: int
    algorithm: str
    bare: bool
    data: bytes
    md5: str

    def corrupted(self, how: str) -> Packed:
        """Return it with one thing wrong; its md5 stays that of the good bytes.

        size: its framing promises more than a frame. block: its first block claims to be longer than all. flip: a bit
        of the last byte is another one. cut: half of it is missing. shape, type: another one is announced.
        """
        data, shape, itemsize = bytearray(self.data), self.shape, self.itemsize
        match how:
            case "size" if not self.bare:
                data[:8] = struct.pack(">Q", 1 << 40)
            case "block" if not self.bare:
                data[12:16] = struct.pack(">I", 0x7FFFFFFF)
            case "flip":
                data[-1] ^= 0x10
            case "shape":
                shape = (shape[0] + 8, shape[1])
            case "type":
                itemsize = {1: 2, 2: 4, 4: 1}[itemsize]
            case _:
                data = data[: len(data) // 2]
        return Packed(shape, itemsize, self.algorithm, self.bare, bytes(data), self.md5)


def pack(frame: NDArray[Any], algorithm: str, *, bare: bool = False) -> Packed:
    """Pack (height, width) pixels. bare: as stream v1 does with lz4."""
    raw = np.ascontiguousarray(frame).reshape(-1)
    bare = bare and algorithm == "lz4"
    if bare:
        data = _lz4(raw)
    elif algorithm == "lz4":
        block = _lz4(raw)
        data = struct.pack(">QII", raw.nbytes, raw.nbytes, len(block)) + block
    else:
        data = _bslz4(raw)
    height, width = frame.shape
    return Packed((height, width), frame.itemsize, algorithm, bare, data, hashlib.md5(data).hexdigest())


def _bslz4(pixels: NDArray[Any]) -> bytes:
    """Pack as bitshuffle's HDF5 filter does: blocks of 8 KiB, each shuffled and then compressed."""
    in_block = _BLOCK // pixels.itemsize
    parts = [struct.pack(">QI", pixels.nbytes, _BLOCK)]
    whole = len(pixels) // 8 * 8
    for first in range(0, whole, in_block):
        block = _lz4(bit_shuffled(pixels[first : min(first + in_block, whole)]))
        parts += [struct.pack(">I", len(block)), block]
    return b"".join([*parts, pixels[whole:].tobytes()])


def bit_shuffled(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the bytes of a multiple of 8 pixels with all their lowest bits first, then the next ones, and so on."""
    bits = np.unpackbits(pixels.view(np.uint8).reshape(-1, pixels.itemsize), axis=1, bitorder="little")
    return np.packbits(bits.T.copy(), axis=1, bitorder="little").reshape(-1)


def _lz4(data: NDArray[Any]) -> bytes:
    from numcodecs.lz4 import compress

    return bytes(compress(data)[4:])  # numcodecs puts the length before the block


def v1_header(series: int, config: dict[str, Any], detail: str) -> list[bytes]:
    """Return the parts that begin a series; with all details a flat field, a pixel mask and a table follow."""
    parts = [json.dumps({"htype": "dheader-1.0", "series": series, "header_detail": detail}).encode()]
    if detail == "none":
        return parts
    parts.append(json.dumps(config).encode())
    if detail == "all":
        height, width = config["y_pixels_in_detector"], config["x_pixels_in_detector"]
        for htype, dtype, shape in (
            ("dflatfield-1.0", "float32", (width, height)),
            ("dpixelmask-1.0", "uint32", (width, height)),
            ("dcountrate_table-1.0", "float32", (2, 1000)),
        ):
            parts.append(json.dumps({"htype": htype, "shape": shape, "type": dtype}).encode())
            parts.append(bytes(4 * shape[0] * shape[1]))
    return parts


def v1_image(series: int, number: int, packed: Packed, start_ns: int, exposure_ns: int) -> list[bytes]:
    """Return the four parts of a frame."""
    height, width = packed.shape
    shuffle = f"bs{8 * packed.itemsize}-" if packed.algorithm == "bslz4" else ""
    return [
        b'{"htype":"dimage-1.0","series":%d,"frame":%d,"hash":"%s"}' % (series, number, packed.md5.encode()),
        b'{"htype":"dimage_d-1.0","shape":[%d,%d],"type":"%s","encoding":"%slz4<","size":%d}'
        % (width, height, _TYPES[packed.itemsize].encode(), shuffle.encode(), len(packed.data)),
        packed.data,
        b'{"htype":"dconfig-1.0","start_time":%d,"stop_time":%d,"real_time":%d}'
        % (start_ns, start_ns + exposure_ns, exposure_ns),
    ]


def v1_end(series: int) -> list[bytes]:
    """Return the part that ends a series."""
    return [b'{"htype":"dseries_end-1.0","series":%d}' % series]


def v2_start(series: int, config: dict[str, Any], channels: tuple[str, ...]) -> bytes:
    """Return the message that begins a series."""
    import cbor2

    energy = config["threshold/1/energy"]
    return cbor2.dumps(
        {
            "type": "start",
            "series_id": series,
            "series_unique_id": f"series-{series}",
            "arm_date": cbor2.CBORTag(0, "2026-01-01T00:00:00Z"),
            "channels": list(channels),
            "number_of_images": config["nimages"] * config["ntrigger"],
            "image_size_x": config["x_pixels_in_detector"],
            "image_size_y": config["y_pixels_in_detector"],
            "threshold_energy": dict.fromkeys(channels, energy),
            "count_time": config["count_time"],
            "frame_time": config["frame_time"],
            "detector_description": config["description"],
            "detector_serial_number": config["detector_number"],
            "saturation_value": 2 ** config["bit_depth_image"] - 2,
        }
    )


class V2Image:
    """The message of one frame, in which only numbers change from one sending to the next."""

    def __init__(self, packed: Packed, channels: tuple[str, ...]) -> None:
        import cbor2

        tag = cbor2.CBORTag
        element = packed.itemsize if packed.algorithm == "bslz4" else 0
        inner = tag(_TAGS[packed.itemsize], tag(56500, [packed.algorithm, element, packed.data]))
        second = 10**9
        series, number, start, stop = _HOLES
        message = cbor2.dumps(
            {
                "type": "image",
                "series_id": series,
                "image_id": number,
                "start_time": [start, second],
                "stop_time": [stop, second],
                "series_date": tag(0, "2026-01-01T00:00:00Z"),
                "data": {name: tag(40, [list(packed.shape), inner]) for name in channels},
            }
        )
        self._message = bytearray(message)
        self._at = [message.index(struct.pack(">Q", hole)) for hole in _HOLES]

    def message(self, series: int, number: int, start_ns: int, exposure_ns: int) -> bytes:
        """Return it for a frame."""
        for at, value in zip(self._at, (series, number, start_ns, start_ns + exposure_ns), strict=True):
            struct.pack_into(">Q", self._message, at, value)
        return bytes(self._message)


def v2_end(series: int) -> bytes:
    """Return the message that ends a series."""
    import cbor2

    return cbor2.dumps({"type": "end", "series_id": series, "series_unique_id": f"series-{series}"})
