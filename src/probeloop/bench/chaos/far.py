"""Another host's side of a rig: a line that can fail, `probeloop connect` behind it, and a witness of what arrives.

The blocks keep the check sums that the rig's own processes made, so whatever changed on the way is found.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from ...bus.event import EventReader
from ...bus.node import Bus
from ...bus.request import Client
from ...data import control
from ...data.errors import BusError, WireError
from .leftovers import left_by
from .line import Line
from .remote import READER
from .rig import PLUGINS, TOPICS, ChaosRig
from .witness import Witness

LOSSLESS = tuple(PLUGINS.values())  # the camera travels as its newest frames
_END_S = 10.0


class Far:
    """A reader of a rig's relay. `start` it, and `end` it whatever happens."""

    def __init__(self, rig: ChaosRig, rng: random.Random) -> None:
        assert rig.relay is not None
        self._rig, self.name = rig, f"{rig.name}-far"
        self.line = Line(rig.relay.port, rng)
        environment = {**os.environ, "PROBELOOP_CONFIG": str(rig.relay.away)}
        environment.pop("PROBELOOP_CHECKSUMS", None)  # a sum made anew there would hide what happened on the way
        with (rig.folder / "far").open("wb") as said:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "probeloop.cli", "connect", f"tcp://127.0.0.1:{self.line.port}",
                 "--key", READER, "--name", self.name, "--with-parent"],
                stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=environment,
            )  # fmt: skip
        self._joined: list[Any] = []
        self._clients: dict[str, Client] = {}
        self._lost: dict[str, int] = {}

    def start(self) -> None:
        """Wait until every topic arrives; raises Late."""
        self._until(lambda: "connected" in self.said(), "a connection from another host")
        self._bus = Bus(self.name, "bench")
        self._joined.append(self._bus)
        self._until(lambda: self.link() and set(TOPICS) <= self.link()["topics"].keys(), "the topics there")
        self.witness = Witness(self._bus, TOPICS, credit=self._rig.waits)
        self._joined.append(self.witness)
        self._reader = EventReader(self._bus)
        self._joined.append(self._reader)
        self.witness.start()
        self.flows(0)
        self._lost = self._losses()

    def _until(self, found: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
        return self._rig.until(found, f"{what} ({self.said()[-200:]})", seconds)

    def said(self) -> str:
        """Return what it told the person there."""
        return (self._rig.folder / "far").read_text(encoding="utf-8", errors="replace").strip()

    def ask(self, service: str, request: control.Request, timeout_s: float = 2.0) -> control.Reply:
        """Ask a process of the rig from there; raises BusError."""
        if service not in self._clients:
            self._clients[service] = Client(self._bus, service)
        return control.decode_reply(self._clients[service].call(control.encode(request), timeout_s))

    def link(self) -> dict[str, Any]:
        """Return the state of the connection, {} while it does not answer."""
        try:
            reply = self.ask("link", control.Describe())
        except BusError:
            return {}
        return reply.state if isinstance(reply, control.Description) else {}

    def flows(self, since_ns: int) -> int:
        """Wait for a block of every topic that was published after a moment; return when they were here [ns]."""
        for topic in TOPICS:
            self._until(partial(self._newer, topic, since_ns), f"blocks of {topic} there")
        return time.monotonic_ns()

    def _newer(self, topic: str, since_ns: int) -> bool:
        return self.witness.tallies[topic].newest_ns > since_ns

    def cut_noticed(self, since_ns: int) -> float | None:
        """Return how long after a moment this side said that the link is cut [s]; None when it never did."""
        for body in self._reader.read():
            try:
                event = control.decode_event(body)
            except WireError:
                continue
            told = isinstance(event, control.StateChange) and (event.target, event.state) == ("link", "cut")
            if told and event.time_ns >= since_ns:
                return (event.time_ns - since_ns) / 1e9
        return None

    def _losses(self) -> dict[str, int]:
        """Return by lossless topic how many more frames the link named as lost than the witness missed."""
        topics = self.link().get("topics", {})
        return {name: topics.get(name, {}).get("lost", 0) - self.witness.tallies[name].lost for name in LOSSLESS}

    def problems(self) -> tuple[str, ...]:
        """What no fault may do: a loss that is not named, or named and none. What is corrupt is counted apart."""
        until = time.monotonic() + 5.0
        while self._losses() != self._lost and time.monotonic() < until:
            self.flows(time.monotonic_ns())
        more = {name: difference - self._lost[name] for name, difference in self._losses().items()}
        return (
            tuple(
                f"{name}: the link named {difference:+d} frames as lost that are not missing there"
                for name, difference in more.items()
                if difference > 0 or (difference and self._rig.waits)  # else this witness too may have been too slow
            )
            + tuple(f"{name} there: {what}" for name, each in self.witness.tallies.items() for what in each.found[:2])
        )

    @property
    def lost(self) -> int:
        """Frames of the lossless topics that did not arrive since the start."""
        return sum(self.witness.tallies[name].lost for name in LOSSLESS)

    def end(self) -> list[str]:
        """Leave, and end the connection; return what it left behind."""
        for client in self._clients.values():
            client.close()
        for each in reversed(self._joined):
            each.close()
        self._popen.send_signal(signal.SIGTERM)
        try:
            self._popen.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        self.line.close()
        return left_by(self.name)
