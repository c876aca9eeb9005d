"""The STOP drill: STOP in the middle of a scan, through the door that a person has, timed, verified, re-armed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from ..data.commands import Scan, Unblank
from ..data.control import Accepted, Describe, Description, Rearm, Refused, TakeControl
from ..data.driver import InstrumentInfo, detector_alone
from ..data.errors import BusError
from ..data.limits import Limits
from ..data.scan import Region
from .client import INSTRUMENT, Connection

HOLDER = "cli"
_SECONDS = 20.0  # the scan would take, if nobody stopped it
_PATIENCE = 5.0


def stop_drill(rig_id: str, wait: Callable[[float], None]) -> dict[str, Any]:
    """Run the drill on a running rig nobody controls; wait(seconds) lets the caller do its own work meanwhile.

    Returns stop_ms (from the request to the confirmation that the instrument is safe), passed, scanning (whether a
    scan was on), words. The instrument is armed again if the proof test of the STOP path passes.
    """
    with Connection(rig_id, "drill") as connection:
        state = _state(connection)
        info = msgspec.convert(state["info"], InstrumentInfo)
        taken = connection.request(INSTRUMENT, TakeControl(HOLDER))
        if not isinstance(taken, Accepted):
            return _failed(f"control is not to be had: {_why(taken)}")
        scanning = _begin(connection, info, msgspec.convert(state["limits"], Limits), taken.epoch, wait)
        door = connection.stop_door()
        try:
            reply, took = door.stop("STOP drill of the checkup")
        finally:
            door.close()
        if not isinstance(reply, Accepted):
            return _failed(f"STOP was not confirmed: {_why(reply)}", took / 1e6)
        after = _state(connection)
        readback = after.get("readback", {})
        unsafe = {
            name: readback.get(name) for name, value in info.safe_readback.items() if readback.get(name) != value
        }
        latched = bool(after.get("fault"))
        armed = connection.request(INSTRUMENT, Rearm(HOLDER), 5.0)
        deadline = time.monotonic() + _PATIENCE
        while _state(connection).get("running") and time.monotonic() < deadline:
            wait(0.05)
    verified = "verified by read-back" if info.safe_readback else "the instrument reads no safe state back"
    wrong = [f"reads {unsafe} after STOP"] if unsafe else []
    wrong += [] if latched else ["STOP did not latch"]
    wrong += [] if isinstance(armed, Accepted) else [f"not armed again: {_why(armed)}"]
    doing = "in the middle of a scan" if scanning else "while nothing ran"
    words = "; ".join(wrong) or f"safe {took / 1e6:.1f} ms after STOP {doing}, {verified}, armed again"
    return {"passed": not wrong, "stop_ms": round(took / 1e6, 3), "scanning": scanning, "words": words}


def _begin(
    connection: Connection, info: InstrumentInfo, limits: Limits, epoch: int, wait: Callable[[float], None]
) -> bool:
    """Start a scan of the middle of the region, or all of it, and wait until it runs; False where there is none."""
    if "Unblank" in info.commands:
        connection.submit(Unblank(), holder=HOLDER, epoch=epoch)
    (x0, y0), (x1, y1) = limits.region
    step = info.grid.step
    part = 1 if detector_alone(info) else 4
    sides = [(s * 16 if s else (b - a) / part) for s, a, b in zip(step, (x0, y0), (x1, y1), strict=True)]
    if "Scan" not in info.commands or not all(
        0 < s <= b - a for s, a, b in zip(sides, (x0, y0), (x1, y1), strict=True)
    ):
        return False
    x, y = info.grid.nearest(((x0 + x1) / 2, (y0 + y1) / 2))
    centre = (x + step[0] / 2, y + step[1] / 2)
    dwell = min(max(_SECONDS / 256, limits.dwell_time[0]), limits.dwell_time[1])
    scan = Scan(Region(*centre, *sides), (16, 16), dwell)
    if not isinstance(connection.submit(scan, holder=HOLDER, epoch=epoch), Accepted):
        return False
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        wait(0.05)
        if _state(connection).get("running"):
            wait(0.2)
            return bool(_state(connection).get("running"))
    return False


def _state(connection: Connection) -> dict[str, Any]:
    reply = connection.request(INSTRUMENT, Describe(), 2.0)
    if not isinstance(reply, Description):
        raise BusError("the instrument does not describe itself", "see log/instrument.log")
    return reply.state


def _why(reply: object) -> str:
    return reply.reason if isinstance(reply, Refused) else "the answer makes no sense"


def _failed(words: str, took_ms: float | None = None) -> dict[str, Any]:
    return {"passed": False, "stop_ms": took_ms, "scanning": False, "words": words}
