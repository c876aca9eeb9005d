"""Between the processes of this host and a rig on another: whose name, which index, which clock."""

from __future__ import annotations

from typing import Any

import msgspec

from ...data import commands as c
from ...data import control
from ...data.control import Accepted, Description, Event, Refused, Reply, Request
from .clock import Offset

_FOR_ANYONE = (c.Stop, c.Read, c.Annotate)


class Translator:
    """Keeps the one lease that this host has there for one of its own processes; rewrites what passes.

    The rig knows this host by its key alone, so which of the processes here holds control is decided here.
    bases: by topic, local index - index there.
    """

    def __init__(self) -> None:
        self.remote_holder = ""
        self.local_holder = ""
        self.bases: dict[str, int] = {}
        self._epoch = 0  # of the lease that was given last

    def request(self, request: Request) -> Request | Refused:
        """Return what to send for a request of a process here, or why nothing is sent."""
        holder = self.local_holder
        match request:
            case control.TakeControl() if holder and request.holder != holder and not request.force:
                return Refused(f"{holder!r} holds control", "lease", "wait, or force as the operator")
            case control.ReleaseControl() | control.Heartbeat() if request.holder != holder:
                return Refused(f"{request.holder!r} does not hold control", "lease", holder or "TakeControl first")
            case control.Submit():
                if request.holder != holder and not isinstance(request.command, _FOR_ANYONE):
                    who = f"{holder!r} holds control" if holder else "nobody here holds control"
                    return Refused(who, "lease", "TakeControl first")
                cause = tuple((topic, index - self.bases.get(topic, 0)) for topic, index in request.cause)
                return msgspec.structs.replace(request, cause=cause)
        return request

    def reply(self, request: Request, reply: Reply) -> Reply:
        """Return what to answer to a process here."""
        if isinstance(request, control.TakeControl) and isinstance(reply, Accepted):
            self.local_holder, self._epoch = request.holder, reply.epoch
        if isinstance(request, control.ReleaseControl) and isinstance(reply, Accepted):
            self.local_holder = ""
        if isinstance(reply, Description) and "holder" in reply.state:
            return msgspec.structs.replace(reply, state={**reply.state, "holder": self._name(reply.state["holder"])})
        return reply

    def _name(self, holder: Any) -> Any:
        """Return the name here of a holder there."""
        return self.local_holder if holder == self.remote_holder and self.local_holder else holder

    def event(self, event: Event, clock: Offset | None) -> Event:
        """Return an event as it is here: stamps on this host's clock, indices and holder of this host."""
        changes: dict[str, Any] = {}
        if clock is not None:
            changes["time_ns"] = clock.to_local(event.time_ns)
        match event:
            case control.Verdict():
                changes["holder"] = self._name(event.holder)
                changes["cause"] = tuple((topic, i + self.bases.get(topic, 0)) for topic, i in event.cause)
            case control.StateChange() if "holder" in event.data:
                lost = event.target in ("lease", "gate") and event.data["holder"] != self.remote_holder
                if lost and event.data.get("epoch", 0) >= self._epoch:
                    self.local_holder = ""
                changes["data"] = {**event.data, "holder": self._name(event.data["holder"])}
            case control.Done():
                changes["result"] = self._result(event.result, clock)
            case control.Gap() if event.first >= 0:
                changes["first"] = event.first + self.bases.get(event.topic, 0)
            case control.Revision() if event.first_index >= 0:
                changes["first_index"] = event.first_index + self.bases.get(event.topic, 0)
        return msgspec.structs.replace(event, **changes)

    def _result(self, result: control.Result, clock: Offset | None) -> control.Result:
        base = self.bases.get(result.topic, 0)
        changes: dict[str, Any] = {
            name: value + base
            for name in ("first_index", "first_valid_index")
            if (value := getattr(result, name)) >= 0
        }
        if clock is not None:
            changes["trace"] = control.Trace(*map(clock.to_local, msgspec.structs.astuple(result.trace)))
        return msgspec.structs.replace(result, **changes)
