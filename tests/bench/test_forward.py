"""The forward experiment as it is shipped, from its rig files: `pytest -m bench tests/bench/test_forward.py -s`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = [pytest.mark.bench, pytest.mark.timeout(300)]
FILES = ("PTO_Funakubo0001", "PTO_Funakubo0002", "PTO_Funakubo0003", "PTO_Funakubo0004", "PZT_final0001")


def run(rig: str, folder: Path, *changes: str) -> dict[str, Any]:
    """Run a rig headless; return its summary."""
    command = [sys.executable, "-m", "probeloop.cli", "run", rig, "--headless", "--json", "--record", str(folder)]
    for change in changes:
        command += ["--set", change]
    made = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert made.returncode == 0, made.stderr[-2000:]
    summary: dict[str, Any] = json.loads(made.stdout)
    assert summary["problems"] == []
    return summary


@pytest.mark.parametrize("name", FILES)
def test_walls_of_measured_scans(name: str, tmp_path: Path) -> None:
    forward, score = run("pto-forward", tmp_path, f"instrument.file=pfm/{name}.h5")["plans"]
    walls = score["walls"]
    sys.stdout.write(json.dumps({"file": name, "auc": walls["auc"], "auc_height": walls["auc_height"]}) + "\n")
    assert forward["route_coverage"] > 0.95
    assert forward["route"]["gain"] > 0.05
    assert walls["map"] == "segment"
    assert walls["auc"]["segment"] > max(walls["auc"]["sato"], walls["auc"]["low_amplitude"])
    assert all(abs(each["chance"] - each["area"]) < 0.02 for each in walls["at"].values())


def test_loops_are_narrower_at_walls_and_the_places_are_those_meant(tmp_path: Path) -> None:
    error = {}
    for every in (0, 20):
        summary = run("spm-forward", tmp_path, "instrument.drift=1e-10", f"plan.parameters.register_every={every}")
        plan = summary["plans"][0]
        truth = json.loads((Path(summary["session"]) / "truth" / "end.json").read_text())["spectra"]
        meant = np.array([row["position"] for row in plan["spectra"]])
        was = np.array([each["position"] for each in truth])[: len(meant)]
        error[every] = float(np.median(np.hypot(*(meant - was).T)))
        kinds = plan["by_kind"]
        for side in ("domain_left", "domain_right"):
            apart = abs(kinds[side]["mean"]) - abs(kinds["wall"]["mean"])
            assert apart > 3 * np.hypot(kinds[side]["error"], kinds["wall"]["error"])
    sys.stdout.write(json.dumps({"median error [m] by register_every": error}) + "\n")
    assert error[20] < 0.5 * error[0]


def test_titanium_is_reduced_at_the_boundary(tmp_path: Path) -> None:
    kinds = run("stem-forward", tmp_path)["plans"][0]["by_kind"]
    shift = kinds["wall"]["mean"] - (kinds["domain_left"]["mean"] + kinds["domain_right"]["mean"]) / 2
    sys.stdout.write(json.dumps({"shift of Ti L [eV]": shift}) + "\n")
    assert -1.3 < shift < -0.6
    assert abs(kinds["domain_left"]["mean"] - kinds["domain_right"]["mean"]) < 0.2
