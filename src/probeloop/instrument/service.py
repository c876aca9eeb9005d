"""The instrument's process: one desk, two threads that attend to it, a pump; one more to watch sensors.

desk-1, desk-2  requests, STOP before all others; the clock of leases and dose, alarms; driver calls, one after the
                other, while the other one listens; park an idle beam
pump            frames from the driver to the topics; refreshes idle topics for late joiners
sensing         what the alarms watch, every 50 ms
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

from ..bus.event import EventWriter
from ..bus.heartbeat import Heartbeat, Pulse
from ..bus.node import Bus, timed_wait
from ..bus.publish import Publisher
from ..bus.request import Server
from ..data.clock import MonotonicClock
from ..data.control import Accepted, Refused, Request, decode_request, encode
from ..data.driver import Acquisition, Instrument, missing_verbs
from ..data.errors import ContractError, WireError
from ..data.frame import block_bytes
from ..data.limits import Limits
from .attendants import ENDING, Attendants
from .desk import ControlDesk
from .guard import OVER
from .journal import EventJournal
from .pump import Delivery, Outlet, block_capacity
from .requests import Requests
from .sensing import Sensing
from .witness import Keep, Witness

SERVICE = "instrument"
GUARD = "guard"
TICK = 0.05  # [s]
REFRESH = 0.1  # [s]
SWITCH = 5e-5  # [s] after which a thread that waits for the interpreter gets it: Python's 5 ms would be the latency


class Topics:
    """The publishers of the instrument's topics, made when first needed."""

    def __init__(self, bus: Bus, can_wait: bool) -> None:
        self._bus, self._can_wait = bus, can_wait
        self._publishers: dict[str, Publisher] = {}
        self._lock = threading.Lock()  # who carries out commands makes them, the idle pump refreshes them

    def outlet(self, acquisition: Acquisition, single: bool) -> Outlet:
        """Return the publisher of an acquisition's topic, with room for its blocks."""
        spec = acquisition.spec
        size = block_bytes(spec, 1 if single else block_capacity(acquisition))
        with self._lock:
            old = self._publishers.get(acquisition.topic)
            if old is not None and old.max_block_bytes >= size:
                return old
            if old is not None:
                old.close()
            new = Publisher(self._bus, acquisition.topic, size, self._can_wait or spec.can_wait)
            self._publishers[acquisition.topic] = new
            return new

    def refresh(self) -> None:
        """Give late joiners the newest spec."""
        with self._lock:
            for publisher in self._publishers.values():
                publisher.refresh()

    def close(self) -> None:
        """Leave all topics."""
        with self._lock:
            for publisher in self._publishers.values():
                publisher.close()


