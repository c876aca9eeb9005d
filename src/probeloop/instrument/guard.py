"""The guard: a process with its own connection to the hardware (CONVENTIONS.md 9).

It makes the hardware safe when the instrument's process is gone, is silent, or can't prove that a STOP arrived. No
plug-ins, no learning libraries. Its word is worth what its connection is: a driver offers `guard_connection`. Without
one (a simulator whose hardware ends with its process) the guard says that it reaches nothing.

Gate and guard leave each other one word beside their heartbeats, sticky and re-read, so that neither needs an answer
of the other. The gate's: 0, or by when the safe state must be proven [ns], or OVER when the process ended in order.
The guard's: how often it acted; the gate trips when that changes, so that nothing goes on behind the guard's back.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..bus.event import EventWriter
from ..bus.heartbeat import Heartbeat, Pulse
from ..bus.node import Bus
from ..data.clock import Clock, MonotonicClock
from ..data.control import Remark, Scalar, StateChange
from ..data.driver import SafePort
from ..data.processes import is_alive
from .journal import EventJournal, Journal

PERIOD = 0.1  # [s]
SILENT_LOOKS = 10  # in a row without a beat of the gate's loop; looks, so that a machine that slept is no alarm
TRY_EVERY = 1.0  # [s] between two proofs that the way to the hardware is open
LINGER = 1.5  # [s] that a guard which is told to end watches an instrument that has not ended
OVER = -1
Connect = Callable[[], SafePort]


@dataclass(frozen=True, slots=True)
class Seen:
    """The watched process: its id, whether it lives, its last beat's number, and the word it left."""

    pid: int
    lives: bool
    sequence: int
    word: int = 0


class Way:
    """The guard's way to the hardware, opened again whenever it broke.

    connect: the driver's; None = it offers none. problem: why the hardware can't be reached, "" while it can.
    """

    def __init__(self, connect: Connect | None) -> None:
        self._connect = connect
        self._port: SafePort | None = None
        self.offered = connect is not None
        self.problem = ""

    def prove(self) -> bool:
        """Reach the hardware, connecting if need be; False, with `problem`, when that fails."""
        return self._try(lambda port: port.read_back()) is not None

    def make_safe(self) -> Mapping[str, Scalar] | None:
        """Make the hardware safe and return its read-back; None, with `problem`, when that fails."""

        def safe(port: SafePort) -> Mapping[str, Scalar]:
            port.make_safe()
            return port.read_back()

        values = self._try(safe)
        return self._try(safe) if values is None else values  # a connection that broke unnoticed is made anew

    def _try(self, do: Callable[[SafePort], Mapping[str, Scalar]]) -> Mapping[str, Scalar] | None:
        assert self._connect is not None
        try:
            if self._port is None:
                self._port = self._connect()
            values = do(self._port)
        except Exception as error:  # a driver may raise anything; it must be said, and tried again
            self.problem = str(error) or type(error).__name__
            self.close()
            return None
        self.problem = ""
        return values

    def close(self) -> None:
        """Let go of the hardware."""
        port, self._port = self._port, None
        if port is not None:
            with contextlib.suppress(Exception):  # it may be what broke
                port.close()


class Guard:
    """Decides, and acts until the hardware is safe; `look` is called every 100 ms, and when the process ends.

    see: returns the watched process, None before it ever was. acting: called before the guard touches the hardware.
    """

    def __init__(
        self,
        see: Callable[[], Seen | None],
        way: Way,
        journal: Journal,
        clock: Clock | None = None,
        acting: Callable[[], None] = lambda: None,
    ) -> None:
        self._see, self._way, self._journal, self._acting = see, way, journal, acting
        self._clock = clock or MonotonicClock()
        self._sequence, self._quiet = -1, 0
        self._lost = self._said = ""
        self._done = False

    @property
    def lost(self) -> str:
        """Why the watched process counts as lost, "" while it does not."""
        return self._lost

    @property
    def needed(self) -> bool:
        """False when there is nothing to guard any more, or not yet: it is over, or lost and made safe."""
        seen = self._see()
        return seen is not None and seen.word != OVER and not (self._lost and self._done)

    def look(self) -> bool:
        """Look at the watched process; True when the hardware was made safe just now."""
        seen = self._see()
        why = "" if seen is None else self._why(seen)
        if not why:
            if self._lost:
                self._tell("watching", "the instrument is back")
            self._lost, self._done = "", False
            return False
        first, self._lost = not self._lost, self._lost or why
        if self._done:
            return False
        return self._act(first)

    def _why(self, seen: Seen) -> str:
        moved, self._sequence = seen.sequence != self._sequence, seen.sequence
        self._quiet = 0 if moved else self._quiet + 1
        if seen.word == OVER:
            return ""
        if not seen.lives:
            return f"process {seen.pid} is gone"
        if seen.word:  # it is making safe
            late = self._clock.now_ns() >= seen.word
            return f"process {seen.pid} could not prove that the instrument is safe" if late else ""
        if self._quiet >= SILENT_LOOKS:
            return f"process {seen.pid} is silent since {self._quiet * PERIOD:.1f} s"
        return ""

    def _act(self, first: bool) -> bool:
        if not self._way.offered:
            self._done = True
            self._tell("nothing to reach", self._lost)
            return False
        self._acting()
        begun = self._clock.now_ns()
        values = self._way.make_safe()
        self._done = values is not None
        if values is not None:
            took = (self._clock.now_ns() - begun) / 1e9
            self._tell("made safe", self._lost, {**values, "took": took})
            self._journal.tell(Remark(text=f"the guard made the hardware safe: {self._lost}", level="warning"))
        elif first or self._way.problem != self._said:
            self._said = self._way.problem
            self._tell("NOT SAFE", f"{self._lost}; {self._said}")
            words = f"NOT SAFE: {self._lost}, and the guard can't reach the hardware: {self._said}"
            self._journal.tell(Remark(text=f"{words}. Use the instrument's own switch", level="error"))
        return self._done

    def _tell(self, state: str, reason: str, data: Mapping[str, Scalar] | None = None) -> None:
        self._journal.tell(StateChange(target="guard", state=state, reason=reason, data=dict(data or {})))


