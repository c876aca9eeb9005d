"""A rig with an instrument's process (a thread here), its relay, and readers on other hosts."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "bus"))
from relay_words import Hosts, Proxy

from probeloop.bus.event import EventReader
from probeloop.bus.node import Bus
from probeloop.bus.relay import wire
from probeloop.bus.relay.channel import now_ns
from probeloop.bus.relay.link import CONTROL, Link
from probeloop.bus.request import Client
from probeloop.data import commands as c
from probeloop.data import control
from probeloop.data.control import decode_event, decode_reply, encode
from probeloop.instrument.service import run_instrument
from probeloop.testing.fake_driver import FakeDriver

MOVE = c.MoveProbe((1e-9, 0.0))


class Site(Hosts):
    """A rig with an instrument's process (a thread here), its relay, and readers on other hosts."""

    def __init__(self, folder: Path, rig_id: str, **options: Any) -> None:
        self.driver = FakeDriver(modality="stem")
        self._stop, ready = threading.Event(), threading.Event()
        self._instrument = Bus(rig_id, "instrument", local=True)
        self._thread = threading.Thread(
            target=run_instrument, args=(self._instrument, self.driver), name="service",
            kwargs={"stop": self._stop, "ready": ready.set},
        )  # fmt: skip
        self._thread.start()
        assert ready.wait(10.0)
        super().__init__(folder, rig_id, **options)
        self._clients: dict[int, Client] = {}
        self._events: EventReader | None = None
        self.epoch = 0

    def events(self) -> list[Any]:
        """What the rig itself has said since the last look."""
        if self._events is None:
            self._events = EventReader(self.far("events"))
        return [decode_event(body) for body in self._events.read()]

    def ask(self, request: control.Request, number: int = 0, service: str = "instrument") -> Any:
        """Ask as a process of the mirroring host does."""
        if number not in self._clients:
            self._clients[number] = Client(self.near(number), service)
        client = self._clients[number]
        self.until(lambda: "instrument" in self.mirrors[number]._servers, "the service")
        question = client.ask(encode(request))
        try:
            return decode_reply(self.until(question.reply, f"an answer to {type(request).__name__}"))
        finally:
            question.close()

    def compared(self) -> None:
        """Wait until the relay knows every reader's clock."""
        remotes = self.relay.remotes
        self.until(lambda: all(r.clock.estimate(now_ns()) for r in remotes.values()), "clocks")

    def take(self, holder: str = "operator-7", number: int = 0) -> Any:
        self.compared()
        reply = self.ask(control.TakeControl(holder), number)
        self.epoch = getattr(reply, "epoch", self.epoch)
        return reply

    def close(self) -> None:
        for client in self._clients.values():
            client.close()
        if self._events is not None:
            self._events.close()
        super().close()
        self._stop.set()
        self._thread.join(10.0)
        self._instrument.close()


@contextmanager
def running(folder: Path, rig_id: str, **options: Any) -> Iterator[Site]:
    made = Site(folder, rig_id, **options)
    try:
        yield made
    finally:
        made.close()


def moved(site: Site) -> int:
    """How often the probe was moved."""
    return sum(1 for call in site.driver.calls if "move_probe" in str(call))


def raw_link(site: Site, key: str, proxy: Proxy | None = None) -> Link:
    """A link whose messages the test writes itself, with a compared clock."""
    link = site.link(key, proxy)
    site.until(lambda: link.greet(0.001), "a welcome")

    def known() -> bool:
        link.turn()
        link.receive(CONTROL)
        return all(r.clock.estimate(now_ns()) for r in site.relay.remotes.values())

    site.until(known, "clocks")
    return link


def answer(site: Site, link: Link, number: int) -> Any:
    got: list[Any] = []

    def look() -> bool:
        link.turn()
        found = link.receive(CONTROL)
        if found is not None and isinstance(found[0], wire.Answer):
            got.append(found[0])
        return any(each.id == number for each in got)

    site.until(look, f"answer {number}")
    return decode_reply(next(each.body for each in got if each.id == number))


def ask(site: Site, link: Link, number: int, request: Any, *, late_ns: int = 0, service: str = "instrument") -> Any:
    body = request if isinstance(request, bytes) else encode(request)
    link.send(CONTROL, wire.Ask(number, service, now_ns() + 1_000_000_000 - late_ns, body))
    return answer(site, link, number)
