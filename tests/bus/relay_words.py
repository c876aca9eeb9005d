"""Two hosts in one process: a relay and a mirror turned by hand, keys for both, and a proxy that can cut the line."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from probeloop.bus.event import EventReader
from probeloop.bus.node import Bus
from probeloop.bus.publish import Publisher
from probeloop.bus.relay.keys import KeyRing, Role
from probeloop.bus.relay.link import Link
from probeloop.bus.relay.mirror import Mirror
from probeloop.bus.relay.out import Relay
from probeloop.bus.relay.rules import Rules
from probeloop.bus.relay.sockets import Endpoint, new_pair
from probeloop.bus.subscribe import Subscriber
from probeloop.data.control import Gap, decode_event
from probeloop.data.frame import FrameBlock

SAFETY_S = 20.0  # for what takes milliseconds
ALL = (("*", "lossless"),)


class Proxy:
    """A TCP proxy on loopback, which can be cut. said: the bytes of each connection to there."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._cutting, self._is_cut = threading.Event(), threading.Event()
        self.said: list[bytearray] = []
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._log: dict[socket.socket, bytearray] = {}
        self._dropping = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy")
        self._thread.start()

    def _run(self) -> None:
        selector = selectors.DefaultSelector()
        selector.register(self._listener, selectors.EVENT_READ)
        while not self._over.is_set():
            if self._dropping.is_set():
                for each in tuple(self._pairs):
                    self._end(selector, each)
                self._dropping.clear()
            if self._cutting.is_set():
                self._is_cut.set()
                self._over.wait(0.005)
                continue
            self._is_cut.clear()
            for key, _ in selector.select(0.01):
                self._serve(selector, key.fileobj)  # type: ignore[arg-type]
        for each in tuple(self._pairs):
            self._end(selector, each)
        selector.close()
        self._listener.close()

    def _serve(self, selector: selectors.BaseSelector, ready: socket.socket) -> None:
        if ready is self._listener:
            near, _ = ready.accept()
            try:
                far = socket.create_connection(("127.0.0.1", self._target), 1.0)
            except OSError:
                near.close()
                return
            self._pairs |= {near: far, far: near}
            self._log[near] = bytearray()
            self.said.append(self._log[near])
            for each in (near, far):
                selector.register(each, selectors.EVENT_READ)
            return
        if ready not in self._pairs:
            return
        try:
            data = ready.recv(1 << 16)
            if data:
                if ready in self._log:
                    self._log[ready] += data
                self._pairs[ready].sendall(data)
        except OSError:
            data = b""
        if not data:
            self._end(selector, ready)

    def _end(self, selector: selectors.BaseSelector, one: socket.socket) -> None:
        other = self._pairs.pop(one, None)
        if other is None:
            return
        self._pairs.pop(other, None)
        for each in (one, other):
            selector.unregister(each)
            each.close()

    def cut(self) -> None:
        """Let nothing pass from now on."""
        self._cutting.set()
        assert self._is_cut.wait(SAFETY_S)

    def heal(self) -> None:
        """Let pass again, what waited in between too."""
        self._cutting.clear()

    def drop(self) -> None:
        """End every connection."""
        self._dropping.set()

    def close(self) -> None:
        self._over.set()
        self._thread.join()