class Watch:
    """Proves once a second that the way to the hardware is open, and says when that changes.

    over: True when the instrument has ended in order, with which its hardware may go too.
    """

    def __init__(self, way: Way, journal: Journal, clock: Clock, over: Callable[[], bool] = lambda: False) -> None:
        self._way, self._journal, self._clock, self._over = way, journal, clock, over
        self._next = 0
        self._said: str | None = None

    def look(self) -> None:
        """Prove it when it is time, tell what is new."""
        now = self._clock.now_ns()
        if self._way.offered and now < self._next:
            return
        self._next = now + round(TRY_EVERY * 1e9)
        problem = "" if not self._way.offered or self._way.prove() else self._way.problem
        if problem == self._said or (problem and self._over()):
            return
        self._said = problem
        if problem:
            self._journal.tell(StateChange(target="guard", state="blind", reason=problem))
            words = f"the guard does not reach the hardware: {problem}. It goes on trying"
            self._journal.tell(Remark(text=f"{words}; unattended plans do not run without it", level="error"))
            return
        reaches = self._way.offered
        how = "over a connection of its own" if reaches else "no way to the hardware: it ends with its process"
        self._journal.tell(StateChange(target="guard", state="watching", reason=how, data={"reaches": reaches}))


def run_guard(
    bus: Bus,
    connect: Connect | None,
    *,
    stop: threading.Event,
    watched: str = "instrument",
    ready: Callable[[], None] | None = None,
) -> None:
    """Watch the process `watched` until `stop` is set and it has ended or is safe.

    connect: opens the guard's own way to the hardware (the driver's `guard_connection`); None = it has none.
    """
    clock, pulse, own = MonotonicClock(), Pulse(bus), Heartbeat(bus)
    events = EventWriter(bus)
    journal = EventJournal(bus.process, clock.now_ns, events.write)
    way, alarm = Way(connect), _Alarm()
    guard = Guard(lambda: _seen(pulse, watched), way, journal, clock, lambda: own.mark(pulse.mark(bus.process) + 1))

    def over() -> bool:
        seen = _seen(pulse, watched)
        return seen is not None and seen.word == OVER

    watch = Watch(way, journal, clock, over)
    try:
        ended = 0
        while True:
            own.beat()
            guard.look()
            if stop.is_set():
                ended = ended or clock.now_ns()
                if not guard.needed or clock.now_ns() - ended > LINGER * 1e9:
                    return
            elif pulse.read(watched) is not None:  # the instrument's own connection comes first
                watch.look()
            if ready is not None:
                ready()
                ready = None
            alarm.wait(_seen(pulse, watched), PERIOD, stop)
    finally:
        alarm.close()
        way.close()
        events.close()


class _Alarm:
    """Waits out the period, or until the watched process ends, which Linux tells at once."""

    def __init__(self) -> None:
        self._pid = self._fd = -1

    def wait(self, seen: Seen | None, seconds: float, stop: threading.Event) -> None:
        """Wait for the end of a living process, `seconds` at most; of any other just that long."""
        if seen is not None and seen.lives and seen.pid != self._pid and hasattr(os, "pidfd_open"):
            self.close()
            with contextlib.suppress(OSError):
                self._pid, self._fd = seen.pid, os.pidfd_open(seen.pid)
        if seen is not None and seen.lives and self._fd >= 0:
            poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            poll.poll(seconds * 1e3)
        else:
            (threading.Event() if stop.is_set() else stop).wait(seconds)

    def close(self) -> None:
        """Let go of the process."""
        if self._fd >= 0:
            os.close(self._fd)
        self._pid = self._fd = -1


def guard_connection(instrument_class: type, *arguments: object) -> Connect | None:
    """Return how a guard reaches the hardware of a driver class, or None when it offers no way."""
    offered = getattr(instrument_class, "guard_connection", None)
    return None if offered is None else lambda: offered(*arguments)


def _seen(pulse: Pulse, process: str) -> Seen | None:
    beat = pulse.read(process)
    return None if beat is None else Seen(beat[1], is_alive(beat[1]), beat[2], pulse.mark(process))
