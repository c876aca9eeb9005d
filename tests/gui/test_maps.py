"""Maps and frames out of blocks, without a window."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from probeloop.gui.models.levels import Levels, robust_range
from probeloop.gui.models.maps import LiveMap, extent_of
from probeloop.gui.models.pattern import (
    AnnularControl,
    Annulus,
    NewestFrame,
    annular_control,
    radius_to_units,
    ring_of,
    units_to_radius,
)

from probeloop.data.axes import Axis, Channel, StreamSpec
from probeloop.data.frame import BlockFlag, FrameBlock, FrameBuffer, FrameFlag

NM = (Axis("y", 3, 1e-9, 0.0, "m"), Axis("x", 4, 2e-9, 0.0, "m"))
SPEC = StreamSpec("adf", "values", "<f4", NM)


def block(spec: StreamSpec, index: list[int], values: object, generation: int = 1, flags: int = 0) -> FrameBlock:
    buffer = FrameBuffer.allocate(spec, max(1, len(index)))
    n = len(index)
    buffer.data[:n] = values
    buffer.scan_index[:n] = index
    buffer.seal(n, index=0, generation=generation)
    memory = np.concatenate([buffer.header.view(np.uint8), np.zeros(0, np.uint8)])
    assert memory.size == 128
    return FrameBlock(
        spec, 0, n, BlockFlag(flags), generation, 1, -1, 1, 1, 0, buffer.data[:n], buffer.time_ns[:n],
        buffer.scan_index[:n], buffer.position[:n], buffer.dose[:n], buffer.flags[:n],
    )  # fmt: skip


def test_a_letter_F_stays_an_F_and_what_is_missing_is_nan() -> None:
    letter = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]], np.float32)
    live = LiveMap("adf")
    order = np.random.default_rng(0).permutation(12)
    kept = [int(i) for i in order if i != 5]
    live.take(block(SPEC, kept, letter.ravel()[kept]))
    shown = live.picture()
    assert shown is not None
    data, extent = shown
    assert np.isnan(data[1, 1])
    letter[1, 1] = np.nan
    np.testing.assert_array_equal(data, letter)
    assert live.measured == 11
    assert extent.units == "m"
    assert (extent.x, extent.width, extent.height) == pytest.approx((-1e-9, 8e-9, 3e-9))


def test_revised_values_overwrite_and_are_not_counted_twice() -> None:
    live = LiveMap("adf")
    live.take(block(SPEC, [0, 1], [1, 2]))
    live.take(block(SPEC, [0, 1], [5, 6]))
    assert live.data is not None
    assert live.data.ravel()[:2].tolist() == [5, 6]
    assert live.measured == 2


def test_a_new_generation_begins_anew_and_an_old_one_is_left_out() -> None:
    live = LiveMap("adf")
    live.take(block(SPEC, [0, 1], [1, 2], generation=3))
    live.take(block(SPEC, [2], [3], generation=4))
    live.take(block(SPEC, [0], [9], generation=3))
    assert live.data is not None
    assert np.flatnonzero(np.isfinite(live.data)).tolist() == [2]


def test_the_pixel_under_the_pointer() -> None:
    live = LiveMap("adf")
    live.take(block(SPEC, list(range(12)), np.arange(12)))
    assert live.value_at(2e-9, 2e-9) == (9, 9.0)
    assert live.value_at(6.9e-9, 0.0) == (3, 3.0)
    assert live.value_at(-1.1e-9, 0.0) is None


def test_channels_and_parts_of_complex_numbers() -> None:
    spec = replace_spec(SPEC, dtype="<c8", channels=(Channel("amp1"), Channel("amp2")))
    live = LiveMap("pfm")
    live.take(block(spec, [0], [[1j, 3 + 4j]]))
    assert live.channels[:5] == ("amp1 amplitude", "amp1 phase", "amp1 real", "amp1 imaginary", "amp2 amplitude")
    shown = live.picture(4)
    assert shown is not None
    assert shown[0][0, 0] == 5
    shown = live.picture(1)
    assert shown is not None
    assert shown[0][0, 0] == pytest.approx(np.pi / 2)


def replace_spec(spec: StreamSpec, **changes: object) -> StreamSpec:
    import msgspec

    return msgspec.structs.replace(spec, **changes)


def test_an_image_replaces_the_whole_picture_and_a_stream_without_scan_makes_none() -> None:
    image = StreamSpec("fft", "image", "<f4", (), NM)
    live = LiveMap("fft")
    live.take(block(image, [0], [np.ones((3, 4))]))
    shown = live.picture()
    assert shown is not None
    assert shown[0].shape == (3, 4)
    loose = LiveMap("loose")
    loose.take(block(replace_spec(SPEC, sync="none"), [0], [1]))
    assert loose.picture() is None


def test_uncalibrated_axes_are_in_pixels() -> None:
    extent = extent_of((Axis("y", 3), Axis("x", 4)))
    assert (extent.x, extent.y, extent.width, extent.height, extent.units) == (-0.5, -0.5, 4, 3, "px")


def test_the_newest_frame_is_a_copy_with_its_flags() -> None:
    spec = StreamSpec("camera", "frames", "<u2", NM, (Axis("ky", 2), Axis("kx", 2)))
    made = block(spec, [4, 7], np.arange(8).reshape(2, 2, 2))
    made.frame_flags[1] = int(FrameFlag.SETTLING)
    newest = NewestFrame("camera")
    newest.take(made)
    made.data[:] = 0
    assert newest.data is not None
    assert newest.data.tolist() == [[4, 5], [6, 7]]
    assert (newest.scan_index, newest.settling) == (7, True)
    shown = newest.picture(True)
    assert shown is not None
    assert shown[0][0, 0] == pytest.approx(np.log10(5))


def test_contrast_follows_once_or_stays() -> None:
    picture = np.linspace(0, 100, 10_000).reshape(100, 100)
    picture[0, 0] = np.nan
    levels = Levels()
    assert levels.follow(picture)
    assert (levels.low, levels.high) == pytest.approx((0.5, 99.5), abs=0.1)
    levels.set(40, 30)
    assert not levels.follow(picture)
    assert (levels.low, levels.high, levels.mode) == (30, 40, "locked")
    levels.once(picture * 2)
    assert levels.high == pytest.approx(199, abs=0.2)


@pytest.mark.parametrize("picture", [np.full((4, 4), np.nan), np.zeros((0, 0)), np.full((4, 4), 7.0)])
def test_contrast_of_nothing_and_of_one_value(picture: np.ndarray) -> None:
    found = robust_range(picture)
    assert found is None or found[0] < found[1]


def test_radii_in_the_units_of_a_parameter_and_back() -> None:
    assert radius_to_units(0.06, "rad", "mrad", None) == pytest.approx(60)
    assert radius_to_units(0.06, "rad", "", 0.02) == pytest.approx(3)
    assert radius_to_units(0.06, "rad", "", None) is None
    assert radius_to_units(30, "px", "mrad", None) is None
    assert units_to_radius(60, "mrad", "rad", None) == pytest.approx(0.06)


def test_a_ring_keeps_inner_below_outer() -> None:
    ring = Annulus(0, 0, 10, 20)
    assert ring.resized(inner=30, gap=1).inner == 19
    assert ring.resized(outer=5, gap=1).outer == 11
    assert ring.resized(inner=-3).inner == 0


def test_an_annular_control_is_found_by_its_two_radii() -> None:
    schema = {"properties": {"inner": {"unit": "mrad", "minimum": 0}, "outer": {"unit": "mrad", "maximum": 500}}}
    found = annular_control("adf", schema, {"inner": 60, "outer": 200})
    assert found == AnnularControl("adf", "mrad", 60, 200, 0, 500)
    assert annular_control("adf", schema, {"inner": 60}) is None
    assert annular_control("com", {"properties": {"radius": {}}}, {"radius": 1}) is None


def test_angles_left_out_are_the_dark_field_of_the_plugin() -> None:
    extent = extent_of((Axis("ky", 100, 2e-3, -0.1, "rad"), Axis("kx", 100, 2e-3, -0.1, "rad")))
    ring = ring_of(AnnularControl("adf", "mrad", None, None, 0, 1000), extent, (0.0, 0.0), 0.025)
    assert ring is not None
    assert (ring.inner, ring.outer) == pytest.approx((0.06, 0.099))
    assert ring_of(AnnularControl("adf", "mrad", None, None, 0, 1000), extent, (0.0, 0.0), None) is None
    assert replace(ring, inner=0.0).inner == 0
