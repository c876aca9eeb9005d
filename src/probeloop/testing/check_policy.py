"""Holds a policy against its contract: only candidates, none twice, at most n, the same with the same seed.

Its maps have the candidates' shape, and to ask for them changes nothing; a pinned region is kept to.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..data.scan import Region
from ..data.settings import Settings
from ..plugin.contract import Context, Observation, Policy
from .check_plan import _another_world

SHAPE = (12, 15)
STEP = 1e-9
_TOLD = 6
_ONE_BY_ONE, _MANY = 24, 30  # rounds in which few are asked for, and how many are after that, so that the map ends


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
    try:
        return [*faults, *_map_faults(policy, parameters, seed), *_pin_faults(policy, parameters, seed)]
    except Exception as error:
        return [*faults, f"it raises {type(error).__name__}: {error}"]


def _begun(policy: type[Policy], parameters: Settings | None, seed: int) -> tuple[Policy, NDArray[np.float64]]:
    """Return a policy that was told a few measurements, and its candidates."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    candidates = np.stack([x.ravel(), y.ravel()], axis=1) * STEP
    made = policy(parameters, Context(policy.__name__, seed))
    made.context_images(candidates, SHAPE, {"image": np.hypot(x - 4, y - 9).astype(np.float64)})
    for number in range(_TOLD):
        for place in made.suggest(1):
            made.tell([_observation(tuple(map(float, place)), number + 1)])
    return made, candidates


def _map_faults(policy: type[Policy], parameters: Settings | None, seed: int) -> list[str]:
    """Return what is wrong with its maps, and whether to ask for them changes what it suggests."""
    asked, _ = _begun(policy, parameters, seed)
    plain, _ = _begun(policy, parameters, seed)
    maps = asked.maps()
    faults = [
        f"its map {name!r} is {getattr(values, 'shape', type(values).__name__)}, the candidates are {SHAPE}"
        for name, values in maps.items()
        if not isinstance(values, np.ndarray) or values.shape != SHAPE or values.dtype.kind not in "biuf"
    ]
    if [tuple(p) for p in asked.suggest(3)] != [tuple(p) for p in plain.suggest(3)]:
        faults.append("it suggests something else once it was asked for its maps: maps() changes it, or draws chance")
    return faults


def _pin_faults(policy: type[Policy], parameters: Settings | None, seed: int) -> list[str]:
    """Return whether it keeps to a pinned region, and goes elsewhere again afterwards."""
    made, candidates = _begun(policy, parameters, seed)
    made.pinned = Region(10.5 * STEP, 3.0 * STEP, 6.5 * STEP, 4.5 * STEP)
    inside = {tuple(place) for place in candidates[made.pinned.holds(candidates)].tolist()}
    seen: list[tuple[float, ...]] = []
    for number in range(min(len(inside), _TOLD)):
        chosen = [tuple(map(float, place)) for place in made.suggest(1)]
        outside = [place for place in chosen if place not in inside]
        if outside:
            return [f"it suggests {outside[0]}, outside the region that is pinned"]
        seen += chosen
        made.tell([_observation(place, _TOLD + number + 1) for place in chosen])
    if not seen:
        return ["it suggests nothing inside a region that is pinned"]
    made.pinned = None
    return [] if made.suggest(1) else ["it suggests nothing more after a region was pinned and let go"]


def _suggested(policy: type[Policy], parameters: Settings | None, seed: int, faults: list[str]) -> list[Any]:
    """Play a policy on a smooth map, with an invalid measurement now and then; return what it suggested."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    candidates = np.stack([x.ravel(), y.ravel()], axis=1) * STEP
    made = policy(parameters, Context(policy.__name__, seed))
    made.context_images(candidates, SHAPE, {"image": np.hypot(x - 4, y - 9).astype(np.float64)})
    places, seen = {tuple(place) for place in candidates.tolist()}, []
    told: list[Observation] = []
    for round_ in range(len(candidates)):
        n = 1 + round_ % 3 if round_ < _ONE_BY_ONE else _MANY
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
