"""Rows 1, 3 and 23 from another host: the relay is killed or stopped, the line is late, cut, deaf, or flips bits."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from ...data import commands as c
from ...data import control
from ...data.errors import BusError
from ...data.scan import Region
from .far import Far
from .outcome import Fault, Outcome, survivors
from .remote import lacking
from .rig import ChaosRig
from .signals import LONGEST_STOP_S, send

HOLDER = "operator-far"  # its name there; the rig calls it by its key
SHORT_S = 1.0  # [s]: shorter than any patience of the link
OUTAGE_S = (3.5, 5.0)  # [s]: longer than the lease and the credit of a silent reader
_SCAN = c.Scan(Region(0.0, 0.0, 1e-9, 1e-9), (480, 500), 0.25e-3)  # a minute
BEHIND_S = 10.0  # [s] that a reader on a late line may be behind, on a busy machine
NOTICED_S = 4.5  # [s] within which a link says that it is cut


def from_afar(
    body: Callable[[ChaosRig, Far, random.Random], Outcome], *but: str
) -> Callable[[ChaosRig, random.Random], Outcome]:
    """Return the injection that does `body` while another host reads; but: processes that need not survive it."""

    def inject(rig: ChaosRig, rng: random.Random) -> Outcome:
        before, far = rig.pids(*but), Far(rig, rng)
        try:
            far.start()
            outcome = body(rig, far, rng)
            problems = far.problems()
            corrupt = far.witness.corrupt
        finally:
            left = far.end()
        rig.all_flows(time.monotonic_ns())
        problems = (*outcome.problems, *problems, *survivors(rig, before))
        return replace(outcome, problems=problems, corrupt=corrupt, left=tuple(left))

    return inject


def kill_relay(rig: ChaosRig, far: Far, rng: random.Random) -> Outcome:
    """Another relay takes its place, and the reader finds it."""
    old = rig.pid("relay")
    since = send(old, signal.SIGKILL)
    rig.until(lambda: rig.pid("relay") not in (0, old), "another relay")
    return Outcome("contained", (far.flows(time.monotonic_ns()) - since) / 1e9, 1)


def stop_relay(rig: ChaosRig, far: Far, rng: random.Random) -> Outcome:
    """It is stopped for up to 4.5 s: nobody at the rig waits for longer than a silent reader may take."""
    pid = rig.pid("relay")
    send(pid, signal.SIGSTOP)
    threading.Event().wait(rng.uniform(0.1, LONGEST_STOP_S))
    went_on = send(pid, signal.SIGCONT)
    return Outcome("contained", (far.flows(time.monotonic_ns()) - went_on) / 1e9, 1)


def late(rig: ChaosRig, far: Far, rng: random.Random) -> Outcome:
    """Delay, and what lost packets make of it: all arrives, later; a source that can wait loses nothing."""
    far.line.late(rng.uniform(0.01, 0.05), 0.01, 0.02)
    threading.Event().wait(2.0)
    asked = time.monotonic_ns()
    arrived = far.flows(asked)
    lost = far.lost
    far.line.heal()
    far.flows(time.monotonic_ns())
    problems: tuple[str, ...] = ()
    if lost and rig.waits:
        problems += (f"{lost} frames lost on a line that is only late",)
    if arrived - asked > BEHIND_S * 1e9:
        problems += (f"it is {(arrived - asked) / 1e9:.1f} s behind on a line that is late by 0.05",)
    return Outcome("contained", None, notes={"late_ms": (arrived - asked) / 1e6}, problems=problems)


def cut(rig: ChaosRig, far: Far, rng: random.Random) -> Outcome:
    """Every connection ends, for a moment or for long; it comes back by itself."""
    long = rng.random() < 0.5
    since = time.monotonic_ns()
    far.line.cut()
    threading.Event().wait(rng.uniform(*OUTAGE_S) if long else rng.uniform(0.05, SHORT_S))
    healed = far.line.heal()
    back = far.flows(healed)
    noticed = far.cut_noticed(since)
    problems: tuple[str, ...] = ("nobody there was told of a long cut",) if long and noticed is None else ()
    if far.lost and rig.waits and not long:
        problems += (f"{far.lost} frames lost in a short cut",)
    notes = {} if noticed is None else {"noticed_ms": noticed * 1e3}
    return Outcome("contained", (back - healed) / 1e9, notes=notes, problems=problems)


def flip(rig: ChaosRig, far: Far, rng: random.Random) -> Outcome:
    """Bits flip on the way: what they were in is never delivered; the connection is made anew."""
    far.line.flip(rng.randint(1, 3))
    rig.until(lambda: far.line.flipped_ns, "a flipped bit")
    flipped, until = far.line.flipped_ns, time.monotonic() + NOTICED_S
    while far.cut_noticed(flipped) is None and time.monotonic() < until:
        threading.Event().wait(0.01)
    cut = time.monotonic() < until  # else it was in what nobody waited for
    back = far.flows(time.monotonic_ns())
    problems = (f"{far.lost} frames lost",) if far.lost and rig.waits else ()
    return Outcome("contained", (back - flipped) / 1e9 if cut else None, problems=problems)


def deaf(rig: ChaosRig, far: Far, rng: random.Random) -> Outcome:
    """A remote commander's line goes deaf in mid-scan: safe; what it still sends is carried out never."""
    rig.abort()
    taken = rig.until(lambda: _accepted(far, control.TakeControl(HOLDER, force=True)), "control from afar")
    begun = time.monotonic_ns()
    for command in (c.Unblank(), _SCAN):
        rig.until(partial(_submit, far, command, taken.epoch), "a verdict for a remote command")
    rig.until_block("camera", begun)
    since = time.monotonic_ns()
    far.line.deafen()
    noticed = None
    while (took := rig.shutter.closed_after(since)) is None and time.monotonic_ns() - since < 20e9:
        _submit(far, c.Unblank(), taken.epoch, 0.2)  # into the deaf line
        noticed = noticed or far.cut_noticed(since)
    safe = time.monotonic_ns()
    for _ in range(5):
        _submit(far, c.Unblank(), taken.epoch, 0.1)
    healed = far.line.heal()
    rig.until(lambda: far.link().get("up"), "a link that is back")
    heal_ms = (time.monotonic_ns() - healed) / 1e6
    threading.Event().wait(0.5)  # what waited on the line has arrived
    problems: tuple[str, ...] = () if took is not None else ("the commander was lost and the beam is on",)
    if "silent" not in rig.fault():
        problems += (f"the gate does not say why: {rig.fault()!r}",)
    if rig.shutter.opened_after(safe):
        problems += ("what it sent into the deaf line was carried out",)
    rig.operate()
    far.flows(time.monotonic_ns())
    notes = {"heal_ms": heal_ms} | ({"noticed_ms": noticed * 1e3} if noticed else {})
    return Outcome("stopped", took, notes=notes, problems=problems)


def _submit(far: Far, command: c.Command, epoch: int, timeout_s: float = 2.0) -> control.Accepted | None:
    _accepted(far, control.Heartbeat(HOLDER, epoch), timeout_s)
    return _accepted(far, control.Submit(command, HOLDER, epoch), timeout_s)


def _accepted(far: Far, request: control.Request, timeout_s: float = 2.0) -> control.Accepted | None:
    try:
        reply = far.ask("instrument", request, timeout_s)
    except BusError:
        return None
    return reply if isinstance(reply, control.Accepted) else None


FAULTS = (
    Fault("kill-relay", 1, "SIGKILL of the relay", from_afar(kill_relay, "relay"), "relay", lacks=lacking),
    Fault("stop-relay", 3, "SIGSTOP of the relay", from_afar(stop_relay), lacks=lacking),
    Fault("network-late", 23, "delay, and what lost packets make of it", from_afar(late), lacks=lacking),
    Fault("network-cut", 23, "every connection ends, for a moment or for long", from_afar(cut), lacks=lacking),
    Fault("network-deaf", 23, "a remote commander's line lets nothing pass", from_afar(deaf), lacks=lacking),
    Fault("network-flip", 23, "bits that flip on the way", from_afar(flip), lacks=lacking),
)
