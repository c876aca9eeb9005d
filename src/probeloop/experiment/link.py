"""The experiment's ends of the bus: requests to the instrument, events to everybody."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import msgspec

from ..bus.event import EventWriter
from ..bus.node import Bus
from ..bus.request import Client
from ..data.clock import Clock
from ..data.commands import Command
from ..data.control import (
    Accepted,
    Cause,
    Event,
    Refused,
    Reply,
    Request,
    SetParameters,
    Submit,
    Trace,
    decode_reply,
    encode,
)
from ..data.errors import BusError, RefusedError, WireError
from ..data.scan import Position
from .controls import Ended
from .setup import HOLDER

INSTRUMENT = "instrument"
OVER = ("latched fault", "lease", "epoch")  # limits that no other command will pass either
PATIENCE = 2.0  # [s] for an answer


class EventLog:
    """Stamps events and writes them; any thread."""

    def __init__(self, bus: Bus, clock: Clock) -> None:
        self._writer = EventWriter(bus)
        self._process, self._clock = bus.process, clock
        self._lock = threading.Lock()

    def emit(self, event: Event) -> None:
        """Write one event with this process, the time and the wall clock."""
        with self._lock:
            wall = datetime.now(UTC).isoformat(timespec="milliseconds")
            stamped = msgspec.structs.replace(event, process=self._process, time_ns=self._clock.now_ns(), wall=wall)
            self._writer.write(encode(stamped))

    def close(self) -> None:
        """Leave."""
        with self._lock:
            self._writer.close()


class InstrumentLink:
    """Asks the instrument; one thread at a time."""

    def __init__(self, bus: Bus) -> None:
        self._client = Client(bus, INSTRUMENT)

    def ask(self, request: Request) -> Reply:
        """Return the reply; raises BusError when there is none."""
        try:
            return decode_reply(self._client.call(encode(request), PATIENCE))
        except WireError as error:
            raise BusError(
                f"the instrument answered nonsense: {error}", "do all processes run one version?"
            ) from error

    def close(self) -> None:
        """Leave."""
        self._client.close()


class BusGate:
    """The loop's way to the gate; used by the plan's thread alone. epoch: of the lease it was given."""

    def __init__(self, bus: Bus, epoch: int) -> None:
        self._link = InstrumentLink(bus)
        self._epoch = epoch

    def submit(self, command: Command, cause: Cause, trace: Trace, dry_run: bool = False) -> Accepted:
        """Hand a command over; raises RefusedError, and Ended when the epoch is over or the lease gone."""
        return self._asked(Submit(command, HOLDER, self._epoch, cause, trace, dry_run=dry_run))

    def register(self, shift: Position, sigma: float, peak_ratio: float) -> None:
        """Tell how far the specimen is from where it was thought to be [m]; raises RefusedError, and Ended."""
        values = {"x": shift[0], "y": shift[1], "sigma": sigma, "peak_ratio": min(peak_ratio, 1e9), "relative": True}
        self._asked(SetParameters("drift", values))

    def _asked(self, request: Request) -> Accepted:
        try:
            reply = self._link.ask(request)
        except BusError as error:
            raise Ended("stop", str(error)) from error
        if isinstance(reply, Accepted):
            return reply
        if isinstance(reply, Refused):
            if reply.limit in OVER:
                raise Ended("stop", reply.reason)
            raise RefusedError(reply.reason, reply.limit, reply.allowed)
        raise Ended("stop", f"the instrument answered {type(reply).__name__} to a plan")

    def close(self) -> None:
        """Leave."""
        self._link.close()