class Hosts:
    """Rig `rig_id` with its relay on one host, and whatever mirrors it on others."""

    def __init__(self, folder: Path, rig_id: str, *, keys: bool = True, **rules: Any) -> None:
        self.folder, self.rig_id, self.keyed = folder, rig_id, keys
        self.there, self.here = KeyRing(folder / "there"), KeyRing(folder / "here")
        if keys:
            self.here.trust(self.there.new("host", new_pair), "server")
        self.rules = Rules(bind="tcp://127.0.0.1:*", key="host" if keys else None, **rules)
        self.bus = Bus(rig_id, "relay", local=True)
        self.services = ["instrument", "experiment"]
        self.expected: tuple[str, ...] = ()
        self.relay = self._relay()
        self.mirrors: list[Mirror] = []
        self.buses: list[Bus] = [self.bus]
        self.proxies: list[Proxy] = []
        self.sources: list[Publisher] = []

    def _relay(self, bind: str | None = None) -> Relay:
        import msgspec

        rules = self.rules if bind is None else msgspec.structs.replace(self.rules, bind=bind)
        return Relay(self.bus, rules, self.there, lambda: self.services, self.expected)

    def restart(self) -> None:
        """Another relay process in the place of this one."""
        at = self.relay.endpoint
        self.relay.close()
        self.relay = self._relay(at)

    def key(self, name: str, role: Role) -> None:
        """Make a key here, and trust it there."""
        self.there.trust(self.here.new(name, new_pair), role)

    def proxy(self) -> Proxy:
        made = Proxy(int(self.relay.endpoint.rpartition(":")[2]))
        self.proxies.append(made)
        return made

    def link(self, key: str | None = "anna", proxy: Proxy | None = None) -> Link:
        at = f"tcp://127.0.0.1:{proxy.port}" if proxy else self.relay.endpoint
        if not self.keyed:
            return Link(Endpoint.parse(at), None, None)
        return Link(Endpoint.parse(at), self.here.secret(key or ""), self.here.server())

    def mirror(self, key: str | None = "anna", proxy: Proxy | None = None) -> Mirror:
        """Connect; the rig's name here is rig_id-N."""
        link = self.link(key, proxy)
        self.until(lambda: link.greet(0.001), "a welcome")
        bus = Bus(f"{self.rig_id}-{len(self.mirrors)}", "mirror", local=True)
        self.buses.append(bus)
        made = Mirror(bus, link)
        self.mirrors.append(made)
        self.until(lambda: made._joined and all(r.opened for r in self.relay.remotes.values()), "the data lane")
        return made

    def near(self, number: int = 0, name: str = "test") -> Bus:
        """Join the mirrored rig."""
        self.buses.append(Bus(f"{self.rig_id}-{number}", name, local=True))
        return self.buses[-1]

    def far(self, name: str = "source") -> Bus:
        """Join the rig itself."""
        self.buses.append(Bus(self.rig_id, name, local=True))
        return self.buses[-1]

    def source(self, topic: str = "camera", size: int = 1 << 16, waits: bool = False) -> Publisher:
        """A publisher of the rig, which looks after late joiners as a pump does."""
        self.sources.append(Publisher(self.far(), topic, size, source_waits=waits))
        return self.sources[-1]

    def turn(self) -> None:
        for source in self.sources:
            source.refresh()
        self.relay.turn(0.001)
        for mirror in self.mirrors:
            mirror.turn(0.001)

    def until(self, condition: Callable[[], Any], what: str, seconds: float = SAFETY_S) -> Any:
        """Turn both ends until it holds."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, f"no {what}"
            self.turn()
        return found

    def turn_for(self, seconds: float) -> None:
        """Turn both ends for a while."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.turn()

    def close(self) -> None:
        for source in self.sources:
            source.close()
        for mirror in self.mirrors:
            mirror.close()
        self.relay.close()
        for proxy in self.proxies:
            proxy.close()
        for bus in reversed(self.buses):
            bus.close()


@contextlib.contextmanager
def hosts(folder: Path, rig_id: str, **options: Any) -> Iterator[Hosts]:
    made = Hosts(folder, rig_id, **options)
    try:
        yield made
    finally:
        made.close()


def read(made: Hosts, reader: Subscriber, frames: int) -> list[FrameBlock]:
    """Read that many frames at the near end."""
    got: list[FrameBlock] = []

    def some() -> bool:
        got.extend(block.copy() for block in reader.drain())
        return sum(block.count for block in got) >= frames

    made.until(some, f"{frames} frames on {reader.topic}")
    return got


def gaps(events: EventReader) -> list[Gap]:
    found = [decode_event(body) for body in events.read()]
    return [event for event in found if isinstance(event, Gap)]
