"""Holds a policy against its contract: only candidates, none twice, at most n, the same with the same seed."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from ..data.settings import Settings
from ..plugin.contract import Context, Observation, Policy
from .check_plan import _another_world

SHAPE = (12, 15)
STEP = 1e-9


def check_policy(policy: type[Policy], parameters: Settings | None = None, seed: int = 1) -> list[str]:
    """Return every way in which a policy breaks its contract, in words; empty = it keeps it.

    Now and then it is told all values anew, as when the operator changes what is interesting.
    """
    faults: list[str] = []
    try:
        with _another_world(0):
            first = _suggested(policy, parameters, seed, faults)
        with _another_world(1):
            again = _suggested(policy, parameters, seed, [])
    except Exception as error:
        return [*faults, f"it raises {type(error).__name__}: {error}"]
    if first != again:
        faults.append("it suggests something else with the same seed: it takes chance from elsewhere than self.rng")
    if not first:
        faults.append("it suggests nothing at all")
    return faults


def _suggested(policy: type[Policy], parameters: Settings | None, seed: int, faults: list[str]) -> list[Any]:
    """Play a policy on a smooth map, with an invalid measurement now and then; return what it suggested."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    candidates = np.stack([x.ravel(), y.ravel()], axis=1) * STEP
    made = policy(parameters, Context(policy.__name__, seed))
    made.context_images(candidates, SHAPE, {"image": np.hypot(x - 4, y - 9).astype(np.float64)})
    places, seen = {tuple(place) for place in candidates.tolist()}, []
    told: list[Observation] = []
    for round_ in range(len(candidates)):
        n = 1 + round_ % 3
        chosen = [tuple(map(float, place)) for place in made.suggest(n)]
        if len(chosen) > n:
            faults.append(f"it suggests {len(chosen)} places where {n} were asked for")
        if not chosen:
            break
        strange = [place for place in chosen if place not in places]
        if strange:
            faults.append(f"it suggests {strange[0]}, which is no candidate")
        twice = [place for i, place in enumerate(chosen) if place in seen or place in chosen[:i]]
        if twice:
            faults.append(f"it suggests {twice[0]} a second time")
        if faults:
            break
        seen += chosen
        new = [_observation(place, len(told) + i) for i, place in enumerate(chosen, 1)]
        again = [msgspec.structs.replace(each, value=1 - each.value, again=True) for each in told]
        made.tell([*new, *(again if round_ in (5, 13) else ())])
        told += new
    return seen


def _observation(place: tuple[float, ...], number: int) -> Observation:
    x, y = place[0], place[1]
    value = math.exp(-(((x - 9 * STEP) / (5 * STEP)) ** 2) - ((y - 4 * STEP) / (5 * STEP)) ** 2)
    return Observation(position=(x, y), value=value, sigma=0.01, valid=number % 7 != 0, index=number)
