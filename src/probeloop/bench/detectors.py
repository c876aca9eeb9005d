"""`probeloop bench detectors`: bright field, dark field and centre of mass of 256 x 256 uint16 from cold memory.

Ours, LiberTEM inline, and what this machine needs merely to read the same bytes once, in interleaved rounds. All
figures are frames per second of CPU time, which a busy neighbour hardly touches. Every sum of every round is compared
with the naive numpy line; one that is wrong ends the measurement.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np

from ..compute.backend import array_module
from ..compute.kernels import VirtualDetectors
from ..data.errors import ProbeloopError
from . import detectors_rival as rival
from .detectors_task import CENTRE, NOTHING_COUNTS, SIDE, Task, cold_frames
from .progress import Progress
from .rounds import Figures, interleaved, rounds_in

SECONDS = 20.0
IN_FLOAT32 = 1e-5  # LiberTEM sums in single precision
REACH = {"x_libertem_per_cpu_s": (3.0, 6.0), "x_read_bandwidth": (0.25, 0.5), "x_memory_bandwidth": (0.5, 0.8)}


@numba.njit(nogil=True, cache=True)
def _read(words: Any, out: Any) -> None:
    for n in range(words.shape[0]):
        total, frame = numba.uint64(0), words[n]
        for i in range(frame.size):
            total += frame[i]
        out[n] = total


class Meter:
    """Runs a contestant once and keeps what it took."""

    def __init__(self, frames: int) -> None:
        self._frames = frames
        self.wall: list[float] = []  # frames per second, one a round

    def timed(self, run: Callable[[], Any]) -> tuple[float, Any]:
        """Return frames per CPU second, and what `run` returned."""
        wall, cpu = time.perf_counter(), time.thread_time()
        found = run()
        cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
        return self.noted(cpu, wall), found

    def noted(self, cpu: float, wall: float) -> float:
        """Keep the wall seconds of a round; return frames per CPU second."""
        self.wall.append(self._frames / wall)
        return self._frames / cpu


def measured(
    task: Task, seconds: float, libertem: rival.LiberTEM | None, tell: Callable[[int, int], None]
) -> Measured:
    """Run rounds for about `seconds`; raises ProbeloopError when a sum is wrong."""
    detectors = VirtualDetectors(task.masks)
    words = task.frames.reshape(len(task.frames), -1).view(np.uint64)
    read_sums = np.empty(len(words), np.uint64)
    expected_sums = np.empty(len(task.expected), np.uint64)
    _read(words[: len(task.expected)].copy(), expected_sums)
    meters: dict[str, Meter] = {}
    worst: dict[str, float] = {}

    def ours() -> float:
        figure, found = meters["probeloop"].timed(lambda: detectors.sums_and_moments(task.frames, CENTRE))
        worst["probeloop"] = max(task.check("probeloop", np.hstack(found), 1e-12), worst.get("probeloop", 0.0))
        return figure

    def read() -> float:
        figure, _ = meters["read"].timed(lambda: _read(words, read_sums))
        wrong = np.flatnonzero(read_sums != expected_sums[np.arange(len(words)) % len(expected_sums)])
        if wrong.size:
            raise ProbeloopError(f"the bytes of frame {wrong[0]} are not those that were written", NOTHING_COUNTS)
        return figure

    def theirs(variant: str) -> float:
        assert libertem is not None
        cpu, wall, found = libertem.run(variant)
        worst[variant] = max(task.check(f"LiberTEM {variant}", found, IN_FLOAT32), worst.get(variant, 0.0))
        return meters[variant].noted(cpu, wall)

    contestants: dict[str, Callable[[], float]] = {"read": read, "probeloop": ours}
    for variant in libertem.variants if libertem else ():
        contestants[variant] = lambda variant=variant: theirs(variant)  # type: ignore[misc]
    meters.update((name, Meter(len(task.frames))) for name in contestants)
    rounds = rounds_in(seconds, contestants)
    figures = interleaved(contestants, rounds, 0, tell)
    wall = {name: float(np.median(meter.wall[-rounds:])) for name, meter in meters.items()}
    return Measured(figures, wall, worst, rounds)


@dataclass(frozen=True)
class Measured:
    """Frames per CPU second of each round, frames per second (medians), largest relative errors."""

    figures: Figures
    wall: dict[str, float]
    worst: dict[str, float]
    rounds: int

    @property
    def rivals(self) -> list[str]:
        """The variants of LiberTEM, the fastest first."""
        others = [name for name in self.figures.values if name not in ("read", "probeloop")]
        return sorted(others, key=self.figures.median, reverse=True)


def error_of_every_dtype() -> float:
    """Return the largest relative error against the naive numpy line, over the pixel types of cameras."""
    worst = 0.0
    for dtype in ("u1", "<u2", "<u4", "<f4"):
        task = Task.of(16, dtype)
        found = VirtualDetectors(task.masks).sums_and_moments(task.frames, CENTRE)
        worst = max(worst, task.check(f"probeloop on {dtype}", np.hstack(found), 1e-12))
    return worst


@contextlib.contextmanager
def _rival(task: Task) -> Iterator[tuple[rival.LiberTEM | None, str]]:
    why = rival.missing()
    if why:
        yield None, why
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        unique = len(task.expected)
        np.save(folder / "frames.npy", task.frames[:unique])
        np.save(folder / "masks.npy", task.masks)
        (folder / "task.json").write_text(json.dumps({"times": len(task.frames) // unique, "centre": CENTRE}))
        with rival.LiberTEM(folder) as libertem:
            yield libertem, ""


def bench(seconds: float = SECONDS, device: str = "cpu", seed: int = 0, frames: int | None = None) -> dict[str, Any]:
    """Return the figures. device: "cuda" adds those of the GPU. frames: how many instead of more than the cache."""
    if device == "cuda":
        array_module("cuda")  # before anything else takes time
    task = Task.of(frames or cold_frames(), seed=seed)
    with _rival(task) as (libertem, why):
        made = measured(task, seconds, libertem, Progress("round"))
        version = libertem.version if libertem else ""
    figures, best = made.figures, made.rivals[0] if made.rivals else None
    size = task.frames[0].nbytes
    found = {
        "frame": f"{SIDE}x{SIDE} uint16",
        "frames": len(task.frames),
        "rounds": made.rounds,
        "fps": made.wall["probeloop"],
        "gb_s_cpu": figures.median("probeloop") * size / 1e9,
        "read_gb_s": figures.median("read") * size / 1e9,
        "x_libertem_per_cpu_s": figures.ratio("probeloop", best) if best else None,
        "x_read_bandwidth": figures.ratio("probeloop", "read"),
        "max_relative_error": max(made.worst["probeloop"], error_of_every_dtype()),
        "libertem": version or None,
        "libertem_variant": best,
        "libertem_missing": why,
        "contestants": {
            name: {
                "frames_per_cpu_s": figures.median(name),
                "spread": figures.spread(name),
                "fps": made.wall[name],
                "max_relative_error": made.worst.get(name),
            }
            for name in figures.values
        },
    }
    if device == "cuda":
        from .detectors_cuda import measure

        found |= measure(task, seconds)
    return found


def table(found: dict[str, Any]) -> str:
    """Return the figures for people."""
    lines = [
        f"{found['frame']}, BF + ADF + CoM, {found['frames']} frames from cold memory, {found['rounds']} rounds",
        "",
        f"{'':28}{'frames / CPU s':>16}{'lowest':>10}{'highest':>10}",
    ]
    names = {"read": "reading every byte once", "probeloop": "probeloop"}
    for name, each in found["contestants"].items():
        low, high = each["spread"]
        label = names.get(name, f"LiberTEM {name.replace('_', ' + ' if 'com' in name else ' ')}")
        lines.append(f"{label:28}{each['frames_per_cpu_s']:16,.0f}{low:10,.0f}{high:10,.0f}")
    lines.append("")
    for name, (reach, beyond) in REACH.items():
        if found.get(name) is not None:
            lines.append(f"{name:28}{found[name]:16.2f}   reach {reach:g}, beyond {beyond:g}")
    for name, unit in (("fps", "frames/s"), ("gpu_fps", "frames/s"), ("gb_s", "GB/s")):
        if name in found:
            lines.append(f"{name:28}{found[name]:16,.0f}   {unit}")
    lines.append(f"{'max_relative_error':28}{found['max_relative_error']:16.1e}")
    if found["libertem_missing"]:
        lines.append(f"\nno LiberTEM: {found['libertem_missing']}")
    return "\n".join(lines)


def run(options: argparse.Namespace) -> int:
    """Measure, and print a table or JSON."""
    seconds = SECONDS if options.seconds is None else options.seconds
    found = bench(seconds, options.device, options.seed)
    sys.stdout.write((json.dumps(found, indent=2, allow_nan=False) if options.json else table(found)) + "\n")
    return 0
