"""Copies in pieces are copies."""

from __future__ import annotations

import numpy as np
import pytest

from probeloop.data.copying import PIECE, copy_into


@pytest.mark.parametrize("extra", [-1, 0, 1, PIECE // 2, 3 * PIECE + 7])
@pytest.mark.parametrize("dtype", ["<u1", "<u2", "<f8"])
def test_all_of_it_arrives_and_nothing_else_is_touched(extra: int, dtype: str) -> None:
    rng = np.random.default_rng(3)
    size = (PIECE + extra) // np.dtype(dtype).itemsize
    source = rng.integers(1, 250, size).astype(dtype)
    memory = np.zeros(size + 2, dtype)
    copy_into(memory[1:-1], source)
    assert (memory[1:-1] == source).all()
    assert memory[0] == memory[-1] == 0


def test_frames_of_a_block() -> None:
    source = np.random.default_rng(4).integers(0, 1 << 16, (9, 300, 257), np.uint16)
    target = np.zeros((12, 300, 257), np.uint16)
    copy_into(target[:9], source)
    assert (target[:9] == source).all()
    assert not target[9:].any()


@pytest.mark.parametrize("frames", [1, 8])
def test_no_float_is_cut_to_an_integer(frames: int) -> None:
    with pytest.raises(TypeError, match="Cannot cast"):
        copy_into(np.zeros((frames, 200, 200), np.uint16), np.full((frames, 200, 200), 0.7))


def test_other_layouts_types_and_shapes_are_copied_as_numpy_does() -> None:
    source = np.random.default_rng(5).integers(0, 1 << 15, (8, 200, 200)).astype(np.uint16)
    turned = np.zeros((8, 200, 200), np.uint16)
    copy_into(turned, source.transpose(0, 2, 1))
    assert (turned == source.transpose(0, 2, 1)).all()
    floats = np.zeros((8, 200, 200), np.float32)
    copy_into(floats, source)
    assert (floats == source).all()
    copy_into(floats, source[:1])  # one frame into all
    assert (floats == source[0]).all()
    with pytest.raises(ValueError, match="broadcast"):
        copy_into(floats, source[:, :100])
