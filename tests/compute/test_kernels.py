"""The compiled sums against the naive numpy line, on every dtype and on whatever shape a detector has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from probeloop.compute.kernels import PackedMasks, VirtualDetectors, prepared, sums_exactly

DTYPES = ["?", "u1", "i1", "<u2", "<i2", "<u4", "<i4", "<f4", ">u2", "<f2"]  # summed exactly, or all but exactly
IN_DOUBLE = ["<f8", "<u8", "<i8"]
SHAPES = [(33, 47), (16, 256), (5, 31), (7, 32), (3, 1), (40, 65)]
CENTRE = (16.5, 20.25)


def frames(dtype: str, shape: tuple[int, int], count: int = 3) -> np.ndarray:
    """Return frames that use all of a dtype's range, read-only."""
    rng, kind = np.random.default_rng(1), np.dtype(dtype)
    if kind.kind in "ui":
        info = np.iinfo(kind)
        made = rng.integers(info.min, info.max, (count, *shape), kind.newbyteorder("="), endpoint=True).astype(kind)
    else:
        made = (rng.standard_normal((count, *shape)) * 100).astype(kind)
    made.flags.writeable = False
    return made


def masks_of(shape: tuple[int, int], count: int = 3) -> np.ndarray:
    """Return masks that overlap: one anywhere, one of some rows, one empty."""
    made = np.random.default_rng(2).random((count, *shape)) < 0.4
    made[1, : shape[0] // 2] = False
    made[2] = False
    return made


def naive(data: np.ndarray, masks: np.ndarray, centre: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return what VirtualDetectors should: whole numbers of any size, or the widest floats there are."""
    wide = data.astype(object if data.dtype.kind in "ui" else np.longdouble)
    y, x = np.mgrid[: data.shape[1], : data.shape[2]]
    sums = np.stack([(wide * mask).sum((1, 2)) for mask in masks.astype(int)], -1).astype(np.float64)
    total, px, py = (wide.sum((1, 2)), (wide * x).sum((1, 2)), (wide * y).sum((1, 2)))
    moments = np.stack([total, px, py], -1).astype(np.float64)
    moments[:, 1] -= moments[:, 0] * centre[1]
    moments[:, 2] -= moments[:, 0] * centre[0]
    return sums, moments


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_is_the_naive_line(dtype: str, shape: tuple[int, int]) -> None:
    data, masks = frames(dtype, shape), masks_of(shape)
    expected, expected_moments = naive(data, masks, CENTRE)
    detectors = VirtualDetectors(masks)
    sums, moments = detectors.sums_and_moments(data, CENTRE)
    if np.dtype(dtype).kind == "f":
        np.testing.assert_allclose(sums, expected, rtol=1e-13, atol=1e-9)
        np.testing.assert_allclose(moments, expected_moments, rtol=1e-13, atol=1e-7)
    else:
        np.testing.assert_array_equal(sums, expected)
        np.testing.assert_array_equal(moments, expected_moments)
    np.testing.assert_array_equal(detectors.sums(data), sums)


@pytest.mark.parametrize("dtype", IN_DOUBLE)
def test_what_is_summed_in_double_keeps_its_bound(dtype: str) -> None:
    data, masks = frames(dtype, (64, 200)), masks_of((64, 200))
    expected, expected_moments = naive(data, masks, (0.0, 0.0))
    sums, moments = VirtualDetectors(masks).sums_and_moments(data, (0.0, 0.0))
    bound = 64 * 200 * 2.0**-53 * np.abs(data.astype(np.float64)).sum((1, 2))
    assert (np.abs(sums - expected) <= bound[:, None]).all()
    assert (np.abs(moments - expected_moments) <= bound[:, None] * (1, 200, 64)).all()


@pytest.mark.parametrize(
    ("dtype", "shape"), [("u2", (9, 4096)), ("i2", (3, 12000)), ("u2", (2, 11552)), ("u1", (300, 64))]
)
def test_the_brightest_pixels_run_over_no_lane(dtype: str, shape: tuple[int, int]) -> None:
    info = np.iinfo(dtype)
    data = np.stack([np.full(shape, info.max, dtype), np.full(shape, info.min, dtype)])
    masks = np.ones((1, *shape))
    sums, moments = VirtualDetectors(masks).sums_and_moments(data, (0.0, 0.0))
    expected, expected_moments = naive(data, masks, (0.0, 0.0))
    np.testing.assert_array_equal(sums, expected)
    np.testing.assert_array_equal(moments, expected_moments)


def test_rows_at_a_time_are_as_many_as_a_lane_has_room_for() -> None:
    assert prepared(np.zeros((1, 4, 256), np.uint16), (4, 256))[1] == 16
    assert prepared(np.zeros((1, 4, 4096), np.uint16), (4, 4096))[1] == 1
    wide, band = prepared(np.zeros((1, 2, 11553 + 31), np.uint16), (2, 11553 + 31))
    assert (wide.dtype, band) == (np.uint32, 1)


def test_no_copy_of_what_a_camera_sends() -> None:
    data = frames("<u2", (16, 256))
    assert np.shares_memory(prepared(data, (16, 256))[0], data)


def test_frames_that_are_not_in_one_piece() -> None:
    data = frames("<u2", (20, 96), 6)[::2, 2:, ::3]
    masks = masks_of((18, 32))
    expected, expected_moments = naive(data, masks, CENTRE)
    sums, moments = VirtualDetectors(masks).sums_and_moments(data, CENTRE)
    np.testing.assert_array_equal(sums, expected)
    np.testing.assert_array_equal(moments, expected_moments)


def test_a_broken_pixel_is_in_the_sums_that_hold_it_and_in_no_other() -> None:
    data = np.ones((2, 4, 40), np.float32)
    data[0, 1, 5] = np.nan
    masks = np.zeros((2, 4, 40))
    masks[0, 1] = masks[1, 2] = 1
    sums, moments = VirtualDetectors(masks).sums_and_moments(data, CENTRE)
    np.testing.assert_array_equal(sums, [[np.nan, 40], [40, 40]])
    assert np.isnan(moments).tolist() == [[True] * 3, [False] * 3]


def test_nothing_in_gives_nothing_out() -> None:
    assert VirtualDetectors(np.ones((2, 4, 4))).sums(np.zeros((0, 4, 4), np.uint16)).shape == (0, 2)
    none = VirtualDetectors(np.zeros((0, 4, 4)))
    assert none.sums(np.ones((3, 4, 4), np.uint16)).shape == (3, 0)
    sums, moments = none.sums_and_moments(np.ones((3, 4, 4), np.uint16), (0.0, 0.0))
    assert sums.shape == (3, 0)
    assert moments.tolist() == [[16, 24, 24]] * 3
    assert VirtualDetectors(np.zeros((1, 4, 4))).sums(np.ones((2, 4, 4), np.uint16)).tolist() == [[0], [0]]


def test_another_shape_or_type_is_refused() -> None:
    detectors = VirtualDetectors(np.ones((1, 4, 5)))
    with pytest.raises(ValueError, match=r"frames are \(N, 4, 5\), not of shape \(2, 5, 4\)"):
        detectors.sums(np.ones((2, 5, 4)))
    with pytest.raises(TypeError, match="not complex64"):
        detectors.sums(np.ones((2, 4, 5), np.complex64))
    with pytest.raises(ValueError, match="masks are"):
        VirtualDetectors(np.ones((4, 5)))


def test_masks_are_packed_as_the_kernels_read_them() -> None:
    masks = np.zeros((1, 4, 70))
    masks[0, 1, 33], masks[0, 2, 69] = 1, 0.5
    packed = PackedMasks.of(masks)
    assert packed.bits.shape == (1, 4, 3)
    assert packed.bits[0, 1].tolist() == [0, 2, 0]
    assert packed.bits[0, 2].tolist() == [0, 0, 1 << 69 - 64]
    assert packed.spans[0].tolist() == [[0, 0], [1, 2], [2, 3], [0, 0]]
    assert packed.rows == (1, 3)


OTHER_PROCESSOR = """
import numpy as np
from probeloop.compute.kernels import VirtualDetectors
rng = np.random.default_rng(0)
data, masks = rng.integers(0, 65536, (3, 20, 75), np.uint16), rng.random((2, 20, 75)) < 0.5
sums, moments = VirtualDetectors(masks).sums_and_moments(data, (0, 0))
y, x = np.mgrid[:20, :75]
wide = data.astype(np.int64)
assert (sums == np.stack([wide[:, mask].sum(-1) for mask in masks], -1)).all()
assert (moments == np.stack([wide.sum((1, 2)), (wide * x).sum((1, 2)), (wide * y).sum((1, 2))], -1)).all()
reals = data.astype(np.float32) / 7
sums, _ = VirtualDetectors(masks).sums_and_moments(reals, (0, 0))
np.testing.assert_allclose(sums, np.stack([reals[:, mask].sum(-1, dtype=float) for mask in masks], -1), rtol=1e-14)
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="compiles for an x86-64 processor without AVX")
def test_a_processor_without_wide_vectors_sums_the_same(tmp_path: Path) -> None:
    env = {**os.environ, "NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", OTHER_PROCESSOR], env=env, check=True, timeout=100)


def test_what_is_exact_is_said() -> None:
    assert [sums_exactly(np.dtype(d)) for d in ("u1", "i2", "u4", "f4", "u8")] == [True, True, True, False, False]
