"""Credits: a source that can wait stays behind the slowest living lossless reader.

Each credit reader keeps the index after its last finished block in a row of the rig's ledger, and rings the topic's
credit event when the source has said that it waits. A killed reader's row is dropped by the waiting source. One that
is stopped stays alive for the operating system: when its heartbeat is gone too long the source goes on without it,
until it has finished something again (docs/decisions/0013-silent-readers.md).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from .heartbeat import Pulse
from .ledger import CREDIT, TOPIC, Row
from .node import Bus, node_of, store_node, timed_wait

JOINS = 1
# of a credit row; 1 and 2 are its node. WANTED: ring when this is finished, 0 = do not. TAKEN: 0, or one more than
# what was finished when the credit was taken away
FINISHED, WANTED, TAKEN = 0, 3, 4
_LOOK_AGAIN_S = 0.05
SILENT_S = 75.0  # without a heartbeat: longer than a plug-in may compile, whose supervisor ends it before
_KEPT_NOTICES = 16
_WINDOW_BYTES = 8 << 20  # what a waiting source keeps in flight stays in the processor's cache


class ReaderCredit:
    """The credit of one reader; used by the thread that reads."""

    def __init__(self, bus: Bus, topic: str, finished: int) -> None:
        self._bus = bus
        self._topic_words = bus.ledger.claim(TOPIC, topic, shared=True).words
        service = bus.event_service(f"{topic}/credit")  # not kept: it would keep the node when the port is gone
        self._notifier = bus.retry(service.notifier_builder().create, f"give credit on {topic!r}")
        with bus.ledger.locked():
            self._row = bus.ledger.claim(CREDIT, topic, bus.process)
            self._row.words[FINISHED] = finished
            store_node(self._row.words, bus.node_id)
            self._topic_words[JOINS] += 1

    def finish(self, index: int) -> None:
        """Say that everything before `index` is finished."""
        words = self._row.words
        words[FINISHED] = index
        wanted = words[WANTED]
        if 0 < wanted <= index:
            self._notifier.notify()

    def close(self) -> None:
        """Take the credit out of the source's way."""
        with self._bus.ledger.locked():
            self._bus.ledger.release(self._row)
            self._topic_words[JOINS] += 1
        self._notifier.notify()
        self._notifier.delete()


