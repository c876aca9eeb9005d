"""The connection to a relay on another host: made, kept, made again after a cut of any length."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import msgspec

from ...data.errors import BusError, WireError
from . import wire
from .channel import now_ns
from .clock import ClockOffset, Offset
from .keys import Pair, Trusted
from .sockets import Calling, Endpoint

CONTROL, DATA = 0, 1
SILENT_NS = 3_000_000_000
_HELLO_NS, _AGAIN_NS, _CONNECTING_NS = 500_000_000, 100_000_000, 10_000_000
_REDIAL_NS, _REFUSED_NS = 2_500_000_000, 2_000_000_000
_BEAT_NS, _FIRST_NS, _FIRST = 250_000_000, 40_000_000, 10


class Link:
    """One reader's two connections and its session; one thread. moved: called with old and new sockets to wait on."""

    def __init__(self, endpoint: Endpoint, pair: Pair | None, server: Trusted | None) -> None:
        """Begin to call; raises BusError when the address can't be used with these keys."""
        self.endpoint = endpoint
        self._pair, self._server = pair, server.public if server else None
        self.instance = secrets.token_bytes(wire.TOKEN)
        self.moved: Callable[[tuple[Any, ...], tuple[Any, ...]], None] = lambda old, new: None
        self.calling = Calling(endpoint, pair, self._server)
        self.welcome: wire.Welcome | None = None
        self.trouble = ""
        self.since_ns = now_ns()  # of the state it is in
        self.clock = ClockOffset()
        self._session = b""
        self._numbers = [0, 0]
        self._heard_ns = self._hello_due = self._beat_due = 0
        self._dumb_ns = 0  # since when the data lane has no connection, 0 = it has
        self._redial_due = now_ns() + _REDIAL_NS
        self._beats = 0
        self._sent: set[int] = set()
        self._echo = (0, 0)

    @property
    def up(self) -> bool:
        """Whether there is a session now."""
        return self.welcome is not None

    def offset(self) -> Offset | None:
        """Return how that host's clock differs from ours, None = not known yet."""
        return self.clock.estimate(now_ns())

    def turn(self) -> bool:
        """Say what is due; True when the link was cut since the last turn."""
        now, cut = now_ns(), False
        if self.up and now - self._heard_ns > SILENT_NS:
            self.hang_up("silent", now)
            cut = True
        elif self.up and self._dumb_ns and now - self._dumb_ns > SILENT_NS:
            # ZeroMQ makes a connection anew that broke, but not one on which something came that can't be
            self.hang_up("the data connection ended", now)
            cut = True
        if not self.up:
            self.trouble = self.calling.trouble() or self.trouble
            if now > self._redial_due:
                self._redial(now)
            if now > self._hello_due:
                said = self.send(CONTROL, wire.Hello(wire.VERSION, self.instance))
                self._hello_due = now + (_HELLO_NS if said else _CONNECTING_NS)
        elif now > self._beat_due:
            self._beats += 1
            self._beat_due = now + (_FIRST_NS if self._beats < _FIRST else _BEAT_NS)
            self._sent.add(now)
            self.send(CONTROL, wire.Beat(now, *self._echo))
        return cut

    def _redial(self, now: int) -> None:
        """Call anew: a connection that began during a cut waits for many seconds after it."""
        self._redial_due = now + _REDIAL_NS
        old = self.calling
        new = Calling(self.endpoint, self._pair, self._server)
        self.moved(old.sources, new.sources)
        old.close()
        self.calling = new

    def hang_up(self, why: str, now: int) -> None:
        """End the session, and begin to call."""
        self.welcome, self.trouble, self.since_ns = None, why, now
        self._session, self._hello_due, self._redial_due, self._dumb_ns = b"", now, now, 0

    def send(self, lane: int, message: msgspec.Struct) -> bool:
        """Send a message of this session; False where there is no connection now."""
        self._numbers[lane] += 1
        body = wire.encode(wire.Envelope(self._session, self._numbers[lane], message))  # type: ignore[arg-type]
        sent = self.calling.send(lane, body)
        if lane == DATA:
            self._dumb_ns = 0 if sent else self._dumb_ns or now_ns()
        return sent

    def receive(self, lane: int) -> tuple[wire.FromServer, list[Any]] | None:
        """Take a message and its other parts; what the link itself needs is taken out. Raises WireError."""
        while (parts := self.calling.receive(lane)) is not None:
            message = wire.read_from_server(bytes(parts[0]))
            now = now_ns()
            if lane == CONTROL:
                self._heard_ns = now
            if isinstance(message, wire.Beat):
                self._beaten(message, now)
            elif isinstance(message, wire.Bye):
                self._refused(message, now)
            elif isinstance(message, wire.Welcome):
                self._welcomed(message, now)
                return message, parts
            elif self.up:
                return message, parts
        return None

    def _beaten(self, beat: wire.Beat, now: int) -> None:
        if beat.echo in self._sent:
            self.clock.add(beat.echo, beat.heard, beat.sent, now)
            self._sent = {sent for sent in self._sent if sent > beat.echo}
        self._echo = (beat.sent, now)

    def _welcomed(self, welcome: wire.Welcome, now: int) -> None:
        self.welcome, self.trouble, self.since_ns = welcome, "", now
        self._session, self._numbers, self._dumb_ns = welcome.session, [0, 0], 0
        self.clock, self._echo, self._beats, self._beat_due = ClockOffset(), (0, 0), 0, now
        self._sent.clear()

    def _refused(self, bye: wire.Bye, now: int) -> None:
        if self.up:
            self.hang_up(bye.reason, now)
        self.trouble = " ".join(f"{bye.reason}. {bye.next_move}".split()).rstrip(". ")  # one line, whatever it sent
        self._hello_due = now + (_AGAIN_NS if bye.again else _REFUSED_NS)

    def meet(self, timeout_s: float) -> wire.Welcome:
        """Wait for the first session; raises BusError with what is in the way."""
        until = now_ns() + round(timeout_s * 1e9)
        while not self.greet(0.05):
            if self.trouble:  # an answer, and it is no
                until = min(until, now_ns() + _REFUSED_NS)
            if now_ns() > until:
                self.calling.close()
                move = "does the rig run there with a [relay], and lets its firewall the port through?"
                if self._pair and "not trusted" in self.trouble:
                    move = f"on that host: probeloop keys trust {self._pair.name}.public --as viewer"
                raise BusError(f"no answer from {self.endpoint}: {self.trouble or 'nobody is there'}", move)
        assert self.welcome is not None
        return self.welcome

    def greet(self, timeout_s: float) -> bool:
        """Say Hello when it is due, and wait for the answer [s]; True once there is a session."""
        self.turn()
        self.calling.wait(timeout_s)
        try:
            while not self.up and self.receive(CONTROL) is not None:
                pass
        except WireError as error:
            self.trouble = error.message
        return self.up

    def close(self) -> None:
        """Hang up for good."""
        self.calling.close()
