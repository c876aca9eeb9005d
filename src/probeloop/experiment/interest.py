"""What is interesting: the scalarizer that counts, and what all measured spectra are worth by it.

The operator may change it while a plan runs, by another scalarizer of the rig, other parameters of it, or other
weights of the rewards. Then all spectra so far are scalarized again, and the plan's next Observe tells their new
values. A spectrum that memory let go of is read from the record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from ..data.control import Event, Remark, Result
from ..data.errors import CalibrationError, PlanError, ProbeloopError
from ..data.frame import FrameFlag
from ..plugin.contract import Observation, Observe, Scalarizer
from .reward import Rewards
from .streams import Frame, Streams

Recorded = Callable[[str, Result], list[Frame]]
LOST = "its spectrum is lost"


@dataclass(frozen=True)
class ScalarizerInput:
    """A scalarizer and the topic whose frames it is given."""

    scalarizer: Scalarizer
    topic: str


@dataclass
class _Measured:
    """What an Observe step gave: by which name the plan asked, of which result, and the newest values."""

    name: str
    result: Result
    told: tuple[Observation, ...]


class Interest:
    """Scalarizers by name, the one that takes the place of the plan's, and all that was scalarized.

    recorded: frames of (topic, result) from the record, for those that `streams` let go of. instead: "" = the
    plan's own choice. newest: the last frame that was scalarized.
    """

    def __init__(
        self,
        scalarizers: Mapping[str, ScalarizerInput],
        rewards: Rewards,
        streams: Streams,
        emit: Callable[[Event], None],
        recorded: Recorded | None = None,
    ) -> None:
        self._scalarizers, self._rewards, self._streams = dict(scalarizers), rewards, streams
        self._emit, self._recorded = emit, recorded or _nothing
        self.instead = ""
        self.newest: Frame | None = None
        self._measured: list[_Measured] = []
        self._due: set[str] = set()
        self._shown: set[str] = set()

    def change(self, values: Mapping[str, Any]) -> None:
        """Let another scalarizer count from now on; raises PlanError for an unknown one."""
        name = str(values["scalarizer"])
        self._named(name)
        self.instead = name
        self.valued_anew()

    def valued_anew(self, scalarizer: str = "") -> None:
        """Let the next Observe tell all values again: those of one scalarizer, "" = all."""
        self._shown.discard(scalarizer)
        self._due |= {each.name for each in self._measured if scalarizer in ("", self._in_force(each.name))}

    def topic(self, step: Observe) -> str:
        """Return the topic whose frames an Observe step is about; raises PlanError for an unknown scalarizer."""
        return self._named(self._in_force(step.scalarizer)).topic or step.result.topic

    def observe(self, step: Observe, result: Result, frames: list[Frame]) -> tuple[Observation, ...]:
        """Return what the frames of a result are worth, and behind them what all before are worth now, where due.

        result: where the step's data are now, which is another place when they were measured again.
        """
        name = self._in_force(step.scalarizer)
        again = self._again(step.scalarizer, name)
        new = self._values(name, frames, result)
        self.newest = frames[-1] if frames else self.newest
        self._shown.add(name)
        self._measured.append(_Measured(step.scalarizer, result, new))
        return new + again

    def recall(self, step: Observe, told: tuple[Observation, ...]) -> None:
        """Take a recorded Observe into account: what was told needs no telling."""
        if any(each.again for each in told):
            fresh = {_key(each): each for each in told if each.again}
            for each in self._measured:
                each.told = tuple(fresh.get(_key(one), one) for one in each.told)
        self._due.discard(step.scalarizer)
        new = tuple(each for each in told if not each.again)
        self._measured.append(_Measured(step.scalarizer, step.result, new))

    def _in_force(self, name: str) -> str:
        return self.instead or name

    def _named(self, name: str) -> ScalarizerInput:
        if name not in self._scalarizers:
            known = ", ".join(self._scalarizers) or "none"
            raise PlanError(f"no scalarizer is called {name!r}", f"the rig has: {known}")
        return self._scalarizers[name]

    def _again(self, asked: str, name: str) -> tuple[Observation, ...]:
        """Scalarize all before again where that is due; show them to a scalarizer that must remember them."""
        used, due = self._named(name), asked in self._due
        remembers = used.scalarizer.remembers and (due or name not in self._shown)
        self._due.discard(asked)
        if not (due or remembers):
            return ()
        if remembers:
            used.scalarizer.forget()
        made: list[Observation] = []
        lost = 0
        for each in (each for each in self._measured if each.name == asked):
            frames = self._frames(used.topic or each.result.topic, each.result)
            lost += not frames
            values = self._values(name, frames, each.result)
            if due:
                each.told = values or tuple(_lost(one, name) for one in each.told)
                made += [msgspec.structs.replace(one, again=True) for one in each.told]
        if lost:
            what = "have no value now" if due else f"are unknown to {name}"
            self._emit(Remark(text=f"{lost} spectra are neither held nor recorded, and {what}", level="warning"))
        if due:
            self._emit(Remark(text=f"{name}: {len(made)} earlier spectra are valued anew"))
        return tuple(made)

    def _values(self, name: str, frames: list[Frame], result: Result) -> tuple[Observation, ...]:
        used = self._named(name)
        topic = used.topic or result.topic
        found = (observation(used.scalarizer, frame, topic, name) for frame in frames)
        return tuple(self._rewards.applied(each, result.cost) for each in found)

    def _frames(self, topic: str, result: Result) -> list[Frame]:
        held = self._streams.held(topic, result)
        if held:
            return held
        try:
            return self._recorded(topic, result)
        except ProbeloopError:
            return []


def fault(scalarizer: Scalarizer, frame: Frame | None) -> str:
    """Return why a scalarizer can't be used on what is measured, "" = it can. frame: the newest, None = none yet."""
    if frame is None:
        return ""
    try:
        scalarizer.scalarize(frame.data, frame.spec)
    except (CalibrationError, PlanError) as error:
        return str(error)
    return ""


def observation(scalarizer: Scalarizer, frame: Frame, topic: str, name: str = "") -> Observation:
    """Return what a scalarizer, `name` in the rig, makes of a frame."""
    value, sigma, valid = scalarizer.scalarize(frame.data, frame.spec)
    finite = bool(np.isfinite(value))
    reason = "not finite" if not finite else "invalid" if not valid else ""
    if not reason and frame.flags & FrameFlag.REPEAT_VISIT:
        reason = "repeat"
    return Observation(
        position=frame.position,
        value=float(value) if finite else 0.0,
        sigma=float(sigma),
        valid=bool(valid) and finite,
        topic=topic,
        generation=frame.generation,
        index=frame.index,
        time_ns=frame.time_ns,
        reason=reason,
        scalarizer=name,
    )


def _lost(told: Observation, name: str) -> Observation:
    return msgspec.structs.replace(told, value=0.0, sigma=float("nan"), valid=False, reason=LOST, scalarizer=name)


def _key(told: Observation) -> tuple[str, int, int]:
    return told.topic, told.generation, told.index


def _nothing(topic: str, result: Result) -> list[Frame]:
    return []
