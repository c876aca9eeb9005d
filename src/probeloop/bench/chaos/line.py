"""A TCP line on loopback between a rig's relay and its reader, which can be late, deaf, cut, or flip a bit.

What a lost packet is to TCP is one round trip more, so that is what it is here; packets themselves are lost between
two network namespaces in tests/bus/netns_measure.py.
"""

from __future__ import annotations

import contextlib
import random
import select
import socket
import threading
import time
from collections import deque

_TURN_S = 0.005
_MOST_HELD = 1 << 20  # bytes under way in one direction


class _Way:
    """What is read from one socket, on its way to the other. from_rig: towards the reader."""

    def __init__(self, out: socket.socket, from_rig: bool) -> None:
        self.out, self.from_rig = out, from_rig
        self.waiting: deque[tuple[float, bytes]] = deque()
        self.held = 0


class Line:
    """A proxy to a port of this machine, in a thread of its own. A fault lasts until `heal`."""

    def __init__(self, target: int, rng: random.Random) -> None:
        self._target, self._rng = target, random.Random(rng.random())
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._ways: dict[socket.socket, _Way] = {}
        self._delay = self._jitter = self._loss = 0.0
        self._deaf = self._cut = False
        self._flips = 0
        self.flipped_ns = 0  # when the last bit was flipped, 0 = never
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="line", daemon=True)
        self._thread.start()

    def late(self, delay: float, jitter: float, loss: float) -> None:
        """Delay what passes by delay ± jitter [s], and a share `loss` of it by what a lost packet costs."""
        self._delay, self._jitter, self._loss = delay, jitter, loss

    def deafen(self) -> None:
        """Let nothing pass; every connection stays open, and new ones are taken."""
        self._deaf = True

    def cut(self) -> None:
        """End every connection, and each new one at once."""
        self._cut = True

    def flip(self, count: int) -> None:
        """Flip a bit in each of the next `count` pieces from the rig."""
        self._flips = count

    def heal(self) -> int:
        """Let all pass again, what waited on the line too; return when [ns]."""
        self._delay = self._jitter = self._loss = 0.0
        self._deaf = self._cut = False
        self._flips = 0
        return time.monotonic_ns()

    def _run(self) -> None:
        while not self._over.is_set():
            if self._cut:
                for each in tuple(self._ways):
                    self._end(each)
            asked: list[socket.socket] = [self._listener]
            if not self._deaf:
                asked += [near for near, way in self._ways.items() if way.held < _MOST_HELD]
            ready, _, _ = select.select(asked, [], [], _TURN_S)
            for each in ready:
                if each is self._listener:
                    self._accept()
                elif each in self._ways:
                    self._read(each)
            if not self._deaf:
                for near in tuple(self._ways):
                    self._send(near)
        for each in tuple(self._ways):
            self._end(each)
        self._listener.close()

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        try:
            if self._cut:
                raise ConnectionRefusedError
            far = socket.create_connection(("127.0.0.1", self._target), 1.0)
        except OSError:
            near.close()
            return
        for one, other, from_rig in ((near, far, False), (far, near, True)):
            one.setblocking(False)
            self._ways[one] = _Way(other, from_rig)

    def _read(self, near: socket.socket) -> None:
        way = self._ways[near]
        try:
            data = near.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end(near)
            return
        if self._flips and way.from_rig:
            self._flips -= 1
            damaged = bytearray(data)
            damaged[self._rng.randrange(len(damaged))] ^= 1 << self._rng.randrange(8)
            data, self.flipped_ns = bytes(damaged), time.monotonic_ns()
        due = time.monotonic() + max(0.0, self._delay + self._rng.uniform(-self._jitter, self._jitter))
        if self._rng.random() < self._loss:
            due += 2 * self._delay
        way.waiting.append((max(due, way.waiting[-1][0]) if way.waiting else due, data))
        way.held += len(data)

    def _send(self, near: socket.socket) -> None:
        way = self._ways.get(near)
        while way is not None and way.waiting and way.waiting[0][0] <= time.monotonic():
            due, data = way.waiting.popleft()
            try:
                sent = way.out.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._end(near)
                return
            way.held -= sent
            if sent < len(data):
                way.waiting.appendleft((due, data[sent:]))
                return

    def _end(self, one: socket.socket) -> None:
        way = self._ways.pop(one, None)
        if way is None:
            return
        self._ways.pop(way.out, None)
        for each in (one, way.out):
            with contextlib.suppress(OSError):
                each.close()

    def close(self) -> None:
        """End it, with every connection."""
        self._over.set()
        self._thread.join(5.0)
