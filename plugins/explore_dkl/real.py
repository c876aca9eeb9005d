"""Policies compared on measured loops, and what that came to in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .benchmark import MEASURED, SEEDS, STEPS, run
from .replay import FILE, PROPERTIES, Measured, ReplayVisit, shown
from .scores import paired, spread, top_cells


def compare_real(data: Measured, name: str, seed: int, policies: Sequence[str]) -> dict[str, Any]:
    """Return hits of the best 1 % of the valid cells over chance, by policy, for one property.

    Hits by chance are those of as many measurements at random cells, invalid ones included.
    """
    values = data.values[name]
    known = data.valid & np.isfinite(values)
    best = top_cells(np.where(known, values, -np.inf), known)
    made: dict[str, Any] = {"property": name, "seed": seed, "valid_fraction": float(known.mean()), "policies": {}}
    for policy in policies:
        visit = ReplayVisit(data, name)
        found = run(policy, visit, data.places, data.shape, shown(data), seed, truth=np.where(known, values, np.nan))
        good = {cell for cell, valid in zip(found.cells, found.valid, strict=True) if valid}
        hits = sum(bool(best[cell]) for cell in good)
        made["policies"][policy] = {
            "x_random": hits / (len(found.cells) * float(best.mean())), "hits": hits,
            "invalid": len(found.valid) - sum(found.valid), "claimed": found.claimed,
            "rank_correlation": found.rank_correlation,
        }  # fmt: skip
    return made


def described(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of all runs, by property, with a verdict in words."""
    made: dict[str, Any] = {
        "file": FILE, "measured": MEASURED, "seed_points": SEEDS, "steps": STEPS,
        "valid_fraction": max(r["valid_fraction"] for r in runs), "properties": {},
    }  # fmt: skip
    for name in PROPERTIES:
        each = [r["policies"] for r in runs if r["property"] == name]
        if not each:
            continue
        hits = {policy: spread([e[policy]["x_random"] for e in each]) for policy in each[0]}
        over = {
            rival: paired([e["dkl"]["x_random"] for e in each], [e[rival]["x_random"] for e in each])
            for rival in each[0]
            if rival != "dkl"
        }
        claimed = {policy: sum(e[policy]["claimed"] for e in each) for policy in ("dkl", "pca_gp", "xy_gp")}
        made["properties"][name] = {
            "valid_fraction": next(r["valid_fraction"] for r in runs if r["property"] == name),
            "hits_x_random": hits, "dkl_minus": over, "claimed": claimed, "runs": len(each),
            "verdict": verdict(over),
        }  # fmt: skip
    policies = next(iter(made["properties"].values()))["hits_x_random"] if made["properties"] else {}
    made["hits_x_random"] = {
        policy: spread([r["policies"][policy]["x_random"] for r in runs]) for policy in policies
    }  # fmt: skip
    return made


def verdict(over: dict[str, dict[str, Any]]) -> str:
    """Return in words what paired differences of hits over chance, dkl less each rival, allow to say."""
    gain = over["random"]
    if gain["low"] <= 0:
        return "no gain over random places"
    text = f"gain over random places: {gain['low']:.1f} to {gain['high']:.1f} times chance"
    better = [rival for rival, each in over.items() if rival != "random" and each["low"] > 0]
    worse = [rival for rival, each in over.items() if each["high"] < 0]
    text += f"; better than {', '.join(better)}" if better else "; no better than the rivals"
    return text + (f"; worse than {', '.join(worse)}" if worse else "")
