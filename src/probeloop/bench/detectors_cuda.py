"""The detectors' bench on a GPU: sums over frames that lie there, beside a copy of the same, and from host memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ..compute.backend import array_module
from ..compute.cuda import CudaSums
from ..compute.kernels import PackedMasks, VirtualDetectors
from .detectors_task import CENTRE, SIDE, Task
from .progress import Progress
from .rounds import interleaved, rounds_in

_LEAST_BYTES = 1 << 30  # more than any GPU's cache
_AT_ONCE = 4096  # frames that one launch sums


def measure(task: Task, seconds: float, least_bytes: int = _LEAST_BYTES) -> dict[str, Any]:
    """Return gpu_fps (from host memory, copies included), gb_s (frames on the GPU) and its share of the bandwidth.

    The bandwidth is that of a copy within the GPU, which reads and writes every byte. Raises ProbeloopError when a
    sum is wrong, DropInError when there is no GPU.
    """
    cupy: Any = array_module("cuda")
    stream = cupy.cuda.Stream(non_blocking=True)
    unique = len(task.expected)
    times = max(1, -(-least_bytes // task.frames[:unique].nbytes))
    count, size = times * unique, task.frames[0].nbytes
    here, there = (cupy.empty((count, SIDE, SIDE), task.frames.dtype) for _ in range(2))
    for first in range(0, count, unique):
        here[first : first + unique].set(task.frames[:unique], stream=stream)
    kernels = CudaSums(PackedMasks.of(task.masks).bits)
    sums = cupy.empty((count, kernels.workers(SIDE, min(count, _AT_ONCE)), len(task.masks) + 3), np.int64)
    host_sums = np.empty(sums.shape, np.int64)
    stream.synchronize()
    detectors = VirtualDetectors(task.masks, "cuda")
    worst = [0.0]

    def timed(run: Callable[[], Any]) -> float:
        began = time.perf_counter()
        with stream:
            run()
        stream.synchronize()
        return time.perf_counter() - began

    def launch() -> None:
        for first in range(0, count, _AT_ONCE):
            part = slice(first, min(first + _AT_ONCE, count))
            kernels.launch(here[part], sums[part], (0, SIDE), True)

    def resident() -> float:
        figure = count / timed(launch)
        sums.get(stream=stream, out=host_sums, blocking=False)
        stream.synchronize()
        found = host_sums.sum(axis=1).astype(np.float64)
        found[:, -2:] -= found[:, -3:-2] * CENTRE[::-1]
        repeated = Task(np.broadcast_to(task.frames[:1], (count, SIDE, SIDE)), task.masks, task.expected, task.scale)
        worst.append(repeated.check("probeloop on the GPU", found, 1e-12))
        return figure

    def copied() -> float:
        return count / timed(lambda: cupy.copyto(there, here))

    def from_host() -> float:
        began = time.perf_counter()
        found = detectors.sums_and_moments(task.frames, CENTRE)
        wall = time.perf_counter() - began
        worst.append(task.check("probeloop on the GPU, from host memory", np.hstack(found), 1e-12))
        return len(task.frames) / wall

    contestants = {"gpu": resident, "copy": copied, "from host": from_host}
    rounds = rounds_in(seconds, contestants)
    figures = interleaved(contestants, rounds, 0, Progress("round on the GPU"))
    return {
        "gpu_fps": figures.median("from host"),
        "gb_s": figures.median("gpu") * size / 1e9,
        "gpu_memory_gb_s": figures.median("copy") * 2 * size / 1e9,
        "x_memory_bandwidth": figures.ratio("gpu", "copy") / 2,
        "gpu_max_relative_error": max(worst),
        "gpu_rounds": rounds,
    }
