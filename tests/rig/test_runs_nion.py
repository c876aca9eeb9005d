"""A whole rig on Nion's own simulator: the plan that focuses our column focuses this one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.peers("nion")
KNOBS = ("C10", "C12a", "C12b")


@pytest.fixture(autouse=True)
def usim() -> None:
    root = Path(os.environ.get("PROBELOOP_PEERS") or Path(__file__).parents[2] / ".peers")
    if not (root / "nion" / "bin" / "python").is_file():
        pytest.skip("nionswift-usim is not there: make peers")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("start", [(500e-9, 100e-9, -60e-9), (-500e-9, -300e-9, 400e-9)])
def test_autofocus_brings_usim_to_focus(launch: Callable[..., Any], start: tuple[float, float, float]) -> None:
    c10, x, y = start
    controls = f'{{C10 = {c10}, "C12.x" = {x}, "C12.y" = {y}}}'
    run = launch("run", "nion-usim", "--plan", "autofocus", "--set", f"instrument.controls={controls}")
    made = run.summary(240)
    assert made["problems"] == []
    (plan,) = made["plans"]
    assert plan["succeeded"], plan["message"]
    assert plan["world"] == "rays"
    assert "read-back confirmed" in plan["message"]
    read = [e["result"]["readback"] for e in run.events() if e["type"] == "Done" and "C10" in e["result"]["readback"]]
    assert [read[0][name] for name in KNOBS] == pytest.approx(start)
    left = np.array([read[-1][name] for name in KNOBS])
    assert np.abs(left).max() < 2e-9
    assert [plan["read_back_m"][name] for name in KNOBS] == pytest.approx(left, abs=1e-15)
    assert np.array([plan["applied_m"][name] for name in KNOBS]) == pytest.approx(left - start, abs=1e-15)
    for value, _ in plan["contrast_beside"]:
        assert value < plan["contrast"][0]
    run.nothing_left()
