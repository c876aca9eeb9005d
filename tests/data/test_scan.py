"""Where the probe is at every scan index."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probeloop.data.scan import Region, visit_order


def test_positions_are_pixel_centres_x_right_y_down() -> None:
    positions = Region(0.0, 0.0, 8e-9, 2e-9).positions((2, 4))
    np.testing.assert_allclose(positions[:4, 0], [-3e-9, -1e-9, 1e-9, 3e-9])
    np.testing.assert_allclose(positions[:4, 1], -0.5e-9)
    np.testing.assert_allclose(positions[4:, 1], 0.5e-9)


def test_one_pixel_is_at_the_centre() -> None:
    np.testing.assert_allclose(Region(3e-9, -1e-9, 1e-9, 1e-9, 0.3).positions((1, 1)), [[3e-9, -1e-9]])


def test_rotation_turns_x_to_y() -> None:
    region = Region(1e-9, 2e-9, 4e-9, 2e-9, math.pi / 2)
    first, last = region.positions((1, 2))
    np.testing.assert_allclose(first, [1e-9, 1e-9], atol=1e-20)
    np.testing.assert_allclose(last, [1e-9, 3e-9], atol=1e-20)


@given(
    st.floats(-1e-6, 1e-6), st.floats(-1e-6, 1e-6), st.floats(1e-9, 1e-6), st.floats(1e-9, 1e-6),
    st.floats(-7, 7), st.integers(1, 9), st.integers(1, 9),
)  # fmt: skip
def test_pixels_lie_inside_evenly_about_the_centre(
    x: float, y: float, width: float, height: float, rotation: float, ny: int, nx: int
) -> None:
    region = Region(x, y, width, height, rotation)
    positions = region.positions((ny, nx))
    np.testing.assert_allclose(positions.mean(axis=0), [x, y], atol=1e-15)
    c, s = math.cos(rotation), math.sin(rotation)
    offset = positions - [x, y]
    along, down = offset @ [c, s], offset @ [-s, c]
    assert np.all(np.abs(along) <= (width / 2) * (1 - 1 / nx) + 1e-15)
    assert np.all(np.abs(down) <= (height / 2) * (1 - 1 / ny) + 1e-15)
    grid = positions.reshape(ny, nx, 2)
    if nx > 1:
        np.testing.assert_allclose(np.hypot(*np.diff(grid, axis=1).T), width / nx, rtol=1e-6)
    corners = region.corners()
    np.testing.assert_allclose(corners.mean(axis=0), [x, y], atol=1e-15)
    np.testing.assert_allclose(np.hypot(*(corners[1] - corners[0])), width, rtol=1e-6)


def test_some_positions_are_those_of_all() -> None:
    region, index = Region(0.0, 0.0, 1e-8, 1e-8, 0.5), np.array([7, 0, 11])
    np.testing.assert_array_equal(region.positions((3, 4), index), region.positions((3, 4))[index])


def test_the_order_of_visits() -> None:
    assert visit_order((3, 3), "raster").tolist() == list(range(9))
    assert visit_order((3, 3), "serpentine").tolist() == [0, 1, 2, 5, 4, 3, 6, 7, 8]


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (4, 3)])
def test_a_serpentine_visits_each_once_and_never_jumps(shape: tuple[int, int]) -> None:
    order = visit_order(shape, "serpentine")
    assert sorted(order.tolist()) == list(range(shape[0] * shape[1]))
    y, x = np.divmod(order, shape[1])
    assert np.all(np.abs(np.diff(y)) + np.abs(np.diff(x)) == 1)
