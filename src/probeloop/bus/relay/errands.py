"""Requests of remote readers to the services of this rig: asked without waiting, so nothing holds the relay up."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ...data.control import Refused, Request, Run, encode
from ...data.errors import BusError
from ..node import Bus
from ..request import MOST_QUESTIONS, Client, Question
from ..wait import Poller

T = TypeVar("T")
INSTRUMENT = "instrument"
_MOST_WAITING = 64
_PATIENCE_S, _SLOW_S = 5.0, 60.0


@dataclass
class _Errand(Generic[T]):
    who: T
    body: bytes
    patience_s: float
    question: Question | None = None
    until: float = 0.0


@dataclass
class _Service(Generic[T]):
    client: Client
    waiting: deque[_Errand[T]] = field(default_factory=deque)
    asked: list[_Errand[T]] = field(default_factory=list)


class Errands(Generic[T]):
    """Asks, and says what was answered; one thread. who: whatever the caller knows the answer by."""

    def __init__(self, bus: Bus, poller: Poller) -> None:
        self._bus, self._poller = bus, poller
        self._services: dict[str, _Service[T]] = {}
        self._answers: list[tuple[T, bytes]] = []
        self._stop = self._open("", INSTRUMENT)  # a STOP has ports of its own

    def _open(self, key: str, service: str) -> _Service[T]:
        made: _Service[T] = _Service(Client(self._bus, service))
        self._services[key] = made
        self._poller.add(made.client)
        return made

    def stop(self, who: T, request: Request) -> None:
        """Send STOP on its own ports, now."""
        self._send(self._stop, _Errand(who, encode(request), _PATIENCE_S))

    def ask(self, who: T, service: str, request: Request) -> None:
        """Ask a service when it is this request's turn."""
        found = self._services.get(service) or self._open(service, service)
        if len(found.waiting) >= _MOST_WAITING:
            self._answers.append((who, encode(Refused(f"{service} has {_MOST_WAITING} requests to answer", "queue"))))
            return
        found.waiting.append(_Errand(who, encode(request), _SLOW_S if isinstance(request, Run) else _PATIENCE_S))
        self._next(found)

    def _next(self, service: _Service[T]) -> None:
        while service.waiting and len(service.asked) < MOST_QUESTIONS:
            self._send(service, service.waiting.popleft())

    def _send(self, service: _Service[T], errand: _Errand[T]) -> None:
        try:
            errand.question = service.client.ask(errand.body)
        except BusError as error:
            self._answers.append((errand.who, encode(Refused(error.message, "", error.next_move))))
            return
        errand.until = time.monotonic() + errand.patience_s
        service.asked.append(errand)

    def look(self) -> Iterator[tuple[T, bytes]]:
        """Yield who was answered what, since the last look."""
        now = time.monotonic()
        for key, service in self._services.items():
            for errand in tuple(service.asked):
                assert errand.question is not None
                try:
                    reply = errand.question.reply()
                    if reply is None and now > errand.until:
                        raise BusError(
                            f"{key or INSTRUMENT} did not answer within {errand.patience_s:g} s", "is it hung?"
                        )
                except BusError as error:
                    reply = encode(Refused(error.message, "", error.next_move))
                if reply is not None:
                    errand.question.close()
                    service.asked.remove(errand)
                    self._answers.append((errand.who, reply))
            self._next(service)
        answers, self._answers = self._answers, []
        yield from answers

    def close(self) -> None:
        """Ask no more."""
        for service in self._services.values():
            self._poller.remove(service.client)
            service.client.close()
