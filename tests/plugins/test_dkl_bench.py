"""The benchmark: what it runs, what it makes of it, and that it can fail."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from probeloop.plugins.explore_dkl import benchmark, campaign, commands, real, replay
from probeloop.plugins.explore_dkl.benchmark import MEASURED, compare, judged, run
from probeloop.plugins.explore_dkl.worlds import Visit, world
from probeloop.plugins.explore_dkl.worlds_film import SIDE

from probeloop.api import SettingsError

DATA = Path(os.environ.get("PROBELOOP_DATA", Path(__file__).parents[3] / "shared" / "data"))
POLICIES = campaign.POLICIES


def torch() -> Any:
    made = pytest.importorskip("torch", reason="no torch: pip install 'probeloop[ml]'")
    made.set_num_threads(1)
    return made


def test_the_oracle_hits_everything_and_random_places_what_chance_gives() -> None:
    found = compare("wall", 801, ("grid", "random", "oracle"))
    assert found["oracle"]["hits"] == found["oracle"]["best"] == 41
    assert found["oracle"]["regret"] == 0.0
    assert found["oracle"]["x_random"] == pytest.approx(4096 / MEASURED)
    assert found["random"]["hits"] < 6
    assert found["grid"]["nlpd"] is None
    assert not found["random"]["claimed"]


@pytest.mark.parametrize("name", ["dkl", "pca_gp", "xy_gp", "sort_by_image"])
def test_every_policy_runs_and_leaves_a_map_with_its_uncertainty(name: str) -> None:
    torch()
    here = world("broken", 802)
    made = run(name, Visit(here), here.places, (SIDE, SIDE), here.images, 1, truth=here.truth, steps=3)
    assert len(set(made.cells)) == len(made.cells) == 11
    score = judged(made, here)
    assert score.nlpd is not None
    assert 0.2 < score.coverage_90 <= 1
    again = run(name, Visit(here), here.places, (SIDE, SIDE), here.images, 1, truth=here.truth, steps=3)
    assert again.cells == made.cells


def one(x: float, coverage: float = 0.9, claimed: bool = False, hits: int = 10) -> dict[str, Any]:
    return {"x_random": x, "objects": 3, "regret": 0.1, "nlpd": 1.0, "coverage_90": coverage, "claimed": claimed,
            "foretold": claimed, "hits": hits, "best": 41, "invalid": 0, "cpu_s": 1.0}  # fmt: skip


def figures(dkl: dict[str, Any], without: dict[str, Any], pca: float = 5.0) -> dict[str, Any]:
    others = {p: one(1.0) for p in POLICIES[1:]} | {"pca_gp": one(pca)}
    found = {("world", family, seed): {"dkl": dkl, **others} for family in campaign.LINKED for seed in range(4)}
    found |= {("world", "no_link", seed): dict.fromkeys(POLICIES, without) for seed in range(4)}
    made = campaign._figures(found, campaign.FAMILIES) | {"step_cpu_s": {"200": 0.5}}
    return {**made, "reached": campaign._reached(made)}


def test_every_target_can_be_reached_and_missed() -> None:
    by_chance = one(1.0, hits=1)
    good = figures(one(20.0), by_chance)
    assert all(good["reached"].values())
    assert good["default"] == "dkl"
    assert good["dkl_minus"]["pca_gp"]["top1pct_hits_x_random"]["mean"] == 15.0
    assert good["no_link"]["low"] < 1 < good["no_link"]["high"]
    assert not figures(one(4.0), by_chance)["reached"]["top1pct_hits_x_random"]
    assert figures(one(4.0), by_chance)["default"] == "pca_gp"
    assert not figures(one(20.0, coverage=0.97), by_chance)["reached"]["coverage_90"]
    assert not figures(one(20.0), one(9.0, hits=6))["reached"]["no_link_lift"]
    assert not figures(one(20.0), one(1.0, hits=1, claimed=True))["reached"]["no_link_claimed"]
    slow = {"step_cpu_s": {"200": 1.5}}
    assert campaign._reached(slow) == {"step_cpu_s_200": False}


def test_an_unknown_family_is_refused_with_those_that_there_are() -> None:
    torch()
    with pytest.raises(SettingsError, match="no family 'walls'"):
        commands.bench({"seeds": 1, "seed": 0, "what": "walls"})


def test_verdicts_are_words() -> None:
    def apart(low: float, high: float) -> dict[str, Any]:
        return {"mean": (low + high) / 2, "low": low, "high": high, "n": 10}

    assert real.verdict({"random": apart(-1, 2), "pca_gp": apart(1, 2)}) == "no gain over random places"
    gain = real.verdict({"random": apart(2, 4), "pca_gp": apart(-1, 1), "xy_gp": apart(1, 2), "grid": apart(-3, -1)})
    assert "2.0 to 4.0" in gain
    assert "better than xy_gp" in gain
    assert "worse than grid" in gain


def test_measured_loops_are_replayed_with_their_validity() -> None:
    file = DATA / replay.FILE
    if not file.exists():
        pytest.skip(f"no measured loops: {file} is not there (PROBELOOP_DATA)")
    pytest.importorskip("h5py", reason="no h5py: pip install 'probeloop[formats]'")
    data = replay.measured()
    assert data.shape == (50, 50)
    assert data.loops.shape == (2500, 64)
    assert 0.5 < data.valid.mean() < 0.95
    # the file's worst spectra have the largest areas
    steps = np.asarray(data.spec.aux["bias"])
    raw = np.log(np.abs(data.loops @ ((np.roll(steps, -1) - np.roll(steps, 1)) / 2)))
    assert data.valid[np.argsort(-raw)[:25]].mean() < 0.3
    visit = replay.ReplayVisit(data, "log_area")
    good, bad = int(np.flatnonzero(data.valid)[0]), int(np.flatnonzero(~data.valid)[0])
    assert visit.measure(good).value == data.values["log_area"][good]
    assert not visit.measure(bad).valid
    found = real.compare_real(data, "log_area", 3, ("random", "oracle"))["policies"]
    assert found["oracle"]["hits"] >= 15
    assert found["random"]["hits"] < 6


def test_without_the_file_the_real_part_is_skipped_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROBELOOP_DATA", "/nowhere")
    monkeypatch.chdir("/")
    assert "BEPS_PTO_50x50.h5" in campaign._loops(None)["skipped"]


@pytest.mark.bench
@pytest.mark.timeout(1200)
def test_a_campaign_in_two_processes_beats_chance_eight_times_where_walls_respond() -> None:
    torch()
    made = campaign.campaign(2, 40, "wall")
    assert made["families"]["wall"]["dkl"]["top1pct_hits_x_random"]["median"] >= 8
    assert set(made["families"]) == {"wall"}
    assert benchmark.MEASURED == made["measured"] == 58
