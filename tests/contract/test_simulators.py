"""Every simulator that ships keeps what is promised of one: the same again, and a truth that nobody measures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from probeloop import discover
from probeloop.data.driver import Instrument
from probeloop.testing.check_driver import check_simulator

PLAYS_BACK = ("replay",)  # has no truth: what was measured is all that it knows
SHIPPED = [
    e for e in discover.found() if e.origin == "shipped" and e.kind == "Simulator" and e.name not in PLAYS_BACK
]
# small, where the settings know the name: seconds, not minutes
SMALL: dict[str, dict[str, Any]] = {
    "stem": {"pixels": 32, "pixel_angle": 8.0, "tile": 8, "carbon": 0.2, "crystal": 0.4, "drift": 1e-9,
             "misalignment": 0.1},
    "steady_camera": {"pixels": 16},
    "spm": {"cells": 128, "domain_size": 150.0},
}  # fmt: skip


def factory(drop_in: discover.Found) -> Callable[[], Instrument]:
    known = discover.load(drop_in).Parameters.__struct_fields__
    given = {name: value for name, value in SMALL.get(drop_in.name, {}).items() if name in known}
    return lambda: discover.load_instrument(drop_in.name, given, kind="Simulator", unpaced=True)


@pytest.mark.parametrize("drop_in", SHIPPED, ids=lambda e: e.name)
def test_it_keeps_its_contract(drop_in: discover.Found) -> None:
    assert drop_in.error is None
    assert check_simulator(factory(drop_in)) == []


def test_the_known_ones_are_among_them() -> None:
    assert {"stem", "steady_camera"} <= {each.name for each in SHIPPED}
