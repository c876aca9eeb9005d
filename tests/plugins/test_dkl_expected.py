"""What exploring is expected to earn, from a session that measured a few spectra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from probeloop.plugins.explore_dkl import expected as module
from probeloop.plugins.explore_dkl.expected import expected

from probeloop.api import Axis, RecordError, StreamSpec
from probeloop.data.control import Observed, StateChange
from probeloop.record.session import SessionWriter
from probeloop.testing.streams import scan_blocks

SIDE, STEP = 24, 2e-9
SCAN = StreamSpec("scan", "values", "<f4", (Axis("y", SIDE, STEP, 0.0, "m"), Axis("x", SIDE, STEP, 0.0, "m")))


def session(folder: Path, count: int, invalid: int = 0, again: bool = False) -> None:
    """A recorded map, and spectra at random places of it whose value is the map's, some of them invalid."""
    writer = SessionWriter(folder)
    blocks = list(scan_blocks(SCAN, SIDE, seed=3))
    for block in blocks:
        writer.add(block)
    writer.close()
    image = np.concatenate([block.data for block in blocks])
    rng = np.random.default_rng(1)
    events: list[Any] = [StateChange(target="plan", state="running", data={"plan": "explore", "parameters": {}})]
    told = []
    for i, cell in enumerate(rng.choice(SIDE**2, count, replace=False)):
        position = [float(cell % SIDE) * STEP, float(cell // SIDE) * STEP]
        told.append({"position": position, "value": float(image[cell]), "valid": i >= invalid, "topic": "spectrum",
                     "generation": i, "index": i, "scalarizer": "loop_area"})  # fmt: skip
    events += [Observed(step=i, kind="observe", value={"value": [each]}) for i, each in enumerate(told)]
    if again:
        anew = [{**each, "value": 100 * each["value"], "scalarizer": "imprint", "again": True} for each in told]
        events.append(Observed(step=count, kind="observe", value={"value": anew}))
    (folder / "events.jsonl").write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in events))


def test_every_pair_is_told_with_what_it_lies_below_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GAMES", 2)
    session(tmp_path, 16, invalid=2)
    found = expected(str(tmp_path), 6)
    assert (found["measured"], found["candidates"], found["rounds"]) == (14, SIDE**2, 6)
    assert len(found["pairs"]) == 12
    rewards = [each["reward"] for each in found["pairs"]]
    assert rewards == sorted(rewards, reverse=True)
    for each in found["pairs"]:
        assert each["regret"] == pytest.approx(found["best_measured"] - each["reward"])
        assert each["interval"][0] <= each["reward"] <= each["interval"][1]


def test_of_values_told_anew_the_last_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GAMES", 1)
    session(tmp_path, 12, again=True)
    found = expected(str(tmp_path), 3)
    assert found["scalarizer"] == "imprint"
    assert found["best_measured"] > 500


def test_a_session_that_can_t_tell_says_why(tmp_path: Path) -> None:
    session(tmp_path, 10, invalid=5)
    with pytest.raises(RecordError, match="5 valid spectra"):
        expected(str(tmp_path), 5)
