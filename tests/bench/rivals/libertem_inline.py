"""LiberTEM in its own process: `libertem_inline.py try` ends at once; `libertem_inline.py FOLDER` serves rounds.

FOLDER/frames.npy (M, ky, kx), repeated FOLDER/task.json: `times`; FOLDER/masks.npy (K, ky, kx); `centre` (ky, kx).
A round is a line with a variant's name; its answer is a line of JSON with wall and CPU seconds, and the sums lie in
FOLDER/VARIANT.npy (N, K + 3): masked sums, sum(I), sum(I (kx - centre)), sum(I (ky - centre)).

As LiberTEM does it best on one CPU second of this task (measured): the inline executor with one thread, the data in
one partition, everything in one run. `masks_com` are its own two UDFs for the job; `five_masks` is one matrix product
with the moments as two weighted masks more, which leaves out what CoMUDF makes besides (divergence, curl).
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import libertem
import libertem.api as lt
import numpy as np
from libertem.executor.inline import InlineJobExecutor
from libertem.udf.com import CoMUDF
from libertem.udf.masks import ApplyMasksUDF

answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # whatever LiberTEM prints is no answer


def serve(folder: Path) -> None:
    task = json.loads((folder / "task.json").read_text())
    unique, masks = np.load(folder / "frames.npy"), np.load(folder / "masks.npy")
    times, (centre_y, centre_x) = task["times"], task["centre"]
    data = np.concatenate([unique] * times).reshape(times, *unique.shape)
    y, x = np.mgrid[: unique.shape[1], : unique.shape[2]]
    five = np.stack([*masks, np.ones_like(x), x - centre_x, y - centre_y]).astype(np.float32)
    two = masks.astype(np.float32)
    context = lt.Context(executor=InlineJobExecutor(inline_threads=1))
    dataset = context.load("memory", data=data, sig_dims=2, num_partitions=1)
    udfs: dict[str, list[Any]] = {
        "masks_com": [
            ApplyMasksUDF(mask_factories=lambda: two, mask_count=len(two), mask_dtype=np.float32),
            CoMUDF.with_params(cy=centre_y, cx=centre_x),
        ],
        "five_masks": [ApplyMasksUDF(mask_factories=lambda: five, mask_count=len(five), mask_dtype=np.float32)],
    }
    answers.write(json.dumps({"version": libertem.__version__, "variants": list(udfs)}) + "\n")
    for line in sys.stdin:
        variant = line.strip()
        wall, cpu = time.perf_counter(), time.process_time()
        found = context.run_udf(dataset=dataset, udf=udfs[variant])
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        sums = found[0]["intensity"].data.reshape(len(unique) * times, -1)
        if variant == "masks_com":
            # CoMUDF keeps what it divides by to itself: its moments are shifts times the total, which is exact here
            total = data.reshape(-1, unique[0].size).sum(axis=1, dtype=np.float64)[:, None]
            shifts = found[1]["raw_shifts"].data.reshape(-1, 2)
            sums = np.concatenate([sums, total, shifts[:, 1:] * total, shifts[:, :1] * total], axis=1)
        np.save(folder / f"{variant}.npy", sums)
        answers.write(json.dumps({"cpu_s": cpu, "wall_s": wall}) + "\n")


if __name__ == "__main__" and sys.argv[1] != "try":
    warnings.simplefilter("ignore")
    serve(Path(sys.argv[1]))
