"""What was said: the log, and the refusals of the gate in words."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from probeloop.api import Cost, Done, Event, Failed, Gap, Observed, Progress, Remark, Revision, StateChange, Verdict
from probeloop.api import display as with_unit

Level = Literal["debug", "info", "warning", "error"]
LEVELS: tuple[Level, ...] = ("debug", "info", "warning", "error")
_KEPT = 2000
_BAD = ("died", "failed", "off", "stopped", "tripped", "missed", "reload failed", "standing", "cut")


@dataclass(frozen=True)
class Line:
    """One line of the log. at: wall clock "HH:MM:SS". times: how often it came in a row."""

    number: int
    at: str
    level: Level
    who: str
    text: str
    times: int = 1


@dataclass(frozen=True)
class RefusalLine:
    """A refusal: which command, why, the limit, what is allowed."""

    at: str
    command: str
    holder: str
    reason: str
    limit: str
    allowed: str


class Journal:
    """Newest lines first to go when there are too many. Written by one thread, read by any."""

    def __init__(self) -> None:
        self.version = 0
        self._numbers = itertools.count(1)
        self._lines: deque[Line] = deque(maxlen=_KEPT)
        self._refusals: deque[RefusalLine] = deque(maxlen=200)
        self.accepted = self.refused = 0

    def say(self, text: str, level: Level = "info", who: str = "window", at: str = "") -> None:
        """Add a line; the same line again only raises its count."""
        last = self._lines[-1] if self._lines else None
        at = at or time.strftime("%H:%M:%S")
        if last is not None and (last.level, last.who, last.text) == (level, who, text):
            self._lines[-1] = Line(last.number, at, level, who, text, last.times + 1)
        else:
            self._lines.append(Line(next(self._numbers), at, level, who, text))
        self.version += 1

    def take(self, event: Event) -> None:
        """Write down what an event says."""
        at = event.wall[11:19] if len(event.wall) >= 19 else ""
        if isinstance(event, Verdict):
            self._verdict(event, at)
            return
        said = _words(event)
        if said is not None:
            level, text = said
            self.say(text, level, event.process or "rig", at)

    def _verdict(self, event: Any, at: str) -> None:
        if event.dry_run:
            return
        if event.accepted:
            self.accepted += 1
            self.say(f"accepted {describe(event.command)}{_cost(event.cost)}", "debug", event.holder or "gate", at)
            return
        self.refused += 1
        line = RefusalLine(
            at or time.strftime("%H:%M:%S"),
            describe(event.command),
            event.holder,
            event.reason,
            event.limit,
            event.allowed,
        )
        self._refusals.append(line)
        self.say(f"refused {line.command}: {in_words(line)}", "warning", event.holder or "gate", at)

    def lines(self, least: Level = "debug", text: str = "") -> list[Line]:
        """Return the lines of at least this level that contain `text`, oldest first."""
        from_level = LEVELS.index(least)
        wanted = text.lower()
        return [
            line
            for line in list(self._lines)
            if LEVELS.index(line.level) >= from_level and wanted in f"{line.who} {line.text}".lower()
        ]

    @property
    def refusals(self) -> list[RefusalLine]:
        """The newest refusals, oldest first."""
        return list(self._refusals)


def in_words(refusal: RefusalLine) -> str:
    """Return a refusal as one sentence: reason, limit, what is allowed."""
    text = refusal.reason.rstrip(".")
    if refusal.limit and refusal.limit not in text:
        text += f" (limit: {refusal.limit})"
    return f"{text}. Allowed: {refusal.allowed}" if refusal.allowed else text


def describe(command: Any) -> str:
    """Return a command in a few words with units."""
    name = type(command).__name__
    if name == "Scan":
        ny, nx = command.shape
        size = " × ".join(with_unit(v, "m") for v in (command.region.width, command.region.height))
        return f"Scan {nx} × {ny}, {size}, {with_unit(command.dwell_time, 's')}/px"
    if name in ("MoveProbe", "AcquireSpectrum", "ApplyPulse"):
        x, y = (with_unit(v, "m") for v in command.position)
        kind = f" {type(command.kind).__name__}" if name == "AcquireSpectrum" else ""
        return f"{name}{kind} at ({x}, {y})"
    if name == "SetAberrations":
        sign = "" if command.absolute else "by "
        return "SetAberrations " + ", ".join(f"{k} {sign}{with_unit(v, 'm')}" for k, v in command.values.items())
    parts = [
        f"{field}={getattr(command, field)}"
        for field in command.__struct_fields__
        if getattr(command, field) not in (None, "", ())
    ]
    return f"{name} {', '.join(parts)}".strip()[:160]


def _cost(cost: Cost) -> str:
    return f" (dose {with_unit(cost.dose, 'e')})" if cost.dose else ""


def _words(event: Event) -> tuple[Level, str] | None:
    if isinstance(event, Remark):
        return event.level, event.text
    if isinstance(event, Failed):
        return "error", f"command {event.id} failed: {event.reason}"
    if isinstance(event, Gap):
        pixels = f", pixels {_some(event.pixels)}" if event.pixels else ""
        return "warning", f"{event.count} frames of {event.topic} lost from {event.first}{pixels}: {event.reason}"
    if isinstance(event, StateChange):
        level: Level = "error" if event.state in _BAD else "info"
        who = f"{event.target} {event.data.get('plan', '')}".strip() if event.target == "plan" else event.target
        return level, f"{who}: {event.state}" + (f": {event.reason}" if event.reason else "")
    if isinstance(event, Revision):
        values = ", ".join(f"{key} = {value}" for key, value in event.values.items())
        return "debug", f"{event.target}: revision {event.revision}, {values}"
    if isinstance(event, Observed | Progress | Done):
        return None
    return None


def _some(numbers: Iterable[int], most: int = 6) -> str:
    found = list(numbers)
    return ", ".join(map(str, found[:most])) + (" ..." if len(found) > most else "")
