"""What the experiment's process says to Describe: everything a window needs to rebuild what it shows."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from typing import Any

import msgspec

from ..data.control import Progress
from ..data.settings import json_schema
from ..discover import Found, found, load
from ..plugin.contract import DropIn
from ..plugin.instance import form_schema
from .run import RunningPlan
from .steps import plain

_ASKED_AGAIN = 4


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
        "scalarizer": run.loop.interest.instead or str(run.parameters.get("scalarizer", "")),
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


class PlanForms:
    """JSON Schema of every plan's parameters, for a window's forms.

    Plans are imported for it, in a thread, and only once somebody asks for the fourth time: a window asks again and
    again, the supervisor until it has its first answer.
    """

    def __init__(self, folders: tuple[str, ...]) -> None:
        self._folders = folders
        self._asked = 0
        self._forms: dict[str, Any] = {}
        self._sources: set[str] = set()
        self._thread: threading.Thread | None = None

    def schema(self) -> dict[str, Any]:
        """Return what is known by now, by plan."""
        self._asked += 1
        if self._asked >= _ASKED_AGAIN and (self._thread is None or not self._thread.is_alive()):
            plans = [each for each in found(self._folders) if each.kind == "Plan" and each.error is None]
            if {each.source_hash for each in plans} != self._sources:
                self._sources = {each.source_hash for each in plans}
                self._thread = threading.Thread(target=self._read, args=(plans,), name="plan-forms", daemon=True)
                self._thread.start()
        return self._forms

    def _read(self, plans: list[Found]) -> None:
        forms = {}
        for each in plans:
            with contextlib.suppress(Exception):  # a plan that can't be imported has no form, and says so when run
                forms[each.name] = form_schema(load(each).Parameters)
        self._forms = forms


def settings_of(drop_ins: Mapping[str, DropIn]) -> dict[str, Any]:
    """Return the parameters in force by target."""
    return {"settings": {name: plain(msgspec.to_builtins(each.parameters)) for name, each in drop_ins.items()}}


def schema_of(drop_ins: Mapping[str, DropIn]) -> dict[str, Any]:
    """Return the JSON Schema of every target's parameters."""
    return {name: json_schema(type(each.parameters)) for name, each in drop_ins.items()}
