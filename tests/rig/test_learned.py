"""Which rig a demo's plan runs on, and what a simulator tells of the map that a plan learned."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from probeloop.data.commands import BEPS
from probeloop.data.control import StateChange
from probeloop.data.errors import PlanError
from probeloop.data.scan import Region
from probeloop.discover import load_class, load_instrument
from probeloop.record.truth import SessionTruth
from probeloop.rig.learned import write_learned_truth
from probeloop.rig.load import load
from probeloop.rig.run import _rig

REGION = {"centre_x": 2e-8, "centre_y": -1e-8, "width": 2e-7, "height": 1.5e-7}


@pytest.mark.parametrize(
    ("what", "plan", "name"),
    [("spm", "inverse", "spm-inverse"), ("stem", "inverse", "stem-inverse"), ("spm", "explore", "spm"),
     ("stem", "autofocus", "stem"), ("spm", None, "spm")],
)  # fmt: skip
def test_a_plan_that_needs_another_sample_has_a_rig_of_its_own(what: str, plan: str | None, name: str) -> None:
    rig = _rig(argparse.Namespace(command="demo", what=what, plan=plan, seed=7, set=[]))
    assert rig.name == name
    assert plan is None or [each.use for each in rig.plans] == [plan]
    assert {each.seed for each in rig.plans} == {7}


def told(folder: Path, **changes: Any) -> Path:
    """A session whose plan says what it learned."""
    learned = {"scalarizer": "loop_area", "spectrum": {"type": "BEPS"}, "region": REGION, "shape": [3, 4]} | changes
    event = StateChange(target="plan", state="finished", data={"plan": "inverse", "learned": learned})
    (folder / "events.jsonl").write_bytes(msgspec.json.encode(event) + b"\n")
    return folder


def test_the_truth_of_a_map_is_what_the_scalarizer_says_of_spectra_without_noise(tmp_path: Path) -> None:
    rig = load("spm-inverse", ["instrument.cells=128"])
    assert write_learned_truth(told(tmp_path), rig)
    found = SessionTruth(tmp_path).values("learned")["value"]
    assert found.shape == (3, 4)
    spm: Any = load_instrument("spm", rig.instrument.parameters, spelled=True)
    spec, spectra = spm.expected_spectra(BEPS(), Region(**REGION).positions((3, 4)))
    spm.close()
    area = load_class("loop_area", "Scalarizer")()
    naive = [value if valid else np.nan for value, _, valid in (area.scalarize(each, spec) for each in spectra)]
    np.testing.assert_array_equal(found.ravel(), naive)
    assert np.ptp(found[np.isfinite(found)]) > 0


def test_where_there_is_nothing_to_hold_a_map_against_nothing_is_told(tmp_path: Path) -> None:
    rig = load("spm-inverse", ["instrument.cells=128"])
    assert not write_learned_truth(told(tmp_path, scalarizer="gone"), rig)
    assert not write_learned_truth(told(tmp_path, scalarizer=""), rig)
    real = load("spm-inverse", ["instrument.use=template"])  # a driver is never asked, nor made
    assert not write_learned_truth(told(tmp_path), real)
    with pytest.raises(PlanError, match="what it learned"):
        write_learned_truth(told(tmp_path, region={}), rig)
    assert not (tmp_path / "truth").exists()
