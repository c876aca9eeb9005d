"""Parts of stream v1 are read by their order alone, however they are grouped, and whatever comes between them."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from probeloop.drivers.dectris.messages import End, Event, Garbage, Header, Image, Refused
from probeloop.drivers.dectris.stream_v1 import PartsV1
from probeloop.simulators.servers.dectris_wire import pack, v1_end, v1_header, v1_image

PIXELS = np.arange(24 * 40, dtype="<u2").reshape(24, 40)
PACKED = pack(PIXELS, "bslz4")
CONFIG = {"x_pixels_in_detector": 40, "y_pixels_in_detector": 24, "count_time": 0.1}


def series(detail: str, appendix: tuple[bytes, ...] = ()) -> list[bytes]:
    parts = [*v1_header(4, CONFIG, detail), *appendix[:1]]
    for number in range(3):
        parts += [*v1_image(4, number, PACKED, 0, 10), *appendix[1:]]
    return parts + v1_end(4)


def kinds(events: list[Event]) -> list[Any]:
    return [
        event.number if isinstance(event, Image) else ("refused", event.number) if isinstance(event, Refused)
        else type(event).__name__ for event in events
    ]  # fmt: skip


@given(st.sampled_from(["none", "basic", "all"]), st.lists(st.integers(0, 25), max_size=12), st.booleans())
def test_every_grouping_reads_the_same(detail: str, cuts: list[int], appendix: bool) -> None:
    parts = series(detail, (b"of the header", b"{of an image") if appendix else ())
    reader = PartsV1((appendix, appendix))
    edges = [0, *sorted(cuts), len(parts)]
    events = [event for a, b in itertools.pairwise(edges) for event in reader.feed(parts[a:b])]
    assert kinds(events) == ["Header", 0, 1, 2, "End"]
    assert isinstance(events[0], Header)
    assert events[0].config == ({} if detail == "none" else CONFIG)


def test_the_shape_is_width_by_height_and_is_turned() -> None:
    image = PartsV1().feed(v1_image(4, 9, PACKED, 0, 10))[0]
    assert isinstance(image, Image)
    assert json.loads(v1_image(4, 9, PACKED, 0, 10)[1])["shape"] == [40, 24]
    assert image.channels[0].shape == (24, 40)
    assert (image.series, image.number, image.md5) == (4, 9, "")
    assert PartsV1(verify=True).feed(v1_image(4, 9, PACKED, 0, 10))[0].md5 == PACKED.md5  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("encoding", "algorithm", "element", "dtype"),
    [("bs16-lz4<", "bslz4", 2, "<u2"), ("bs8lz4<", "bslz4", 1, "<u2"), ("lz4<", "lz4", 2, "<u2"),
     ("bs32-lz4>", "bslz4", 4, ">u2"), ("<", "none", 2, "<u2"), (">", "none", 2, ">u2")],
)  # fmt: skip
def test_encodings(encoding: str, algorithm: str, element: int, dtype: str) -> None:
    parts = v1_image(4, 0, PACKED, 0, 10)
    parts[1] = parts[1].replace(b"bs16-lz4<", encoding.encode())
    packed = PartsV1().feed(parts)[0].channels[0]  # type: ignore[union-attr]
    assert (packed.algorithm, packed.element, packed.dtype) == (algorithm, element, dtype)


def test_lz4_in_the_framing_of_a_file_is_told_from_a_bare_block() -> None:
    for bare, algorithm in ((True, "raw_lz4"), (False, "lz4")):
        image = PartsV1().feed(v1_image(4, 0, pack(PIXELS, "lz4", bare=bare), 0, 10))[0]
        assert image.channels[0].algorithm == algorithm  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [(b"uint16", b"int16", "type 'int16'"), (b"bs16-lz4<", b"jpeg", "encoding 'jpeg'"), (b"[40,24]", b"[4]", "1 num"),
     (b'"size":', b'"size":1', "were announced"), (b"bs16-lz4<", b"bs16<", "encoding 'bs16<'")],
)  # fmt: skip
def test_what_can_not_be_a_frame_is_refused_and_the_next_is_read(old: bytes, new: bytes, why: str) -> None:
    bad = v1_image(4, 5, PACKED, 0, 10)
    bad[1] = bad[1].replace(old, new)
    events = PartsV1().feed([*bad, *v1_image(4, 6, PACKED, 0, 10)])
    assert kinds(events) == [("refused", 5), 6]
    assert why in events[0].why  # type: ignore[union-attr]


@pytest.mark.parametrize("missing", [0, 1, 2, 3])
def test_a_frame_without_one_of_its_parts_spoils_no_other(missing: int) -> None:
    torn = v1_image(4, 5, PACKED, 0, 10)
    del torn[missing]
    events = PartsV1().feed([*torn, *v1_image(4, 6, PACKED, 0, 10), *v1_image(4, 7, PACKED, 0, 10), *v1_end(4)])
    assert kinds(events)[-3:] == [6, 7, "End"]
    expected = {
        0: [("refused", -1)],
        1: [("refused", 5)],
        2: [("refused", 5)],
        3: [5],
    }  # without the times it is whole
    assert kinds(events)[:-3] == expected[missing]


def test_junk_is_counted_and_hides_nothing() -> None:
    junk = [b"", b"\x00\xff", b"[1, 2]", b'"text"', b'{"htype": 7}', b'{"htype": "dnew-2.0"}', b"{" * 10_000, b"null"]
    parts = [part for each in junk for part in (each, *v1_image(4, 3, PACKED, 0, 10))]
    events = PartsV1().feed(parts)
    assert sum(isinstance(event, Garbage) for event in events) == len(junk)
    assert sum(isinstance(event, Image) for event in events) == len(junk)


@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from(series("all"))), max_size=30))
def test_no_parts_in_any_order_do_harm(parts: list[bytes]) -> None:
    reader = PartsV1()
    reader.feed(parts)
    after = reader.feed([b"x", *v1_image(4, 1, PACKED, 0, 10), *v1_image(4, 2, PACKED, 0, 10), *v1_end(4)])
    assert isinstance(after[-1], End)
    assert kinds(after)[-2] == 2


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside, max_size=3),
        max_leaves=5,
    ),
    st.sampled_from(["series", "frame", "hash", "shape", "type", "encoding", "size", "htype"]),
)
def test_wrong_types_do_no_harm(value: Any, name: str) -> None:
    parts = v1_image(4, 5, PACKED, 0, 10)
    for at in (0, 1):
        about = json.loads(parts[at])
        if name in about:
            parts[at] = json.dumps({**about, name: value}).encode()
    events = PartsV1().feed([*parts, *v1_image(4, 6, PACKED, 0, 10)])
    assert kinds(events)[-1] == 6
