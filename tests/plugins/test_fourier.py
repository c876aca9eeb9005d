"""The power spectrum: the naive line, a lattice at its frequency, and a map that is only partly there."""

from __future__ import annotations

import numpy as np
import pytest
from probeloop.plugins.fourier import Fourier

from probeloop.api import Axis, Channel, SettingsError, StreamSpec

STEP = 20e-12


def spec(ny: int = 32, nx: int = 48, dtype: str = "<f4", step: float | None = STEP) -> StreamSpec:
    return StreamSpec("haadf", "values", dtype, (Axis("y", ny, step, 0.0, "m"), Axis("x", nx, step, 0.0, "m")))


@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
def test_it_is_the_log_power_of_the_windowed_map(dtype: str) -> None:
    plugin = Fourier(Fourier.Parameters())
    plugin.outputs(spec(dtype=dtype))
    data = np.random.default_rng(0).random((32, 48)).astype(dtype)
    window = np.outer(np.hanning(34)[1:-1], np.hanning(50)[1:-1])
    wide = data.astype(float)
    naive = np.abs(np.fft.fftshift(np.fft.fft2((wide - (wide * window).sum() / window.sum()) * window))) ** 2
    (power,) = plugin.update(data, np.isfinite(data))["power"]  # type: ignore[index]
    np.testing.assert_allclose(power, np.log10(1 + naive), rtol=1e-4, atol=1e-5)


def test_a_lattice_shows_at_its_frequency_also_when_half_the_map_is_missing() -> None:
    plugin = Fourier(Fourier.Parameters())
    axes = plugin.outputs(spec(64, 64))["power"].sig
    assert [axis.units for axis in axes] == ["1/m", "1/m"]
    assert axes[0].values()[32] == 0.0
    x = np.arange(64) * STEP * np.ones((64, 1))
    frequency = 10 / (64 * STEP)
    data = (5 + np.cos(2 * np.pi * frequency * x)).astype(np.float32)
    data[40:] = np.nan
    out = plugin.update(data)
    assert out is not None
    power = out["power"][0]
    assert np.isfinite(power).all()
    row, column = np.unravel_index(np.argmax(power), power.shape)
    assert abs(abs(axes[1].values()[column]) - frequency) < 1.5 / (64 * STEP)
    assert abs(axes[0].values()[row]) < 1.5 / (64 * STEP)


def test_before_the_first_pixel_there_is_nothing_and_uncalibrated_stays_so() -> None:
    plugin = Fourier()
    assert [a.scale for a in plugin.outputs(spec(step=None))["power"].sig] == [None, None]
    assert plugin.update(np.full((32, 48), np.nan)) is None


@pytest.mark.parametrize(
    "wrong",
    [
        StreamSpec("camera", "frames", "<u2", (Axis("y", 4), Axis("x", 4)), (Axis("k", 4), Axis("l", 4))),
        StreamSpec("line", "values", "<f4", (Axis("x", 4),)),
        StreamSpec("lockin", "values", "<c8", (Axis("y", 4), Axis("x", 4))),
    ],
)
def test_what_is_no_map_is_refused(wrong: StreamSpec) -> None:
    with pytest.raises(SettingsError, match="2D scan of real numbers"):
        Fourier().outputs(wrong)


def test_one_of_several_channels_is_chosen_by_name() -> None:
    channels = (Channel("height"), Channel("amplitude"))
    two = StreamSpec("scan", "values", "<f4", nav=(Axis("y", 8, 1e-9), Axis("x", 8, 1e-9)), channels=channels)
    data = np.random.default_rng(3).normal(size=(8, 8, 2)).astype(np.float32)
    made = {}
    for name in ("height", "amplitude", ""):
        plugin = Fourier(Fourier.Parameters(channel=name, window="none"))
        plugin.outputs(two)
        made[name] = plugin.update(data)["power"]
    centred = data[..., 1] - data[..., 1].mean()
    naive = np.log10(1 + np.abs(np.fft.fftshift(np.fft.fft2(centred))) ** 2)
    np.testing.assert_allclose(made["amplitude"][0], naive, rtol=1e-4)
    np.testing.assert_array_equal(made[""], made["height"])
    with pytest.raises(SettingsError, match=r"height \| amplitude"):
        Fourier(Fourier.Parameters(channel="phase")).outputs(two)
