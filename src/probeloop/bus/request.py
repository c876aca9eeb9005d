"""Requests and replies as byte strings: the control service of every process."""

from __future__ import annotations

import ctypes
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import iceoryx2 as iox2

from ..data.errors import BusError
from .node import Bus, timed_wait
from .topic import reserve

_BODY_BYTES = 4096
_CLIENTS = 32
# what each takes of shared memory, a test measures it; 4 active requests and 2 replies each took 6.4 and 7.3 MB
_SERVER_BYTES, _CLIENT_BYTES = 2_750_000, 1_800_000
_SLICE_S = 0.5
_LAST_LOOKS = 50
MOST_QUESTIONS = 2  # of one client at a time

Respond = Callable[[bytes], None]


def _service(bus: Bus, name: str) -> Any:
    element = iox2.Slice[ctypes.c_uint8]

    def make() -> Any:
        return (
            bus.node.service_builder(iox2.ServiceName.new(f"{name}/request"))
            .request_response(element, element)
            .max_servers(2)
            .max_clients(_CLIENTS)
            .max_active_requests_per_client(MOST_QUESTIONS)
            .max_response_buffer_size(1)
            .max_nodes(64)
            .open_or_create()
        )

    return bus.retry(make, f"open the service {name!r}")


class _Asked:
    """A request that is being answered. active: None once it is, or once nobody waits for the answer."""

    __slots__ = ("__weakref__", "active", "answered")

    def __init__(self, active: Any) -> None:
        self.active, self.answered = active, False


class Server:
    """Answers requests on one service; one thread at a time, `respond` included."""

    def __init__(self, bus: Bus, service: str) -> None:
        """Offer a service; raises BusError when two processes offer it already."""
        self.service = service
        self._factory = _service(bus, service)
        self._events = (bus.event_service(f"{service}/asked"), bus.event_service(f"{service}/answered"))
        self.listener: Any = bus.retry(self._events[0].listener_builder().create, f"wait on {service!r}")
        self._notifier = bus.retry(self._events[1].notifier_builder().create, f"answer on {service!r}")

        def make() -> Any:
            builder = self._factory.server_builder().initial_max_slice_len(_BODY_BYTES)
            return builder.allocation_strategy(iox2.AllocationStrategy.PowerOfTwo).create()

        clients = self._factory.dynamic_config.number_of_clients  # each gets its connection at once
        with bus.room(_SERVER_BYTES + clients * _CLIENT_BYTES, f"the service {service!r}"):
            self._port: Any = bus.retry(make, f"serve {service!r}")
            reserve(bus, self._port, f"the service {service!r}")
        self._answered: list[Any] = []
        self._open: list[weakref.ref[_Asked]] = []

    def receive(self) -> list[tuple[bytes, Respond]]:
        """Return every waiting request with the function that answers it; answering twice raises BusError.

        A client that asks for more than it may, while it still waits for answers, is heard when it has them.
        """
        self._let_go()
        asked: list[tuple[bytes, Respond]] = []
        while (request := self._next()) is not None:
            payload = request.payload()
            body = ctypes.string_at(payload.data_ptr, payload.len())
            asked.append((body, self._responder(request)))
        return asked

    def _next(self) -> Any:
        try:
            return self._port.receive()
        except iox2.ReceiveError as error:
            if "ExceedsMaxBorrows" not in str(error):
                raise
            return None  # a client has too many that are not answered

    def _responder(self, request: Any) -> Respond:
        asked = _Asked(request)
        self._open.append(weakref.ref(asked))

        def respond(body: bytes) -> None:
            if asked.answered:
                raise BusError(f"a request on {self.service!r} was answered twice")
            asked.answered, active, asked.active = True, asked.active, None
            if active is None:  # who asked has given up
                return
            response = active.loan_slice_uninit(len(body))
            ctypes.memmove(response.payload_ptr, body, len(body))
            response.assume_init().send()
            self._answered.append(active)
            self._notifier.notify()

        return respond

    def _let_go(self) -> None:
        """Forget the answered requests whose client has taken the reply, and those that nobody waits for any more.

        A client may have few at a time: one that gave up several times would else be heard no more.
        """
        still = [active for active in self._answered if active.is_connected]
        for active in self._answered:
            if active not in still:
                active.delete()
        self._answered = still
        open_, self._open = self._open, []
        for each in open_:
            asked = each()
            if asked is None or asked.active is None:
                continue
            if asked.active.is_connected:
                self._open.append(each)
            else:
                asked.active.delete()
                asked.active = None

    def hear(self) -> None:
        """Empty the wake-up event."""
        self.listener.try_wait()

    def pending(self) -> bool:
        """Whether a request waits."""
        return bool(self._port.has_requests)

    def close(self) -> None:
        """Stop serving, once the last replies are taken or 0.25 s passed; harmless when closed already."""
        if self._port is None:
            return
        pause = threading.Event()
        for _ in range(_LAST_LOOKS):  # a reply is gone with its server
            self._let_go()
            if not self._answered:
                break
            pause.wait(0.005)
        for active in self._answered:
            active.delete()
        self._answered.clear()
        for port in (self._port, self.listener, self._notifier):
            port.delete()
        self._port = self.listener = None
        self._factory = self._events = None  # type: ignore[assignment]


