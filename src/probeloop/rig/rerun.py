"""`probeloop rerun SESSION`: the commands of a session once more, on its simulator, and its frames bit by bit.

What was accepted then is carried out again in the same order by the same executor and pump, without a gate, a bus and
a pace. A simulator's time passes with its own work alone: every frame comes at the same time, and must be the same.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data import commands as c
from ..data.axes import StreamSpec
from ..data.control import Done, Event, Failed, Generation, SetParameters, StateChange, Verdict
from ..data.driver import Acquisition, Instrument
from ..data.errors import RecordError, SourceError
from ..data.frame import BlockFlag, FrameBuffer
from ..record.reader import RecordedTopic, Session
from ..testing.local_instrument import LocalInstrument, LocalOutlet
from .load import load
from .output import emit_json

_NOTHING = BlockFlag(0)
_ENDED = "the instrument's process ends"


def rerun(options: argparse.Namespace) -> int:
    """Run a session again and print how the frames compare; 0 when all that were recorded came again."""
    folder = Path(options.session)
    session = Session(folder)
    made = run_again(session, _simulator(folder), None if options.json else _tell)
    same = [each["equal"] for each in made if each["equal"] is not None]
    summary = {
        "session": str(folder),
        "generations": made,
        "equal": sum(same),
        "different": len(same) - sum(same),
        "not_compared": len(made) - len(same),
        "ok": bool(same) and all(same),
    }
    if options.json:
        emit_json(summary)
    else:
        words = f"{summary['equal']} of {len(same)} generations are equal bit by bit"
        sys.stdout.write(words + (f", {summary['not_compared']} not compared\n" if len(made) > len(same) else "\n"))
    return 0 if summary["ok"] else 1


def _simulator(folder: Path) -> Instrument:
    """Make the simulator of a session as it was made then, but for its pace."""
    from .. import discover

    if not (folder / "rig.toml").exists():
        raise RecordError(
            f"{folder} does not say which rig made it: it has no rig.toml", "rerun one of probeloop run"
        )
    rig = load(str(folder / "rig.toml"))
    use, parameters = rig.instrument.use, dict(rig.instrument.parameters)
    found = discover.find(use, "Instrument", rig.folders)
    if found.kind != "Simulator":
        raise SourceError(f"{use!r} is no simulator: what was measured can't be measured again", "rerun a simulation")
    return discover.load_instrument(use, parameters, rig.folders, spelled=True, unpaced=True)


@dataclass
class Act:
    """Something that was done to the instrument. at: when [ns]. frames: how many an acquisition gave, -1 = all."""

    at: int
    command: c.Command | SetParameters
    generation: int = 0
    frames: int = -1


def acts(events: Iterable[Event]) -> list[Act]:
    """Return what was done, in the order in which it reached the instrument."""
    accepted: dict[int, Verdict] = {}
    generations: dict[int, Generation] = {}
    made: list[Act] = []
    for event in sorted(events, key=lambda event: event.time_ns):
        match event:
            case Verdict(accepted=True, dry_run=False):
                accepted[event.id] = event
            case Generation():
                generations[event.command_id] = event
            case Done() if event.id in accepted:
                began, result = generations.get(event.id), event.result
                command = began.scan if began is not None and began.scan is not None else accepted[event.id].command
                at = result.trace.applied or event.time_ns
                made.append(Act(at, command, result.generation, result.count if result.aborted else -1))
            case Failed() if event.id in generations:  # the hardware had begun
                began = generations[event.id]
                made.append(Act(began.time_ns, began.scan or accepted[event.id].command, began.id, 0))
            case StateChange(target="drift", state="set"):
                made.append(Act(event.time_ns, SetParameters("drift", dict(event.data))))
            case StateChange(target="gate", state="tripped") if event.reason != _ENDED:
                made.append(Act(event.time_ns, c.Stop(event.reason)))
    return sorted(made, key=lambda act: act.at)


class Recorded:
    """The frames of a generation on disk, found by their time; few rows are in memory at once."""

    def __init__(self, record: RecordedTopic, generation: int) -> None:
        self._record, self._held = record, dict[int, NDArray[Any]]()
        if record.is_scan:
            there = record.present.reshape(-1)
            nav = record.spec.nav_shape
            self._per_row = int(np.prod(nav[1:], dtype=np.int64))
        else:
            there = record.column("generation") == generation
            self._per_row = 1
        self._at = {int(t): int(i) for i, t in zip(np.flatnonzero(there), _times(record)[there], strict=True)}
        self.count = len(self._at)

    def frame(self, time_ns: int) -> NDArray[Any] | None:
        """Return the frame exposed at a time, None where none is recorded."""
        cell = self._at.get(time_ns)
        if cell is None:
            return None
        row, inside = divmod(cell, self._per_row)
        if row not in self._held:
            self._held = dict(list(self._held.items())[-1:])
            rows = self._record.data(row, row + 1)
            self._held[row] = rows.reshape(-1, *self._record.spec.frame_shape)
        found: NDArray[Any] = self._held[row][inside]
        return found


def _times(record: RecordedTopic) -> NDArray[np.int64]:
    return np.asarray(record.column("time_ns"), np.int64).reshape(-1)


@dataclass
class Comparison(LocalOutlet):
    """A topic that keeps no block: it holds each frame against the recorded one. full: called at `most` frames."""

    recorded: Callable[[str, int], Recorded | None] = lambda topic, generation: None
    full: Callable[[], None] = lambda: None
    most: int = -1
    topic: str = ""
    against: Recorded | None = None
    equal: int = 0
    different: int = 0
    sent: int = 0

    def announce(self, spec: StreamSpec, generation: int) -> None:
        """Begin a generation."""
        super().announce(spec, generation)
        self.topic, self.against = spec.name, self.recorded(spec.name, generation)
        self.equal = self.different = self.sent = 0

    def send(
        self, buffer: FrameBuffer, count: int, *, flags: BlockFlag = _NOTHING, generation: int, exposed_ns: int = 0
    ) -> int:
        """Compare the frames."""
        for i in range(count if self.against is not None else 0):
            assert self.against is not None
            was = self.against.frame(int(buffer.time_ns[i]))
            if was is not None:
                same = was.tobytes() == np.ascontiguousarray(buffer.data[i]).tobytes()
                self.equal, self.different = self.equal + same, self.different + (not same)
        self.sent += count
        if 0 <= self.most <= self.sent:
            self.full()
        self.next_index += count
        return self.next_index - count


class Rerun(LocalInstrument):
    """A simulator behind a gate without a check, whose topics compare."""

    def __init__(self, simulator: Instrument, recorded: Callable[[str, int], Recorded | None]) -> None:
        self._recorded = recorded
        self.most = -1
        self.outlet: Comparison | None = None
        super().__init__(simulator, checks={})

    def _outlet(self, acquisition: Acquisition, single: bool) -> LocalOutlet:
        self.outlet = Comparison(recorded=self._recorded, full=self.desk.scan.abort, most=self.most)
        return self.outlet

    def act(self, act: Act) -> bool:
        """Do what was done; False when the instrument would not."""
        self.events.clear()
        self.outlet, self.most = None, act.frames
        if isinstance(act.command, SetParameters | c.Stop):
            self.handle(act.command)
            return True
        if self.desk.state.fault:
            self.rearm()
        if not self.desk.state.holder:
            self.take()
        self.desk.generation = act.generation - 1 if act.generation else self.desk.generation
        return self.do(act.command) and not any(isinstance(event, Failed) for event in self.events)


def run_again(
    session: Session, simulator: Instrument, tell: Callable[[dict[str, Any]], None] | None = None
) -> list[dict[str, Any]]:
    """Do all that a session did, on a fresh simulator of the same parameters; close it.

    Returns for every acquisition: generation, topic, command, recorded and compared frames, how many differ, and
    `equal`: True, False, or None with the reason why it was not compared. tell: called with each at once.
    """
    topics = session.topics()

    def recorded(topic: str, generation: int) -> Recorded | None:
        mine = [t for t in topics if t.topic.partition("-")[0] == topic or t.topic == topic]
        found = [t for t in mine if t.generation == generation] or [t for t in mine if not t.is_scan]
        kept = [Recorded(each, generation) for each in found]
        return max(kept, key=lambda each: each.count) if kept else None

    def every() -> Iterator[dict[str, Any]]:
        for act in acts(session.events()):
            if act.frames == 0 and isinstance(act.command, c.ACQUISITIONS):
                yield _result(act, None, "it had failed")
                continue
            went = again.act(act)
            if isinstance(act.command, c.ACQUISITIONS):
                yield _result(act, again.outlet, "" if went else "it failed now")

    made = []
    try:
        again = Rerun(simulator, recorded)
        for each in every():
            made.append(each)
            if tell is not None:
                tell(each)
    finally:
        simulator.close()
    if not made:
        raise RecordError(f"{session.folder} measured nothing", "there is nothing to run again")
    return made


def _result(act: Act, outlet: Comparison | None, why: str) -> dict[str, Any]:
    against = outlet.against if outlet is not None else None
    count = against.count if against is not None else 0
    compared = outlet.equal + outlet.different if outlet is not None else 0
    if not why and not count:
        why = "its frames were not recorded"
    equal = None if not count or outlet is None else outlet.equal == count and not why
    return {
        "generation": act.generation,
        "topic": outlet.topic if outlet is not None else "",
        "command": type(act.command).__name__,
        "recorded": count,
        "compared": compared,
        "different": outlet.different if outlet is not None else 0,
        "missing": count - compared,
        "equal": equal,
        "why": why,
    }


def _tell(each: dict[str, Any]) -> None:
    said = {True: "equal", False: "DIFFERENT", None: "not compared"}[each["equal"]]
    more = f"{each['different']} differ, {each['missing']} did not come" if each["equal"] is False else each["why"]
    words = f"generation {each['generation']:4} {each['topic']:12} {each['command']:16} {each['recorded']:8,} frames"
    sys.stdout.write(f"{words} {said}" + (f": {more}\n" if more else "\n"))
    sys.stdout.flush()
