"""Messages of stream v2: read in both byte orders, packed or not, one channel or several; lies do no harm."""

from __future__ import annotations

import struct
import tracemalloc
from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from probeloop.drivers.dectris.messages import End, Garbage, Header, Image, Refused
from probeloop.drivers.dectris.stream_v2 import MessagesV2
from probeloop.simulators.servers.dectris_wire import V2Image, pack, v2_end, v2_start

PIXELS = np.arange(24 * 40, dtype="<u2").reshape(24, 40)
CHANNELS = ("threshold_1",)
CONFIG = {
    "threshold/1/energy": 4e3, "nimages": 2, "ntrigger": 3, "x_pixels_in_detector": 40, "y_pixels_in_detector": 24,
    "count_time": 0.1, "frame_time": 0.2, "description": "D", "detector_number": "1", "bit_depth_image": 16,
}  # fmt: skip
Tag = cbor2.CBORTag


def read(message: bytes, channels: tuple[str, ...] = CHANNELS) -> Any:
    (event,) = MessagesV2(channels).feed([message])
    return event


def image(array: Any, **more: Any) -> bytes:
    return cbor2.dumps({"type": "image", "series_id": 4, "image_id": 9, "data": {"threshold_1": array}, **more})


def test_a_series_is_read() -> None:
    header = read(v2_start(4, CONFIG, CHANNELS))
    assert isinstance(header, Header)
    assert header.config["number_of_images"] == 6
    assert header.config["threshold_energy"] == {"threshold_1": 4e3}
    frame = read(V2Image(pack(PIXELS, "bslz4"), CHANNELS).message(4, 9, 5, 10))
    assert isinstance(frame, Image)
    assert (frame.series, frame.number) == (4, 9)
    packed = frame.channels[0]
    assert (packed.algorithm, packed.element, packed.dtype, packed.shape) == ("bslz4", 2, "<u2", (24, 40))
    assert packed.data == pack(PIXELS, "bslz4").data
    assert read(v2_end(4)) == End(4)


def test_it_may_say_that_it_is_cbor() -> None:
    assert read(cbor2.dumps(Tag(55799, {"type": "end", "series_id": 4}))) == End(4)


def test_typed_arrays_that_are_not_packed() -> None:
    for tag, dtype in ((64, "<u1"), (65, ">u2"), (66, ">u4"), (69, "<u2"), (70, "<u4")):
        pixels = np.arange(6).astype(dtype)
        packed = read(image(Tag(40, [[2, 3], Tag(tag, pixels.tobytes())]))).channels[0]
        assert (packed.algorithm, packed.dtype, packed.shape) == ("none", dtype, (2, 3))
        assert packed.data == pixels.tobytes()


def test_channels_are_kept_in_the_order_that_was_asked_for() -> None:
    arrays = {name: Tag(40, [[1, 2], Tag(64, data)]) for name, data in (("b", b"34"), ("a", b"12"), ("c", b"56"))}
    message = cbor2.dumps({"type": "image", "series_id": 4, "image_id": 0, "data": arrays})
    assert [packed.data for packed in read(message, ("a", "b")).channels] == [b"12", b"34"]
    assert read(message, ("a", "d")).why == "no channel 'd' in it, only b, a, c"


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (7, "no array"), (Tag(41, [[1, 2], Tag(64, b"12")]), "no array"), (Tag(40, [[1, 2]]), "no array"),
        (Tag(40, [[1, 2, 3], Tag(64, b"12")]), "no array"), (Tag(40, [[1, -2], Tag(64, b"12")]), "no array"),
        (Tag(40, [[1, 2.0], Tag(64, b"12")]), "no array"), (Tag(40, [[1, 2], Tag(71, b"12")]), "no array"),
        (Tag(40, [[1, 2], Tag(64, "12")]), "no bytes"),
        (Tag(40, [[1, 2], Tag(64, Tag(56500, ["bslz4", 1]))]), "packed in"),
        (Tag(40, [[1, 2], Tag(64, Tag(56500, ["zstd", 1, b""]))]), "'zstd'"),
        (Tag(40, [[1, 2], Tag(64, Tag(56500, ["bslz4", 3, b""]))]), "elements of 3 bytes"),
        (Tag(40, [[1, 2], Tag(64, Tag(56500, [["x"], 1, b""]))]), "packed as"),
        (Tag(40, [[1, 2], Tag(64, Tag(56500, ["lz4", 0, 5]))]), "no bytes"),
    ],
)  # fmt: skip
def test_what_can_not_be_a_frame_is_refused(array: Any, why: str) -> None:
    event = read(image(array))
    assert isinstance(event, Refused)
    assert (event.series, event.number) == (4, 9)
    assert why in event.why


@pytest.mark.parametrize(
    "message", [b"", b"\xff", b"\x00\xffjunk", cbor2.dumps([1]), cbor2.dumps({"type": "new"}), b"\xa1" * 5000]
)
def test_what_is_no_message_is_garbage(message: bytes) -> None:
    assert isinstance(read(message), Garbage)


def test_a_length_that_lies_takes_no_memory() -> None:
    tracemalloc.start()
    try:
        for head in (0x5B, 0x7B, 0x9B, 0xBB):
            for length in (1 << 24, 1 << 31, 1 << 40, (1 << 63) - 1, (1 << 64) - 1):
                lie = bytes([0xA1, 0x64]) + b"data" + bytes([head]) + struct.pack(">Q", length) + b"abc"
                assert isinstance(read(lie), Garbage)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


GOOD = V2Image(pack(PIXELS, "bslz4"), CHANNELS).message(4, 9, 5, 10)


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255), st.booleans())
def test_a_changed_or_cut_message_does_no_harm(at: int, value: int, cut: bool) -> None:
    bad = GOOD[:at] if cut else GOOD[:at] + bytes([value]) + GOOD[at + 1 :]
    assert isinstance(read(bad), Header | Image | End | Refused | Garbage)
