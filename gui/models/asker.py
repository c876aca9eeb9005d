"""Requests in a thread of their own, one after the other, so that a hung process holds up nothing in the window."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from probeloop.api import Describe, Description, Heartbeat, ProbeloopError, Refused, Reply, Request

from .connection import Link
from .journal import Journal

Then = Callable[[Reply], None]
_DESCRIBE_S = 2.0
_TICK_S = 0.1
_REPLY_S = 1.0


class Asker:
    """Asks processes; answers go to `then` and refusals into the journal, both in this thread.

    describe(process) is asked of everyone every 2 s, sooner where `stale` named it.
    """

    def __init__(self, link: Link, journal: Journal, described: Callable[[str, Description], None]) -> None:
        self._link, self._journal, self._described = link, journal, described
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._closing = threading.Event()
        self._next: dict[str, float] = {}
        self._latest: dict[tuple[str, str], Request] = {}
        self._lock = threading.Lock()
        self.silent: dict[str, str] = {}
        self.pulse: Callable[[], tuple[str, int] | None] = lambda: None
        self.instrument = "instrument"
        self._next_pulse = 0.0
        self._thread = threading.Thread(target=self._run, name="window-asker", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def ask(self, process: str, request: Request, then: Then | None = None) -> None:
        """Ask when it is the request's turn; returns at once."""
        self._queue.put(lambda: self._ask(process, request, then))

    def ask_newest(self, process: str, key: str, request: Request, then: Then | None = None) -> None:
        """Ask, unless a newer request with the same key comes before its turn: for what a person drags."""
        with self._lock:
            waiting = (process, key) in self._latest
            self._latest[process, key] = request
        if not waiting:
            self._queue.put(lambda: self._ask_latest(process, key, then))

    def run(self, job: Callable[[], None]) -> None:
        """Run `job` in this thread when it is its turn."""
        self._queue.put(job)

    def stale(self, process: str) -> None:
        """Describe this process again soon."""
        self._next[process] = 0.0

    def close(self) -> None:
        """End the thread; what still waits is dropped."""
        self._closing.set()
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(2 * _REPLY_S + 1)

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                job = self._queue.get(timeout=_TICK_S)
            except queue.Empty:
                job = None
            if self._closing.is_set():
                return
            if job is not None:
                job()
            self._beat()
            self._describe()

    def _ask_latest(self, process: str, key: str, then: Then | None) -> None:
        with self._lock:
            request = self._latest.pop((process, key))
        self._ask(process, request, then)

    def _ask(self, process: str, request: Request, then: Then | None) -> None:
        try:
            reply = self._link.request(process, request, _REPLY_S)
        except ProbeloopError as error:
            reply = Refused(error.message, allowed=error.next_move)
        if isinstance(reply, Refused):
            allowed = f". Allowed: {reply.allowed}" if reply.allowed else ""
            what = type(request).__name__
            self._journal.say(f"{what} refused: {reply.reason}{allowed}", "warning", process)
        if then is not None:
            then(reply)
        self.stale(process)

    def _beat(self) -> None:
        lease = self.pulse()
        now = time.monotonic()
        if lease is not None and now >= self._next_pulse:
            self._next_pulse = now + 1.0
            try:
                self._link.request(self.instrument, Heartbeat(*lease), _REPLY_S)
            except ProbeloopError as error:
                self._journal.say(f"heartbeat: {error}", "warning")

    def _describe(self) -> None:
        """Ask one process what it is, the one that waited longest."""
        now = time.monotonic()
        known = set(self._link.services())
        for name in known:
            self._next.setdefault(name, 0.0)
        due = sorted((at, name) for name, at in self._next.items() if at <= now and name in known)
        for _, name in due[:4]:
            self._next[name] = now + _DESCRIBE_S
            try:
                reply = self._link.request(name, Describe(), 0.3)
            except ProbeloopError as error:
                self.silent[name] = error.message
                self._next[name] = now + 2 * _DESCRIBE_S
                continue
            self.silent.pop(name, None)
            if isinstance(reply, Description):
                self._described(name, reply)
