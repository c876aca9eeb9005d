"""Holds what a rig names against what is there: drop-ins, and the parameters it gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import discover
from ..data.errors import DropInError, Problem, SettingsError
from ..data.settings import Settings, convert
from ..plugin.contract import input_fault, kind_of
from ..plugin.instance import TRANSFORMS
from .schema import Rig

_IN_THE_EXPERIMENT = ("Scalarizer", "Reward")
_IN_A_PLUGIN_ENTRY = (*TRANSFORMS, *_IN_THE_EXPERIMENT)


def faults(rig: Rig) -> list[Problem]:
    """Return every fault in the rig's drop-ins and their parameters, with its key path and what is allowed.

    Imports the drop-ins, so it is done in a process that ends afterwards.
    """
    found: list[Problem] = []
    entry = rig.instrument
    _look(found, entry.use, ("Driver", "Simulator"), entry.parameters, "instrument", rig, inline=True)
    for name, plugin in rig.plugins.items():
        cls = _look(found, plugin.use, _IN_A_PLUGIN_ENTRY, plugin.parameters, f"plugins.{name}", rig)
        if cls is not None and kind_of(cls) in TRANSFORMS and (fault := input_fault(cls, plugin.input)):
            found.append(Problem(f"plugins.{name}.input", *fault))
    _look_at_plans(found, rig)
    return found


def faults_of_experiment(rig: Rig) -> list[Problem]:
    """Return the faults of what the experiment's process runs: plans, scalarizers and rewards."""
    found: list[Problem] = []
    for name, plugin in rig.plugins.items():
        try:
            kind = discover.find(plugin.use, None, rig.folders).kind
        except DropInError:
            continue  # whoever starts the plug-ins says so
        if kind in _IN_THE_EXPERIMENT:
            _look(found, plugin.use, _IN_THE_EXPERIMENT, plugin.parameters, f"plugins.{name}", rig)
    _look_at_plans(found, rig)
    return found


def _look_at_plans(found: list[Problem], rig: Rig) -> None:
    for i, plan in enumerate(rig.plans):
        _look(found, plan.use, ("Plan",), plan.parameters, f"plan[{i}]", rig)


def _look(
    found: list[Problem],
    use: str,
    kinds: tuple[str, ...],
    parameters: Mapping[str, Any],
    where: str,
    rig: Rig,
    inline: bool = False,
) -> type[Any] | None:
    cls: Any = None
    told: DropInError | None = None
    for kind in kinds:
        try:
            cls = discover.load_class(use, kind, rig.folders)
            break
        except DropInError as error:
            told = told or error
    if cls is None:
        assert told is not None
        found.append(Problem(f"{where}.use", told.message, told.next_move))
        return None
    settings: type[Settings] = getattr(cls, "Parameters", Settings)
    try:
        convert(settings, parameters, where if inline else f"{where}.parameters", spelled=True)
    except SettingsError as error:
        found.extend(error.problems)
    return cls  # type: ignore[no-any-return]
