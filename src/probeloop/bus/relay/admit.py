"""Which requests of a remote reader go on to the rig, under which name, until when. Pure functions.

The name of the holder comes from the key; whatever the message says is overwritten. The gate then judges the command
as it judges everybody's.
"""

from __future__ import annotations

import msgspec

from ...data import commands as c
from ...data import control
from ...data.control import Refused, Request
from .clock import Offset
from .keys import Role

_FAR = 2**62  # no stamp is beyond it


def holder_of(role: Role, name: str, number: int) -> str:
    """Return the name under which a rig knows a key; number: of its reader, from 1, several may use one key.

    >>> holder_of("operator", "anna", 1), holder_of("viewer", "hall", 2)
    ('operator:anna', 'viewer:hall.2')
    """
    return f"{role}:{name}" + (f".{number}" if number > 1 else "")


def is_stop(request: Request) -> bool:
    """True for STOP in either form."""
    return isinstance(request, c.Stop) or (
        isinstance(request, control.Submit) and isinstance(request.command, c.Stop)
    )


def stop_of(request: Request, holder: str) -> c.Stop:
    """Return the STOP in a request, saying who sent it."""
    command = request.command if isinstance(request, control.Submit) else request
    reason = command.reason if isinstance(command, c.Stop) else ""
    return c.Stop(f"{reason} ({holder})".strip())


def admit(
    request: Request, role: Role, holder: str, clock: Offset | None, not_after: int, now_ns: int
) -> Request | Refused:
    """Return what goes on to the rig, or why nothing does.

    clock: the reader's clock against ours, None = not yet compared. not_after: on the reader's clock [ns]; a request
    is late when it is so beyond the clock's error. STOP does not come here: it is always let through.
    """
    if isinstance(request, control.Describe):
        return request
    if role != "operator":
        return Refused(f"the key of {holder!r} may read and STOP, nothing else", "role", "the role operator")
    if isinstance(request, control.Shutdown):
        return Refused("a rig is ended on its own host", "remote", "STOP")
    if clock is None:
        return Refused("the clocks of the two hosts are not compared yet", "not_after", "ask again in a moment")
    latest = clock.to_local(not_after) + clock.error_ns
    if now_ns > latest:
        late, error = (now_ns - latest) / 1e6, clock.error_ns / 1e6
        return Refused(
            f"late by {late:.3g} ms more than the clocks' error of {error:.3g} ms", "not_after", "ask again"
        )
    match request:
        case control.Submit():
            return _submit(request, holder, clock, latest)
        case control.TakeControl() | control.ReleaseControl() | control.Heartbeat() | control.Rearm():
            return msgspec.structs.replace(request, holder=holder)
    return request


def _submit(submit: control.Submit, holder: str, clock: Offset, latest: int) -> Request | Refused:
    stamps = msgspec.structs.astuple(submit.trace)
    if any(abs(stamp) > _FAR for stamp in (*stamps, submit.not_after)):
        return Refused("a time stamp is beyond any clock", "trace", "stamps of CLOCK_MONOTONIC [ns]")
    own = clock.to_local(submit.not_after) + clock.error_ns if submit.not_after else latest
    return msgspec.structs.replace(
        submit,
        holder=holder,
        trace=control.Trace(*map(clock.to_local, stamps)),
        not_after=max(1, min(own, latest)),
    )
