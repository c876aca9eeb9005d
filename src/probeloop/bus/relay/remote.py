"""One remote reader, as the rig's relay sees it: its session, its channels, its pace. It outlives a cut link."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Iterable

from ...data.errors import WireError
from .channel import Channel, EventQueue
from .clock import ClockOffset
from .pace import Pace
from .wire import TOKEN, Beat, Envelope, Happened, Join, Receipt, encode

SILENT_NS = 3_000_000_000  # then its credit is gone
FORGOTTEN_NS = 60_000_000_000  # then all that was kept for it
EVENT_BYTES = 4 << 20
CONTROL, DATA = 0, 1
_A_TURN = 8  # blocks, so that a STOP does not wait for more

Send = Callable[..., bool]


class Remote:
    """What is known of one reader. name, public: its key; number: which of that key's readers it is."""

    def __init__(self, name: str, public: str, number: int) -> None:
        self.name, self.public, self.number = name, public, number
        self.channels: dict[str, Channel] = {}
        self.events = EventQueue(EVENT_BYTES)
        self.welcomed = self.opened = False
        self.refused: set[str] = set()
        self.reset(b"", 0)

    def reset(self, peer: bytes, now_ns: int) -> None:
        """Begin a session on this connection; what an older one said or says is void."""
        self.session = secrets.token_bytes(TOKEN)
        self.peers: list[bytes] = [peer, b""]
        self._numbers = [0, 0]
        self.heard_ns = now_ns
        self.clock, self.pace = ClockOffset(), Pace()
        self._beat = (0, 0)
        self._order: deque[str] = deque()

    def fresh(self, envelope: Envelope, peer: bytes) -> bool:
        """Whether a message is of this session, from the connection it was given to, and never seen before."""
        if envelope.session != self.session:
            return False
        lane = DATA if isinstance(envelope.message, Join | Receipt) else CONTROL
        if isinstance(envelope.message, Join) and not self.peers[DATA]:
            self.peers[DATA] = peer
        if peer != self.peers[lane] or envelope.number <= self._numbers[lane]:
            return False
        self._numbers[lane] = envelope.number
        return True

    def alive(self, now_ns: int) -> bool:
        """Whether it was heard of lately."""
        return now_ns - self.heard_ns < SILENT_NS

    def beat(self, beat: Beat, now_ns: int, send: Send) -> None:
        """Take a sign of life, and answer it at once; two of them make a round trip."""
        sent, _ = self._beat
        if beat.echo and beat.echo == sent:
            self.clock.add(sent, beat.heard, beat.sent, now_ns)
        self._beat = (now_ns, beat.sent)
        send(self.peers[CONTROL], encode(Beat(now_ns, beat.sent, now_ns)))

    def join(self, join: Join) -> None:
        """The data lane is there: go on after what the reader has."""
        self.events.again(join.event)
        for topic, channel in self.channels.items():
            channel.again(join.got.get(topic, 0))

    def receipt(self, receipt: Receipt, now_ns: int) -> None:
        """Take note of what arrived and what is published; raises WireError for nonsense."""
        self.pace.got(receipt.bytes, now_ns)
        self.events.done(receipt.event)
        for topic, serial in receipt.done.items():
            if (channel := self.channels.get(topic)) is None:
                raise WireError(f"a receipt for {topic!r}, which is not sent")
            channel.done(serial)

    def pump(self, send: Send, now_ns: int) -> bool:
        """Send what there is room for: events first, then a block of each topic in turn; True when more could go."""
        peer, pace, left = self.peers[DATA], self.pace, _A_TURN
        if peer:
            self._pump_events(peer, send, now_ns)
            while left and pace.room and self._pump_one(peer, send, now_ns):
                left -= 1
        for channel in self.channels.values():
            channel.open = bool(peer) and pace.room
            channel.fill()
        return not left

    def _pump_events(self, peer: bytes, send: Send, now_ns: int) -> None:
        while self.pace.room and (found := self.events.next()) is not None:
            body = encode(Happened(*found))
            if not send(peer, body):
                self.events.put_back()
                return
            self.pace.sent(len(body), now_ns)

    def _pump_one(self, peer: bytes, send: Send, now_ns: int) -> bool:
        """Send the next block of the topic whose turn it is; False when no topic has one, or the link takes none."""
        if len(self._order) != len(self.channels):
            self._order = deque(self.channels)
        for _ in range(len(self._order)):
            channel = self.channels[self._order[0]]
            self._order.rotate(-1)
            parcel = channel.next()
            news = channel.news(parcel)
            if news is not None:
                if not send(peer, news):
                    channel.forget_news()
                    if parcel is not None:
                        channel.put_back(parcel)
                    return False
                self.pace.sent(len(news), now_ns)
            if parcel is not None:
                if not send(peer, *parcel.parts):
                    channel.put_back(parcel)
                    return False
                self.pace.sent(parcel.size, now_ns)
                return True
        return False

    def credit(self, on: bool) -> None:
        """Hold sources that can wait for this reader, or let them go."""
        for channel in self.channels.values():
            if channel.lossless and not channel.undecided:
                channel.reader.give_credit(on)

    def drop(self, topics: Iterable[str]) -> None:
        """Leave topics."""
        for topic in tuple(topics):
            self.channels.pop(topic).close()
