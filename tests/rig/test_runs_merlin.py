"""The rig of a Merlin as a user runs it: the record opens in HyperSpy and holds what the detector sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from probeloop.simulators.servers.merlin import Faults, MerlinServer, PoolSource

CALIBRATIONS = (
    'calibrations=[{id = "centre", kind = "pattern_centre", value = [31.5, 31.5], units = "px"}, '
    '{id = "convergence", kind = "convergence_angle", value = [0.005], units = "rad"}, '
    '{id = "rotation", kind = "scan_detector_rotation", value = [0.0], units = "rad"}, '
    '{id = "flip", kind = "scan_detector_flip", value = [1.0]}]'
)


def test_a_merlin_is_recorded_and_its_gaps_are_named(launch: Callable[..., Any]) -> None:
    import hyperspy.api as hs

    source = PoolSource((64, 64), mean=2.0)
    with MerlinServer(source, faults=Faults(drop=frozenset({50}), duplicate=frozenset({80}))) as server:
        run = launch(
            "run", "merlin", "--set", f"instrument.control_port={server.control_port}",
            "--set", f"instrument.data_port={server.data_port}", "--set", CALIBRATIONS,
            "--set", 'plan=[{use = "overview", parameters = {shape = [12, 16], dwell_time = "2 ms"}}]',
        )  # fmt: skip
        made = run.summary()
    assert made["problems"] == []
    assert made["frames_lost"] == 1  # which the detector never sent
    assert [plan["state"] for plan in made["plans"]] == ["finished"]
    camera = hs.load(run.folder / "camera" / "1.zspy")
    assert camera.axes_manager.shape == (16, 12, 64, 64)
    assert [axis.units for axis in camera.axes_manager._axes] == ["nm", "nm", "mrad", "mrad"]
    frames, present = camera.data.reshape(-1, 64, 64), np.arange(192) != 49
    assert np.array_equal(frames[present], source.counts(0, 192)[present])
    assert not frames[49].any()
    assert camera.original_metadata.probeloop.present.ravel().tolist() == present.tolist()
    assert json.loads(camera.original_metadata.probeloop.settings)["header_counter_depth"] == 12
    gaps = {e["reason"]: e["pixels"] for e in run.events() if e["type"] == "Gap"}
    assert gaps == {"no frame for these pixels": [49], "1 frames that repeat the one before": [79]}
    dark_field = hs.load(run.folder / "adf.intensity" / "1.zspy").data.ravel()
    assert np.flatnonzero(np.isnan(dark_field)).tolist() == [49]
    done = next(e for e in run.events() if e["type"] == "Done")["result"]["readback"]
    assert (done["frames_taken"], done["frames_missing"], done["frames_repeated"]) == (191, 1, 1)
    run.nothing_left()
