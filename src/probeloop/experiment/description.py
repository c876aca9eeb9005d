"""What the experiment's process says to Describe: everything a window needs to rebuild what it shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ..data.control import Progress
from ..data.settings import json_schema
from ..discover import found
from ..plugin.contract import DropIn
from .run import RunningPlan
from .steps import plain


def state_of(run: RunningPlan, progress: Progress | None) -> dict[str, Any]:
    """Return where a plan is; eta [s]."""
    waiting = run.controls.waiting_for_approval
    return {
        "state": "waiting" if waiting else "paused" if run.controls.paused else "running",
        "plan": run.name,
        "parameters": plain(run.parameters),
        "seed": run.seed,
        "step": run.step,
        "progress": progress.done if progress else 0.0,
        "eta": progress.eta if progress else None,
        "message": progress.message if progress else "",
        "budget": run.budget.report(),
        "suggestions": [{"id": n, "position": list(position)} for n, position in waiting.items()],
        "summary": None,
    }


def offered(folders: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the names of the plans and policies there are."""
    usable = [each for each in found(folders) if each.error is None]
    return {
        "plans": sorted(each.name for each in usable if each.kind == "Plan"),
        "policies": sorted(each.name for each in usable if each.kind == "Policy"),
    }


def settings_of(drop_ins: Mapping[str, DropIn]) -> dict[str, Any]:
    """Return the parameters in force by target."""
    return {"settings": {name: plain(msgspec.to_builtins(each.parameters)) for name, each in drop_ins.items()}}


def schema_of(drop_ins: Mapping[str, DropIn]) -> dict[str, Any]:
    """Return the JSON Schema of every target's parameters."""
    return {name: json_schema(type(each.parameters)) for name, each in drop_ins.items()}
