"""`probeloop bench load`: the whole rig under a camera that waits for nobody, every frame of its record checked.

The shipped rig `rated-load` as `probeloop run` starts it: instrument, guard, plug-ins, experiment, recorder on disk,
and a headless window. Reported is what was lost, and whether it was named; what was corrupt; rates, memory, time.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..data.errors import RecordError
from ..discover import load_simulator
from .load_check import CAMERA, Checked, check
from .load_rig import Load, Ran, run_load
from .load_watch import GROWTH, LEAST_GROWTH, Use
from .progress import Progress

RATE, SECONDS = 1_000.0, 60.0
SHARE = 0.99  # of the asked rate
STEP = 0.05  # of the rate: where a search ends
_MOST, _LEAST = 20_000.0, 50.0
_ANNULUS = (60e-3, 128e-3)  # of the rig's dark field [rad]
_COMPRESSED, _SPARE = 0.15, 256 << 20  # of the frames' bytes, and beside them
Tell = Callable[[str], Callable[[int, int], None]]


def measure(load: Load, folder: Path, tell: Tell = lambda what: lambda done, of: None) -> dict[str, Any]:
    """Run one load below `folder` and return its figures; raises ProbeloopError."""
    camera: Any = load_simulator("steady_camera", load.camera)
    _make_sure_of_room(load, folder, 2 * camera.parameters.pixels**2)
    ran = run_load(load, folder, tell("second"))
    checked = check(ran.session, camera, _ANNULUS, tell("frame checked"))
    return _figures(load, camera, ran, checked)


def _make_sure_of_room(load: Load, folder: Path, frame_bytes: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = _COMPRESSED * load.frames * frame_bytes + _SPARE, shutil.disk_usage(folder).free
    if needed > free:
        raise RecordError(f"{needed / 1e9:.1f} GB are needed in {folder}, {free / 1e9:.1f} are free", "--record DIR")


def _figures(load: Load, camera: Any, ran: Ran, checked: Checked) -> dict[str, Any]:
    uses = ran.watch.uses(checked.first_ns, checked.last_ns)
    seconds = max(checked.seconds, 1e-9)
    delivered = checked.recorded.get(CAMERA, 0)
    on_disk = sum(file.stat().st_size for file in ran.session.rglob("*") if file.is_file())
    raw = delivered * 2 * camera.parameters.pixels**2
    lost = sum(checked.lost.values()) + sum(ran.window["lost"].values())
    corrupt = checked.corrupt_frames + ran.window["corrupt"]
    growing = sorted(name for name, use in uses.items() if use.grows)
    share = delivered / seconds / load.rate
    return {
        "asked_fps": load.rate,
        "achieved_fps": round(delivered / seconds, 2),
        "achieved_over_asked": round(share, 4),
        "seconds": round(seconds, 1),
        "scans": load.scans[0],
        "frames": checked.asked,
        "frames_lost": lost,
        "frames_corrupt": corrupt,
        "lost_by_topic": {**checked.lost, **{f"window: {k}": v for k, v in ran.window["lost"].items() if v}},
        "lost_unnamed": sum(checked.unnamed.values()),
        "gaps": checked.gaps,
        "gaps_named": checked.named,
        "corrupt_named": checked.corrupt[:8],
        "frames_checked": {"record": delivered, "window": ran.window["seen"]},
        "camera_buffer_frames": camera.parameters.buffer,
        "latency_us": ran.window["latency_us"],
        "cores": {name: round(use.cores, 3) for name, use in uses.items()},
        "cores_in_all": round(sum(use.cores for use in uses.values()), 2),
        "memory_mb": {name: _memory(use) for name, use in uses.items()},
        "memory_flat_below": {"mb_per_min": GROWTH, "mb": LEAST_GROWTH},
        "memory_growing": growing,
        "recorder_mb_s": round(raw / seconds / 1e6, 1),
        "disk_mb": round(on_disk / 1e6, 1),
        "disk_mb_s": round(on_disk / seconds / 1e6, 2),
        "troubles": checked.troubles[:8] + ran.summary["problems"][:8],
        "session": str(ran.session),
        "ok": not lost and not corrupt and not growing and share >= SHARE,
    }


def _memory(use: Use) -> dict[str, float | None]:
    start, middle, end = (round(mb, 1) for mb in use.mb)
    error = round(use.error, 2) if math.isfinite(use.error) else None
    return {"start": start, "middle": middle, "end": end, "per_min": round(use.mb_per_min, 2), "error": error}


def search(
    rate: float, lossless: Callable[[float], bool], step: float = STEP, least: float = _LEAST, most: float = _MOST
) -> tuple[float, float | None]:
    """Return the highest rate that was without loss, and the lowest that was not (None: none up to `most`).

    From `rate` up by a half, or down, then by bisection until they are `step` apart, of the higher one. A single
    window decides, so the edge is as sharp as the machine is quiet. 0 when even `least` is too much.

    >>> search(1000, lambda rate: rate < 1700)
    (1687.5, 1734.375)
    """
    good, bad = 0.0, None
    while bad is None or bad - good > step * bad:
        if lossless(rate):
            good = rate
            if rate >= most:
                break
        else:
            bad = rate
            if rate <= least:
                break
        rate = min(most, 1.5 * good) if bad is None else max(least, (good + bad) / 2)
    return good, bad


def table(found: dict[str, Any]) -> str:
    """Return the figures for people."""
    lines = [
        f"{'frames a second':24}{found['achieved_fps']:>10} of {found['asked_fps']:g} asked"
        f" ({found['achieved_over_asked']:.4f}; at least {SHARE}), {found['seconds']:g} s, {found['scans']} scans",
        f"{'frames lost':24}{found['frames_lost']:>10} of {found['frames']}; without a name {found['lost_unnamed']}",
        f"{'frames corrupt':24}{found['frames_corrupt']:>10} of {found['frames_checked']['record']} on disk,"
        f" {found['frames_checked']['window']} in the window",
        f"{'recorder':24}{found['recorder_mb_s']:>10} MB/s in, {found['disk_mb_s']} MB/s on disk,"
        f" {found['disk_mb']} MB in all",
    ]
    for name, times in found["latency_us"].items():
        if times["p50"] is not None:
            lines.append(f"{name + ' after':24}{times['p50']:>10} us p50, {times['p99']} us p99")
    for name, memory in found["memory_mb"].items():
        lines.append(
            f"{name:24}{found['cores'][name]:>10} cores, {memory['start']} / {memory['middle']} / {memory['end']} MB,"
            f" {memory['per_min']:+} MB/min"
        )
    lines.append(f"{'all':24}{found['cores_in_all']:>10} cores")
    lines += [f"gap: {text}" for text in found["gaps_named"]]
    lines += [f"corrupt: {text}" for text in found["corrupt_named"]]
    lines += [f"memory grows by more than {GROWTH:g} MB/min: {name}" for name in found["memory_growing"]]
    lines += [f"trouble: {text}" for text in found["troubles"]]
    return "\n".join(lines)


@contextmanager
def _folder(record: str | None) -> Iterator[Path]:
    """Yield where sessions go: a folder that is kept, or one that goes away with them."""
    if record is not None:
        yield Path(record).expanduser().resolve()
        return
    with tempfile.TemporaryDirectory(prefix="probeloop-load-") as made:
        yield Path(made).resolve()


def run(options: argparse.Namespace) -> int:
    """Measure, and print a table or JSON; exit code 1 when a frame was lost or corrupt, or memory grew."""
    rate = RATE if options.rate is None else options.rate
    seconds = SECONDS if options.seconds is None else options.seconds
    with _folder(options.record) as folder:
        if options.search:
            found = _searched(rate, seconds, folder)
        else:
            found = measure(Load(rate, seconds), folder, Progress)
    sys.stdout.write((json.dumps(found, indent=2, allow_nan=False) if options.json else _words(found)) + "\n")
    return 0 if found["ok"] else 1


def _searched(rate: float, seconds: float, folder: Path) -> dict[str, Any]:
    tried: list[dict[str, Any]] = []

    def lossless(rate: float) -> bool:
        found = measure(Load(rate, seconds), folder, lambda what: Progress(f"{rate:.0f} frames/s: {what}"))
        shutil.rmtree(found["session"], ignore_errors=True)
        clean = not found["frames_lost"] and not found["frames_corrupt"] and found["achieved_over_asked"] >= SHARE
        tried.append({"asked_fps": rate, "clean": clean, **{k: found[k] for k in _TOLD}})
        return clean

    good, bad = search(rate, lossless)
    return {"highest_fps": good, "lowest_with_loss_fps": bad, "step": STEP, "window_s": seconds, "tried": tried,
            "ok": good > 0}  # fmt: skip


_TOLD = ("achieved_over_asked", "frames_lost", "lost_by_topic", "frames_corrupt", "cores_in_all", "troubles")


def _words(found: dict[str, Any]) -> str:
    if "tried" not in found:
        return table(found)
    lines = [f"highest rate with 0 lost in {found['window_s']:g} s: {found['highest_fps']:g} frames/s"
             f" (lost at {found['lowest_with_loss_fps'] or 'none'}; steps of {STEP:.0%})"]  # fmt: skip
    lines += [f"{each['asked_fps']:10.1f}  lost {each['frames_lost']}, cores {each['cores_in_all']}"
              for each in found["tried"]]  # fmt: skip
    return "\n".join(lines)
