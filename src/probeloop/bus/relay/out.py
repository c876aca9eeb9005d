"""The rig's end of a relay: topics and events out to remote readers, their requests in, through the same gate."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

from ...data import control
from ...data.control import Refused
from ...data.errors import BusError, WireError
from ..event import EventReader, EventWriter
from ..heartbeat import Heartbeat
from ..ledger import CREDIT, PULSE, RUN, TOPIC
from ..node import Bus
from ..request import Server
from ..wait import Poller
from . import wire
from .admit import admit, holder_of, is_stop, stop_of
from .blocks import prepare
from .channel import Channel, Mode, now_ns
from .errands import Errands
from .keys import KeyRing, Role
from .remote import CONTROL, FORGOTTEN_NS, Remote
from .rules import Guest, Guests, Rules
from .sockets import Endpoint, Listening

MOST_REMOTES = 4  # each takes one of a topic's 16 readers
_TURN_S = 0.1
_LOOK_NS, _STATE_NS, _KEYS_NS = 100_000_000, 250_000_000, 500_000_000
_A_TURN = 64


def run_of(bus: Bus) -> int:
    """Return the number of this run of the rig, drawn by whoever asks first."""
    with bus.ledger.locked():
        words = bus.ledger.claim(RUN, "run", shared=True).words
        words[0] = words[0] or secrets.randbits(61) + 1
        return words[0]


class Relay:
    """Serves remote readers; one thread. services: the names that may be asked now."""

    def __init__(
        self, bus: Bus, rules: Rules, ring: KeyRing, services: Callable[[], list[str]], expected: tuple[str, ...] = ()
    ) -> None:
        """Listen; raises BusError when the key or the address can't be used.

        expected: topics to follow before their first publisher is there, so that their first frame is sent too.
        """
        endpoint = Endpoint.parse(rules.bind)
        endpoint.require_key(rules.key, 'probeloop keys new NAME, then key = "NAME" in [relay]')
        self._bus, self._rules, self._services, self._expected = bus, rules, services, expected
        self._guests = Guests(rules, ring, lambda line: self.tell("refused", line))
        self._listening = Listening(endpoint, ring.secret(rules.key) if rules.key else None, self._guests.admits)
        self.endpoint = self._listening.endpoint
        if rules.compress:
            prepare()
        self.run = run_of(bus)
        self.remotes: dict[tuple[str, bytes], Remote] = {}  # by public key and instance
        self._peers: dict[bytes, Remote] = {}
        self.malformed = self.stale = 0
        self._events, self._out = EventReader(bus), EventWriter(bus)
        self._server = Server(bus, "relay")
        self._poller = Poller(bus, *self._listening.sources, self._events, self._server)
        self._errands: Errands[tuple[bytes, int]] = Errands(bus, self._poller)
        self._pulse = Heartbeat(bus)
        self._looked = self._stated = self._keys_seen = 0
        self._busy = False
        self.tell("listening", self.endpoint)

    def tell(self, state: str, reason: str, **data: Any) -> None:
        """Say on the rig's bus what happened."""
        event = control.StateChange(target="relay", state=state, reason=reason, data=data)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self._out.write(control.encode(msgspec.structs.replace(event, process="relay", time_ns=now_ns(), wall=stamp)))

    # one turn

    def turn(self, timeout_s: float = _TURN_S) -> None:
        """Wait for something to do, and do it."""
        self._poller.wait(0.0 if self._busy else timeout_s)
        self._pulse.beat()
        self._listening.let_in()
        for peer, public, body in self._listening.receive(_A_TURN):
            self._take(peer, public, body)
        for (peer, number), reply in self._errands.look():
            self._listening.send(peer, wire.encode(wire.Answer(number, reply)))
        for body in self._events.read():
            for remote in self.remotes.values():
                remote.events.put(body)
        self._answer()
        now = now_ns()
        if now - self._looked > _LOOK_NS:
            self._looked = now
            self._look(now)
        self._busy = False
        for remote in self.remotes.values():
            self._decide(remote)
            self._busy |= remote.pump(self._listening.send, now)

    def _take(self, peer: bytes, public: str, body: bytes) -> None:
        guest = self._guests.get(public)
        if guest is None:  # revoked since it came in
            self._bye(peer, "the key is not trusted any more", "ask whoever runs the instrument")
            return
        (name, role), now = guest, now_ns()
        try:
            envelope = wire.read_envelope(body)
            if isinstance(envelope.message, wire.Hello):
                self._welcome(peer, public, guest, envelope.message, now)
                return
            remote = self._peers.get(peer) or self._joining(envelope, public)
            if remote is not None and remote.fresh(envelope, peer):
                remote.heard_ns = now
                self._obey(remote, peer, role, envelope.message, now)
                return
            self._void(peer, holder_of(role, name, remote.number if remote else 1), envelope.message)
            if remote is None:
                self._bye(peer, "this connection has no session", "", again=True)
        except WireError:
            self.malformed += 1

    def _joining(self, envelope: wire.Envelope, public: str) -> Remote | None:
        if not isinstance(envelope.message, wire.Join):
            return None
        return next((r for r in self.remotes.values() if r.public == public and r.session == envelope.session), None)

    def _void(self, peer: bytes, holder: str, message: Any) -> None:
        """A message of another session, another connection, or one that was seen before: nothing but STOP counts."""
        self.stale += 1
        if isinstance(message, wire.Ask):
            request = control.decode_request(message.body)
            if is_stop(request):
                self._errands.stop((peer, message.id), stop_of(request, holder))

    def _obey(self, remote: Remote, peer: bytes, role: Role, message: Any, now: int) -> None:
        match message:
            case wire.Beat():
                remote.beat(message, now, self._listening.send)
            case wire.Join():
                self._peers[peer] = remote
                self._open(remote)
                remote.join(message)
            case wire.Receipt():
                remote.receipt(message, now)
            case wire.Ask():
                self._ask(remote, peer, role, message, now)

    def _ask(self, remote: Remote, peer: bytes, role: Role, ask: wire.Ask, now: int) -> None:
        holder, services = holder_of(role, remote.name, remote.number), self._services()
        answer: control.Reply
        try:
            request = control.decode_request(ask.body)
        except WireError as error:
            self.malformed += 1
            answer = Refused(error.message, "message", "a Request of data/control.py")
        else:
            if is_stop(request):
                self._errands.stop((peer, ask.id), stop_of(request, holder))
                return
            if ask.service in services:
                admitted = admit(request, role, holder, remote.clock.estimate(now), ask.not_after, now)
                if not isinstance(admitted, Refused):
                    self._errands.ask((peer, ask.id), ask.service, admitted)
                    return
                answer = admitted
            else:
                answer = Refused(f"nobody serves {ask.service!r}", "service", ", ".join(services)[:300])
        self._listening.send(peer, wire.encode(wire.Answer(ask.id, control.encode(answer))))

    # readers come and go

    def _welcome(self, peer: bytes, public: str, guest: Guest, hello: wire.Hello, now: int) -> None:
        if hello.version != wire.VERSION:
            self._bye(
                peer, f"this relay speaks version {wire.VERSION}, not {hello.version}", "install the same probeloop"
            )
            return
        name, role = guest
        remote = self.remotes.get((public, hello.instance))
        if remote is None:
            if len(self.remotes) >= MOST_REMOTES and not self._make_room(role, now):
                self._bye(
                    peer, f"{MOST_REMOTES} remote readers are connected, no more are served", "close one of them"
                )
                return
            taken = {each.number for each in self.remotes.values() if each.public == public}
            number = next(n for n in range(1, MOST_REMOTES + 1) if n not in taken)
            remote = self.remotes[public, hello.instance] = Remote(name, public, number)
        resumed, remote.welcomed = remote.welcomed, True
        self._peers = {key: each for key, each in self._peers.items() if each is not remote}
        remote.reset(peer, now)
        self._peers[peer] = remote
        holder = holder_of(role, name, remote.number)
        said = wire.Welcome(remote.session, self.run, self._bus.rig_id, holder, role, resumed)
        self._listening.send(peer, wire.encode(said))
        self.tell("connected", f"{holder!r} {'is back' if resumed else 'came'}", holder=holder)

    def _make_room(self, role: Role, now: int) -> bool:
        """Forget a silent reader, or for an operator one that may only look; False when there is none."""
        silent = [key for key, each in self.remotes.items() if not each.alive(now)]
        viewers = [key for key in self.remotes if self._role(key[0]) == "viewer"] if role == "operator" else []
        for key in (*silent, *viewers):
            self._bye(self.remotes[key].peers[CONTROL], "an operator needs this place", "try again later")
            self._forget(key)
            return True
        return False

    def _role(self, public: str) -> Role | None:
        guest = self._guests.get(public)
        return guest.role if guest else None

    def _bye(self, peer: bytes, reason: str, move: str, again: bool = False) -> None:
        self._listening.send(peer, wire.encode(wire.Bye(reason, move, again)))

    def _forget(self, key: tuple[str, bytes]) -> None:
        remote = self.remotes.pop(key)
        for channel in remote.channels.values():
            self._poller.remove(channel)
        remote.drop(remote.channels)
        self._peers = {peer: each for peer, each in self._peers.items() if each is not remote}

    def _look(self, now: int) -> None:
        """Look at everything that changes slowly: keys, silent readers, new topics, the ledger."""
        if self._rules.key and now - self._keys_seen > _KEYS_NS:
            self._keys_seen = now
            self._guests.look()
        for key, remote in tuple(self.remotes.items()):
            role = self._role(remote.public)
            if role is None:
                self._bye(remote.peers[CONTROL], f"the key {remote.name!r} is not trusted any more", "ask for trust")
            if role is None or now - remote.heard_ns > FORGOTTEN_NS:
                self._forget(key)
                self.tell("gone", f"{remote.name!r} is {'revoked' if role is None else 'gone'}")
                continue
            remote.credit(remote.alive(now))
            if remote.peers[1]:
                self._open(remote)
        if now - self._stated > _STATE_NS:
            self._stated = now
            state = wire.encode(self._state(now))
            for remote in self.remotes.values():
                self._listening.send(remote.peers[CONTROL], state)

    def _open(self, remote: Remote) -> None:
        """Open a channel for every topic that travels; what appears after the reader came is sent from its start."""
        names = {*self._expected, *(row.name for row in self._bus.ledger.rows(TOPIC))}
        for name in sorted(names - remote.channels.keys() - remote.refused):
            mode = self._rules.mode(name)
            if mode is None or len(remote.channels) >= wire.MOST_TOPICS:
                continue
            try:
                self._follow(remote, name, mode, whole=remote.opened)
            except BusError as error:
                remote.refused.add(name)
                self.tell("refused", f"{name} is not relayed: {error}")
        remote.opened = True

    def _follow(self, remote: Remote, topic: str, mode: Mode, whole: bool) -> None:
        rules = self._rules
        channel = Channel(self._bus, topic, mode, rules.most_bytes, rules.compress, whole=whole)
        remote.channels[topic] = channel
        self._poller.add(channel)

    def _decide(self, remote: Remote) -> None:
        for topic, channel in tuple(remote.channels.items()):
            if not channel.decide():
                self._poller.remove(channel)
                channel.close()
                self._follow(remote, topic, "newest", whole=False)

    def _state(self, now: int) -> wire.State:
        rows = self._bus.ledger.rows
        pulses = tuple((r.name, max(0, now - r.words[1]), r.words[2], r.words[0]) for r in rows(PULSE))
        others = tuple((row.kind, row.name) for row in rows(None) if row.kind not in _OWN_KINDS)
        return wire.State(pulses[:256], others[:1024], tuple(self._services()[:256]))

    # this process's own service

    def _answer(self) -> None:
        for body, respond in self._server.receive():
            try:
                asked = control.decode_request(body)
            except WireError as error:
                respond(control.encode(Refused(error.message)))
                continue
            if isinstance(asked, control.Describe):
                respond(control.encode(control.Description("relay", "relay", self.state())))
            else:
                respond(control.encode(Refused(f"the relay knows no {type(asked).__name__}", "", "Describe")))

    def state(self) -> dict[str, Any]:
        """Return the state as plain data: who is connected, clocks [s], what was sent, kept and lost by topic."""
        now, readers = now_ns(), []
        for remote in self.remotes.values():
            clock = remote.clock.estimate(now)
            readers.append({
                "holder": holder_of(self._role(remote.public) or "viewer", remote.name, remote.number),
                "silent": (now - remote.heard_ns) / 1e9,
                "clock_offset": None if clock is None else clock.offset_ns / 1e9,
                "clock_error": None if clock is None else clock.error_ns / 1e9,
                "window": remote.pace.window,
                "delay": remote.pace.delay_ns / 1e9,
                "events_lost": remote.events.lost,
                "topics": {
                    name: {"mode": "lossless" if each.lossless else "newest", "sent": each.sent, "bytes": each.bytes,
                           "held": each.held, "lost": each.lost if each.lossless else 0}
                    for name, each in remote.channels.items()
                },
            })  # fmt: skip
        return {"endpoint": self.endpoint, "keys": bool(self._rules.key), "readers": readers,
                "refused": self._guests.refused, "malformed": self.malformed, "stale": self.stale}  # fmt: skip

    def close(self) -> None:
        """Say good-bye and leave."""
        for remote in self.remotes.values():
            self._bye(remote.peers[CONTROL], "the rig ends", "start it again; this end calls on")
        for key in tuple(self.remotes):
            self._forget(key)
        self._errands.close()
        self._poller.close()
        self._listening.close()
        for port in (self._events, self._out, self._server):
            port.close()


_OWN_KINDS = (TOPIC, CREDIT, PULSE, RUN)


def run_relay(
    bus: Bus, rules: Rules, ring: KeyRing, services: Callable[[], list[str]], *, stop: threading.Event,
    expected: tuple[str, ...] = (), ready: Callable[[str], None] | None = None,
) -> None:  # fmt: skip
    """Serve until `stop` is set. ready: called with the endpoint when readers can come."""
    relay = Relay(bus, rules, ring, services, expected)
    try:
        if ready is not None:
            ready(relay.endpoint)
        while not stop.is_set():
            relay.turn()
    finally:
        relay.close()
