"""The door of a person into a running rig: the window, the stop window and `probeloop stop` all come in here."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Literal

from ..bus.event import Bell, EventReader
from ..bus.heartbeat import Pulse
from ..bus.ledger import PULSE, TOPIC
from ..bus.node import Bus
from ..bus.request import Client
from ..bus.wait import Poller
from ..data.commands import Command, Stop
from ..data.control import Accepted, Event, Refused, Reply, Request, Submit, Trace, decode_event, decode_reply, encode
from ..data.errors import BusError, WireError
from ..plugin.instance import service_name
from ..plugin.pulse import WORK

if TYPE_CHECKING:
    from ..bus.subscribe import Subscriber

INSTRUMENT, LINK = "instrument", "link"  # the link: of a rig that runs on another host
SERVICES = (INSTRUMENT, "experiment", "recorder")
_STOP_REPLY_S = 1.0


def services_of(bus: Bus) -> list[str]:
    """Return the services of a rig that can be asked: its own, its link's, and one a plug-in instance."""
    plugins = sorted({row.name for row in bus.ledger.rows(WORK)})
    link = [LINK] if bus.ledger.rows(PULSE, LINK) else []
    return [*SERVICES, "supervisor", *link, *(service_name(plugin) for plugin in plugins)]


class Events:
    """Every event of the rig from now on. lost: overwritten before they were read; malformed: could not be read."""

    def __init__(self, bus: Bus) -> None:
        self._reader = EventReader(bus)
        self.malformed = 0

    @property
    def lost(self) -> int:
        """Events overwritten before they were read."""
        return self._reader.lost

    @property
    def source(self) -> EventReader:
        """What a Poller waits on."""
        return self._reader

    def read(self, timeout_s: float = 0.0) -> list[Event]:
        """Return what arrived, oldest first; an empty list after `timeout_s`."""
        found = []
        for body in self._reader.read(timeout_s):
            try:
                found.append(decode_event(body))
            except WireError:
                self.malformed += 1
        return found

    def close(self) -> None:
        """Stop reading."""
        self._reader.close()


class StopDoor:
    """Sends Stop to the instrument's process, on ports of its own that nothing else can hold up."""

    def __init__(self, bus: Bus) -> None:
        self._client = Client(bus, INSTRUMENT)

    def stop(self, reason: str, timeout_s: float = _STOP_REPLY_S) -> tuple[Reply, int]:
        """Ask for STOP; return the reply and how long it took [ns]. Raises BusError when nobody answers."""
        started = time.monotonic_ns()
        reply = decode_reply(self._client.call(encode(Stop(reason)), timeout_s))
        return reply, time.monotonic_ns() - started

    def close(self) -> None:
        """Let the ports go."""
        self._client.close()


class Connection:
    """A person's place on the bus of one rig; may be used by any thread.

    rig_id: of the running rig. name: of this process, in lists of processes. local: inside this process, for tests.
    """

    def __init__(self, rig_id: str, name: str = "gui", *, local: bool = False) -> None:
        """Join the rig; raises BusError or SharedMemoryError. The rig may be started later."""
        self.rig_id = rig_id
        self._bus = Bus(rig_id, name, local=local)
        self._pulse = Pulse(self._bus)
        self._clients: dict[str, tuple[Client, threading.Lock]] = {}
        self._lock = threading.Lock()
        self._closed = False

    def subscribe(self, topic: str, mode: Literal["newest", "lossless"] = "newest") -> Subscriber:
        """Read a topic; its source never waits for this reader."""
        from ..bus.subscribe import Subscriber  # a stop window reads no frames, and does without numpy

        return Subscriber(self._bus, topic, mode)

    def events(self) -> Events:
        """Read the events from now on."""
        return Events(self._bus)

    def poller(self, *sources: Subscriber | EventReader | Bell) -> Poller:
        """Wait for several of them at once."""
        return Poller(self._bus, *sources)

    def bell(self, name: str) -> Bell:
        """Return a wake-up for a Poller."""
        return Bell(self._bus, name)

    def stop_door(self) -> StopDoor:
        """Return a way to send Stop that shares no port with other requests."""
        return StopDoor(self._bus)

    def topics(self) -> list[str]:
        """Return the names of all topics that were ever opened in this rig, `events` excepted."""
        return sorted({row.name for row in self._bus.ledger.rows(TOPIC)})

    def services(self) -> list[str]:
        """Return the services that can be asked: the rig's own, and one a plug-in instance."""
        return [name for name in services_of(self._bus) if name != "supervisor"]

    def processes(self) -> dict[str, float]:
        """Return the age of the last heartbeat [s] by process."""
        ages = {name: self._pulse.read(name) for name in self._pulse.processes()}
        return {name: age[0] for name, age in ages.items() if age is not None}

    def request(self, process: str, request: Request, timeout_s: float = 1.0) -> Reply:
        """Ask a process; raises BusError when it is not there or does not answer in time [s]."""
        with self._lock:
            if self._closed:
                raise BusError("this connection is closed", "open a new one")
            if process not in self._clients:
                self._clients[process] = (Client(self._bus, process), threading.Lock())
            client, busy = self._clients[process]
        with busy:
            return decode_reply(client.call(encode(request), timeout_s))

    def submit(
        self, command: Command, *, holder: str, epoch: int, dry_run: bool = False, timeout_s: float = 1.0
    ) -> Reply:
        """Hand a command to the gate in the name of the holder of the lease; `dry_run` asks for verdict and cost."""
        trace = Trace(submitted=time.monotonic_ns())
        return self.request(INSTRUMENT, Submit(command, holder, epoch, (), trace, dry_run=dry_run), timeout_s)

    def close(self) -> None:
        """Leave the rig; close what was subscribed first. Harmless when closed already."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            clients = list(self._clients.values())
            self._clients.clear()
        for client, busy in clients:
            with busy:
                client.close()
        self._bus.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def stop(rig_id: str | None = None) -> str:
    """STOP a rig and return in words what happened; raises BusError when that is not certain."""
    from .run import which_rig

    return stop_now(which_rig(rig_id), "probeloop stop")


def stop_now(rig_id: str, reason: str) -> str:
    """STOP the named rig; raises BusError when the instrument's process did not confirm it."""
    with Connection(rig_id, "stop") as connection:
        door = connection.stop_door()
        try:
            reply, took = door.stop(reason)
        except BusError as error:
            raise BusError(f"STOP of {rig_id!r} was NOT confirmed: {error.message}", SWITCH) from error
        finally:
            door.close()
    if isinstance(reply, Accepted):
        return (
            f"{rig_id}: stopped, the instrument is in its safe state ({took / 1e6:.0f} ms). Re-arm it in the window"
        )
    why = reply.reason if isinstance(reply, Refused) else "the answer makes no sense"
    raise BusError(f"STOP of {rig_id!r} was NOT confirmed: {why}", SWITCH)


SWITCH = "use the instrument's own hardware switch now"
