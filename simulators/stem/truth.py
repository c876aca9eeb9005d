"""What was true of the frames of an acquisition: for scoring and training, on no topic."""

from __future__ import annotations

from typing import Any

import numpy as np

from .exposure import Conditions, Triggers


def truth_of(triggers: Triggers, conditions: Conditions, electrons: float, *, vacuum: bool = False) -> dict[str, Any]:
    """Return a row for each trigger, or one that holds for all; names as in `Simulator` of data/driver.py.

    To be called when the frames have ended. electrons: that an open beam sends in an exposure. vacuum: there is no
    specimen, so no position on it.
    """
    time_ns = triggers.time_ns
    drift = conditions.drift(time_ns)
    steady = conditions.aberrations(int(time_ns[-1])).as_dict()
    moving = np.flatnonzero(time_ns < conditions.settled_ns())
    states = {int(i): conditions.aberrations(int(time_ns[i])).as_dict() for i in moving}
    made: dict[str, Any] = {"time_ns": time_ns, "scan_index": triggers.scan_index, "drift": drift}
    for name in sorted({*steady, *(name for state in states.values() for name in state)}):
        made[name] = np.full(len(time_ns) if states else 1, steady.get(name, 0.0))
        for i, state in states.items():
            made[name][i] = state.get(name, 0.0)
    made["electrons"] = np.array([electrons])
    return made if vacuum else made | {"position": triggers.position - drift}
