"""Whether somebody guards the hardware: what unattended plans wait for, and depend on.

Whoever sits at the instrument sees the guard's words in red and decides; nobody does while a run has no window. So
such a run needs its guard, where the driver offers it a connection: no plan begins without it, and one that runs is
stopped when the guard stays away.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ..data.control import Event, StateChange
from ..data.errors import ProbeloopError

BACK_WITHIN = 5.0  # [s] for a guard that died to be there again, twice what a restart takes on a busy machine
STARTS_WITHIN = 60.0  # [s]
_ACTED = ("made safe", "nothing to reach", "NOT SAFE")


class Guarding:
    """What the events say of the guard. Not thread-safe."""

    def __init__(self) -> None:
        self.heard = False
        self.acts: list[str] = []
        self._why = "it has not started"
        self._since = time.monotonic()

    def take(self, event: Event) -> None:
        """Hear an event."""
        if not isinstance(event, StateChange) or event.target != "guard":
            return
        if event.state in _ACTED:
            self.acts.append(f"{event.state}: {event.reason}")
            return
        if event.state == "restarted":
            return
        self.heard = self.heard or event.state in ("watching", "blind", "off")
        why = "" if event.state == "watching" else event.reason or event.state
        if bool(why) != bool(self._why):
            self._since = time.monotonic()
        self._why = why

    def wait(self, turn: Callable[[], None], over: Callable[[], bool], *, unattended: bool) -> None:
        """Wait until the guard has said what it reaches. `turn` takes the events that come; over: the run ends.

        Raises ProbeloopError when plans are to run `unattended` and it does not reach the hardware.
        """
        deadline = time.monotonic() + STARTS_WITHIN
        while not self.heard and time.monotonic() < deadline:
            if over():
                return
            turn()
        if self._why and unattended:
            raise ProbeloopError(
                f"unattended plans need the guard, and it does not reach the hardware: {self._why}",
                "free its connection, or run with a window, where an operator stays",
            )

    def wait_for_act(self, turn: Callable[[], None]) -> list[str]:
        """The instrument's process died: wait until the guard, or the next one, has said what it did of it."""
        deadline = time.monotonic() + BACK_WITHIN
        while not self.acts and time.monotonic() < deadline:
            turn()
        if self.acts:
            return []
        words = f"the guard has not said within {BACK_WITHIN:g} s that the hardware is safe"
        return [f"{words}. Use the instrument's own switch"]

    @property
    def away(self) -> str:
        """Why it has not been guarded for longer than a restart takes, or ""."""
        return self._why if time.monotonic() - self._since > BACK_WITHIN else ""
