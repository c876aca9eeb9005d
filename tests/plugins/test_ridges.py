"""The ridge filter as a plug-in: what it answers to, and what it makes of bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from probeloop.plugins.ridges import Ridges, ridge_map

from probeloop.api import Axis, Channel, StreamSpec
from probeloop.data.errors import SettingsError
from probeloop.data.settings import convert

AXES = (Axis("y", 64, 1e-9, 0.0, "m"), Axis("x", 48, 1e-9, 0.0, "m"))
SPEC = StreamSpec("amplitude", "values", "<f4", nav=AXES)


def walls(left: float = 1.0, right: float = 1.0) -> Any:
    """Return an amplitude (64, 48) with a wall along column 12 in a domain of `left`, and 36 in one of `right`."""
    x = np.arange(48.0)
    level = np.where(x < 24, left, right)
    dips = 1 - 0.9 * (np.exp(-(((x - 12) / 1.5) ** 2)) + np.exp(-(((x - 36) / 1.5) ** 2)))
    noise = 0.02 * np.random.default_rng(1).normal(size=(64, 48))
    return np.tile(level * dips, (64, 1)) + noise * min(left, right)


def run(data: Any, spec: StreamSpec = SPEC, **parameters: Any) -> Any:
    plugin = Ridges(convert(Ridges.Parameters, parameters))
    plugin.outputs(spec)
    made = plugin.update(data)
    return None if made is None else made["mean"][0]


def test_dark_lines_answer_and_bright_ones_where_they_are_asked_for() -> None:
    dark, bright, both = (run(walls(), lines=lines) for lines in ("dark", "bright", "both"))
    assert dark.dtype == np.float32
    assert 0 <= dark.min() <= dark.max() <= 1
    assert dark[5:-5, [12, 36]].min() > 0.6
    assert np.median(dark[5:-5, [4, 24, 44]]) < 0.05
    assert np.median(bright[5:-5, [12, 36]]) < 0.1 < 0.7 < np.median(bright[5:-5, [10, 14]])
    assert np.median(both[5:-5, [10, 14]]) > 0.3
    assert both[5:-5, [12, 36]].min() > 0.6
    assert run(1 - walls(), lines="bright", contrast="difference")[5:-5, [12, 36]].min() > 0.6


def test_a_wall_in_a_weak_domain_counts_as_much_by_its_ratio() -> None:
    weak = {
        contrast: np.median(run(walls(0.05), contrast=contrast)[5:-5, 12]) for contrast in ("ratio", "difference")
    }
    assert weak["ratio"] > 0.6
    assert weak["difference"] < 0.2


def test_steps_between_lines_are_levelled_out() -> None:
    stepped = walls() + np.random.default_rng(2).normal(size=(64, 1))
    plain, level = (run(stepped, contrast="difference", level=on) for on in (False, True))
    assert level[5:-5, [4, 24, 44]].mean() < 0.02 < 0.15 < plain[5:-5, [4, 24, 44]].mean()
    with pytest.raises(SettingsError, match="level"):
        convert(Ridges.Parameters, {"level": True})


def test_what_is_not_measured_stays_so_and_does_not_make_lines() -> None:
    half = walls()
    half[30:] = np.nan
    half[10] = np.nan
    made = run(half)
    assert np.isnan(made[30:]).all()
    assert np.isnan(made[10]).all()
    assert made[5:28, [12, 36]][~np.isnan(made[5:28, [12, 36]])].min() > 0.6
    assert np.nanmax(made[5:28, [4, 24, 44]]) < 0.25
    assert run(np.full((64, 48), np.nan)) is None


def test_a_constant_or_saturated_map_has_no_lines() -> None:
    for value in (0.0, 1.0, -3.0, 1e-12):
        assert run(np.full((64, 48), value)).max() == 0
    assert ridge_map(np.ones((1, 1))).shape == (1, 1)


def test_of_complex_numbers_the_magnitude_and_of_several_channels_the_named_one() -> None:
    turned = walls() * np.exp(1j * np.random.default_rng(3).uniform(0, 6, (64, 48)))
    lock_in = StreamSpec("scan", "values", "<c8", nav=AXES)
    np.testing.assert_allclose(run(turned, lock_in), run(np.abs(walls())), atol=1e-4)
    two = StreamSpec("scan", "values", "<f4", nav=AXES, channels=(Channel("height"), Channel("amplitude")))
    both = np.stack([np.zeros((64, 48)), walls()], axis=-1)
    np.testing.assert_array_equal(run(both, two, channel="amplitude"), run(walls()))
    with pytest.raises(SettingsError, match="height"):
        run(both, two, channel="phase")


def test_what_is_no_map_is_refused() -> None:
    for spec in (
        StreamSpec("a", "frames", "<f4", nav=AXES, sig=AXES),
        StreamSpec("a", "values", "<f4", nav=AXES[:1]),
    ):
        with pytest.raises(SettingsError):
            Ridges().outputs(spec)
    with pytest.raises(SettingsError, match="narrow"):
        convert(Ridges.Parameters, {"narrow": 4.0, "wide": 2.0})