class PumpThread:
    """Runs acquisitions in a thread of its own, while the thread that asked for one waits.

    A single frame is fetched in the asking thread: to change threads twice takes longer than it does.
    """

    def __init__(self, topics: Topics, idle: Callable[[], None]) -> None:
        self._topics, self._idle = topics, idle
        self._changed = threading.Condition()
        self._work: Callable[[], Delivery] | None = None
        self._delivery: Delivery | None = None
        self._over = False
        self._topics_lock = threading.Lock()  # one thread at a time writes to a topic or refreshes it
        self._thread = threading.Thread(target=self._loop, name="pump", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def acquire(
        self, run: Callable[..., Delivery], *arguments: Any, single: bool = False, **options: Any
    ) -> Delivery:
        """Let the pump's thread do `run(...)`, and return what came of it."""
        if single:
            with self._topics_lock:
                return run(*arguments, single=True, **options)
        with self._changed:
            self._delivery = None
            self._work = lambda: run(*arguments, single=False, **options)
            self._changed.notify_all()
            while self._delivery is None and not self._over:
                if not self._thread.is_alive():
                    return Delivery(aborted=True, error="the pump has ended: log/instrument.log says why")
                self._changed.wait(TICK)
                self._changed.release()
                try:
                    self._idle()
                finally:
                    self._changed.acquire()
            return self._delivery or Delivery(aborted=True, error="the process ends")

    def _loop(self) -> None:
        while True:
            with self._changed:
                if self._work is None and not self._over:
                    self._changed.wait(REFRESH)
                if self._over:
                    return
                work = self._work
            if work is None:
                if self._topics_lock.acquire(blocking=False):
                    try:
                        self._topics.refresh()
                    finally:
                        self._topics_lock.release()
                continue
            try:
                delivery = work()
            except Exception as error:  # who waits must be told, whatever it was
                delivery = Delivery(aborted=True, error=f"{type(error).__name__}: {error}")
            with self._changed:
                self._work, self._delivery = None, delivery
                self._changed.notify_all()

    def end(self) -> None:
        """End the thread; a driver call that hangs keeps it, and dies with the process."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(ENDING)


def run_instrument(
    bus: Bus,
    instrument: Instrument,
    limits: Limits | None = None,
    *,
    stop: threading.Event,
    ready: Callable[[], None] | None = None,
    first_generation: int = 1,
    keep: Keep | None = None,
) -> None:
    """Serve an instrument on the bus until `stop` is set or a Shutdown comes; safe at the end, and closed.

    limits: the driver's own, narrowed by the rig (`data.limits.tightened`). ready: called when requests are
    answered. keep: takes what a simulator says is true, by name: "start", the number of a generation, "end". Arms
    itself at the start if the proof test of the STOP path passes and no alarm stands; else it stays stopped, and says
    why. Raises ContractError for a driver that lacks a method it declares.
    """
    faults = missing_verbs(instrument)
    if faults:
        raise ContractError("; ".join(faults), "probeloop check names what a driver needs")
    clock = MonotonicClock()
    switch = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH)
    events = EventWriter(bus)
    server = Server(bus, SERVICE)
    pulse, watch = Heartbeat(bus), Pulse(bus)
    pulse.mark(0)
    info = instrument.describe()
    topics = Topics(bus, info.can_wait)
    journal = EventJournal(bus.process, clock.now_ns, events.write)

    pump = PumpThread(topics, lambda: desk.park())
    witness = Witness(instrument, keep, journal.tell)
    desk = ControlDesk(
        instrument,
        limits or info.limits,
        journal=journal,
        now_ns=clock.now_ns,
        outlet=topics.outlet,
        acquire=lambda *a, **k: witness.after(pump.acquire(desk.pump.run, *a, **k), a[0], k["generation"]),
        first_generation=first_generation,
        prove_by=pulse.mark,
        guarded=lambda: watch.mark(GUARD),
    )
    requests = Requests(desk)
    sensing = Sensing(instrument, desk.alarms, journal, clock.now_ns)
    reading, ticked = threading.Lock(), 0

    def answer() -> None:
        nonlocal ticked
        timed_wait(server.listener, TICK)
        with reading:
            serve(server, requests)
            now = clock.now_ns()
            if now - ticked >= TICK * 0.5e9:  # not after every request: its command waits for the interpreter
                ticked = now
                desk.tick()
            pulse.beat()

    attendants = Attendants(desk, answer)
    try:
        if desk.limits.alarms:
            sensing.start()
        requests.arm("start")
        witness.look("start")
        pump.start()
        attendants.start()
        if ready is not None:
            ready()
        while not stop.wait(TICK) and not desk.ending.is_set():
            pass
        with reading:
            serve(server, requests)
        if attendants.failure is not None:
            raise attendants.failure
    finally:
        if isinstance(desk.trip("the instrument's process ends"), Accepted):
            pulse.mark(OVER)
        pump.end()
        attendants.end()
        sensing.end()
        witness.look("end")
        instrument.close()
        server.close()
        topics.close()
        events.close()
        sys.setswitchinterval(switch)


def serve(server: Server, requests: Requests) -> None:
    """Answer every request that waits, STOP first."""
    asked = server.receive()
    if not asked:
        return
    good: list[tuple[Request, Callable[[bytes], None]]] = []
    for body, respond in asked:
        try:
            good.append((decode_request(body), respond))
        except WireError as error:
            respond(encode(Refused(error.message, "message", "a Request of data/control.py")))
    replies = requests.handle_all([request for request, _ in good])
    for (_, respond), reply in zip(good, replies, strict=True):
        respond(encode(reply))
