"""Amplitude, phase and height of a lock-in scan; a topography without its plane and the steps of its lines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from probeloop.plugins.flatten import Flatten, flattened
from probeloop.plugins.piezoresponse import Piezoresponse

from probeloop.api import Axis, BlockFlag, Channel, FrameBlock, FrameBuffer, SettingsError, StreamSpec

NAV = (Axis("y", 4, 2e-9, 0.0, "m"), Axis("x", 8, 2e-9, 0.0, "m"))
CHANNELS = (
    Channel("height_trace", "height", "m", "trace"),
    Channel("height_retrace", "height", "m", "retrace"),
    Channel("response_trace", "piezoresponse", "m", "trace"),
    Channel("response_retrace", "piezoresponse", "m", "retrace"),
)
SPEC = StreamSpec("scan", "values", "<c8", NAV, channels=CHANNELS)


def block(values: Any) -> FrameBlock:
    buffer = FrameBuffer.allocate(SPEC, len(values))
    buffer.data[:] = values
    columns = (buffer.time_ns, buffer.scan_index, buffer.position, buffer.dose, buffer.flags)
    return FrameBlock(SPEC, 0, len(values), BlockFlag(0), 1, 0, -1, 0, 0, 0, buffer.data, *columns)


@pytest.mark.parametrize(("direction", "at"), [("trace", 2), ("retrace", 3)])
def test_modulus_argument_and_height_of_one_direction(direction: Any, at: int) -> None:
    rng = np.random.default_rng(0)
    values = (rng.standard_normal((8, 4)) + 1j * rng.standard_normal((8, 4))).astype(np.complex64)
    plugin = Piezoresponse(Piezoresponse.Parameters(direction=direction, turn=90.0))
    specs = plugin.outputs(SPEC)
    assert {name: spec.units for name, spec in specs.items()} == {"amplitude": "m", "phase": "rad", "height": "m"}
    out = plugin.process(block(values))
    np.testing.assert_allclose(out["amplitude"], np.abs(values[:, at]), rtol=1e-6)
    np.testing.assert_allclose(np.exp(1j * out["phase"]), 1j * values[:, at] / np.abs(values[:, at]), atol=1e-5)
    np.testing.assert_array_equal(out["height"], values[:, at - 2].real)
    assert {each.dtype for each in out.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    "spec",
    [
        StreamSpec("scan", "values", "<f4", NAV, channels=CHANNELS),
        StreamSpec("scan", "values", "<c8", NAV, channels=CHANNELS[:2]),
    ],
    ids=["not complex", "no response"],
)
def test_what_is_no_lock_in_scan_is_refused(spec: StreamSpec) -> None:
    with pytest.raises(SettingsError, match="a scan with complex lock-in data"):
        Piezoresponse().outputs(spec)


def test_a_complex_map_without_channels_is_the_response() -> None:
    plugin = Piezoresponse()
    assert set(plugin.outputs(StreamSpec("lockin", "values", "<c8", NAV, units="V"))) == {"amplitude", "phase"}


def test_a_plane_and_the_steps_of_lines_go_and_what_is_missing_stays_missing() -> None:
    rng = np.random.default_rng(1)
    grain = rng.standard_normal((32, 40)) * 1e-10
    y, x = np.mgrid[0:32, 0:40]
    tilted = grain + 2e-6 + 3e-10 * x - 5e-10 * y + rng.standard_normal(32)[:, None] * 1e-9
    tilted[20:] = np.nan
    flat = flattened(tilted, lines=True)
    assert np.isnan(flat[20:]).all()
    wanted = grain[:20] - np.median(grain[:20], axis=1, keepdims=True)
    np.testing.assert_allclose(flat[:20], wanted, atol=4e-11)
    assert np.nanstd(flattened(tilted, lines=False)) > 3 * np.nanstd(flat)


def test_it_takes_the_channel_that_it_is_told_and_waits_for_three_lines() -> None:
    plugin = Flatten(Flatten.Parameters(channel="height_retrace"))
    spec = plugin.outputs(SPEC)["flat"]
    assert (spec.kind, spec.units, [axis.scale for axis in spec.sig]) == ("image", "m", [2e-9, 2e-9])
    values = np.full((4, 8, 4), np.nan, np.complex64)
    values[:2] = 1.0
    assert plugin.update(values) is None
    values[...] = 0.0
    values[..., 1] = np.arange(8) ** 2
    out = plugin.update(values)
    assert out is not None
    parabola = np.arange(8.0) ** 2 - np.polyval(np.polyfit(np.arange(8), np.arange(8.0) ** 2, 1), np.arange(8))
    np.testing.assert_allclose(out["flat"][0], np.tile(parabola - np.median(parabola), (4, 1)), atol=1e-5)
    with pytest.raises(SettingsError, match="height_trace"):
        Flatten(Flatten.Parameters(channel="colour")).outputs(SPEC)
    with pytest.raises(SettingsError, match="2D scan"):
        Flatten().outputs(StreamSpec("line", "values", "<f4", NAV[:1]))
