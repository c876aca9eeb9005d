"""The load bench: it runs the whole rig, checks every frame, and notices one lost frame and one wrong byte."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from probeloop.bench import load_watch
from probeloop.bench.load import measure, search, table
from probeloop.bench.load_rig import Load
from probeloop.bench.load_watch import Sample, Watch, sample_of
from probeloop.data.errors import RecordError

SMALL: dict[str, Any] = {"pixels": 64, "pool": 16}
TOPICS = {"camera", "adf.intensity", "com.deflection", "com.intensity"}


def test_a_small_load_for_five_seconds(tmp_path: Path) -> None:
    found = measure(Load(200.0, 5.0, SMALL), tmp_path)
    assert found["frames"] == 1024
    assert found["lost_by_topic"] == dict.fromkeys(TOPICS, 0)
    assert (found["frames_lost"], found["frames_corrupt"], found["lost_unnamed"]) == (0, 0, 0)
    assert found["frames_checked"]["record"] == 1024
    assert found["frames_checked"]["window"] > 0
    assert found["gaps_named"] == found["troubles"] == []
    assert {"instrument", "recorder", "plugins", "supervisor", "window", "guard"} <= found["memory_mb"].keys()
    assert found["cores"]["recorder"] > 0
    assert 0 < found["disk_mb"] < 1024 * 2 * 64**2 / 1e6  # packed
    assert found["latency_us"]["dark_field"]["p50"] > 0
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert "frames corrupt" in table(found)


def test_a_lost_frame_and_a_flipped_byte_are_reported(tmp_path: Path) -> None:
    found = measure(Load(200.0, 2.0, {**SMALL, "drop_frames": [150], "flip_frames": [300]}), tmp_path)
    assert found["lost_by_topic"] == dict.fromkeys(TOPICS, 1)
    assert found["lost_unnamed"] == 0
    assert any("pixels [150]" in text for text in found["gaps_named"])
    assert found["frames_corrupt"] >= 1  # the window may have seen it too
    assert found["corrupt_named"] == ["camera frame 300, pixel (63, 63)"]
    assert not found["ok"]
    assert "corrupt: camera frame 300" in table(found)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_rated_load(tmp_path: Path) -> None:
    seconds = float(os.environ.get("PROBELOOP_SOAK_SECONDS", "600"))
    found = measure(Load(1000.0, seconds), tmp_path)
    print(json.dumps(found, indent=2))
    assert found["frames_lost"] == found["frames_corrupt"] == 0
    assert found["frames_checked"]["record"] == found["frames"] >= 1000 * seconds
    assert found["achieved_over_asked"] >= 0.99
    assert found["memory_growing"] == []
    assert found["ok"]


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_the_rated_load_with_faults(tmp_path: Path) -> None:
    found = measure(Load(1000.0, 10.0, {"drop_frames": [5003], "flip_frames": [9000]}), tmp_path)
    assert found["lost_by_topic"]["camera"] == 1
    assert any("pixels [5003]" in text for text in found["gaps_named"])
    assert found["corrupt_named"] == ["camera frame 9000, pixel (255, 255)"]
    assert not found["ok"]


def test_scans_are_whole_lines_and_no_larger_than_a_map() -> None:
    assert Load(1000.0, 600.0).scans == (10, 235)
    assert Load(1000.0, 0.1).scans == (1, 1)
    assert Load(1000.0, 600.0).frames >= 600_000


def test_a_disk_without_room_is_told_before(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"GB are needed in .*--record DIR"):
        measure(Load(1e6, 1e6), tmp_path)


@pytest.mark.parametrize("edge", [30.0, 60.0, 1000.0, 1700.0, 1e9])
def test_the_search_closes_in_on_the_edge(edge: float) -> None:
    tried: list[float] = []

    def lossless(rate: float) -> bool:
        tried.append(rate)
        return rate < edge

    good, bad = search(1000.0, lossless, step=0.05, least=50.0, most=20_000.0)
    assert good < edge or good == 20_000.0
    assert bad is None or (bad >= edge and (bad - good <= 0.05 * bad or bad == 50.0))
    assert len(tried) < 20


def samples(minutes: float, mb_per_min: float, noise: float = 0.0) -> list[Sample]:
    every = [minutes * i / 100 for i in range(101)]
    wave = [noise * math.sin(i) for i in range(101)]
    return [
        Sample(round(t * 60e9), round((50 + mb_per_min * t + w) * 1e6), t) for t, w in zip(every, wave, strict=True)
    ]


@pytest.mark.parametrize(
    ("minutes", "slope", "noise", "grows"),
    [
        (10, 2.0, 0.0, True),
        (10, 2.0, 5.0, True),
        (10, 0.3, 5.0, False),
        (0.5, 6.0, 0.0, False),
        (10, -5.0, 1.0, False),
    ],
)
def test_memory_that_grows_is_told_from_memory_that_wavers(
    minutes: float, slope: float, noise: float, grows: bool, tmp_path: Path
) -> None:
    watch = Watch(tmp_path, {})
    watch.samples["recorder"] = samples(minutes, slope, noise)
    use = watch.uses(0, round(minutes * 60e9))["recorder"]
    assert use.grows is grows
    assert use.mb_per_min == pytest.approx(slope, abs=0.5)
    assert use.mb[0] == pytest.approx(50)
    assert use.cores == pytest.approx(1 / 60)


def test_a_process_that_is_gone_has_no_sample() -> None:
    assert sample_of(2**22 + 1) is None
    mine = sample_of(os.getpid())
    assert mine is not None
    assert mine.pss > load_watch.GROWTH
