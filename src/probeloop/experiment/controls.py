"""What others tell a running plan: sticky state that the plan's thread looks at, behind one condition.

The thread that serves requests and reads events writes here; the plan's thread waits here, and for nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..data.clock import Clock
from ..data.control import Done, Failed
from ..data.scan import Position

KEEP_RESULTS = 4096
End = Literal["abort", "stop"]


class Ended(Exception):
    """The plan has to end now. kind "abort": somebody asked. "stop": STOP, a fault, or the lease is gone."""

    def __init__(self, kind: End, reason: str) -> None:
        self.kind, self.reason = kind, reason
        super().__init__(kind, reason)


@dataclass(frozen=True)
class Change:
    """New values for a policy, scalarizer, budget or reward, to be applied between two steps."""

    kind: Literal["parameters", "budget", "reward", "scalarizer"]
    target: str
    values: Mapping[str, Any]


class Controls:
    """State of one run. changed: the condition that is notified by every writer, the frame store included."""

    def __init__(self, clock: Clock, changed: threading.Condition | None = None) -> None:
        self.changed = changed or threading.Condition()
        self._clock = clock
        self._paused = False
        self._end: Ended | None = None
        self._finished: dict[int, Done | Failed] = {}
        self._changes: list[Change] = []
        self._suggested: dict[int, Position] = {}
        self._decided: dict[int, bool] = {}
        self._added: list[Position] = []
        self._next_suggestion = 1
        self.paused_ns = 0

    @property
    def paused(self) -> bool:
        """True between Pause and Resume."""
        return self._paused

    @property
    def end(self) -> Ended | None:
        """Why the plan has to end, or None."""
        return self._end

    @property
    def waiting_for_approval(self) -> dict[int, Position]:
        """Suggestions that nobody decided on, by id."""
        with self.changed:
            return {n: p for n, p in self._suggested.items() if n not in self._decided}

    def pause(self) -> None:
        """Hold before the next step."""
        with self.changed:
            self._paused = True
            self.changed.notify_all()

    def resume(self) -> None:
        """Go on."""
        with self.changed:
            self._paused = False
            self.changed.notify_all()

    def end_with(self, kind: End, reason: str) -> None:
        """Let the plan end; the first reason stays."""
        with self.changed:
            self._end = self._end or Ended(kind, reason)
            self.changed.notify_all()

    def finished(self, event: Done | Failed) -> None:
        """Keep what came of a command until the plan asks."""
        with self.changed:
            self._finished[event.id] = event
            while len(self._finished) > KEEP_RESULTS:  # those of other holders, which nobody asks for
                del self._finished[next(iter(self._finished))]
            self.changed.notify_all()

    def change(self, change: Change) -> None:
        """Keep new values until the plan is between two steps."""
        with self.changed:
            self._changes.append(change)
            self.changed.notify_all()

    def decide(self, ids: tuple[int, ...], approved: bool) -> tuple[int, ...]:
        """Approve or veto suggestions; return the ids that are not waiting for it."""
        with self.changed:
            unknown = tuple(n for n in ids if n not in self._suggested or n in self._decided)
            if not unknown:
                self._decided.update(dict.fromkeys(ids, approved))
                self.changed.notify_all()
            return unknown

    def add_point(self, position: Position) -> None:
        """Keep a position until the plan proposes the next time."""
        with self.changed:
            self._added.append(position)
            self.changed.notify_all()

    def take_changes(self) -> list[Change]:
        """Return what changed since the last call."""
        with self.changed:
            taken, self._changes = self._changes, []
            return taken

    def take_added(self) -> tuple[Position, ...]:
        """Return the positions that were added since the last call."""
        with self.changed:
            taken, self._added = tuple(self._added), []
            return taken

    def suggest(self, positions: tuple[Position, ...]) -> dict[int, Position]:
        """Give every position an id and let it wait for a decision."""
        with self.changed:
            first = self._next_suggestion
            self._next_suggestion += len(positions)
            self._suggested = dict(enumerate(positions, first))
            self._decided = {}
            self.changed.notify_all()
            return dict(self._suggested)

    def approved(self) -> tuple[Position, ...]:
        """Wait until every suggestion is decided on; return the approved ones. Raises Ended."""
        self.wait_for(lambda: len(self._decided) == len(self._suggested))
        with self.changed:
            kept = tuple(p for n, p in self._suggested.items() if self._decided[n])
            self._suggested, self._decided = {}, {}
            return kept

    def check(self) -> None:
        """Raise Ended when the plan has to end."""
        if self._end is not None:
            raise self._end

    def hold(self) -> None:
        """Return at once, or when the pause is over. Raises Ended."""
        self.check()
        if self._paused:
            start = self._clock.now_ns()
            self.wait_for(lambda: not self._paused)
            self.paused_ns += self._clock.now_ns() - start

    def result(self, command_id: int, timeout: float | None = None) -> Done | Failed | None:
        """Wait for what comes of a command; None after `timeout` [s]. Raises Ended."""
        self.wait_for(lambda: command_id in self._finished, timeout)
        with self.changed:
            return self._finished.pop(command_id, None)

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until `predicate` holds; False after `timeout` [s]. Raises Ended as soon as the plan has to end."""
        with self.changed:
            self.changed.wait_for(lambda: self._end is not None or predicate(), timeout)
            self.check()
            return predicate()
