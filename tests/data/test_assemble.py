"""The one way from a stream to a map: at scan_index, never in arrival order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probeloop.data.assemble import assemble, empty_map, is_pixel
from probeloop.data.axes import Axis, Channel, StreamSpec
from probeloop.data.errors import WireError
from probeloop.data.frame import FrameBlock, FrameBuffer, FrameFlag
from probeloop.data.scan import Region, visit_order

LETTER_F = np.array(
    [
        [0, 1, 1, 1, 1, 0],
        [0, 1, 0, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
    ],
    np.float32,
)
NAV = (Axis("y", 5, 1e-9, 0.0, "m"), Axis("x", 6, 1e-9, 0.0, "m"))
VALUES = StreamSpec("haadf", "values", "<f4", nav=NAV)


def block_of(spec: StreamSpec, index: np.ndarray, values: np.ndarray, flags: np.ndarray | None = None) -> FrameBlock:
    memory = np.zeros(FrameBuffer.allocate(spec, len(index)).data.nbytes + 128 + 64 * (len(index) + 2), np.uint8)
    buffer = FrameBuffer.over(memory, spec, len(index))
    buffer.scan_index[:], buffer.data[:] = index, values
    if flags is not None:
        buffer.flags[:] = flags
    buffer.seal(len(index), index=0, generation=1)
    return FrameBlock.parse(memory, spec)


def letter(positions: np.ndarray) -> np.ndarray:
    """The sample: F in space, read at positions (x right, y down) [m]."""
    ix, iy = np.rint(positions / 1e-9 + [2.5, 2.0]).astype(int).T
    return LETTER_F[iy, ix]


@pytest.mark.parametrize("order", ["raster", "serpentine"])
def test_the_letter_f_comes_back_an_f(order: str) -> None:
    index = visit_order((5, 6), order)  # type: ignore[arg-type]
    seen = letter(Region(0.0, 0.0, 6e-9, 5e-9).positions((5, 6), index))
    out = empty_map(VALUES)
    for part in np.array_split(np.arange(30), 4):
        assemble(VALUES, block_of(VALUES, index[part], seen[part]), out)
    np.testing.assert_array_equal(out, LETTER_F)


def test_a_dropped_and_a_doubled_frame_leave_every_other_in_place() -> None:
    index = np.concatenate([np.arange(11), np.arange(12, 21), np.arange(20, 30)])  # 11 dropped, 20 twice
    out = empty_map(VALUES)
    written = assemble(VALUES, block_of(VALUES, index, LETTER_F.ravel()[index]), out)
    assert written.tolist() == index.tolist()
    assert np.isnan(out.ravel()[11])
    np.testing.assert_array_equal(np.delete(out.ravel(), 11), np.delete(LETTER_F.ravel(), 11))


@given(st.permutations(range(30)), st.integers(0, 30))
def test_arrival_order_does_not_matter(order: list[int], count: int) -> None:
    index = np.array(order[:count], np.int64)
    out = empty_map(VALUES)
    assemble(VALUES, block_of(VALUES, index, LETTER_F.ravel()[index]), out)
    assert np.isfinite(out).sum() == count
    np.testing.assert_array_equal(out.ravel()[index], LETTER_F.ravel()[index])


def test_frames_without_a_pixel_are_left_out() -> None:
    index = np.array([-1, 0, 1, 2, 3, 30, 4])
    flags = np.array([0, 0, FrameFlag.FLYBACK, FrameFlag.SETTLING, FrameFlag.TRIGGER_MISSED, 0, FrameFlag.SATURATED])
    block = block_of(VALUES, index, np.ones(7), flags)
    assert is_pixel(block).tolist() == [False, True, False, False, False, False, True]
    out = empty_map(VALUES)
    assert assemble(VALUES, block, out).tolist() == [0, 4]
    assert np.isfinite(out).sum() == 2


def test_frames_and_channels_keep_their_own_axes() -> None:
    spec = StreamSpec("camera", "frames", "<u2", nav=NAV, sig=(Axis("ky", 2), Axis("kx", 3)))
    frames = np.arange(12).reshape(2, 2, 3)
    out = empty_map(spec)
    assert out.dtype == np.float32
    assemble(spec, block_of(spec, np.array([29, 7]), frames), out)
    np.testing.assert_array_equal(out[4, 5], frames[0])
    np.testing.assert_array_equal(out[1, 1], frames[1])
    two = StreamSpec("com", "values", "<c8", nav=NAV, channels=(Channel("a"), Channel("b")))
    assert empty_map(two).shape == (5, 6, 2)
    assert empty_map(two).dtype == np.complex64


def test_no_map_is_made_where_nobody_knows_which_frame_is_which() -> None:
    with pytest.raises(WireError, match="no scan"):
        empty_map(StreamSpec("free", "values", nav=NAV, sync="none"))
    with pytest.raises(WireError, match="no scan"):
        empty_map(StreamSpec("free", "values"))
    with pytest.raises(WireError, match="shape"):
        assemble(VALUES, block_of(VALUES, np.array([0]), np.ones(1)), np.zeros((6, 5), np.float32))
