"""The gate's tables in words: what each check is, and what trips, what it does, what clears it.

`probeloop schema gate` prints them, with the name of a rig its alarms too; a test walks every pair of (state, event).
"""

from __future__ import annotations

from dataclasses import dataclass

from ..data.limits import OPEN, Alarm, Limits
from .alarms import in_units
from .checks import CHECKS
from .gate import FEEDBACK, FEEDBACK_EVENTS, FEEDBACK_TABLE, HOLDER_TIMEOUT, MODE_TABLE, MODES
from .safety import PROVEN_WITHIN
from .triggers import MISSED, OVERDUE, alarms_of


@dataclass(frozen=True, slots=True)
class Cause:
    """Why the gate acts by itself. action: what it does at once. latched: stays until cleared. cleared: by what."""

    name: str
    action: str
    latched: bool
    cleared: str


_TRIP = "safe state, queues flushed, epoch raised"
_ONCE_GOOD = "Rearm by the operator, once it is good"
_GUARD = "safe state by the guard's own connection"
CAUSES = (
    Cause("start", "nothing may move", True, "a proof test of the STOP path that passes"),
    Cause("STOP (any process)", _TRIP, True, "Rearm by the operator, with a proof test"),
    Cause("shut down", _TRIP, True, "never"),
    Cause(f"holder silent for {HOLDER_TIMEOUT:g} s, something not safe", _TRIP, True, "Rearm by the operator"),
    Cause(f"holder silent for {HOLDER_TIMEOUT:g} s, all safe", "the lease is free", False, "TakeControl"),
    Cause("lease of an output ran out", _TRIP, True, "Rearm by the operator"),
    Cause("dose budget spent", _TRIP, True, "Rearm by the operator and a larger budget"),
    Cause("alarm: sensor out of its bounds longer than hold", _TRIP, True, _ONCE_GOOD),
    Cause("alarm: sensor without a number for missing_after", _TRIP, True, _ONCE_GOOD),
    Cause("alarm: sensor that stands still for stuck_after", _TRIP, True, _ONCE_GOOD),
    Cause(f"alarm: {MISSED}, over missed_triggers", _TRIP, True, "Rearm by the operator"),
    Cause(f"alarm: {OVERDUE}, over frame_timeout", _TRIP, True, "Rearm by the operator"),
    Cause("make_safe failed or safe state not read back", _TRIP, True, "repair, then Rearm"),
    Cause("control given back", "outputs to safe, queues flushed", False, "TakeControl"),
    Cause("control taken by force", "queues flushed, scan ended, epoch raised", False, "TakeControl"),
    Cause("beam idle beyond park_timeout", "blank", False, "the next acquisition of the holder"),
    Cause("instrument process gone (guard)", _GUARD, True, "start the rig again"),
    Cause("instrument process silent for 1 s (guard)", _GUARD, True, "Rearm by the operator, when it is back"),
    Cause(f"safe state not proven in {PROVEN_WITHIN:g} s (guard)", _GUARD, True, "repair, then Rearm"),
)


def alarm_words(alarm: Alarm) -> str:
    """Return what an alarm trips at, and after how long."""
    bounds = [f"above {in_units(alarm.high, alarm)}"] if alarm.high < OPEN else []
    bounds += [f"below {in_units(alarm.low, alarm)}"] if alarm.low > -OPEN else []
    out = " or ".join(bounds) + (f" for {alarm.hold:g} s" if alarm.hold else "")
    still = f"the same for {alarm.stuck_after:g} s" if alarm.stuck_after else ""
    return ", ".join(filter(None, (out if bounds else "", f"no value for {alarm.missing_after:g} s", still)))


def table(limits: Limits | None = None) -> str:
    """Return all tables as text; limits: of an instrument, whose alarms are listed too."""
    lines = ["Checks, in order; the first that says no refuses:"]
    lines += [f"  {name:18}{(check.__doc__ or '').splitlines()[0]}" for name, check in CHECKS.items()]
    lines += ["", "Causes, actions, clear conditions:"]
    lines += [
        f"  {cause.name:52}{cause.action:46}{'latched' if cause.latched else 'passing':9}{cause.cleared}"
        for cause in CAUSES
    ]
    if limits is not None:
        lines += ["", "Alarms, when they are judged, what trips them:"]
        lines += [
            f"  {name:24}{', '.join(alarm.when) or 'always':24}{alarm_words(alarm)}"
            for name, alarm in alarms_of(limits).items()
        ]
    lines += ["", "Lease and latch (state, event -> state):"]
    events = list(dict.fromkeys(event for _, event in MODE_TABLE))
    lines.append("  " + " ".join(f"{word:12}" for word in ("", *events)))
    lines += ["  " + " ".join(f"{word:12}" for word in (m, *(MODE_TABLE[(m, e)] for e in events))) for m in MODES]
    lines += ["", "Feedback (state, event -> state; - = refused):"]
    lines.append("  " + " ".join(f"{word:12}" for word in ("", *FEEDBACK_EVENTS)))
    lines += [
        "  " + " ".join(f"{word:12}" for word in (s, *(FEEDBACK_TABLE[(s, e)] or "-" for e in FEEDBACK_EVENTS)))
        for s in FEEDBACK
    ]
    return "\n".join(line.rstrip() for line in lines)
