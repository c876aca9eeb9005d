"""Stream descriptions: shapes, sizes, and what comes over a wire."""

from __future__ import annotations

import math
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probeloop.data.axes import Axis, Channel, Kind, StreamSpec
from probeloop.data.errors import WireError

finite = st.floats(allow_nan=False, allow_infinity=False)
words = st.text("abcdefgh_", min_size=1, max_size=8)
axes = st.builds(Axis, words, st.integers(1, 300), st.none() | finite, finite, words)
channels = st.builds(Channel, words, words, words, st.sampled_from(["trace", "retrace", "none"]))
specs = st.builds(
    StreamSpec,
    name=words,
    kind=st.sampled_from(get_args(Kind)),
    dtype=st.sampled_from(["<u1", "<u2", "<i4", "<f4", "<f8", "<c8"]),
    nav=st.lists(axes, max_size=2).map(tuple),
    sig=st.lists(axes, max_size=2).map(tuple),
    channels=st.lists(channels, max_size=3).map(tuple),
    fields=st.lists(
        st.tuples(words, st.sampled_from(["<f8", "<i4"])), min_size=1, max_size=3, unique_by=lambda f: f[0]
    ).map(tuple),
    aux=st.dictionaries(words, st.lists(finite, max_size=4).map(tuple), max_size=2),
    sync=st.sampled_from(["pixel", "line", "frame", "none"]),
    exposure_ns=st.integers(0, 2**40),
)


@given(specs)
def test_a_description_survives_the_wire(spec: StreamSpec) -> None:
    assert StreamSpec.decode(spec.encode()) == spec


@given(st.binary(max_size=200))
def test_garbage_raises_only_wire_errors(data: bytes) -> None:
    try:
        spec = StreamSpec.decode(data)
    except WireError:
        return
    assert spec.frame_bytes > 0


@given(specs, st.data())
def test_a_flipped_byte_raises_only_wire_errors(spec: StreamSpec, data: st.DataObject) -> None:
    wire = bytearray(spec.encode())
    wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    try:
        again = StreamSpec.decode(bytes(wire))
    except WireError:
        return
    assert again.frame_bytes > 0
    assert all(size > 0 for size in again.nav_shape + again.frame_shape)


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "furlong"},
        {"dtype": "|O"},
        {"dtype": "<U8"},
        {"sig": [{"name": "ky", "size": 0}]},
        {"sig": [{"name": "ky", "size": -4}]},
        {"nav": [{"name": "y", "size": 0}]},
        {"nav": [{"name": "y", "size": 2**40}, {"name": "x", "size": 2**40}]},
        {"sig": [{"name": "ky", "size": 2**40}, {"name": "kx", "size": 2**40}]},
        {"kind": "table", "fields": [["x", "|O"]]},
        {"kind": "table", "fields": [["x", "<f8"], ["x", "<f8"]]},
        {"kind": "table", "fields": []},
        {"kind": "film"},
        {"colour": "red"},
    ],
)
def test_a_description_of_nothing_that_can_be_is_refused(change: dict[str, Any]) -> None:
    plain = {"name": "camera", "kind": "frames", **change}
    with pytest.raises(WireError):
        StreamSpec.decode(msgspec.msgpack.encode(plain))


def test_deep_nesting_is_a_wire_error() -> None:
    with pytest.raises(WireError):
        StreamSpec.decode(b"\x91" * 100_000)


def test_shapes_of_every_kind() -> None:
    ky, kx, energy = Axis("ky", 3), Axis("kx", 5), Axis("energy", 7)
    two = (Channel("height", direction="trace"), Channel("height", direction="retrace"))
    camera = StreamSpec("camera", "frames", "<u2", sig=(ky, kx))
    assert camera.frame_shape == (3, 5)
    assert camera.frame_bytes == 30
    assert StreamSpec("line", "frames", sig=(ky, kx), channels=two).frame_shape == (2, 3, 5)
    assert StreamSpec("height", "values", channels=two[:1]).frame_shape == ()
    assert StreamSpec("com", "values", channels=two).frame_shape == (2,)
    assert StreamSpec("eels", "spectra", sig=(energy,)).frame_bytes == 28
    table = StreamSpec("atoms", "table", fields=(("x", "<f8"), ("kind", "<u1")))
    assert table.frame_shape == ()
    assert table.frame_bytes == 9
    counted = StreamSpec("counted", "ragged", sig=(ky, kx))
    assert counted.frame_bytes == 1
    assert counted.numpy_dtype == np.uint8


def test_an_axis_gives_pixel_centres_and_is_never_calibrated_by_itself() -> None:
    assert Axis("x", 3, 2e-9, 1e-9, "m").values().tolist() == pytest.approx([1e-9, 3e-9, 5e-9])
    assert Axis("x", 3).scale is None
    assert Axis("x", 3).values().tolist() == [0, 1, 2]
    assert math.isclose(Axis("bias", 2, -0.5, 1.0).values()[1], 0.5)
