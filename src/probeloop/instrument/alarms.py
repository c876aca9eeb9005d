"""Alarms: why the gate trips by itself on what a sensor reads, with no commander asked (CONVENTIONS.md 9).

A pure function of (what is known of a sensor, a reading or none, is it judged, now) to (what is known, a reason or
""). No clock, no thread: fake time tests all of it. A sensor that says nothing is as bad as one that reads too much.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import msgspec

from ..data.limits import OPEN, Alarm
from ..data.units import display
from .gate import GateState

SENSE_PERIOD = 0.05  # [s] between two readings
_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Reading:
    """What the sensors said. time_ns: CLOCK_MONOTONIC when they were asked, so no value is older than it looks."""

    values: Mapping[str, Any]
    time_ns: int


@dataclass(frozen=True, slots=True)
class Watch:
    """What is known of one sensor; times are CLOCK_MONOTONIC [ns].

    value: the last number it gave, None = it never gave one. read_ns: of the newest reading, number or not.
    valid_ns: of the newest number (before the first: when watching began). changed_ns: since when it is that number.
    judged_ns: since when it is judged, None = not now. out_ns: since when it is seen out of bounds while judged.
    """

    read_ns: int
    valid_ns: int
    changed_ns: int
    value: float | None = None
    judged_ns: int | None = None
    out_ns: int | None = None


Cause = Callable[[Alarm, Watch, int], str]


def above(alarm: Alarm, watch: Watch, now_ns: int) -> str:
    """It reads more than its upper bound, for longer than `hold`."""
    if watch.value is None or watch.value <= alarm.high or not _held(alarm, watch, now_ns):
        return ""
    return f"{in_units(watch.value, alarm)} is above {in_units(alarm.high, alarm)}"


def below(alarm: Alarm, watch: Watch, now_ns: int) -> str:
    """It reads less than its lower bound, for longer than `hold`."""
    if watch.value is None or watch.value >= alarm.low or not _held(alarm, watch, now_ns):
        return ""
    return f"{in_units(watch.value, alarm)} is below {in_units(alarm.low, alarm)}"


def missing(alarm: Alarm, watch: Watch, now_ns: int) -> str:
    """It gives no number: absent, NaN or text, too old a reading, or a driver that does not answer."""
    if watch.value is None:
        return "no value yet"
    age = (now_ns - watch.valid_ns) / 1e9
    return f"no value for {age:.3g} s, allowed are {alarm.missing_after:g} s" if age > alarm.missing_after else ""


def stuck(alarm: Alarm, watch: Watch, now_ns: int) -> str:
    """It reads the same to the last bit for `stuck_after`, which no living sensor does."""
    if watch.value is None or watch.judged_ns is None or not alarm.stuck_after:
        return ""
    still = (watch.valid_ns - max(watch.changed_ns, watch.judged_ns)) / 1e9
    return f"stuck at {in_units(watch.value, alarm)} for {still:.3g} s" if still >= alarm.stuck_after else ""


CAUSES: Mapping[str, Cause] = MappingProxyType({"above": above, "below": below, "missing": missing, "stuck": stuck})


def look(
    name: str,
    alarm: Alarm,
    watch: Watch,
    reading: Reading | None,
    judged: bool,
    now_ns: int,
    causes: Mapping[str, Cause] = CAUSES,
) -> tuple[Watch, str]:
    """Take a reading into account, old or new, and return why the gate must trip now, or "".

    judged: the instrument is in a state in which the alarm counts. causes: for the mutation tests alone.
    """
    watch = _judged(alarm, _read(name, watch, reading, now_ns), judged, now_ns)
    words = _why(alarm, watch, now_ns, causes) if judged else ""
    return watch, f"alarm {name}: {words}" if words else ""


def _why(alarm: Alarm, watch: Watch, now_ns: int, causes: Mapping[str, Cause]) -> str:
    return next(filter(None, (cause(alarm, watch, now_ns) for cause in causes.values())), "")


def _read(name: str, watch: Watch, reading: Reading | None, now_ns: int) -> Watch:
    if reading is None or reading.time_ns < watch.read_ns:
        return watch  # an older one that comes late tells nothing
    when = min(reading.time_ns, now_ns)
    value = _number(reading.values.get(name))
    if value is None:
        return replace(watch, read_ns=when)
    changed = watch.changed_ns if value == watch.value else when
    return replace(watch, read_ns=when, valid_ns=when, changed_ns=changed, value=value)


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        made = float(value)
    except OverflowError:
        return None
    return None if math.isnan(made) else made


def _judged(alarm: Alarm, watch: Watch, judged: bool, now_ns: int) -> Watch:
    if not judged:
        return replace(watch, judged_ns=None, out_ns=None)
    since = now_ns if watch.judged_ns is None else watch.judged_ns
    value = watch.value
    # what it read in the state before may have been right there: a tip that is withdrawn has its z at the rail
    out = value is not None and watch.valid_ns >= since and not alarm.low <= value <= alarm.high
    seen = now_ns if watch.out_ns is None else watch.out_ns
    return replace(watch, judged_ns=since, out_ns=seen if out else None)


def _held(alarm: Alarm, watch: Watch, now_ns: int) -> bool:
    return watch.out_ns is not None and now_ns - watch.out_ns >= alarm.hold * 1e9


def in_units(value: float, alarm: Alarm) -> str:
    """Return a value of an alarm's sensor as a person reads it."""
    return display(value, alarm.units, _DIGITS)


