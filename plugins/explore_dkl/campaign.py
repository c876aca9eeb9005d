"""All runs of the benchmark, in two processes, and what they come to."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

from probeloop.api import Problem, SettingsError, SourceError

from .benchmark import MEASURED, POLICIES, compare
from .cost import step_cpu_s
from .library import torch_library
from .real import compare_real, described
from .replay import PROPERTIES, measured, with_property
from .scores import paired, rate_interval, spread
from .worlds import CELLS, FAMILIES, LINKED

METRICS = ("x_random", "objects", "regret", "nlpd", "coverage_90")
NAMES = {"x_random": "top1pct_hits_x_random", "objects": "distinct_objects", "nlpd": "map_nlpd"}
REAL = ("dkl", "pca_gp", "xy_gp", "sort_by_image", "random")
TARGETS: dict[str, Any] = {
    "top1pct_hits_x_random": 8.0, "coverage_90": (0.85, 0.95), "no_link_lift": 1.0, "no_link_claimed": 0,
    "step_cpu_s_200": 1.0,
}  # fmt: skip
_EVERY = 5.0  # between lines of progress [s]


def campaign(seeds: int, seed: int, what: str = "", workers: int = 2) -> dict[str, Any]:
    """Return the figures of `seeds` worlds of every family, or of the one family `what`; "real" = the file alone."""
    torch_library()  # missing: said before anything is begun
    known = (*FAMILIES, "real")
    if what and what not in known:
        raise SettingsError([Problem("--what", f"there is no family {what!r}", " | ".join(known))])
    families = [f for f in FAMILIES if what in ("", f)]
    jobs: list[tuple[Any, ...]] = [("world", family, seed + i) for i in range(seeds) for family in families]
    if what == "":
        jobs.append(("step", "", seed))
    with _pool(workers) as pool:
        loops = _loops(pool) if what in ("", "real") else {}
        jobs += [("real", name, seed + i, loops[name]) for i in range(seeds) for name in PROPERTIES if name in loops]
        found = _all(pool, jobs)
    made: dict[str, Any] = {"measured": MEASURED, "of": CELLS, "seeds": seeds, "seed": seed}
    worlds = {job: result for job, result in found.items() if job[0] == "world"}
    if families:
        made |= _figures(worlds, families)
    if what in ("", "real"):
        runs = [result for job, result in found.items() if job[0] == "real"]
        made["real"] = described(runs) if runs else {"skipped": loops["skipped"]}
    steps = next((result for job, result in found.items() if job[0] == "step"), None)
    if steps is not None:
        made["step_cpu_s"] = {str(n): value for n, value in steps.items()}
    reached = _reached(made)
    targets = {name: TARGETS[name] for name in reached}
    return {**made, "targets": targets, "reached": reached, "ok": all(reached.values())}


def _figures(found: Mapping[tuple[Any, ...], dict[str, dict[str, Any]]], families: Sequence[str]) -> dict[str, Any]:
    """Return medians and intervals by family and over the linked families, and the comparisons between policies."""
    made: dict[str, Any] = {"families": {}}
    for family in families:
        made["families"][family] = _by_policy([r for job, r in found.items() if job[1] == family])
    linked = [r for job, r in found.items() if job[1] in LINKED]
    if linked:
        over_all = _by_policy(linked)
        for metric in METRICS:
            name = NAMES.get(metric, metric)
            made[name] = {policy: over_all[policy][name] for policy in POLICIES if name in over_all[policy]}
        made["claimed"] = {p: over_all[p]["claimed"] for p in ("dkl", "pca_gp", "xy_gp")}
        made["dkl_minus"] = {
            rival: {
                NAMES.get(m, m): paired([r["dkl"][m] for r in linked], [r[rival][m] for r in linked])
                for m in ("x_random", "objects", "regret", "nlpd")
                if linked[0][rival][m] is not None
            }
            for rival in POLICIES[1:]
        }
        better = made["dkl_minus"]["pca_gp"]["top1pct_hits_x_random"]["low"] > 0
        made["default"] = "dkl" if better else "pca_gp"
    without = [r for job, r in found.items() if job[1] == "no_link"]
    if without:
        made["no_link"] = {policy: _no_link(without, policy) for policy in POLICIES[:-1]}
        made["no_link"] |= made["no_link"]["dkl"]
    return made


def _by_policy(runs: Sequence[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    made = {}
    for policy in POLICIES:
        each = [r[policy] for r in runs]
        figures: dict[str, Any] = {NAMES.get(m, m): spread([e[m] for e in each]) for m in METRICS}
        figures = {name: value for name, value in figures.items() if value["n"]}
        made[policy] = {
            **figures, "claimed": sum(e["claimed"] for e in each),
            "foretold": sum(e["foretold"] for e in each), "runs": len(each),
            "invalid": spread([e["invalid"] for e in each]), "cpu_s": spread([e["cpu_s"] for e in each]),
        }  # fmt: skip
    return made


def _no_link(runs: Sequence[dict[str, dict[str, Any]]], policy: str) -> dict[str, Any]:
    """Return the lift over chance of all runs together, its 90 % interval, and how many claimed a link."""
    hits = sum(r[policy]["hits"] for r in runs)
    expected = sum(MEASURED * r[policy]["best"] / CELLS for r in runs)
    lift, low, high = rate_interval(hits, expected)
    return {"lift": lift, "low": low, "high": high, "claimed": sum(r[policy]["claimed"] for r in runs),
            "runs": len(runs)}  # fmt: skip


def _reached(made: Mapping[str, Any]) -> dict[str, bool]:
    """Return whether each target that was measured is reached."""
    reached: dict[str, bool] = {}
    if "top1pct_hits_x_random" in made:
        reached["top1pct_hits_x_random"] = (
            made["top1pct_hits_x_random"]["dkl"]["median"] >= TARGETS["top1pct_hits_x_random"]
        )
        low, high = TARGETS["coverage_90"]
        reached["coverage_90"] = low <= made["coverage_90"]["dkl"]["median"] <= high
    if "no_link" in made:
        reached["no_link_lift"] = made["no_link"]["low"] <= 1.0 <= made["no_link"]["high"]
        reached["no_link_claimed"] = made["no_link"]["claimed"] == 0
    if "step_cpu_s" in made:
        reached["step_cpu_s_200"] = made["step_cpu_s"]["200"] <= TARGETS["step_cpu_s_200"]
    return reached


def _job(job: tuple[Any, ...]) -> Any:
    """Do one job in a process of its own, in one thread."""
    torch_library().set_num_threads(1)
    kind, name, seed = job[:3]
    if kind == "world":
        return compare(name, seed)
    if kind == "real":
        return compare_real(job[3], name, seed, REAL)
    return step_cpu_s(seed=seed)


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


def _loops(pool: ProcessPoolExecutor) -> dict[str, Any]:
    """Return the measured loops with the values of each property by its name, or why they are "skipped"."""
    try:
        data = measured()
    except SourceError as error:
        return {"skipped": str(error)}
    _say("bench dkl: measured loops, a fit each")
    return dict(zip(PROPERTIES, pool.map(with_property, [data] * len(PROPERTIES), PROPERTIES), strict=True))


def _all(pool: ProcessPoolExecutor, jobs: Sequence[tuple[Any, ...]]) -> dict[tuple[Any, ...], Any]:
    """Do all jobs; say how far it is and how long it will take."""
    began = told = time.monotonic()
    found: dict[tuple[Any, ...], Any] = {}
    waiting = {pool.submit(_job, job): job[:3] for job in jobs}
    try:
        for done in as_completed(waiting):
            found[waiting[done]] = done.result()
            now = time.monotonic()
            if now - told > _EVERY:
                told = now
                left = (now - began) / len(found) * (len(jobs) - len(found))
                _say(f"bench dkl: {len(found)} of {len(jobs)}, {left:.0f} s to go")
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise
    return {job[:3]: found[job[:3]] for job in jobs}


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


__all__ = ["REAL", "TARGETS", "campaign"]