class Client:
    """Asks one service; one thread at a time."""

    def __init__(self, bus: Bus, service: str) -> None:
        """Prepare to ask; the server may come later."""
        self.service = service
        self._factory = _service(bus, service)
        self._events = (bus.event_service(f"{service}/asked"), bus.event_service(f"{service}/answered"))
        self._notifier = bus.retry(self._events[0].notifier_builder().create, f"ask {service!r}")
        self.listener: Any = bus.retry(self._events[1].listener_builder().create, f"ask {service!r}")
        self._open: list[Question] = []

        def make() -> Any:
            builder = self._factory.client_builder().initial_max_slice_len(_BODY_BYTES)
            return builder.allocation_strategy(iox2.AllocationStrategy.PowerOfTwo).create()

        with bus.room(_CLIENT_BYTES, f"to ask {service!r}"):
            self._port: Any = bus.retry(make, f"ask {service!r}")

    def ask(self, body: bytes) -> Question:
        """Send a request and return at once; close the question. Raises BusError when nobody serves."""
        if len(self._open) >= MOST_QUESTIONS:
            raise BusError(f"{MOST_QUESTIONS} questions to {self.service!r} are open", "wait for an answer")
        request = self._port.loan_slice_uninit(len(body))
        ctypes.memmove(request.payload_ptr, body, len(body))
        question = Question(self.service, request.assume_init().send(), self._open)
        if not question.heard:
            question.close()
            raise BusError(f"nobody serves {self.service!r}", "is that process running?")
        self._notifier.notify()
        return question

    def call(self, body: bytes, timeout_s: float = 1.0) -> bytes:
        """Send a request and return its reply; raises BusError when nobody serves or answers in time."""
        question = self.ask(body)
        try:
            deadline = time.monotonic() + timeout_s
            while (reply := question.reply()) is None:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise BusError(f"{self.service!r} did not answer within {timeout_s:g} s", "is that process hung?")
                timed_wait(self.listener, min(left, _SLICE_S))
            return reply
        finally:
            question.close()

    def hear(self) -> None:
        """Empty the wake-up event."""
        self.listener.try_wait()

    def pending(self) -> bool:
        """Whether an open question is answered, or never will be."""
        return any(question.over for question in self._open)

    def close(self) -> None:
        """Stop asking; harmless when closed already."""
        if self._port is None:
            return
        for question in tuple(self._open):
            question.close()
        for port in (self._port, self.listener, self._notifier):
            port.delete()
        self._port = self.listener = None
        self._factory = self._events = None  # type: ignore[assignment]


class Question:
    """A request that was sent; one thread, the one of its Client."""

    def __init__(self, service: str, answer: Any, among: list[Question]) -> None:
        self._service, self._answer, self._among = service, answer, among
        self.heard = answer.number_of_server_connections > 0
        among.append(self)

    @property
    def over(self) -> bool:
        """Whether `reply` would return an answer or raise."""
        return bool(self._answer.has_response) or not self._answer.is_connected

    def reply(self) -> bytes | None:
        """Return the answer if it is there; raises BusError when the server dropped the request."""
        connected = self._answer.is_connected
        response = self._answer.receive()
        if response is None:
            if not connected:
                raise BusError(f"{self._service!r} dropped the request", "it may be restarting; ask again")
            return None
        payload = response.payload()
        reply = ctypes.string_at(payload.data_ptr, payload.len())
        response.delete()
        return reply

    def close(self) -> None:
        """Want no answer any more; harmless when closed already."""
        if self in self._among:
            self._among.remove(self)
            self._answer.delete()
