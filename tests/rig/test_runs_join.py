"""A plug-in that joins two topics in a whole run: bit for bit the numpy line, also after a parameter was dragged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from probeloop.data.control import Accepted, Describe, Description, Run, SetParameters
from probeloop.data.errors import BusError, RecordError
from probeloop.record.reader import Session
from probeloop.rig.client import Connection

DROPPED = 100
SHAPE = (24, 32)
PLAN = Run("overview", {"region": {"centre_x": 0.0, "centre_y": 0.0, "width": 4e-9, "height": 4e-9},
                        "shape": list(SHAPE), "dwell_time": 5e-4})  # fmt: skip
SETTINGS = (
    "plan=[]",
    "instrument.pace=1000",
    f"instrument.drop_frames=[{DROPPED}]",
    'plugins.share={use="ratio", input=["haadf.intensity", "camera"]}',
    'plugins.apart={use="ratio", input=["haadf.intensity", "com.intensity"], own_process=true}',
)


def recorded(folder: Path, topic: str, generation: int) -> np.ndarray[Any, Any]:
    """What is on disk of a scan, NaN where there is nothing; raises RecordError."""
    found = Session(folder).topic(topic, generation)
    data, present = found.data().astype(np.float64), found.present
    data[~present] = np.nan
    return data


def joined_maps(folder: Path, generation: int) -> list[np.ndarray[Any, Any]]:
    """Return both joined maps when they are whole, and the numpy line of what is on record; else nothing."""
    try:
        intensity, frames = (recorded(folder, topic, generation) for topic in ("haadf.intensity", "camera"))
        made = [recorded(folder, f"{name}.value", generation) for name in ("share", "apart")]
    except RecordError:  # it is not there yet
        return []
    line = (intensity / frames.sum(axis=(2, 3))).astype(np.float32)
    whole = np.isfinite(line).sum() == line.size - 1
    return made if whole and all(np.array_equal(each, line, equal_nan=True) for each in made) else []


def test_camera_and_dark_field_are_joined_bit_for_bit_and_follow_the_annulus(launch: Callable[..., Any]) -> None:
    words = [word for setting in SETTINGS for word in ("--set", setting)]
    run = launch("demo", "stem", "--seed", "1", "--seconds", "100", *words)
    folder = run.folder
    with Connection(run.name, "test") as connection:

        def answers(process: str, request: Any) -> bool:
            try:
                return isinstance(connection.request(process, request), Accepted | Description)
            except BusError:  # it is not there yet
                return False

        for process in ("plugin.haadf", "plugin.com", "plugin.share", "plugin.apart"):
            run.until(lambda process=process: answers(process, Describe()), process)
        run.until(lambda: answers("experiment", PLAN), "a scan")
        first = run.until(lambda: next(iter(folder.glob("share.value/*.zspy")), None), "a joined map")
        generation = int(first.stem)
        before, _ = run.until(lambda: joined_maps(folder, generation), "the joined maps")
        assert np.flatnonzero(np.isnan(before)).tolist() == [DROPPED]
        assert 0 < np.nanmin(before) < np.nanmax(before) < 1

        assert answers("plugin.haadf", SetParameters("haadf", {"outer": 90.0}))

        def followed() -> list[np.ndarray[Any, Any]]:
            made = joined_maps(folder, generation)
            return made if made and not np.array_equal(made[0], before, equal_nan=True) else []

        after, _ = run.until(followed, "the maps of the smaller annulus")
        assert np.nanmean(after) < np.nanmean(before)
        assert np.flatnonzero(np.isnan(after)).tolist() == [DROPPED]

        assert answers("plugin.share", SetParameters("share", {"form": "contrast"}))
        run.until(lambda: np.nanmax(recorded(folder, "share.value", generation)) < 0, "the map in its other form")
        frames = recorded(folder, "camera", generation).sum(axis=(2, 3))
        dark = recorded(folder, "haadf.intensity", generation)
        contrast = ((dark - frames) / (dark + frames)).astype(np.float32)
        run.until(
            lambda: np.array_equal(recorded(folder, "share.value", generation), contrast, equal_nan=True), "all of it"
        )
    run.popen.terminate()
    made = run.summary()
    assert made["problems"] == []
    assert made["frames_lost"] == 1, "the one that the camera dropped, and no other"
    gaps = [event for event in run.events() if event["type"] == "Gap"]
    assert [gap["pixels"] for gap in gaps] == [[DROPPED]]
    run.nothing_left()
