"""What DECTRIS detectors send, packed and unpacked by the library bitshuffle, in LiberTEM's environment.

pack_dectris.py pack FRAMES.npy OUT             frames (n, height, width) as a stream v1 that LiberTEM's
                                                simulator plays: messages, each behind its length (int64)
pack_dectris.py unpack BLOB HEIGHT WIDTH OUT    one packed frame of uint16
pack_dectris.py extract IMAGE.cbor OUT          the packed frame in a message of stream v2 (in tickit's environment)

A packed frame is what bitshuffle's HDF5 filter writes: 8 bytes of size and 4 of block size, big-endian, then blocks.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

SERIES, BLOCK = 7, 8192  # [bytes]


def packed(frame: np.ndarray) -> bytes:
    import bitshuffle

    body = bitshuffle.compress_lz4(frame, BLOCK // frame.itemsize).tobytes()
    return frame.nbytes.to_bytes(8, "big") + BLOCK.to_bytes(4, "big") + body


def messages(frames: np.ndarray) -> list[bytes]:
    (count, height, width), bits = frames.shape, frames.itemsize * 8
    config = {
        "x_pixels_in_detector": width, "y_pixels_in_detector": height, "bit_depth_image": bits, "count_time": 0.001,
        "frame_time": 0.001, "nimages": count, "ntrigger": 1, "trigger_mode": "ints", "compression": "bslz4",
    }  # fmt: skip
    made = [{"htype": "dheader-1.0", "series": SERIES, "header_detail": "basic"}, config]
    for number, frame in enumerate(frames):
        blob = packed(np.ascontiguousarray(frame))
        start = number * 10**6
        made += [
            {"htype": "dimage-1.0", "series": SERIES, "frame": number, "hash": hashlib.md5(blob).hexdigest()},
            {"htype": "dimage_d-1.0", "shape": [width, height], "type": f"uint{bits}", "encoding": f"bs{bits}-lz4<",
             "size": len(blob)},
            blob,
            {"htype": "dconfig-1.0", "start_time": start, "stop_time": start + 10**6, "real_time": 10**6},
        ]  # fmt: skip
    made.append({"htype": "dseries_end-1.0", "series": SERIES})
    return [each if isinstance(each, bytes) else json.dumps(each).encode() for each in made]


def pack(source: str, out: str) -> None:
    with Path(out).open("wb") as file:
        for message in messages(np.load(source)):
            file.write(np.int64(len(message)).tobytes() + message)


def unpack(source: str, height: str, width: str, out: str) -> None:
    import bitshuffle

    blob = np.fromfile(source, np.uint8)
    block = int.from_bytes(blob[8:12].tobytes(), "big")
    shape, dtype = (int(height), int(width)), np.dtype("<u2")
    np.save(out, bitshuffle.decompress_lz4(blob[12:], shape, dtype, block // dtype.itemsize))


def extract(source: str, out: str) -> None:
    import cbor2

    found: list[bytes] = []

    def hook(decoder: object, tag: cbor2.CBORTag) -> object:
        if tag.tag == 56500:
            found.append(tag.value[-1])
        return tag.value

    with Path(source).open("rb") as file:
        cbor2.load(file, tag_hook=hook)
    Path(out).write_bytes(found[0])


if __name__ == "__main__":
    {"pack": pack, "unpack": unpack, "extract": extract}[sys.argv[1]](*sys.argv[2:])
