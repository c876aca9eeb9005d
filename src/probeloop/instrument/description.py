"""What the instrument's process says to Describe: everything a process needs to rebuild what it shows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from ..data import commands as c
from ..data.control import Description
from ..data.driver import OF_THE_CORE, safe_words
from ..data.settings import json_schema
from .gate import mode

if TYPE_CHECKING:
    from .desk import ControlDesk

STATIC = "info"


def describe(desk: ControlDesk) -> Description:
    """Return role, state as plain data, and the JSON Schema of only the commands this instrument has."""
    return Description(process="instrument", role="instrument", state=state_of(desk), schema=schema_of(desk))


def state_of(desk: ControlDesk) -> dict[str, Any]:
    """Return the state as plain data; every length in m, current in A, time in s."""
    state, info, limits, account = desk.state, desk.info, desk.limits, desk.account
    running = desk.running
    (dx, dy), sigma = desk.drift.at(desk.instrument.clock.now_ns())
    return {
        "name": info.name,
        "origin": info.origin,
        "modality": info.modality,
        "topics": dict(info.topics),
        "commands": [*info.commands, *(name for name in OF_THE_CORE if name not in info.commands)],
        STATIC: msgspec.to_builtins(info),
        "limits": msgspec.to_builtins(limits),
        "grid": msgspec.to_builtins(info.grid),
        "mode": mode(state),
        "armed": not state.fault,
        "fault": state.fault,
        "epoch": state.epoch,
        "holder": state.holder,
        "heard_age": (desk.now_ns() - state.heard_ns) / 1e9 if state.holder else None,
        "feedback": state.feedback,
        "blanked": state.blanked,
        "parked": state.parked,
        "detector_inserted": state.detector_inserted,
        "position": list(state.position),
        "beam_current": state.beam_current,
        "bias": state.bias,
        "drive": state.drive,
        "knobs": dict(state.knobs),
        "readback": dict(desk.readback),
        "generation": desk.generation,
        "running": None if running is None else {"id": running.id, "command": c.name_of(running.submit.command)},
        "queued": desk.queued,
        "paused": desk.scan.paused,
        "dose": {
            "spent": state.dose,
            "limit": limits.dose,
            "left": None if limits.dose is None else max(0.0, limits.dose - state.dose),
            "area_dose": account.map.maximum,
            "area_limit": limits.area_dose,
            "sigma": account.sigma,
            "estimate": account.sigma is None,
        },
        "pulses": {"given": state.pulses, "limit": limits.pulses},
        "drift": {"x": dx, "y": dy, "sigma": sigma, "references": desk.drift.references},
        "loop_latency_us": percentiles(desk.timings.software, 1e3),
        "physical_latency_ms": percentiles(desk.timings.physical, 1e6),
        "latency": msgspec.to_builtins(desk.timings.counted),
        "safe_state": [c.name_of(command) for command in info.safe_state],
        "safe_words": safe_words(info),
        "safe_verifiable": bool(info.safe_readback),
        "alarms": desk.alarms.described(desk.now_ns()),
    }


def schema_of(desk: ControlDesk) -> dict[str, Any]:
    """Return the JSON Schema of the commands that this instrument understands."""
    names = [*desk.info.commands, *OF_THE_CORE]
    kinds = [c.COMMANDS[name] for name in dict.fromkeys(names) if name in c.COMMANDS]
    return json_schema(reduce(or_, kinds))


def percentiles(values: Sequence[int], unit: float) -> dict[str, float | int | None]:
    """Return p50 and p99 of nanoseconds in a `unit` of so many ns, and how many there are."""
    if not values:
        return {"p50": None, "p99": None, "n": 0}
    p50, p99 = np.percentile(np.asarray(list(values), float), [50, 99]) / unit
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3), "n": len(values)}
