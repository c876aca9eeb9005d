"""What a run of the demo costs: start, memory, idle load, end. `pytest -m bench tests/rig -s` prints it as JSON."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.bench, pytest.mark.timeout(300)]
TICKS = os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> dict[str, float]:
    """Resident, proportional and shared memory of a process [MB]."""
    rows = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    kb = {row[0].rstrip(":"): int(row[1]) for row in rows}
    return {name: round(kb[name] / 1024, 1) for name in ("Rss", "Pss", "Pss_Shmem")}


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def measured(run: Any, topic: str | None, idle_s: float = 0.0) -> dict[str, Any]:
    """Start figures, memory per process, idle load and end of a run."""
    made: dict[str, Any] = {"load_before": os.getloadavg()}
    if topic is None:
        run.until(lambda: any(e.get("target") == "tilts" for e in run.events()), "the last plug-in")
        threading.Event().wait(2.0)
    else:
        run.until_frames(topic)
        made["first_recorded_s"] = round(time.monotonic() - run.started, 2)
    pids = {"supervisor": run.popen.pid, **run.processes}
    made["cpu_at_start_s"] = {name: cpu_seconds(pid) for name, pid in pids.items()}
    if idle_s:
        before = sum(cpu_seconds(pid) for pid in pids.values())
        threading.Event().wait(idle_s)
        made["idle_share_of_a_core"] = round((sum(cpu_seconds(pid) for pid in pids.values()) - before) / idle_s, 3)
    else:
        threading.Event().wait(3.0)
    each = {name: memory(pid) for name, pid in pids.items()}
    made["memory_mb"] = each
    made["pss_mb"] = round(sum(m["Pss"] for m in each.values()), 1)
    made["rss_mb"] = round(sum(m["Rss"] for m in each.values()), 1)
    made["shared_mb"] = round(sum(m["Pss_Shmem"] for m in each.values()), 1)
    begun = time.monotonic()
    run.popen.send_signal(signal.SIGTERM)
    summary = run.summary()
    made["end_to_exit_s"] = round(time.monotonic() - begun, 2)
    made |= {name: summary[name] for name in ("ready_s", "first_image_s", "shutdown_s")}
    made["load_after"] = os.getloadavg()
    return made


def test_the_demo_within_its_means(launch: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    made = measured(launch("demo", "stem", "--seed", "1"), "haadf.intensity")
    with capsys.disabled():
        print(json.dumps({"demo": made}, indent=1))
    assert made["pss_mb"] <= 1200
    assert made["shared_mb"] <= 256
    assert made["memory_mb"]["supervisor"]["Pss"] <= 40
    if made["load_before"][0] < 0.5:  # nothing else runs here
        assert made["first_image_s"] <= 4
        assert made["end_to_exit_s"] <= 3


def test_an_idle_rig_costs_little(launch: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    made = measured(launch("demo", "stem", "--seed", "1", "--set", "plan=[]"), None, idle_s=5.0)
    with capsys.disabled():
        print(json.dumps({"idle": made}, indent=1))
    assert made["idle_share_of_a_core"] <= 0.10
