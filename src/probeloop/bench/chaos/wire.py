"""Rows 20 and 22: malformed messages to every service, and a reader that is too slow."""

from __future__ import annotations

import random
import threading
import time

from ...bus.event import EventWriter
from ...bus.subscribe import Subscriber
from ...data import commands as c
from ...data import control
from ...data.errors import BusError, WireError
from .outcome import Fault, Outcome, survivors
from .rig import ChaosRig

_BODIES = 100
_SEEDS = (
    control.Describe(),
    control.Heartbeat("experiment", 1),
    control.SetParameters("haadf", {"inner": 0.01}, None),
    control.Submit(c.MoveProbe((0.0, 0.0)), "nobody", 1, dry_run=True),
    control.TakeControl("nobody"),
)
_SERVICES = ("instrument", "experiment", "recorder", "supervisor")


def mutated(body: bytes, rng: random.Random) -> bytes:
    """Return a message with bytes flipped, cut off, doubled or inserted; or no message at all."""
    made = bytearray(body)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(made)) if made else 0
        match rng.randrange(5):
            case 0 if made:
                made[at] ^= 1 << rng.randrange(8)
            case 1:
                del made[at:]
            case 2:
                made[at:at] = rng.randbytes(rng.randint(1, 40))
            case 3:
                made += made[at:]
            case _:
                made = bytearray(b"\x91" * rng.randint(1, 3000))
    return bytes(made)


def malformed(rig: ChaosRig, rng: random.Random) -> Outcome:
    """Every service answers every body, and goes on; a malformed event is passed over."""
    before = rig.pids()
    problems: tuple[str, ...] = ()
    refused, times = 0, []
    writer = EventWriter(rig.raw_bus())
    try:
        for _ in range(_BODIES):
            body = mutated(control.encode(rng.choice(_SEEDS)), rng)
            service = rng.choice(_SERVICES)
            begun = time.monotonic()
            try:
                reply = control.decode_reply(rig.client(service).call(body, 5.0))
            except (BusError, WireError) as error:
                problems += (f"{service} did not answer {body[:40]!r}: {error}",)
                continue
            times.append(time.monotonic() - begun)
            refused += isinstance(reply, control.Refused)
            if rng.random() < 0.2:
                writer.write(body)
    finally:
        writer.close()
    rig.all_flows(time.monotonic_ns())
    notes = {
        "bodies": float(_BODIES),
        "bodies_refused": float(refused),
        "answer_max_ms": 1e3 * max(times, default=0.0),
    }
    return Outcome("refused", None, notes=notes, problems=problems[:3] + survivors(rig, before))


def slow_reader(rig: ChaosRig, rng: random.Random) -> Outcome:
    """A reader that sleeps 10 ms a block loses, knows exactly how much, and holds up nobody."""
    before = rig.pids()
    witness = rig.witness.tallies["camera"]
    pause = threading.Event()
    frames, begun = witness.frames, time.monotonic()
    pause.wait(1.0)
    calm = (witness.frames - frames) / (time.monotonic() - begun)
    reader = Subscriber(rig.raw_bus(), "camera", "lossless")
    got, first, last, missed = 0, -1, -1, 0
    frames, lost, begun = witness.frames, witness.lost, time.monotonic()
    try:
        while time.monotonic() - begun < 2.0:
            block = reader.receive(0.2)
            if block is None:
                continue
            if first < 0:
                first, missed = block.index, reader.stats.lost  # what it missed before its first block
            got, last = got + block.count, block.index + block.count
            pause.wait(0.01)
        rate = (witness.frames - frames) / (time.monotonic() - begun)
        counted = reader.stats.lost - missed
    finally:
        reader.close()
    problems = survivors(rig, before)
    if got + counted != last - first:
        problems += (f"{got} frames and {counted} lost are not the {last - first} that were sent",)
    if rig.waits and witness.lost != lost:
        problems += (f"another reader lost {witness.lost - lost} frames",)
    notes = {"lost": float(counted), "rate_x_calm": rate / calm if calm else 0.0}
    return Outcome("contained", None, notes=notes, problems=problems)


FAULTS = (
    Fault("malformed", 20, "a hundred malformed requests, some as events too", malformed),
    Fault("slow-reader", 22, "a reader that sleeps 10 ms a block", slow_reader),
)
