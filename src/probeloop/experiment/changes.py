"""What the operator wants to be interesting from now on: tried before the plan is told, refused with the reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..data.control import Accepted, Refused, Reply, SetReward
from ..data.settings import Settings
from ..plugin.contract import DropIn, Scalarizer
from .controls import Change
from .interest import ScalarizerInput, fault
from .reward import Rewards
from .run import RunningPlan


def set_reward(
    request: SetReward,
    run: RunningPlan | None,
    rewards: Rewards,
    scalarizers: Mapping[str, ScalarizerInput],
    tell: Callable[..., None],
) -> Reply:
    """Change weights, and which scalarizer counts, from the next step on; what was measured is valued anew."""
    if unknown := rewards.unknown(request.weights or {}):
        return Refused(f"no reward is called {', '.join(unknown)}", "rewards", ", ".join(rewards.names))
    name = request.scalarizer
    if name is not None:
        if name not in scalarizers:
            return Refused(f"no scalarizer is called {name!r}", "scalarizer", ", ".join(scalarizers) or "none")
        if run is None or run.ended:
            return Refused("no plan runs", "state", "name it in the plan's parameters")
        used = scalarizers[name]
        if why := unusable(used.scalarizer, used.scalarizer.parameters, run, used.topic):
            return Refused(
                f"{name} can't judge these spectra: {why}", "scalarizer", "another one, or other parameters"
            )
    if request.weights is not None:
        if run is not None:
            run.controls.change(Change("reward", "", request.weights))
        else:
            rewards.change(request.weights)
        tell("reward", "set", data=dict(request.weights))
    if name is not None and run is not None:
        run.controls.change(Change("scalarizer", "", {"scalarizer": name}))
        tell("scalarizer", "set", data={"scalarizer": name})
    return Accepted()


def unusable(drop_in: DropIn, parameters: Settings, run: RunningPlan | None, topic: str = "") -> str:
    """Return why a scalarizer with these parameters can't judge what the run measures, "" = it can, or is none.

    A fresh one is tried on the newest spectrum: the plan would end by its refusal.
    """
    frame = run.loop.interest.newest if run is not None else None
    if frame is None or not isinstance(drop_in, Scalarizer) or topic not in ("", frame.spec.name):
        return ""
    made: Any = type(drop_in)(parameters, drop_in.context)
    return fault(made, frame)
