"""A rig on another host, as a rig of this host: its topics, events, heartbeats and services on a local bus.

Every process that works with a local rig (window, recorder, plug-ins, `probeloop stop`) works with it unchanged.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

from ...data import control
from ...data.control import Describe, Refused, Request
from ...data.errors import BusError, WireError
from ..event import EventWriter
from ..heartbeat import Heartbeat
from ..ledger import CREDIT, PULSE, RUN, TOPIC
from ..node import Bus
from ..request import Respond, Server
from ..wait import Poller
from . import wire
from .blocks import prepare
from .channel import now_ns
from .landing import CREDIT_S, Landing
from .link import CONTROL, DATA, Link
from .translate import Translator

OWN = "link"  # the service and the pulse of this process
_SERVICE = re.compile(r"[a-z][a-z0-9_.-]{0,47}")
_MOST_SERVICES = 64
_MOST_PENDING = 256 << 20  # bytes that readers here have not made room for
_TURN_S, _A_TURN = 0.1, 16
_ARRIVE_NS, _ANSWER_NS = 1_000_000_000, 65_000_000_000
_RECEIPT_NS, _REFRESH_NS, _CLOCK_NS = 500_000_000, 100_000_000, 30_000_000_000
_OTHER_KINDS = (TOPIC, CREDIT, PULSE, RUN)
SWITCH = "use the instrument's own hardware switch"


class Mirror:
    """Republishes; one thread. said: called with a line for a person when the link comes or goes."""

    def __init__(self, bus: Bus, link: Link, said: Callable[[str], None] = lambda line: None) -> None:
        """Begin, with a link that has met its relay."""
        self._bus, self.link, self._said = bus, link, said
        self._translate = Translator()
        self.landings: dict[str, Landing] = {}
        self._refused: set[str] = set()
        self._servers: dict[str, Server] = {}
        self._asked: dict[int, tuple[Respond, Request, int]] = {}
        self._last_id = 0
        self._run = self._bytes = self._event = 0
        self._joined = False
        self._receipt: tuple[int, int] = (0, 0)
        self._receipt_ns = self._refresh_ns = self._clock_ns = 0
        self.cuts = self.malformed = self.lost_events = 0
        self._events = EventWriter(bus)
        self._pulse = Heartbeat(bus, OWN)
        self._poller = Poller(bus, *link.calling.sources)
        self._own = Server(bus, OWN)
        self._poller.add(self._own)
        link.moved = self._moved
        prepare()
        assert link.welcome is not None
        self._begin(link.welcome)

    def tell(self, event: control.Event) -> None:
        """Write an event of this process."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self._events.write(control.encode(msgspec.structs.replace(event, process=OWN, time_ns=now_ns(), wall=stamp)))

    def _moved(self, old: tuple[Any, ...], new: tuple[Any, ...]) -> None:
        for source in old:
            self._poller.remove(source)
        for source in new:
            self._poller.add(source)

    # one turn

    def turn(self, timeout_s: float = _TURN_S) -> None:
        """Wait for something to do, and do it."""
        held = any(landing.waiting for landing in self.landings.values())
        self._poller.wait(0.0 if held else timeout_s)
        self._pulse.beat()
        if self.link.turn():
            self._cut()
        self._hear(CONTROL)
        self._requests()
        if sum(landing.pending_bytes for landing in self.landings.values()) < _MOST_PENDING:
            self._hear(DATA)
        self._publish(CREDIT_S if held else 0.0)
        self._give_receipt()
        self._refresh()

    def _hear(self, lane: int) -> None:
        for _ in range(_A_TURN):
            try:
                found = self.link.receive(lane)
                if found is None:
                    break
                message, parts = found
                if lane == DATA:
                    self._bytes += sum(map(len, parts))
                self._obey(message, parts)
            except WireError as error:
                self.malformed += 1
                self.tell(control.Remark(text=f"the relay sent nonsense: {error}"[:500], level="warning"))
        if self._joined and not self.link.up:  # it said good-bye
            self._cut()

    def _obey(self, message: wire.FromServer, parts: list[Any]) -> None:
        match message:
            case wire.Welcome():
                self._begin(message)
            case wire.Answer():
                self._answered(message)
            case wire.State():
                self._state(message)
            case wire.Spec():
                self._described(message)
            case wire.Happened():
                self._happened(message)
            case wire.Block():
                if len(parts) != 3:
                    raise WireError(f"a block of {len(parts)} parts")
                landing = self.landings.get(message.topic)
                if landing is None and message.topic not in self._refused:
                    raise WireError(f"a block of {message.topic!r}, which was never described")
                if landing is not None:
                    landing.take(message, parts[1], parts[2])

    # the link comes and goes

    def _begin(self, welcome: wire.Welcome) -> None:
        """A session: tell the relay what is here already, so that it goes on from there."""
        if welcome.run != self._run:
            if self._run:
                self.tell(control.Remark(text="that rig was started anew; indices go on from here", level="info"))
            for landing in self.landings.values():
                landing.close()
            self.landings.clear()
            self._refused.clear()
            self._run = welcome.run
        if not welcome.resumed:
            self._event = 0
            for landing in self.landings.values():
                landing.forget()
        self._translate.remote_holder = welcome.holder
        self._bytes, self._joined, self._receipt = 0, False, (0, 0)
        line = f"connected to {self.link.endpoint} as {welcome.holder}"
        self.tell(control.StateChange(target=OWN, state="connected", reason=line, data={"role": welcome.role}))
        self._said(line)

    def _cut(self) -> None:
        self.cuts += 1
        self._joined = False
        why = f"the link to {self.link.endpoint} is cut ({self.link.trouble})"
        for respond, _, _ in self._asked.values():
            respond(
                control.encode(Refused(f"{why}; it may have been done", "link", "look at the state when it is back"))
            )
        self._asked.clear()
        self.tell(control.StateChange(target=OWN, state="cut", reason=f"{why}; it reconnects by itself"))
        self._said(f"{why}; calling")

    # topics and events

    def _described(self, spec: wire.Spec) -> None:
        landing = self.landings.get(spec.topic)
        try:
            if landing is None and spec.topic not in self._refused:
                landing = self.landings[spec.topic] = Landing(self._bus, spec.topic, self._run, spec.first)
                self._translate.bases[spec.topic] = landing.base
            if landing is not None:
                landing.describe(spec)
        except BusError as error:
            self._refuse(spec.topic, error)

    def _refuse(self, topic: str, error: Exception) -> None:
        self._refused.add(topic)
        landing = self.landings.pop(topic, None)
        if landing is not None:
            landing.close()
        self.tell(control.Remark(text=f"{topic[:48]} is not mirrored: {error}"[:500], level="error"))

    def _publish(self, patience_s: float) -> None:
        clock = self.link.offset()
        for topic, landing in tuple(self.landings.items()):
            try:
                landing.publish(clock, patience_s)
            except WireError as error:
                self.malformed += 1
                self.tell(control.Remark(text=f"a block of {topic}: {error}"[:500], level="warning"))
            except BusError as error:
                self._refuse(topic, error)
            for gap in landing.gaps:
                self.tell(gap)
            landing.gaps.clear()

    def _happened(self, message: wire.Happened) -> None:
        if message.serial <= self._event:
            return
        self.lost_events += message.serial - self._event - 1 if self._event else 0
        self._event = message.serial
        event = self._translate.event(control.decode_event(message.body), self.link.offset())
        self._events.write(control.encode(event))

    def _give_receipt(self) -> None:
        if not self.link.up:
            return
        if not self._joined:
            got = {topic: landing.serial for topic, landing in self.landings.items()}
            self._joined = self.link.send(DATA, wire.Join(got, self._event))
            return
        now, here = now_ns(), (self._bytes, sum(landing.done for landing in self.landings.values()))
        if here == self._receipt and now - self._receipt_ns < _RECEIPT_NS:
            return
        done = {topic: landing.done for topic, landing in self.landings.items() if landing.lossless}
        if self.link.send(DATA, wire.Receipt(self._bytes, done, self._event)):
            self._receipt, self._receipt_ns = here, now

    def _refresh(self) -> None:
        now = now_ns()
        if now - self._refresh_ns > _REFRESH_NS:
            self._refresh_ns = now
            for landing in self.landings.values():
                landing.refresh()
            for number, (respond, _, until) in tuple(self._asked.items()):
                if now > until:
                    del self._asked[number]
                    respond(control.encode(Refused("no answer came back", "link", "look at the state")))
        clock = self.link.offset()
        if clock is not None and now - self._clock_ns > _CLOCK_NS:
            self._clock_ns = now
            data = {"offset": clock.offset_ns / 1e9, "error": clock.error_ns / 1e9}
            self.tell(control.StateChange(target="clock", state="compared", data=data))

    # the rig's state and services

    def _state(self, state: wire.State) -> None:
        now, ledger = now_ns(), self._bus.ledger
        for name, age, pid, sequence in state.pulses:
            if name != OWN:
                words = ledger.claim(PULSE, name, shared=True).words
                words[1], words[2], words[0] = now - max(0, age), pid, sequence
        for kind, name in state.rows:
            if kind not in _OTHER_KINDS:
                ledger.claim(kind, name, shared=True)
        for name in state.services:
            new = name not in self._servers and name != OWN and len(self._servers) < _MOST_SERVICES
            if new and _SERVICE.fullmatch(name):
                self._servers[name] = Server(self._bus, name)
                self._poller.add(self._servers[name])

    def _requests(self) -> None:
        for body, respond in self._own.receive():
            respond(control.encode(self._describe(body)))
        for name, server in self._servers.items():
            for body, respond in server.receive():
                try:
                    self._forward(name, control.decode_request(body), respond)
                except WireError as error:
                    respond(control.encode(Refused(error.message, "message", "a Request of data/control.py")))

    def _forward(self, service: str, request: Request, respond: Respond) -> None:
        meant = self._translate.request(request)
        if not self.link.up:
            since = (now_ns() - self.link.since_ns) / 1e9
            meant = Refused(f"the link to {self.link.endpoint} is cut since {since:.0f} s", "link",
                            f"it reconnects by itself; to stop now {SWITCH}")  # fmt: skip
        if not isinstance(meant, Refused):
            self._last_id += 1
            body, now = control.encode(meant), now_ns()
            if len(body) > wire.MOST_ASKED:
                meant = Refused(f"a request of {len(body)} bytes", "link", f"at most {wire.MOST_ASKED}")
            elif self.link.send(CONTROL, wire.Ask(self._last_id, service, now + _ARRIVE_NS, body)):
                self._asked[self._last_id] = (respond, request, now + _ANSWER_NS)
                return
            else:
                meant = Refused("the link takes no more now", "link", "ask again")
        respond(control.encode(meant))

    def _answered(self, answer: wire.Answer) -> None:
        found = self._asked.pop(answer.id, None)
        if found is not None:
            respond, request, _ = found
            respond(control.encode(self._translate.reply(request, control.decode_reply(answer.body))))

    def _describe(self, body: bytes) -> control.Reply:
        try:
            asked = control.decode_request(body)
        except WireError as error:
            return Refused(error.message)
        if isinstance(asked, Describe):
            return control.Description(OWN, OWN, self.state())
        return Refused(f"the link knows no {type(asked).__name__}", "", "Describe")

    def state(self) -> dict[str, Any]:
        """Return the state as plain data; times in s."""
        clock, welcome = self.link.offset(), self.link.welcome
        return {
            "endpoint": str(self.link.endpoint),
            "up": self.link.up,
            "trouble": self.link.trouble,
            "since": (now_ns() - self.link.since_ns) / 1e9,
            "holder": welcome.holder if welcome else "",
            "role": welcome.role if welcome else "",
            "clock_offset": None if clock is None else clock.offset_ns / 1e9,
            "clock_error": None if clock is None else clock.error_ns / 1e9,
            "cuts": self.cuts,
            "malformed": self.malformed,
            "events_lost": self.lost_events,
            "topics": {
                name: {"lossless": each.lossless, "next": each.next, "lost": each.lost, "repeated": each.repeated}
                for name, each in self.landings.items()
            },
        }

    def close(self) -> None:
        """Leave the bus and hang up."""
        for respond, _, _ in self._asked.values():
            respond(control.encode(Refused("the link is being closed", "link")))
        self._poller.close()
        for server in (*self._servers.values(), self._own):
            server.close()
        for landing in self.landings.values():
            landing.close()
        self._events.close()
        self.link.close()


def run_mirror(
    bus: Bus, link: Link, *, stop: threading.Event, said: Callable[[str], None] = lambda line: None
) -> None:
    """Mirror until `stop` is set."""
    mirror = Mirror(bus, link, said)
    try:
        while not stop.is_set():
            mirror.turn()
    finally:
        mirror.close()