class CreditBook:
    """The source's side: how many of its blocks are sent and not finished."""

    def __init__(self, bus: Bus, topic: str) -> None:
        self.fit(1)
        self._bus, self._topic = bus, topic
        self._words = bus.ledger.claim(TOPIC, topic, shared=True).words
        service = bus.event_service(f"{topic}/credit")  # not kept: it would keep the node when the port is gone
        self._listener: Any = bus.retry(service.listener_builder().create, f"wait for credit on {topic!r}")
        self._ends: deque[int] = deque()
        self._end = 0
        self._rows: list[Row] = []
        self._pulse = Pulse(bus)
        self._silent: dict[int, tuple[int, float]] = {}  # by row: the last beat, and how long it was waited for since
        self._notices: deque[str] = deque(maxlen=_KEPT_NOTICES)
        self.free = 0
        self._waited = 0.0  # [s] since it was last asked who lives
        self._joins = -1

    def fit(self, depth: int) -> None:
        """Take the readers' depth [blocks]."""
        self._depth, self._size = depth, -1
        self.window = depth

    def sent(self, end: int, size: int) -> None:
        """Note a block of `size` bytes whose last frame precedes `end`.

        About 8 MiB may be in flight, at least 4 blocks, at most the readers' depth.
        """
        self._ends.append(end)
        self._end = end
        self.free -= 1
        if size > self._size:
            self._size = size
            self.window = min(self._depth, max(4, _WINDOW_BYTES // max(1, size)))
            self.free = min(self.free, self.window - len(self._ends))

    def _slowest(self) -> Row | None:
        joins = self._words[JOINS]
        if joins != self._joins:
            self._rows = self._bus.ledger.rows(CREDIT, self._topic)
            self._joins = joins
        in_force = [row for row in self._rows if not row.words[TAKEN] or self._given_back(row)]
        return min(in_force, key=lambda row: row.words[FINISHED], default=None)

    def _given_back(self, row: Row) -> bool:
        """Give a reader its credit back if it has finished something since it was taken."""
        if row.words[FINISHED] + 1 == row.words[TAKEN]:
            return False
        row.words[TAKEN] = 0
        # its queue is full of what was sent meanwhile: until it has read that, one block more would cost it another
        self._ends.extend([self._end] * (self.window - len(self._ends)))
        self._notices.append(f"{row.owner} reads {self._topic} again")
        return True

    def _look(self) -> bool:
        """Count the blocks that may be sent; the rows are read again only when that count is used up."""
        if self.free > 0:
            return True
        slowest = self._slowest()
        if slowest is None:
            self._ends.clear()
            # with no credit reader look again soon: one may join
            self.free = 1
            return True
        finished = slowest.words[FINISHED]
        while self._ends and self._ends[0] <= finished:
            self._ends.popleft()
        self.free = self.window - len(self._ends)
        return self.free > 0

    @property
    def blocked_on(self) -> str | None:
        """The process of the slowest reader while there is no credit left, else None."""
        if self._look():
            return None
        slowest = self._slowest()
        return slowest.owner if slowest is not None else None

    def wait(self, timeout_s: float, cancelled: Callable[[], bool] | None, meanwhile: Callable[[], None]) -> bool:
        """Wait for credit, calling `meanwhile` at least every 50 ms; False = timeout or cancelled [s]."""
        if self._look():
            return True
        deadline = time.monotonic() + timeout_s
        try:
            while not self._look():
                # woken when a quarter of the window is free, not for every block
                self._want(max(1, self._ends[len(self._ends) - self.window + self.window // 4]))
                if self._look():  # finished before that reader could know
                    break
                if cancelled is not None and cancelled():
                    return False
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                timed_wait(self._listener, min(left, _LOOK_AGAIN_S))
                meanwhile()
                self._waited += min(left - (deadline - time.monotonic()), 2 * _LOOK_AGAIN_S)
                # who lives is asked of the file system, so not whenever one reader of several wakes us
                if self._waited >= _LOOK_AGAIN_S / 2 and not self._look():
                    self.drop_dead()
                    self._take_from_silent(self._waited)
                    self._waited = 0.0
            self._waited = 0.0
            return True
        finally:
            self._want(0)

    def _want(self, index: int) -> None:
        for row in self._rows:
            row.words[WANTED] = index if row.words[FINISHED] < index else 0

    def drop_dead(self) -> list[str]:
        """Release the credits of killed readers; return their processes [0.3 ms]."""
        alive = self._bus.alive_nodes()
        dead = [row for row in self._bus.ledger.rows(CREDIT, self._topic) if node_of(row.words) not in alive]
        with self._bus.ledger.locked():
            for row in dead:
                self._bus.ledger.release(row)
                self._words[JOINS] += 1
                self._notices.append(f"{row.owner} is gone, {self._topic} waits for it no longer")
        return [row.owner for row in dead]

    def _take_from_silent(self, waited_s: float) -> None:
        """Take the credit of readers whose heartbeat stood still for 75 s of waiting.

        Counted in time that was waited here, not by the clock: where the whole machine stood still, nobody is late.
        """
        for row in self._rows:
            beat = self._pulse.read(row.owner)
            if beat is None or row.words[TAKEN]:
                continue
            last, silent = self._silent.get(row.number, (-1, 0.0))
            silent = silent + waited_s if last == beat[2] else 0.0
            self._silent[row.number] = (beat[2], silent)
            if silent >= SILENT_S:
                del self._silent[row.number]
                row.words[TAKEN] = row.words[FINISHED] + 1
                self._notices.append(
                    f"{row.owner} (pid {beat[1]}) gives no sign of life since {silent:.0f} s: {self._topic} goes on "
                    "without it, and what it misses is lost to it. Continue or end that process"
                )

    def notices(self) -> list[str]:
        """Return what happened to readers' credits since the last call, in words."""
        found = list(self._notices)
        self._notices.clear()
        return found

    def close(self) -> None:
        """Leave the credit event."""
        self._listener.delete()
