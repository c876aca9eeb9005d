"""Figures of autofocus on Nion's own simulator: python tests/bench/autofocus_usim.py --seeds 12.

The plan drives nionswift-usim through its driver in this process. Start states are drawn from the seed: C10 within
500 nm of either sign, C12 of any direction up to 500 nm; seeds 0 and 1 have all three knobs at 500 and -500 nm. What
usim's knobs read back at the end is what is left, as usim is in focus with all of them at zero; that this gives its
best picture is looked up too, knob by knob.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import numpy as np
from probeloop.drivers.nion import Nion
from probeloop.drivers.nion.settings import NionSettings
from probeloop.plugins.autofocus import Autofocus
from probeloop.plugins.autofocus.commands import Loop
from probeloop.plugins.autofocus.rays import sharpness

from probeloop.data.commands import Blank, Scan, SetAberrations, Unblank
from probeloop.data.scan import Region
from probeloop.data.settings import convert
from probeloop.rig.load import load

KNOBS = ("C10", "C12a", "C12b")
SPAN = 500e-9
AWAY = {"stage_position_m.x": 9e-7}  # where the sample has no features
GOAL, LEFT = 0.99, 2e-9  # of the best score; in C10 and in C12 [m]


def plan_of_the_rig() -> Autofocus:
    """Return the plan as the rig nion-usim has it."""
    entry = next(each for each in load("nion-usim").plans if each.use == "autofocus")
    return Autofocus(convert(Autofocus.Parameters, entry.parameters))


def drawn(seed: int) -> dict[str, float]:
    """Return the state at the start [m]; the first two are the corners."""
    if seed < 2:
        return dict.fromkeys(KNOBS, SPAN * (1 - 2 * seed))
    rng = np.random.default_rng(seed)
    size, angle = SPAN * np.sqrt(rng.uniform()), rng.uniform(0, 2 * np.pi)
    return {"C10": rng.uniform(-SPAN, SPAN), "C12a": size * np.cos(angle), "C12b": size * np.sin(angle)}


def column(sample: int = 0, controls: dict[str, float] | None = None) -> Nion:
    """Start usim as the rig does, but in focus and with these controls."""
    given = {**load("nion-usim").instrument.parameters, "sample": sample, "controls": controls or {}}
    return Nion(convert(NionSettings, given))


def put(usim: Nion, state: dict[str, float]) -> None:
    """Set the knobs [m]."""
    usim.set_aberrations(SetAberrations(state, absolute=True))


def score(usim: Nion, plan: Autofocus) -> float:
    """Return the sharpness that the plan's fine scan sees now."""
    p, loop = plan.parameters, Loop(usim)
    side = p.points * p.fine_step * 1e-9
    loop.scan(Scan(Region(p.x * 1e-9, p.y * 1e-9, side, side), (p.points, p.points), p.dwell_time * 1e-3))
    return sharpness(loop.map[..., :-2].sum(axis=2))[0]


def best(usim: Nion, plan: Autofocus) -> dict[str, Any]:
    """Look for the best picture along every knob, in steps of 5 to 100 nm; return score, place and all scores."""
    seen: dict[str, float] = {}
    for name in KNOBS:
        for nanometres in (-100, -50, -20, -10, -5, 0, 5, 10, 20, 50, 100):
            if nanometres or name == "C10":
                put(usim, dict.fromkeys(KNOBS, 0.0) | {name: nanometres * 1e-9})
                seen[f"{name} {nanometres:+d} nm" if nanometres else "focus"] = score(usim, plan)
    top = max(seen, key=lambda key: seen[key])
    return {"score": seen[top], "at": top, "focus": seen["focus"], "scores": seen}


def one(usim: Nion, seed: int, top: float, plan: Autofocus) -> dict[str, Any]:
    """Run the plan from the state of `seed`; then again with noise in place of its picture."""
    start = drawn(seed)
    put(usim, start)
    loop = Loop(usim)
    began = time.perf_counter()
    summary = loop.run(plan)
    seconds = time.perf_counter() - began
    end = {name: float(usim.read_back()[name]) for name in KNOBS}
    reached = score(usim, plan) / top
    rng = np.random.default_rng(seed)

    def noise(values: np.ndarray) -> np.ndarray:
        mean = np.nanmean(values, axis=(0, 1), keepdims=True)
        return rng.poisson(np.broadcast_to(mean, values.shape)).astype(values.dtype)

    noisy = Loop(usim, noise, loop.first).run(plan)
    return {
        "seed": seed,
        "start_m": start,
        "left_m": end,
        "c10_left_m": abs(end["C10"]),
        "c12_left_m": float(np.hypot(end["C12a"], end["C12b"])),
        "sigma_m": summary["sigma_m"],
        "score_of_best": reached,
        "frames": loop.frames,
        "scans": summary["scans"],
        "claimed": summary["succeeded"],
        "read_back_confirmed": summary.get("read_back_confirmed", False),
        "message": summary["message"],
        "noise_claimed": noisy["succeeded"],
        "seconds": seconds,
    }


def empty(plan: Autofocus) -> dict[str, Any]:
    """Run the plan where there is nothing to see: beside the sample, and with the beam blanked all the time."""
    made: dict[str, Any] = {}
    beside = column(controls=AWAY)
    try:
        put(beside, {"C10": 100e-9})
        summary = Loop(beside).run(plan)
        made["beside_the_sample"] = {"claimed": summary["succeeded"], "message": summary["message"]}
    finally:
        beside.close()
    blanked = column()
    try:
        put(blanked, {"C10": 100e-9})
        blanked.blank(Blank())
        blanked.unblank = lambda command: blanked.clock.now_ns()  # type: ignore[method-assign]
        summary = Loop(blanked).run(plan)
        made["blanked"] = {"claimed": summary["succeeded"], "message": summary["message"]}
    finally:
        blanked.close()
    return made


def bench(seeds: int = 10, first: int = 0, sample: int = 0, progress: bool = False) -> dict[str, Any]:
    """Return all figures; `ok` = every seed claimed, within GOAL and LEFT; nothing claimed of nothing."""
    plan = plan_of_the_rig()
    usim = column(sample)
    try:
        usim.unblank(Unblank())
        top = best(usim, plan)
        runs = []
        for seed in range(first, first + seeds):
            runs.append(one(usim, seed, top["score"], plan))
            if progress:
                sys.stderr.write(f"{json.dumps(runs[-1])}\n")
    finally:
        usim.close()
    nothing = empty(plan)
    claimed = [r for r in runs if r["claimed"] and r["read_back_confirmed"]]
    passed = [r for r in claimed if r["score_of_best"] >= GOAL and max(r["c10_left_m"], r["c12_left_m"]) <= LEFT]
    claims = sum(r["noise_claimed"] for r in runs) + sum(each["claimed"] for each in nothing.values())
    false_claims = sum(r["claimed"] and r not in passed for r in runs)
    return {
        "best": top,
        "runs": runs,
        "empty": nothing,
        "passed": len(passed),
        "false_claims": false_claims,
        "claims_on_nothing": claims,
        "worst_c10_m": max(r["c10_left_m"] for r in runs),
        "worst_c12_m": max(r["c12_left_m"] for r in runs),
        "ok": len(passed) == seeds and not false_claims and not claims,
    }


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sample", type=int, default=0)
    options = parser.parse_args()
    figures = bench(options.seeds, options.seed, options.sample, progress=True)
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    return 0 if figures["ok"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
