"""What the processes of a running rig take: memory and processor time, looked at from outside (Linux)."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_LEAST_SAMPLES = 8
GROWTH, LEAST_GROWTH = 1.0, 4.0  # [MB/min], [MB]: memory below either is called flat


@dataclass(frozen=True)
class Sample:
    """One process at one time. time_ns: CLOCK_MONOTONIC; pss: its share of the memory it maps [bytes]; cpu_s."""

    time_ns: int
    pss: int
    cpu_s: float


@dataclass(frozen=True)
class Use:
    """What a process took between two times. cores: mean; mb: PSS at the start, in the middle, at the end [MB].

    mb_per_min: slope of a straight line through the PSS after the first fifth of the time; error: of that slope,
    infinite where there are too few samples; minutes: how long it was looked at.
    """

    cores: float
    mb: tuple[float, float, float]
    mb_per_min: float
    error: float
    minutes: float

    @property
    def grows(self) -> bool:
        """True when it grew by more than 1 MB a minute, and 4 MB in all, three standard errors taken off."""
        slope = self.mb_per_min - 3 * self.error
        return slope > GROWTH and slope * self.minutes > LEAST_GROWTH


class Watch:
    """Samples every process of the rig whose session is in `folder`, and of others by their names."""

    def __init__(self, folder: Path, others: dict[str, int]) -> None:
        self._folder, self._others = folder, others
        self.samples: dict[str, list[Sample]] = {}

    def look(self) -> None:
        """Sample all that live [some ms]."""
        for name, pid in (*self._others.items(), *_processes_below(self._folder)):
            sample = sample_of(pid)
            if sample is not None:
                self.samples.setdefault(name, []).append(sample)

    def uses(self, first_ns: int, last_ns: int) -> dict[str, Use]:
        """Return what each process took between two times; those seen less than twice are left out."""
        made = {}
        for name, samples in self.samples.items():
            inside = [each for each in samples if first_ns <= each.time_ns <= last_ns]
            if len(inside) > 1:
                made[name] = _use(inside)
        return made


def _use(samples: list[Sample]) -> Use:
    first, last = samples[0], samples[-1]
    span = (last.time_ns - first.time_ns) / 1e9
    t = np.array([each.time_ns - first.time_ns for each in samples]) / 60e9
    mb = np.array([each.pss for each in samples]) / 1e6
    late = t >= 0.2 * t[-1]
    slope, error = _line(t[late], mb[late])
    three = (float(mb[0]), float(mb[len(mb) // 2]), float(mb[-1]))
    return Use((last.cpu_s - first.cpu_s) / span, three, slope, error, span / 60)


def _line(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Return slope and its standard error of a least-squares line; the error is infinite for too few points."""
    if len(x) < _LEAST_SAMPLES:
        return 0.0, math.inf
    dx = x - x.mean()
    width = float((dx**2).sum())
    slope = float((dx * y).sum() / width)
    rest = y - y.mean() - slope * dx
    return slope, math.sqrt(float((rest**2).sum()) / (len(x) - 2) / width)


def sample_of(pid: int) -> Sample | None:
    """Return what a process takes now, None when it is gone or can't be asked."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return None
    pss = next((int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")), 0)
    return Sample(time.monotonic_ns(), pss * 1024, (int(stat[11]) + int(stat[12])) / _TICKS)


def _processes_below(folder: Path) -> Iterator[tuple[str, int]]:
    """Yield (name, pid) of the rig's processes, known by the configuration file that each was started with."""
    for entry in Path("/proc").iterdir() if Path("/proc").is_dir() else ():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if len(line) > 3 and line[2] == b"probeloop.rig.process":
                path = Path(os.fsdecode(line[3]))
                if folder in path.parents:
                    yield path.stem, int(entry.name)
