"""What was true of the frames of an acquisition: for scoring and training, on no topic."""

from __future__ import annotations

from typing import Any

import numpy as np

from .exposure import Conditions, Triggers


def truth_of(triggers: Triggers, conditions: Conditions, electrons: float) -> dict[str, Any]:
    """Return a row for each trigger, or one that holds for all; names as in `Simulator` of data/driver.py.

    To be called when the frames have ended. electrons: that an open beam sends in an exposure. In vacuum there
    is no position on the specimen.
    """
    time_ns = triggers.time_ns
    drift = conditions.drift(time_ns)
    states = conditions.aberrations(time_ns)  # equal ones are one object
    kept = {id(state): state for state in states}
    which = {key: i for i, key in enumerate(kept)}
    rows = np.array([which[id(state)] for state in states] if len(kept) > 1 else [0])
    made: dict[str, Any] = {"time_ns": time_ns, "scan_index": triggers.scan_index, "drift": drift}
    for name in sorted({name for state in kept.values() for name in state.as_dict()}):
        made[name] = np.array([state.as_dict().get(name, 0.0) for state in kept.values()])[rows]
    made["electrons"] = np.array([electrons])
    return made if conditions.dose is None else made | {"position": conditions.on_specimen(triggers.place, time_ns)}
