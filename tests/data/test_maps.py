"""What a plug-in can read as a map, and what it says of anything else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from probeloop.data.axes import Axis, Channel, StreamSpec
from probeloop.data.errors import SettingsError
from probeloop.data.maps import map_input

AXES = (Axis("y", 4, 1e-9, 0.0, "m"), Axis("x", 3, 1e-9, 0.0, "m"))
TWO = (Channel("height", "height", "m"), Channel("amplitude", "piezoresponse", "V"))


def spec(**changes: Any) -> StreamSpec:
    given: dict[str, Any] = {"name": "scan", "kind": "values", "nav": AXES, "units": "e"}
    return StreamSpec(**(given | changes))


def test_a_plain_map_is_read_as_it_is() -> None:
    found, data = map_input(spec()), np.arange(12.0).reshape(4, 3)
    assert (found.shape, found.channel, found.units) == ((4, 3), None, "e")
    assert found.of(data) is data
    image = map_input(StreamSpec("mean", "image", sig=AXES))
    assert (image.axes, image.channel) == (AXES, None)


def test_one_of_several_channels_is_a_view_of_them() -> None:
    data = np.arange(24.0).reshape(4, 3, 2)
    first, named = map_input(spec(channels=TWO)), map_input(spec(channels=TWO), "amplitude")
    assert (first.channel, first.units, named.channel, named.units) == (0, "m", 1, "V")
    assert np.shares_memory(named.of(data), data)
    assert np.array_equal(named.of(data), data[..., 1])


def test_the_only_channel_may_be_named_and_is_no_axis() -> None:
    found = map_input(spec(channels=TWO[1:]), "amplitude")
    assert (found.channel, found.units) == (None, "V")
    with pytest.raises(SettingsError, match=r"no 'phase' in 'scan' \(allowed: height \| amplitude\)"):
        map_input(spec(channels=TWO), "phase")
    with pytest.raises(SettingsError, match=r"allowed: none"):
        map_input(spec(), "phase")


@pytest.mark.parametrize(
    ("changes", "asked"),
    [
        ({"nav": AXES[:1]}, {}),
        ({"kind": "frames", "sig": AXES}, {}),
        ({"kind": "spectra", "sig": AXES[:1]}, {}),
        ({"sig": AXES}, {}),
        ({"channels": TWO}, {"several": False}),
        ({"dtype": "<c8"}, {"real": True}),
        ({"kind": "image", "nav": (), "sig": AXES}, {"kinds": ("values",)}),
        ({"kind": "image", "nav": (), "sig": AXES[:1]}, {}),
    ],
)
def test_what_is_no_map_is_refused_in_words(changes: dict[str, Any], asked: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"'scan' has \d scan axes and \w+ of shape .*a picture\)"):
        map_input(spec(**changes), wanted="a picture", **asked)


def test_a_map_without_metres_is_refused_where_a_length_is_told() -> None:
    for axis in (Axis("x", 3), Axis("x", 3, 0.0, 0.0, "m"), Axis("x", 3, 1.0, 0.0, "1/m")):
        assert map_input(spec(nav=(AXES[0], axis))).shape == (4, 3)
        with pytest.raises(SettingsError, match="no scale in metres"):
            map_input(spec(nav=(AXES[0], axis)), metres=True)