def conditions(state: GateState, scanning: bool) -> frozenset[str]:
    """Return the states the instrument is in, of those that an alarm may name."""
    found = {state.feedback, *(() if state.blanked else ("beam_on",)), *(("scanning",) if scanning else ())}
    return frozenset(found)


class Alarms:
    """The alarms of one instrument; one thread at a time, but for `sensed`, which the sensing thread replaces."""

    def __init__(self, alarms: Mapping[str, Alarm], now_ns: int, causes: Mapping[str, Cause] = CAUSES) -> None:
        self._alarms, self._causes = dict(alarms), causes
        self._watches = dict.fromkeys(self._alarms, Watch(now_ns, now_ns, now_ns, judged_ns=now_ns))
        self._judged: frozenset[str] = frozenset()
        self.sensed: Reading | None = None

    def look(self, own: Reading, states: frozenset[str], now_ns: int) -> str:
        """Look at every sensor; return why the gate must trip, or "".

        own: what the core itself measures; all else comes from `sensed`. states: `conditions` now.
        """
        sensed, reasons = self.sensed, []
        self._judged = frozenset(n for n, each in self._alarms.items() if not each.when or states & set(each.when))
        for name, alarm in self._alarms.items():
            reading, judged = own if name in own.values else sensed, name in self._judged
            self._watches[name], reason = look(
                name, alarm, self._watches[name], reading, judged, now_ns, self._causes
            )
            reasons += [reason] if reason else []
        return "; ".join(reasons)

    def standing(self, now_ns: int) -> dict[str, str]:
        """Return why each alarm stands, as of the last look; `hold` is for what is not yet known to be a fault."""
        found = {}
        for name, alarm in self._alarms.items():
            watch = self._watches[name]
            if watch.out_ns is not None:
                watch = replace(watch, out_ns=watch.out_ns - round(alarm.hold * 1e9))
            found[name] = _why(alarm, watch, now_ns, self._causes) if name in self._judged else ""
        return {name: words for name, words in found.items() if words}

    def described(self, now_ns: int) -> dict[str, dict[str, Any]]:
        """Return each alarm as plain data: value, age [s], bounds [units] (None = no bound), and why it stands."""
        standing = self.standing(now_ns)
        return {
            name: {
                "value": self._watches[name].value,
                "age": (now_ns - self._watches[name].valid_ns) / 1e9,
                **msgspec.to_builtins(alarm),
                "low": alarm.low if alarm.low > -OPEN else None,
                "high": alarm.high if alarm.high < OPEN else None,
                "judged": name in self._judged,
                "stands": standing.get(name, ""),
            }
            for name, alarm in self._alarms.items()
        }
