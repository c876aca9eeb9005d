"""The guard: a process with its own connection to the hardware (CONVENTIONS.md 9).

It makes the hardware safe when the instrument's process is gone or hangs. No plug-ins, no learning libraries.

Its word is worth what its connection is: a driver offers `guard_connection`. Without one (a simulator whose
hardware ends with its process) the guard says that it reaches nothing.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..bus.event import EventWriter
from ..bus.heartbeat import Heartbeat, Pulse
from ..bus.node import Bus
from ..data.clock import MonotonicClock
from ..data.control import StateChange
from ..data.driver import SafePort
from .journal import EventJournal, Journal

PERIOD = 0.1  # [s]
SILENCE = 1.5  # [s] without a beat of the gate's loop: longer than a proof test of the STOP path may take
Connect = Callable[[], SafePort]


@dataclass(frozen=True, slots=True)
class Seen:
    """The watched process: age of its last beat [s], its id, and whether it lives."""

    age: float
    pid: int
    lives: bool


class Guard:
    """Decides, and acts once for each loss; `look` is called every 100 ms.

    see: returns the watched process, None before it ever was. port: None = nothing to reach.
    """

    def __init__(self, see: Callable[[], Seen | None], port: SafePort | None, journal: Journal) -> None:
        self._see, self._port, self._journal = see, port, journal
        self._lost = ""
        self._pid = 0

    @property
    def lost(self) -> str:
        """Why the watched process counts as lost, "" while it does not."""
        return self._lost

    def look(self) -> bool:
        """Look at the watched process; True when it was found lost just now."""
        seen = self._see()
        if seen is None:
            return False
        why = ""
        if not seen.lives:
            why = f"process {seen.pid} is gone"
        elif seen.age > SILENCE:
            why = f"process {seen.pid} is silent since {seen.age:.1f} s"
        if not why:
            if self._lost:
                self._journal.tell(StateChange(target="guard", state="watching", reason="the instrument is back"))
            self._lost = ""
            return False
        if self._lost:
            return False
        self._lost = why
        self._act(why)
        return True

    def _act(self, why: str) -> None:
        if self._port is None:
            self._journal.tell(StateChange(target="guard", state="nothing to reach", reason=why))
            return
        try:
            self._port.make_safe()
            state, values = "made safe", dict(self._port.read_back())
        except Exception as error:  # a driver may raise anything; it must be said
            state, values = f"NOT SAFE: {error}", {}
        self._journal.tell(StateChange(target="guard", state=state, reason=why, data=values))


def run_guard(
    bus: Bus,
    connect: Connect | None,
    *,
    stop: threading.Event,
    watched: str = "instrument",
    ready: Callable[[], None] | None = None,
) -> None:
    """Watch the process `watched` until `stop` is set.

    connect: opens the guard's own way to the hardware (the driver's `guard_connection`); None = it has none.
    """
    clock, pulse, own = MonotonicClock(), Pulse(bus), Heartbeat(bus)
    events = EventWriter(bus)
    journal = EventJournal(bus.process, clock.now_ns, events.write)
    port: SafePort | None = None
    try:
        port = connect() if connect is not None else None
        what = (
            "own connection to the hardware"
            if port is not None
            else "no way to the hardware: it ends with its process"
        )
        journal.tell(StateChange(target="guard", state="watching", reason=what))
        guard = Guard(lambda: _seen(pulse, watched), port, journal)
        if ready is not None:
            ready()
        while clock.wait_until(clock.now_ns() + round(PERIOD * 1e9), stop):
            own.beat()
            guard.look()
    finally:
        if port is not None:
            port.close()
        events.close()


def guard_connection(instrument_class: type, *arguments: object) -> Connect | None:
    """Return how a guard reaches the hardware of a driver class, or None when it offers no way."""
    offered = getattr(instrument_class, "guard_connection", None)
    return None if offered is None else lambda: offered(*arguments)


def _seen(pulse: Pulse, process: str) -> Seen | None:
    beat = pulse.read(process)
    return None if beat is None else Seen(beat[0], beat[1], is_alive(beat[1]))


def is_alive(pid: int) -> bool:
    """Return whether a process runs (a zombie does not)."""
    status = Path(f"/proc/{pid}/stat")
    if status.parent.parent.joinpath("self").exists():
        try:
            return status.read_text().rpartition(")")[2].split()[0] not in "ZX"
        except (OSError, IndexError):
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
